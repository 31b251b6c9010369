// The consumers of a topic, live: checkpoints, counts and leases; and its dead letters.

import { query, topicPath } from "./api.js";
import {
  ago,
  button,
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
import { again, brief, row } from "./event.js";

/** The consumers that are shown at first, and the more with each press; the most that can be. */
const PAGE = 10;
const MAX_CONSUMERS = 200;
/** The time that each of them, for which two requests are sent, adds until all are asked again. */
const EACH_MS = 500;

/** Whether a consumer is the queue of a webhook, which is looked at and changed as a webhook. */
const isOfWebhook = ({ consumer }) => consumer.startsWith("webhook:");

/** The path of a consumer, or of something of it. Without an owner it is common to all callers. */
const pathOf = (it, rest = "") => {
  const { consumer, topic, owner = "" } = it;
  const shared = it.shared && !isOfWebhook(it);
  const isShared = shared && rest !== "/work";
  const whose = shared ? "" : `&owner=${encodeURIComponent(owner)}`;
  const values = { topic, shared: isShared ? "true" : undefined };
  return `/v1/consumers/${encodeURIComponent(consumer)}${rest}${query(values)}${whose}`;
};

const numbers = (entries) => {
  const cards = entries.map(([name, value, isBad]) =>
    h(
      "div",
      { class: "card" },
      h("span", { class: "quiet" }, name),
      h("b", { class: isBad ? "late" : "" }, value),
    ),
  );
  return h("div", { class: "cards" }, cards);
};

const least = (value, isLeast) => `${isLeast ? "≥ " : ""}${count(value)}`;

/** The cursors before the first event and after the newest one, of a topic or a pattern. */
async function ends(console, topic) {
  if (/[*>]/.test(topic)) {
    return ["@0", `@${(await console.api.get("/v1/overview")).last_position}`];
  }
  const { earliest, tail } = await console.api.get(topicPath(topic));
  return [String(earliest - 1), String(tail - 1)];
}

/** Moves a checkpoint to a cursor, which is seen before. */
function mover(console, it, told) {
  const cursor = field("Cursor", { name: "cursor", value: it.checkpoint ?? "", required: true });
  const note = notice();
  const fill = (at) => () =>
    ends(console, it.topic).then(
      (both) => (cursor.lastChild.value = both[at]),
      (problem) => fail(note, problem),
    );
  const move = async ({ cursor }) => {
    const body = { cursor: cursor.trim(), force: true, expected: it.checkpoint };
    const { checkpoint } = await console.api.send("POST", pathOf(it, "/checkpoint"), body);
    told(`The checkpoint of ${it.consumer} is ${checkpoint}.`);
  };
  return h(
    "details",
    {},
    h("summary", {}, "Move the checkpoint"),
    h(
      "p",
      { class: "quiet" },
      "The consumer reads what comes after this cursor: again, if it is before the present one.",
    ),
    form(
      {},
      move,
      cursor,
      button("Before the first event", fill(0)),
      button("After the newest", fill(1)),
      h("button", { class: "danger" }, "Move it"),
    ),
    note,
  );
}

async function consumer(console, it, told) {
  const { api } = console;
  const hasWork = it.shared && !isOfWebhook(it);
  const asked = [api.get(pathOf(it, "/counts")), hasWork ? api.get(pathOf(it, "/work")) : null];
  const [counts, work] = await Promise.all(asked);
  const parts = [
    h("h2", {}, it.consumer, hasWork ? h("small", {}, " shared by workers") : ""),
    terms([
      ["Reads", it.topic],
      ["Owner", it.owner],
      ["Checkpoint", it.checkpoint ?? "none: it begins with what is there"],
      ["Changed", ago(it.updated)],
    ]),
    numbers([
      it.checkpoint
        ? ["Lag", least(counts.unfinished, counts.more_than), counts.unfinished]
        : ["Not read", least(counts.unfinished, counts.more_than)],
      ["Lost", least(counts.lost, counts.lost_more_than), counts.lost],
      ...(work
        ? [
            ["In flight", count(work.in_flight)],
            ["Delayed", count(work.delayed)],
            ["Waiting", count(work.waiting)],
            ["Dead letters", count(work.dead), work.dead],
          ]
        : isOfWebhook(it)
          ? []
          : [
              ["Unread", least(counts.unread, counts.more_than)],
              ["Archived", count(counts.archived)],
            ]),
    ]),
  ];
  if (work) {
    const { lease_ms, max_tries, dead_letter } = it.shared;
    const tries = max_tries ? `tries: at most ${count(max_tries)}` : "tries without end";
    const problem = h("p", { role: "status" });
    work.problem && say(problem, work.problem, "error");
    const leases = work.workers.map(({ worker, in_flight }) => [worker, count(in_flight)]);
    parts.push(
      problem,
      h("p", { class: "quiet" }, `A lease lasts ${span(lease_ms)}; ${tries}.`),
      leases.length
        ? table(`Leases of ${it.consumer}`, [["Worker"], ["Leases", 1]], leases)
        : h("p", {}, "No worker has a lease."),
    );
    const letters = dead_letter ?? `${it.topic}.dead`;
    if (max_tries) {
      parts.push(h("p", {}, "Dead letters go to ", topicLink(letters, "consumers"), "."));
    }
  } else if (isOfWebhook(it)) {
    parts.push(h("p", {}, "This is the queue of a webhook: ", h("a", { href: "#/webhooks" }, "Webhooks")));
  } else {
    parts.push(mover(console, it, told));
  }
  const label = `Consumer ${it.consumer} of ${it.topic}`;
  return h("section", { class: "card", "aria-label": label }, parts);
}

/**
 * The consumer whose marks say which dead letters were dealt with, common to all callers: the
 * overview counts by it.
 */
const OPERATOR = "console";
const COMMON = "&owner=";

/** The topic that a dead letter was in. */
const originOf = ({ headers }) => headers?.["leftoff-dead-topic"];

/** The dead letters in a topic that nobody has dealt with. */
class Letters {
  #next;

  constructor(console, topic) {
    Object.assign(this, { console, topic });
    this.list = h("ol", { class: "events", "aria-label": `Dead letters in ${topic}` });
    this.note = notice();
    this.more = button("Show older", () => this.load(true, this.#next), { hidden: true });
  }

  /**
   * Shows more of what waits, also what is no dead letter. Without `isSure`, which the broker tells,
   * there must be one. Returns whether some are shown.
   */
  async load(isSure, before) {
    const values = { consumer: OPERATOR, order: "newest", archived: "false", limit: 20, before };
    const { events, next } = await this.console.api.get(
      topicPath(this.topic, `/events${query(values)}${COMMON}`),
    );
    if (!isSure && !events.some(originOf)) {
      return false;
    }
    for (const event of events) {
      const item = row(this.console, brief(event), { more: (read) => this.#actions(read, item) });
      this.list.append(item);
    }
    this.#next = next;
    this.more.hidden = next === null;
    return true;
  }

  #actions(event, item) {
    const { sequence } = event;
    const from = originOf(event);
    const told = async (press, run, text) => {
      press.disabled = true;
      try {
        const isRepeat = await run?.();
        await this.#finish(sequence);
        item.remove();
        say(this.note, isRepeat ? `${text} It was put back before.` : text, "good");
        this.note.focus();
      } catch (problem) {
        press.disabled = false;
        fail(this.note, problem);
      }
    };
    const back = ({ target }) =>
      told(target, () => this.#putBack(event, from), `${sequence} is in ${from} again.`);
    const drop = ({ target }) => told(target, null, `${sequence} is dealt with.`);
    this.note.tabIndex = -1;
    return h(
      "div",
      { class: "tools" },
      from ? button(`Put back into ${from}`, back) : "This is no dead letter: it has no origin.",
      button("Drop", drop, { class: "danger" }),
    );
  }

  /** Publishes the event to the topic that it was in. Its id holds off a second copy. */
  async #putBack(letter, topic) {
    const event = { ...again(letter), id: `put-back-${letter.position}` };
    const { api } = this.console;
    const { topics } = await api.send("POST", "/v1/publish", { topics: [topic], event });
    return topics[0].duplicate;
  }

  #finish(sequence) {
    const path = `/v1/consumers/${OPERATOR}/marks${query({ topic: this.topic })}${COMMON}`;
    return this.console.api.send("POST", path, { mark: ["archived"], events: [sequence] });
  }
}

export function show(console, topic, signal) {
  const note = notice();
  const place = h("div", {}, "…");
  const dead = h("div", {});
  let limit = PAGE;
  const grow = () => {
    limit = Math.min(limit + PAGE, MAX_CONSUMERS);
    return load();
  };
  const more = button("Show more", grow, { hidden: true });
  const letters = new Letters(console, topic);
  let isKnown = false;
  /** Without `isSure`, letters of a consumer that is gone are looked for, once. */
  const showLetters = async (isSure) => {
    if (isKnown && (!isSure || dead.hasChildNodes())) {
      return;
    }
    isKnown = true;
    try {
      if (await letters.load(isSure)) {
        const { note, list, more } = letters;
        dead.replaceChildren(h("h2", {}, "Dead letters here"), note, list, more);
      }
    } catch (problem) {
      problem.status === 404 || dead.replaceChildren(refusal(problem));
    }
  };
  /** The time before which nothing is asked again by itself. */
  let restUntil = 0;
  const load = async (told) => {
    try {
      const asked = `/v1/overview/consumers${query({ topic, limit })}`;
      const { consumers, matching, dead_letters } = await console.api.get(asked);
      restUntil = Date.now() + consumers.length * EACH_MS;
      showLetters(dead_letters);
      const shown = await Promise.all(
        consumers.map((it) =>
          consumer(console, it, load).catch((problem) =>
            h("section", { class: "card" }, h("h2", {}, it.consumer), refusal(problem)),
          ),
        ),
      );
      const none = "No consumer reads this topic. The first checkpoint or mark makes one.";
      const some = `Read by ${many(matching, "consumer")}; those that are behind most come first.`;
      refill(
        place,
        h("p", { class: "quiet" }, matching ? some : none),
        shown.length ? h("div", { class: "cards large" }, shown) : "",
      );
      more.hidden = matching <= consumers.length || limit === MAX_CONSUMERS;
      told && say(note, told, "good");
    } catch (problem) {
      place.replaceChildren(refusal(problem));
    }
  };
  // Whoever is about to move a checkpoint is not interrupted.
  const isLeft = () => Date.now() < restUntil || place.querySelector("details[open]");
  repeat(5000, signal, () => (isLeft() ? undefined : load()));
  const tools = h("div", { class: "tools" }, more, button("Look again", () => load()));
  // Whoever comes from a problem of the overview looks for the dead letters.
  return [dead, note, place, tools];
}
