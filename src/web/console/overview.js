// The overview: what is wrong now, the state of the broker, its newest minutes, its busiest topics.

import {
  LAG,
  ago,
  bytes,
  clock,
  count,
  h,
  rate,
  refill,
  refusal,
  repeat,
  short,
  span,
  table,
  topicLink,
} from "./dom.js";

export const title = "Overview";

/** The size of a plot, in units of its own. */
const WIDTH = 180;
const HEIGHT = 48;

const SIGNS = { error: "✕ Error: ", warning: "! Warning: " };

/** Where something is done about a problem, by its kind. */
const PLACES = {
  webhooks_paused: ["#/webhooks", "Webhooks"],
  slow_readers: ["#/connections", "Connections"],
  dead_peers: ["#/proxy", "Measure the proxy"],
  disk_low: ["#/maintenance", "Maintenance"],
  writes_refused: ["#/maintenance", "Maintenance"],
  connections_full: ["#/connections", "Connections"],
  writes_failed: ["#/maintenance", "Maintenance"],
};

/** How long something lasts, or how long ago it was. */
function times({ kind, since, last }, now) {
  const past = (time) => span(Math.max(0, Date.parse(now) - Date.parse(time)), 1);
  if (kind === "dead_letters") {
    return ` The oldest has waited for ${past(since)}.`;
  }
  if (!last) {
    return ` For ${past(since)}.`;
  }
  const isOnce = past(since) === past(last);
  return isOnce ? ` ${past(last)} ago.` : ` First ${past(since)} ago, last ${past(last)} ago.`;
}

function placeOf({ kind, topic }) {
  const [href, text] = topic
    ? [`#/topic/${encodeURIComponent(topic)}/consumers`, "Look at them"]
    : (PLACES[kind] ?? []);
  return href && [" ", h("a", { href }, text)];
}

/** Returns the list of what is wrong now; with a `failure`, of what was when the broker answered. */
function wrong(overview, failure) {
  const { problems, now } = overview ?? { problems: [] };
  const items = problems.map((problem) =>
    h(
      "li",
      { class: problem.severity },
      h("strong", {}, SIGNS[problem.severity] ?? ""),
      problem.text,
      h("span", { class: "quiet" }, times(problem, now)),
      placeOf(problem),
    ),
  );
  if (failure) {
    const { since, problem } = failure;
    const told = `The broker does not answer since ${clock(since)}: ${problem.message}.`;
    const old = now && ` What follows is old: as of ${clock(now)}.`;
    items.unshift(h("li", { class: "error" }, h("strong", {}, SIGNS.error), told, old));
  } else if (!items.length) {
    items.push(h("li", { class: "good" }, h("strong", {}, "✓ "), "Nothing is wrong."));
  }
  return h("ul", { class: "plain wrong" }, items);
}

function card(name, value, more) {
  return h(
    "div",
    { class: "card" },
    h("span", { class: "quiet" }, name),
    h("b", {}, value),
    h("small", {}, more),
  );
}

function cards(overview, failure) {
  const { topics, last_position, log, memory, connections, role, started, now, epoch } = overview;
  const protocols = Object.entries(connections?.by_protocol ?? {}).filter(([, many]) => many);
  const running = span(Date.parse(now) - Date.parse(started));
  return h(
    "div",
    { class: "cards" },
    card(
      "Writes",
      failure ? "? unknown" : log.writes === "refused" ? "✕ refused" : "✓ accepted",
      failure ? "no answer" : (log.reason ?? "events are stored"),
    ),
    card("Disk", bytes(log.size_bytes), `in use; ${bytes(log.free_bytes)} are free`),
    memory &&
      card("Memory of clients", bytes(memory.client_bytes), `of ${bytes(memory.max_client_bytes)}`),
    connections &&
      card(
        "Connections",
        count(connections.count),
        protocols.map(([name, many]) => `${name} ${short(many)}`).join(", ") ||
          `of ${short(connections.max)}`,
      ),
    card("Topics", count(topics), `${count(last_position)} events were ever stored`),
    card("Running for", running, `${role === "single" ? "" : `${role}; `}epoch ${epoch}`),
  );
}

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
function plot(title, values, stepMs, unit = "") {
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

function plots({ history: { step_ms, published, delivered, connections }, connections: { count: now } = {} }) {
  const perSecond = (values) => values.map((value) => (value * 1000) / step_ms);
  return h(
    "div",
    { class: "cards plots" },
    plot("Published events", perSecond(published), step_ms, "/s"),
    plot("Delivered events", perSecond(delivered), step_ms, "/s"),
    // The newest step has the number of now, which stands above, too.
    plot("Connections", [...connections.slice(0, -1), now ?? connections.at(-1)], step_ms),
  );
}

function busiest(topics) {
  const rows = topics.map((it) => [
    topicLink(it.name),
    rate(it.rate),
    bytes(it.size_bytes),
    count(it.followers),
    h("span", { class: it.lag ? "late" : "" }, count(it.lag)),
    ago(it.last_time),
  ]);
  const columns = [
    ["Topic"],
    ["Rate", 1],
    ["Size", 1],
    ["Followers", 1],
    ["Lag", 1],
    ["Newest", 1],
  ];
  return h("div", {}, table("Busiest topics", columns, rows), h("p", { class: "quiet" }, LAG));
}

/** Shows the overview; `console.watch` tells it each newer one. */
export function show(console, parts, signal) {
  const wrongs = h("section", { "aria-label": "What is wrong now" });
  const state = h("section", { "aria-label": "State" });
  const busy = h("div", {});
  console.watch(signal, (overview, failure) => {
    refill(wrongs, wrong(overview, failure));
    state.className = failure ? "quiet" : "";
    overview &&
      state.replaceChildren(
        cards(overview, failure),
        overview.history ? plots(overview) : "",
      );
  });
  repeat(5000, signal, async () => {
    let shown;
    try {
      const { topics } = await console.api.get("/v1/overview/topics?sort=rate&limit=10");
      const busy = topics.filter((it) => it.rate);
      const none = topics.length
        ? "No topic has had events in the last seconds."
        : "There is no topic yet: the first publish makes one.";
      shown = busy.length
        ? busiest(busy)
        : h("p", {}, none, " ", h("a", { href: "#/topics" }, "All topics"));
    } catch (problem) {
      shown = refusal(problem);
    }
    refill(busy, h("h2", {}, "Busiest topics"), shown);
  });
  return [wrongs, state, busy];
}
