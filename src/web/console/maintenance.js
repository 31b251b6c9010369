// Maintenance at once, in place of when the broker gets to it.

import { button, bytes, count, fail, h, notice, say, span, table } from "./dom.js";

export const title = "Maintenance";

/** What the broker drops, by its reason. */
const REASONS = {
  retention: "a limit of the topic",
  expired: "older than their time to live",
  compacted: "replaced by a newer event of the key",
  purged: "dropped by a request",
};

export function show(console) {
  const note = notice();
  const result = h("div", {});
  const run = async ({ target }) => {
    target.disabled = true;
    say(note, "Under way…");
    const begun = performance.now();
    try {
      const { dropped, merged_blocks, reclaimed_bytes, topics } = await console.api.send(
        "POST",
        "/v1/maintenance",
      );
      const took = span(performance.now() - begun);
      say(
        note,
        `${count(topics)} topics were looked at in ${took}; ${bytes(reclaimed_bytes)} are free again.`,
        "good",
      );
      const rows = Object.entries(dropped).map(([reason, { events, bytes: size }]) => [
        REASONS[reason] ?? reason,
        count(events),
        bytes(size),
      ]);
      const merged = h("p", {}, `${count(merged_blocks)} small blocks were merged.`);
      result.replaceChildren(
        table("Dropped", [["Dropped, because"], ["Events", 1], ["Size", 1]], rows),
        merged,
      );
    } catch (problem) {
      fail(note, problem);
    }
    target.disabled = false;
  };
  return [
    h(
      "p",
      {},
      "Dropping, compacting and merging go on by themselves, in small steps between publishes. Here all of it is done now, for all topics: what the settings of the topics keep, stays.",
    ),
    button("Maintain now", run),
    note,
    result,
    h("h2", {}, "Elsewhere"),
    h(
      "p",
      {},
      "A backup is made with ",
      h("code", {}, "leftoff backup"),
      ", also while the broker runs. Metrics are at ",
      h("a", { href: "metrics" }, "/metrics"),
      ", the description of the HTTP API at ",
      h("a", { href: "openapi.json" }, "/openapi.json"),
      ".",
    ),
  ];
}
