// The list of decisions: the newest first, live, with pictures of those that can be seen.

import { call, events, json, told } from "./api.js";
import { doubtOf, factsOf, figuresOf, framed, labelsOf, stagesOf, verdictOf } from "./cards.js";
import { byId, count, element, printable } from "./dom.js";

const MOST_ROWS = 200; // live; older ones are let go
const MOST_OLDER = 1000;
const PAGE = 50;
const AGAIN = 2000;
const TOGETHER = 100; // new rows at most every so many milliseconds
const PICTURES = { before: "as it came", after: "purified", removed: "removed" };
const DESCRIBED = { before: "The picture as it came", after: "The purified picture", removed: "What was removed" };

const rows = new Map(); // id -> row
let arrived = []; // not shown yet, the newest first
let paused = false;
let following = new AbortController();
let timer = null;
let changes = () => {};

const nearby = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (isIntersecting) {
      nearby.unobserve(target);
      rows.get(target.dataset.id)?.load();
    }
  }
}, { rootMargin: "300px" });

/** Begin. changed: called when there is something new. refused: called if the key does not do any more. */
export function start({ changed, refused }) {
  changes = changed;
  for (const input of document.querySelectorAll("input[name=kind]")) input.addEventListener("change", () => follow(refused));
  byId("only-model-name").addEventListener("change", () => follow(refused));
  byId("pause").addEventListener("click", () => pause(!paused));
  byId("older").addEventListener("click", older);
  follow(refused);
}

export function stop() {
  following.abort();
  replace([]);
}

function filters() {
  const kind = document.querySelector("input[name=kind]:checked").value;
  const found = new URLSearchParams(kind);
  const model = byId("only-model-name").value;
  if (model) found.set("model", model);
  return found;
}

async function follow(refused) {
  following.abort();
  following = new AbortController();
  const { signal } = following;
  const query = filters();
  let first = true;
  while (!signal.aborted) {
    try {
      const page = await json(`v1/decisions?limit=${PAGE}&${query}`, { signal });
      const newest = page.decisions[0]?.id ?? "0";
      if (paused && !first) later(page.decisions.filter((one) => !rows.has(one.id)));
      else replace(page.decisions, page.next);
      first = false;
      say("live");
      for await (const one of events(`v1/decisions/stream?${query}`, newest, signal)) later([one]);
      say("lost", "connection ended, trying again");
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === 401) return refused();
      say("lost", `${told(error)}, trying again`);
    }
    await new Promise((done) => setTimeout(done, AGAIN));
  }
}

function later(some) {
  const fresh = some.filter((one) => !arrived.some((other) => other.id === one.id));
  arrived = [...fresh, ...arrived].slice(0, MOST_ROWS);
  if (paused) say("live");
  else timer ??= setTimeout(showArrived, TOGETHER);
  changes();
}

function showArrived() {
  timer = null;
  if (paused) return;
  const fresh = arrived.filter((one) => !rows.has(one.id)).map((one) => row(one));
  arrived = [];
  for (const one of fresh) one.item.classList.add("fresh");
  byId("rows").prepend(...fresh.map((one) => one.item));
  while (rows.size > MOST_ROWS) {
    drop(byId("rows").lastElementChild.dataset.id);
    byId("older").hidden = false;
  }
  tidy();
}

function replace(decisions, next = null) {
  arrived = [];
  const wanted = new Set(decisions.map((one) => one.id));
  for (const id of rows.keys()) if (!wanted.has(id)) drop(id);
  byId("rows").replaceChildren(...decisions.map((one) => (rows.get(one.id) ?? row(one)).item));
  byId("older").hidden = next === null;
  tidy();
}

async function older() {
  pause(true);
  const last = byId("rows").lastElementChild?.dataset.id ?? "0";
  try {
    const page = await json(`v1/decisions?limit=${PAGE}&before=${last}&${filters()}`);
    const more = page.decisions.filter((one) => !rows.has(one.id)).map((one) => row(one));
    byId("rows").append(...more.map((one) => one.item));
    byId("older").hidden = page.next === null || rows.size >= MOST_OLDER;
    more[0]?.item.querySelector("button").focus();
  } catch (error) {
    say("lost", told(error));
  }
}

