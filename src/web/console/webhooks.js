// Webhooks: where they send, whether they get on, their last answers; make, pause, go on, test, delete.

import {
  ago,
  button,
  confirmed,
  copy,
  count,
  fail,
  field,
  form,
  h,
  many,
  notice,
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

const pathOf = (name) => `/v1/webhooks/${encodeURIComponent(name)}`;

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
    const failures = many(failed, "failure") + (failed > 1 ? " in a row" : "");
    say(told, `${failures}.${next}`, "error");
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

function card(webhook, act, remove) {
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
    h(
      "details",
      { id: `delete-${name}` },
      h("summary", {}, "Delete"),
      h("p", {}, "Its place in the topic is forgotten."),
      confirmed(name, `Delete ${name}`, () => remove(name)),
    ),
  );
}

export function show(console, parts, signal) {
  const note = notice();
  const place = h("div", {}, "…");
  const secrets = h("div", {});
  const names = new Set();
  const act = async (name, verb) => {
    try {
      const answer = await console.api.send("POST", `${pathOf(name)}/${verb}`);
      const isTaken = answer.status >= 200 && answer.status < 300;
      const told = `${name} answered the test: ${answer.status ?? ""} ${answer.answer ?? ""}`;
      verb === "test"
        ? say(note, told, isTaken ? "good" : "warning")
        : say(note, `${name} ${DONE[verb]}.`, "good");
    } catch (problem) {
      fail(note, problem);
    }
    return load();
  };
  const remove = async (name) => {
    await console.api.send("DELETE", pathOf(name));
    names.delete(name);
    say(note, `${name} is deleted.`, "good");
    load(true);
  };
  const make = async ({ name, topic, url }) => {
    if (names.has(name)) {
      throw new Error(`There is a webhook ${name}.`);
    }
    const { secret } = await console.api.send("PUT", pathOf(name), { topic, url });
    secrets.replaceChildren(
      h("p", {}, `The secret of ${name}. It is told only now, and the receiver needs it:`),
      h("pre", {}, secret),
      button("Copy", ({ target }) => copy(secret, target)),
    );
    load();
    return `${name} is made.`;
  };
  const load = async (isSure) => {
    try {
      const { webhooks } = await console.api.get("/v1/webhooks");
      webhooks.forEach(({ name }) => names.add(name));
      // Whoever is about to delete one is not interrupted.
      if (!isSure && [...place.querySelectorAll("input")].some(({ value }) => value)) {
        return;
      }
      const open = new Set([...place.querySelectorAll("details[open]")].map(({ id }) => id));
      const none = h("p", {}, "There is no webhook.");
      refill(
        place,
        webhooks.length
          ? h(
              "div",
              { class: "cards large" },
              webhooks.map((it) => card(it, act, remove)),
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
  const fresh = h(
    "details",
    {},
    h("summary", {}, "Make a webhook"),
    form(
      {},
      make,
      field("Name", { name: "name", required: true }),
      field("Topic or pattern", { name: "topic", required: true, placeholder: "orders.*" }),
      field("URL", { name: "url", type: "url", required: true }),
      h("button", {}, "Make it"),
    ),
    secrets,
  );
  return [note, place, fresh];
}
