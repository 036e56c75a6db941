// Elements and texts. What comes from clients and models becomes text nodes and attributes, never markup.

const LONGEST = 300;

export const byId = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  set(made, attributes);
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(made, attributes);
  made.append(...children);
  return made;
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
}

/** A foreign text: not too long, with characters that hide or turn others as escape sequences. */
export function printable(text) {
  const all = Array.from(String(text));
  const short = all.length > LONGEST ? [...all.slice(0, LONGEST), "…"] : all;
  return short.join("").replace(/\p{C}/gu, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`);
}

export function classLabel(label, name) {
  return name === null ? `class ${label}` : printable(name);
}

export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 1 : 0)} s`;
}

export const count = (value) => value.toLocaleString("en");

export function counted(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : noun === "query" ? "" : "s"}`.replace(/query$/, value === 1 ? "query" : "queries");
}
