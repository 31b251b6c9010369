// A topic: its numbers, and a tab for each thing that can be seen or done.

import { topicPath } from "./api.js";
import { ago, bytes, count, h, many, refusal, repeat } from "./dom.js";

const TABS = {
  events: ["Events", () => import("./events.js")],
  publish: ["Publish", () => import("./publish.js")],
  consumers: ["Consumers", () => import("./consumers.js")],
  presence: ["Presence", () => import("./presence.js")],
  settings: ["Settings", () => import("./settings.js")],
};

export const titleOf = ([name]) => name;

function tabs(name, shown) {
  const links = Object.entries(TABS).map(([tab, [text]]) =>
    h(
      "a",
      {
        href: `#/topic/${encodeURIComponent(name)}/${tab}`,
        "aria-current": tab === shown ? "page" : null,
      },
      text,
    ),
  );
  return h("nav", { class: "tabs", "aria-label": `Topic ${name}` }, links);
}

export function show(console, [name, asked = "events", ...rest], signal) {
  const tab = Object.hasOwn(TABS, asked) ? asked : "events";
  const numbers = h("p", { class: "quiet" }, "…");
  const place = h("div", {});
  const look = async () => {
    try {
      const topic = await console.api.get(topicPath(name));
      const { events, size_bytes, earliest, tail, last_time } = topic;
      const kept = events
        ? `sequences ${count(earliest)} to ${count(tail - 1)}; newest ${ago(last_time)}`
        : `the next one is ${count(tail)}`;
      numbers.textContent = `${many(events, "event")}, ${bytes(size_bytes)}; ${kept}`;
    } catch (problem) {
      numbers.textContent =
        problem.status === 404
          ? "This topic does not exist yet: the first publish makes it."
          : problem.message;
    }
  };
  repeat(5000, signal, look);
  TABS[tab][1]().then(
    (view) =>
      signal.aborted || place.replaceChildren(...view.show(console, name, signal, rest, look)),
    (problem) => place.replaceChildren(refusal(problem)),
  );
  return [numbers, tabs(name, tab), place];
}
