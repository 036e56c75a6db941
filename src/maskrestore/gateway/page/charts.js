// Small charts of the traffic: pictures, latency, queries and cost.

import { json } from "./api.js";
import { byId, count, counted, drawn, element, seconds } from "./dom.js";

const PIECES = 60;
const WIDTH = 300;
const HEIGHT = 64;
const PRICE = "maskrestore-price";

export function start() {
  byId("price").value = localStorage.getItem(PRICE) ?? "";
  byId("price").addEventListener("input", () => {
    localStorage.setItem(PRICE, byId("price").value);
    draw();
  });
  byId("minutes").addEventListener("change", draw);
}

/** Draw what happened until now. */
export async function draw() {
  const minutes = Number(byId("minutes").value);
  const { buckets } = await json(`v1/statistics?minutes=${minutes}`);
  const total = (name) => buckets.reduce((sum, one) => sum + one[name], 0);
  const pictures = total("decisions");
  const queries = total("queries");
  const mean = buckets.reduce((sum, one) => sum + one.seconds * one.decisions, 0) / Math.max(1, pictures);
  const slowest = Math.max(0, ...buckets.map((one) => one.slowest));
  const price = Number(byId("price").value) || 0;
  const money = (value) => ((value * price) / 1000).toLocaleString("en", { maximumFractionDigits: 2, minimumFractionDigits: 2 });
  const each = (value) => (pictures ? value / pictures : 0);
  const doubtful = total("doubtful") ? `${count(total("doubtful"))} in doubt, ` : "";
  const begin = Date.now() - minutes * 60_000;
  const place = (one) => Math.floor(((new Date(one.time) - begin) / (minutes * 60_000)) * PIECES);
  byId("charts").replaceChildren(
    chart("Pictures", count(pictures), `${count(total("changed"))} changed, ${doubtful}${counted(total("errors"), "error")}`, buckets, place, [
      ["calm", (one) => one.decisions], ["note", (one) => one.changed + one.errors], ["bad", (one) => one.errors],
    ], count),
    chart("Time per picture", seconds(mean), `slowest ${seconds(slowest)}`, buckets, place, [
      ["calm", (one) => one.slowest], ["accent", (one) => one.seconds],
    ], seconds),
    chart("Queries per picture", each(queries).toFixed(1), "1 without the gateway", buckets, place, [
      ["accent", (one) => one.queries / one.decisions],
    ], (value) => value.toFixed(1)),
    chart("Cost", price ? money(queries) : counted(queries, "query"), price ? `${money(each(queries) * 1000)} for 1,000 pictures` : "to the model",
      buckets, place, [["accent", (one) => one.queries]], price ? money : count),
  );
}

/** Bars over time. layers: a class and a function of a piece each, the tallest first. */
function chart(title, value, more, buckets, place, layers, told) {
  const most = Math.max(0, ...buckets.map(layers[0][1])) || 1;
  const width = WIDTH / PIECES;
  const bars = buckets.flatMap((one) => layers.map(([tone, height]) => {
    const tall = (height(one) / most) * (HEIGHT - 2);
    return drawn("rect", {
      class: tone, x: place(one) * width, y: HEIGHT - tall, width: width - 1, height: tall,
    }, drawn("title", {}, `${new Date(one.time).toLocaleString()}: ${told(height(one))}`));
  }));
  const svg = drawn("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `${title} over time: ${value}, ${more}; at most ${told(most)} in a piece`,
  }, ...bars);
  return element(
    "div", { class: "chart" }, element("h3", {}, title),
    element("p", { class: "figure" }, value), element("p", { class: "hint" }, more), svg,
    element("p", { class: "ends hint", "aria-hidden": "true" }, element("span", {}, `1 ${byId("minutes").selectedOptions[0].text} ago`.replace("1 15", "15")), element("span", {}, `top: ${told(most)}`), element("span", {}, "now")),
  );
}
