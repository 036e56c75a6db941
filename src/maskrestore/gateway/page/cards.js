// What a decision looks like in words, and its stages in pictures.

import { classLabel, counted, element, printable, seconds } from "./dom.js";

function verdict(one) {
  if (one.label === null && !one.abstained) return ["bad", "✗", "no answer"];
  if (!one.shielded) return ["bad", "!", "not shielded"];
  if (one.changed) return ["note", "↻", "label changed"];
  return one.changed === false ? ["", "=", "label unchanged"] : ["", "=", "label of the purified picture"];
}

function chip(tone, sign, text) {
  return element("span", { class: `verdict ${tone}` }, element("span", { "aria-hidden": "true" }, sign), ` ${text}`);
}

export const verdictOf = (one) => chip(...verdict(one));

/** That the answer is in doubt, and what was answered then. */
export function doubtOf(one) {
  if (!one.doubtful) return null;
  if (one.abstained) return chip("bad", "?", "in doubt, not answered");
  return chip("note", "?", one.label === one.purified_label ? "in doubt" : "in doubt, original label answered");
}

/** The label of the purified picture, and the one before if it is another. */
export function labelsOf(one) {
  if (one.label === null && !one.abstained) return null;
  const now = one.purified_label === null ? classLabel(one.label, one.label_name) : classLabel(one.purified_label, one.purified_name);
  if (!one.changed) return element("bdi", { class: "label" }, now);
  return element(
    "span", { class: "change" },
    element("bdi", { class: "label" }, classLabel(one.original_label, one.original_name)),
    element("span", { class: "to", "aria-hidden": "true" }, " → "), element("span", { class: "unseen" }, " becomes "),
    element("bdi", { class: "label new" }, now),
  );
}

export function figuresOf(one) {
  return [
    one.restored === null ? null : `${(one.restored * 100).toFixed(one.restored > 0 && one.restored < 0.1 ? 1 : 0)} % restored`,
    one.suspicion === null ? null : `suspicion ${one.suspicion.toFixed(2)}`,
    one.queries === null ? null : counted(one.queries, "query"),
    seconds(one.seconds),
  ].filter((text) => text !== null).join(" · ");
}

/** A frame with a picture, or with what is there instead. */
export function framed(source, described, coarse) {
  const image = element("img", { alt: described, class: coarse ? "coarse" : null });
  image.addEventListener("load", () => {
    image.classList.add(image.naturalHeight > image.naturalWidth ? "tall" : "wide");
    image.classList.toggle("coarse", Math.max(image.naturalHeight, image.naturalWidth) <= 112);
  });
  image.src = source;
  return image;
}

export function stagesOf(stages) {
  const maps = stages.filter((one) => one.caption.startsWith("highest "));
  const settled = maps.length > 0 && maps.every((one) => one.caption === "highest 0.00");
  return element(
    "div", { class: "stages" },
    settled ? element("p", { class: "hint wide" }, "The score maps are empty: the first questions to the model settled this picture.") : null,
    ...stages.map((one) => element(
      "figure", {},
      element("figcaption", {}, one.title),
      element("div", { class: "frame" }, framed(one.picture, `${one.title}: ${one.caption}`)),
      element("small", {}, one.caption),
      element("p", { class: "hint" }, one.meaning),
    )),
  );
}

/** All that is known of a decision, as a list of names and values. */
export function factsOf(one) {
  const facts = [
    ["Error", one.error], ["Notes", one.notes.length ? one.notes.join("; ") : null], ["Status of the answer", one.status],
    ["Client", one.tenant], ["Size", `${one.width} × ${one.height} px`], ["Waited", seconds(one.waited)],
    ["Restorer", one.restorer], ["Model", one.classifier], ["Decision", one.id],
    ["Request", `${one.request}, picture ${one.place + 1}`], ["Picture", one.content], ["Purified picture", one.result],
    ["Settings", one.config_digest], ["Key fingerprint", one.key_fingerprint], ["Version", one.version],
  ];
  return element(
    "dl", { class: "settings known" },
    ...facts.filter(([, value]) => value !== null && value !== "").map(([name, value]) => element(
      "div", {}, element("dt", {}, name), element("dd", {}, printable(value)),
    )),
  );
}
