// Small plots of the newest minutes, drawn by attributes of SVG alone.

import { h, short } from "./dom.js";

const WIDTH = 180;
const HEIGHT = 48;

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/**
 * Returns a card with a plot of `values`, the oldest first, one each `stepMs`; the newest is at the
 * right. The words beside it say what the plot shows.
 */
export function plot(title, values, stepMs, unit = "") {
  const most = Math.max(...values, 0);
  const at = (value, index) => {
    const x = WIDTH - 1 - (values.length - 1 - index);
    return `${x},${(HEIGHT - 2 - (value / (most || 1)) * (HEIGHT - 4)).toFixed(1)}`;
  };
  const points = values.map(at).join(" ");
  const begin = WIDTH - values.length;
  const last = values.at(-1) ?? 0;
  const told = `now ${short(last)}${unit}, at most ${short(most)}${unit}`;
  const minutes = Math.round((WIDTH * stepMs) / 60_000);
  const shapes = [
    svg("polygon", {
      class: "area",
      points: `${begin},${HEIGHT} ${points} ${WIDTH - 1},${HEIGHT}`,
    }),
    svg("polyline", { class: "line", points, "vector-effect": "non-scaling-stroke" }),
  ];
  const frame = {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": `${title} in the last ${minutes} minutes: ${told}`,
  };
  return h(
    "div",
    { class: "card plot" },
    h("span", { class: "quiet" }, title),
    h("b", {}, `${short(last)}${unit}`),
    values.length ? svg("svg", frame, ...shapes) : h("p", {}, "Nothing is known yet."),
    h("small", {}, `at most ${short(most)}${unit} in ${minutes} minutes`),
  );
}
