// The events of a topic, the newest first: live with a pause, filtered by the broker as for every
// reader, with jumps to a time and to a sequence.

import { query, topicPath } from "./api.js";
import { button, count, fail, field, form, h, notice, refusal, say } from "./dom.js";
import { brief, filterOf, row } from "./event.js";

const PAGE = 50;
/** The rows that are in the page at most; what goes is loaded again by "Older". */
const MAX_ROWS = 500;
/** The time between two changes of a list that events arrive in. */
const DRAW_MS = 200;
/** Events in a second above which nobody can read along. */
const MAX_RATE = 2000;

class Events {
  #filter = filterOf({});
  #rows = [];
  #next = null;
  #newer = null;
  #isNewest = false;
  #live = null;
  #isPaused = false;
  /** Whether the subscription was ended, because too much came. */
  #isCut = false;
  #waiting = [];
  #skipped = 0;
  #second = [0, 0];
  #version = 0;

  constructor(console, topic, signal) {
    Object.assign(this, { console, topic, signal });
    this.list = h("ol", { class: "events", "aria-label": `Events of ${topic}, the newest first` });
    this.note = notice();
    this.pause = button("Pause", () => this.#setPaused(!this.#isPaused), {
      "aria-pressed": "false",
    });
    this.newest = button("Newest", () => this.open());
    this.newerButton = button("Show newer", () => this.#loadNewer(), { hidden: true });
    this.older = button("Show older", () => this.#loadOlder(), { hidden: true });
    const timer = setInterval(() => this.#draw(), DRAW_MS);
    signal.addEventListener("abort", () => {
      clearInterval(timer);
      this.#live?.close();
    });
  }

  async #page(values) {
    const path = topicPath(
      this.topic,
      `/events${query({ ...this.#filter.asked, limit: PAGE, ...values })}`,
    );
    return this.console.api.get(path);
  }

  /** Shows the newest events, and follows; or those around `sequence`, and follows nothing. */
  async open(sequence) {
    const version = ++this.#version;
    this.#live?.close();
    this.#live = null;
    this.#waiting = [];
    this.#skipped = 0;
    this.#isCut = false;
    this.#setPaused(false);
    say(this.note, "");
    try {
      const before = sequence ? sequence + 1 : undefined;
      const missing = { events: [], next: null, cursor: undefined };
      const asked = this.#page({ order: "newest", before });
      const page = await asked.catch((problem) =>
        problem.status === 404 ? missing : Promise.reject(problem),
      );
      if (version !== this.#version || this.signal.aborted) {
        return;
      }
      this.#rows = page.events.map((it) => this.#row(it, { isSought: it.sequence === sequence }));
      this.#next = page.next;
      this.#newer = sequence ?? null;
      if (sequence) {
        const { tail, gap } = await this.#loadNewer();
        if (gap?.reason === "ahead") {
          await this.open();
          say(this.note, `There is no event ${count(sequence)} yet: the next one is ${count(tail)}.`);
          return;
        }
      } else {
        this.#follow(page.cursor ?? "earliest");
      }
      this.#show();
      this.list.querySelector("[aria-current]")?.scrollIntoView({ block: "center" });
    } catch (problem) {
      fail(this.note, problem);
    }
  }

  #row(event, how) {
    return row(this.console, brief(event), how);
  }

  #show() {
    const { list } = this;
    const same =
      this.#rows.length === list.children.length &&
      this.#rows.every((it, at) => it === list.children[at]);
    same || list.replaceChildren(...this.#rows);
    this.older.hidden = this.#next === null;
    this.newerButton.hidden = this.#newer === null || this.#isNewest;
    this.pause.hidden = this.#newer !== null;
    if (!this.#rows.length && !this.note.textContent) {
      say(this.note, this.#searched() || "No event is here. New ones appear by themselves.");
    }
  }

  /** How far a search got that has found nothing: the broker looks at so many events at once. */
  #searched() {
    const at = this.#next?.split(/[~-]/)[0];
    return at
      ? `The search is at ${at}, and has found nothing so far: go on with "Show older".`
      : "";
  }

  async #loadOlder() {
    try {
      const { events, next } = await this.#page({ order: "newest", before: this.#next });
      this.#rows.push(...events.map((it) => this.#row(it)));
      this.#next = next;
      say(this.note, events.length ? "" : this.#searched());
      this.#show();
    } catch (problem) {
      fail(this.note, problem);
    }
  }

