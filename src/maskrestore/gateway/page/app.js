// The page: asks for the key if there is one, then shows models, figures, and decisions as they are made.

import { ApiError, hasKey, json, setKey, told } from "./api.js";
import * as charts from "./charts.js";
import * as decisions from "./decisions.js";
import { byId, counted, element, printable } from "./dom.js";
import * as picture from "./picture.js";

const LOOK = 5000; // between two looks at the models
const DRAW = 1500; // between two drawings at least

let inside = false;
let drawing = null;

async function enter() {
  const refusal = hasKey() ? "This is not the operator's key. Look whether it is complete, and not a client's." : "";
  try {
    showStatus(await json("v1/status"));
  } catch (error) {
    if (error.status === 401) return ask(refusal);
    byId("trouble").hidden = false;
    byId("trouble").textContent = `${printable(told(error))}; trying again`;
    return setTimeout(enter, LOOK);
  }
  byId("trouble").hidden = true;
  inside = true;
  byId("entrance").hidden = true;
  byId("inside").hidden = false;
  byId("forget").hidden = !hasKey();
  decisions.start({ changed: drawSoon, refused: () => ask("The key is not valid any more.") });
  look();
}

function ask(why) {
  setKey(null);
  if (inside) return location.reload(); // nothing of the old key's stays
  byId("entrance").hidden = false;
  byId("key-error").hidden = why === "";
  byId("key-error").textContent = why;
  byId("key").value = "";
  byId("key").focus();
}

async function look() {
  try {
    if (!document.hidden) {
      showStatus(await json("v1/status"));
      drawSoon();
    }
  } catch (error) {
    if (error.status === 401) return ask("");
  }
  setTimeout(look, LOOK);
}

function drawSoon() {
  byId("figures").hidden &&= byId("rows").childElementCount === 0;
  drawing ??= setTimeout(() => {
    drawing = null;
    if (!byId("figures").hidden) charts.draw().catch(() => {}); // what cannot be reached is told beside the list
  }, DRAW / (byId("charts").childElementCount ? 1 : 100));
}

function showStatus(status) {
  const state = (one) => {
    if (!one.ready) return `not ready: ${printable(one.reason ?? "unknown")}`;
    const busy = one.waiting + one.working;
    return busy ? `ready, ${counted(busy, "picture")} at work` : "ready";
  };
  byId("models").replaceChildren(...status.models.map((one) => element(
    "li", { class: one.ready ? "good" : "bad" }, element("b", {}, one.name), ` ${state(one)}`,
  )));
  byId("about").textContent = `maskrestore ${status.version} · pictures are kept: ${
    { off: "only the last ones, in memory", changed: "those whose label changed", all: "all" }[status.kept_pictures]}`;
  const names = status.models.map((one) => one.name);
  offer("try-model", names, []);
  offer("only-model", names, [["", "all models"]]);
  const at = new URL(".", document.baseURI).href;
  const several = names.length > 1 ? `?model=${names[0]}` : "";
  const key = status.keys ? " -H 'Authorization: Bearer KEY'" : "";
  byId("command").textContent = `curl${key} --data-binary @picture.png '${at}v1/purify${several}'`;
  byId("address").textContent = `${at}v2/models/${names[0]}`;
}

function offer(id, names, more) {
  const select = byId(`${id}-name`);
  byId(id).hidden = names.length < 2;
  const wanted = [...more, ...names.map((name) => [name, name])];
  if (select.options.length === wanted.length && wanted.every(([value], place) => select.options[place].value === value)) return;
  const chosen = select.value;
  select.replaceChildren(...wanted.map(([value, text]) => element("option", { value }, text)));
  if (wanted.some(([value]) => value === chosen)) select.value = chosen;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(key)) return ask("A key has no spaces and no letters outside ASCII. It looks like mr_…");
  setKey(key);
  enter();
});
byId("forget").addEventListener("click", () => ask(""));
byId("copy").hidden = !navigator.clipboard; // browsers have it with HTTPS and on the loopback only
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("command").textContent);
  byId("copy").textContent = "Copied";
});
window.addEventListener("unhandledrejection", ({ reason }) => {
  byId("trouble").hidden = false;
  byId("trouble").textContent = `Something failed on this page: ${printable(reason instanceof ApiError ? told(reason) : reason)}`;
});
picture.start();
charts.start();
enter();