function pause(wanted) {
  paused = wanted;
  byId("pause").textContent = paused ? "Go on" : "Pause";
  byId("pause").setAttribute("aria-pressed", String(paused));
  say("live");
  if (!paused) showArrived();
}

function say(state, words) {
  const news = arrived.length >= MOST_ROWS ? `${MOST_ROWS} or more` : count(arrived.length);
  const text = words ?? (paused ? `paused, ${news} new` : "live");
  byId("live").dataset.state = paused && state === "live" ? "paused" : state;
  if (byId("live").textContent !== text) byId("live").textContent = text;
}

function tidy() {
  const nothing = rows.size === 0;
  const all = filters().size === 0;
  byId("empty").hidden = !(nothing && all);
  byId("none").hidden = !(nothing && !all);
  changes();
}

function drop(id) {
  const one = rows.get(id);
  rows.delete(id);
  nearby.unobserve(one.item);
  one.item.remove();
  one.sources.forEach((source) => URL.revokeObjectURL(source));
}

function row(one) {
  const at = new Date(one.time);
  const sameDay = at.toDateString() === new Date().toDateString();
  const frames = Object.fromEntries(Object.keys(PICTURES).map((name) => [name, element("div", { class: "frame none" }, "–")]));
  const more = element("div", { class: "more", id: `more-${one.id}`, hidden: true });
  const button = element("button", {
    type: "button", class: "link", "aria-expanded": "false", "aria-controls": more.id, click: () => toggle(one.id, button, more),
  }, "All stages");
  const words = element(
    "div", { class: "words" },
    element("h3", {}, labelsOf(one), verdictOf(one), doubtOf(one)),
    one.error === null ? null : element("p", { class: "error" }, element("bdi", {}, printable(one.error))),
    element(
      "p", { class: "hint" },
      element("time", { datetime: one.time, title: at.toLocaleString() }, sameDay ? at.toLocaleTimeString() : at.toLocaleString()),
      ` · ${one.model}${one.tenant === "everyone" ? "" : ` · ${one.tenant}`} · ${figuresOf(one)}`,
    ),
    button,
  );
  const pictures = element("div", { class: "three" }, ...Object.entries(PICTURES).map(([name, title]) => element(
    "figure", {}, frames[name], element("figcaption", {}, title),
  )));
  const item = element("li", { class: "card", "data-id": one.id }, pictures, words, more);
  const made = { item, sources: [], load: () => load(one, frames, made) };
  rows.set(one.id, made);
  if (one.restored === 0) {
    frames.removed.textContent = "nothing";
    delete frames.removed;
  }
  if (one.pictures.length) nearby.observe(item);
  else for (const frame of Object.values(frames)) frame.textContent = "not kept";
  return made;
}

async function load(one, frames, made) {
  await Promise.all(Object.entries(frames).map(async ([name, frame]) => {
    try {
      const answer = await call(`v1/decisions/${one.id}/${name}.png`);
      const source = URL.createObjectURL(await answer.blob());
      if (!rows.has(one.id)) return URL.revokeObjectURL(source);
      made.sources.push(source);
      frame.classList.remove("none");
      frame.replaceChildren(framed(source, DESCRIBED[name]));
    } catch (error) {
      frame.textContent = error.status === 404 ? "not kept" : "?";
    }
  }));
}

async function toggle(id, button, more) {
  const open = more.hidden;
  more.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
  if (!open || more.childElementCount) return;
  try {
    const [known, stages] = await Promise.all([json(`v1/decisions/${id}`), json(`v1/decisions/${id}/stages`)]);
    const missing = known.pictures.length === 0 && known.error === null;
    more.replaceChildren(
      ...(missing ? [element("p", { class: "hint" }, "The pictures of this decision are not kept, only its maps.")] : []),
      stagesOf(stages), factsOf(known),
    );
  } catch (error) {
    more.replaceChildren(element("p", { class: "error" }, told(error)));
  }
}