  async #loadNewer() {
    const page = await this.#page({ after: this.#newer, on_gap: "resume" });
    const { events, caught_up } = page;
    const rows = events.map((it) => this.#row(it)).reverse();
    this.#rows.unshift(...rows);
    this.#isNewest = events.length < PAGE && caught_up !== false;
    if (this.#isNewest) {
      say(this.note, 'These are the newest. "Newest" follows what is published next.');
    }
    this.#newer = events.at(-1)?.sequence ?? this.#newer;
    this.#show();
    return page;
  }

  /** Shows the first event at or after a time. */
  async atTime(time) {
    const from = `time:${time.toISOString()}`;
    const { events } = await this.#page({ from, limit: 1, on_gap: "resume" });
    if (!events.length) {
      throw new Error("No event was published after this time.");
    }
    await this.open(events[0].sequence);
  }

  filterBy(values) {
    this.#filter = filterOf(values);
    return this.open();
  }

  #follow(from) {
    const take = (event) => this.#take(event);
    const { leftoff } = this.console.api;
    this.#live = leftoff.subscribe(
      this.topic,
      { from, filter: this.#filter.own, storage: "memory" },
      {
        event: take,
        ephemeral: (event) =>
          event.type?.startsWith("leftoff.") || take({ ...event, ephemeral: true }),
        gap: ({ reason, lost }) =>
          say(this.note, `A gap: ${lost ?? "some"} events are gone (${reason}).`, "warning"),
        ended: (problem) => fail(this.note, problem),
      },
    );
  }

  #take(event) {
    const second = Math.floor(Date.now() / 1000);
    this.#second = this.#second[0] === second ? [second, this.#second[1] + 1] : [second, 1];
    if (this.#second[1] > MAX_RATE) {
      this.#live?.close();
      this.#waiting = [];
      this.#isCut = true;
      this.#setPaused(true);
      say(
        this.note,
        `Over ${count(MAX_RATE)} events in a second: paused. Set a filter, or go on with the newest.`,
        "warning",
      );
      return;
    }
    this.#waiting.push(brief(event));
    if (this.#waiting.length > MAX_ROWS) {
      this.#waiting.shift();
      this.#skipped += 1;
    }
  }

  #draw() {
    const waiting = this.#waiting;
    if (!waiting.length) {
      return;
    }
    if (this.#isPaused) {
      this.pause.textContent = `Go on (${count(waiting.length + this.#skipped)} new)`;
      return;
    }
    this.#waiting = [];
    // An open event stays where it is: the page is not moved below the reader's eyes.
    const rows = waiting.map((it) => row(this.console, it, { isNew: true })).reverse();
    this.#rows.unshift(...rows);
    const text = this.#skipped ? `${count(this.#skipped)} events came too fast to be shown.` : "";
    this.#skipped = 0;
    say(this.note, text, text && "warning");
    if (this.#rows.length > MAX_ROWS) {
      this.#rows.length = MAX_ROWS;
      const last = this.#rows.findLast((it) =>
        Number(it.querySelector("summary").firstChild.textContent),
      );
      this.#next = last ? last.querySelector("summary").firstChild.textContent : this.#next;
    }
    this.list.prepend(...rows);
    this.#show();
  }

  #setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.pause.setAttribute("aria-pressed", String(isPaused));
    this.pause.textContent = isPaused ? "Go on" : "Pause";
    if (!isPaused && this.#isCut) {
      this.open();
    }
  }
}

export function show(console, topic, signal, [sequence]) {
  const events = new Events(console, topic, signal);
  const jump = async ({ sequence, time }) => {
    if (sequence) {
      await events.open(Number(sequence));
    } else if (time) {
      await events.atTime(new Date(time));
    } else {
      await events.open();
    }
  };
  const filters = h(
    "details",
    {},
    h("summary", {}, "Filter"),
    h("p", { class: "quiet" }, "Payloads are not searched."),
    form(
      { class: "stacked" },
      (values) => events.filterBy(values),
      field("Types, with commas", { name: "type" }),
      field("Keys, with commas", { name: "key" }),
      field("Key begins with", { name: "key_prefix" }),
      field(
        "Headers, one per line, as name: value",
        { name: "header", rows: 2, class: "wide" },
        "textarea",
      ),
      h("button", {}, "Filter"),
      h("button", { type: "reset", onclick: () => events.filterBy({}) }, "Show all"),
    ),
  );
  const jumps = form(
    {},
    jump,
    field("Go to sequence", { name: "sequence", type: "number", min: 1 }),
    field("or to time", { name: "time", type: "datetime-local", step: 1 }),
    h("button", {}, "Go"),
  );
  events
    .open(Number(sequence) || undefined)
    .catch((problem) => events.list.replaceChildren(refusal(problem)));
  return [
    h("div", { class: "tools" }, events.pause, events.newest, jumps),
    filters,
    events.note,
    events.newerButton,
    events.list,
    events.older,
  ];
}
