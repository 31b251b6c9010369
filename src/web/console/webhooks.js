// Webhooks: where they send, whether they get on, their last answers; pause, go on, test.

import {
  ago,
  button,
  count,
  h,
  refill,
  refusal,
  repeat,
  say,
  span,
  table,
  terms,
  topicLink,
} from "./dom.js";

export const title = "Webhooks";

const REASONS = {
  asked: "somebody asked for it",
  failing: "the receiver fails",
  gone: "the receiver is gone (410)",
};

const DONE = {
  pause: "is paused: its events wait",
  resume: "goes on, and what failed is sent now",
};

function stateOf({ paused, state }) {
  const told = h("p", { role: "status" });
  if (paused) {
    const why = `${REASONS[paused.reason] ?? paused.reason}${paused.problem ? `: ${paused.problem}` : ""}`;
    say(
      told,
      `Paused for ${span(Date.now() - Date.parse(paused.since))}: ${why}. Its events wait.`,
      "warning",
    );
  } else if (state.failures_in_a_row) {
    const next = state.next_try
      ? ` The next try is in ${span(Math.max(0, Date.parse(state.next_try) - Date.now()))}.`
      : "";
    const failed = state.failures_in_a_row;
    const many = failed === 1 ? "1 failure." : `${count(failed)} failures in a row.`;
    say(told, many + next, "error");
    told.firstChild.textContent = "✕ Fails: ";
  } else {
    say(told, "It gets on.", "good");
  }
  return told;
}

function attempts(name, list) {
  const rows = list.map(({ time, events, tries, duration_ms, status, answer }) => [
    ago(time),
    events ? `${count(events)} (try ${tries})` : "test",
    span(duration_ms),
    `${status ?? ""} ${answer ?? ""}`.trim(),
  ]);
  return table(
    `Last requests of ${name}`,
    [["When"], ["Events"], ["Took"], ["Answer"]],
    rows,
    true,
  );
}

function card(webhook, act) {
  const { name, topic, url, state, queue, paused, max_tries, dead_letter } = webhook;
  const press = (text, verb, is = "") =>
    button(text, () => act(name, verb), {
      id: `${verb}-${name}`,
      "aria-label": `${text}: ${name}`,
      class: is,
    });
  const isPattern = /[*>]/.test(topic);
  const letters = dead_letter ?? `webhooks.${name}.dead`;
  return h(
    "section",
    { class: "card", "aria-label": `Webhook ${name}` },
    h("h2", {}, name),
    stateOf(webhook),
    terms([
      ["Sends", isPattern ? h("span", { class: "mono" }, topic) : topicLink(topic)],
      ["To", h("span", { class: "mono" }, url)],
      ["Delivered", count(state.delivered)],
      ["Failed", count(state.failed)],
      ["Under way", count(queue.in_flight)],
      ["Delayed", count(queue.delayed)],
      ["Lost", queue.lost ? h("span", { class: "late" }, count(queue.lost)) : "0"],
      [
        "Dead letters",
        h(
          "span",
          { class: queue.dead ? "late" : "" },
          count(queue.dead),
          queue.dead ? [" in ", topicLink(letters, "consumers")] : "",
        ),
      ],
      ["Tries", max_tries === 0 ? "without end" : max_tries && count(max_tries)],
    ]),
    h(
      "div",
      { class: "tools" },
      paused ? press("Go on", "resume") : press("Pause", "pause"),
      state.failures_in_a_row && !paused ? press("Try again now", "resume") : "",
      press("Send a test", "test"),
    ),
    h(
      "details",
      { id: `answers-${name}` },
      h("summary", {}, `Last answers (${state.attempts.length})`),
      attempts(name, state.attempts),
    ),
  );
}

export function show(console, parts, signal) {
  const note = h("p", { class: "note", role: "status" });
  const place = h("div", {}, "…");
  const act = async (name, verb) => {
    const path = `/v1/webhooks/${encodeURIComponent(name)}/${verb}`;
    try {
      const answer = await console.api.send("POST", path);
      const isTaken = answer.status >= 200 && answer.status < 300;
      const told = `${name} answered the test: ${answer.status ?? ""} ${answer.answer ?? ""}`;
      verb === "test"
        ? say(note, told, isTaken ? "good" : "warning")
        : say(note, `${name} ${DONE[verb]}.`, "good");
    } catch (problem) {
      say(note, problem.message, "error");
    }
    return load();
  };
  const load = async () => {
    try {
      const { webhooks } = await console.api.get("/v1/webhooks");
      const open = new Set([...place.querySelectorAll("details[open]")].map(({ id }) => id));
      const none = h("p", {}, "There is no webhook. PUT /v1/webhooks/{name} makes one.");
      refill(
        place,
        webhooks.length
          ? h(
              "div",
              { class: "cards large" },
              webhooks.map((it) => card(it, act)),
            )
          : none,
      );
      place.querySelectorAll("details").forEach((it) => (it.open = open.has(it.id)));
    } catch (problem) {
      place.replaceChildren(refusal(problem));
    }
  };
  repeat(5000, signal, () =>
    place.contains(document.activeElement?.closest("details")) ? undefined : load(),
  );
  return [note, place];
}
