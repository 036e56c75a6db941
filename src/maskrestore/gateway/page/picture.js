// Try a picture: drop or choose it, and see every stage.

import { json, told } from "./api.js";
import { doubtOf, factsOf, figuresOf, labelsOf, stagesOf, verdictOf } from "./cards.js";
import { byId, element, printable } from "./dom.js";

let latest = 0;

export function start() {
  byId("file").addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same file can be chosen again
    purify(files);
  });
  const over = (state) => byId("drop").classList.toggle("over", state);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    over(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) over(false);
  });
  document.addEventListener("drop", (event) => {
    over(false);
    if (byId("inside").hidden || event.dataTransfer.files.length === 0) return;
    event.preventDefault();
    purify([...event.dataTransfer.files]);
  });
}

async function purify(files) {
  if (files.length === 0) return;
  const turn = ++latest;
  const [file] = files;
  const name = printable(file.name);
  const say = (text, bad = false) => {
    byId("try-state").textContent = text;
    byId("try-state").classList.toggle("error", bad);
  };
  byId("try-result").replaceChildren();
  byId("try").scrollIntoView({ block: "nearest" });
  say(`${name} is being purified …`);
  const query = new URLSearchParams({ stages: "true" });
  if (byId("try-model-name").value) query.set("model", byId("try-model-name").value);
  try {
    const found = await json(`v1/purify?${query}`, {
      method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
    });
    if (turn !== latest) return;
    byId("try-result").replaceChildren(card(name, found));
    say(files.length > 1 ? `Done with ${name}. One picture at a time: the other files were left alone.` : `Done with ${name}.`);
  } catch (error) {
    if (turn === latest) say(`${name}: ${printable(told(error))}`, true);
  }
}

function card(name, found) {
  const one = found.decision;
  return element(
    "article", { class: "card tried", "aria-label": "Result" },
    element(
      "h3", {}, element("bdi", { class: "name" }, name), labelsOf(one), verdictOf(one), doubtOf(one),
      element("span", { class: "aside" }, figuresOf(one)),
    ),
    one.error === null ? null : element("p", { class: "error" }, printable(one.error)),
    stagesOf(found.stages),
    element("details", {}, element("summary", {}, "All figures"), factsOf(one)),
  );
}
