// A broker with one inbox, as far as an inbox of the client uses it, and devices that show it: with
// requests and streams that are late, fail, and come back.

import { Problem } from "../../../src/web/client/transports.js";

const UNMARKED = { seen: false, read: false, archived: false, snoozed_until: null };

/** What each view shows, of the marks that are true now. */
const SHOWS = {
  inbox: (of) => !of.archived && !of.isAway,
  unread: (of) => !of.archived && !of.isAway && !of.read,
  snoozed: (of) => of.isAway,
  archived: (of) => of.archived,
};
const viewOf = (query) =>
  query.get("archived") ? "archived" : query.get("snoozed") ? "snoozed" : query.get("read") ? "unread" : "inbox";

/** The events of one selection, and the marks of one consumer. */
export class Notes {
  epoch = "e";
  events = [];
  changes = [];
  #marks = new Map();
  #sequences = new Map();
  #position = 0;

  constructor(clock, topic) {
    Object.assign(this, { clock, topic, isMany: topic.includes(">") });
  }

  placeOf(event) {
    return this.isMany ? event.position : event.sequence;
  }

  cursor(place) {
    return `${this.isMany ? "@" : ""}${place}-${this.epoch}`;
  }

  get tail() {
    return this.isMany ? this.#position : (this.#sequences.get(this.topic) ?? 0);
  }

  get revision() {
    return `@${this.changes.length}-${this.epoch}`;
  }

  publish(topic) {
    const sequence = (this.#sequences.get(topic) ?? 0) + 1;
    this.#sequences.set(topic, sequence);
    this.events.push({ topic, sequence, position: ++this.#position, data: this.#position });
  }

  /** The log is another one, with nothing in it. */
  beginAnew() {
    Object.assign(this, { epoch: `${this.epoch}e`, events: [], changes: [] });
    this.#marks.clear();
    this.#sequences.clear();
    this.#position = 0;
  }

  marksOf({ topic, sequence }) {
    return this.#marks.get(`${topic}/${sequence}`) ?? UNMARKED;
  }

  /** Whether a snooze ends within a time. */
  wakesWithin(ms) {
    const wait = ({ snoozed_until: until }) => Date.parse(until) - this.clock.now;
    return [...this.#marks.values()].some((of) => wait(of) > 0 && wait(of) <= ms);
  }

  shown(view) {
    const shows = (event) => {
      const of = this.marksOf(event);
      return SHOWS[view]({ ...of, isAway: Date.parse(of.snoozed_until) > this.clock.now });
    };
    return this.events.filter(shows).reverse();
  }

  page(query) {
    const [before] = query.get("before")?.match(/\d+/) ?? [Infinity];
    const older = this.shown(viewOf(query)).filter((event) => this.placeOf(event) < Number(before));
    const events = older.slice(0, Number(query.get("limit")));
    const next = events.length < older.length ? this.cursor(this.placeOf(events.at(-1))) : null;
    const told = events.map((event) => ({ ...event, marks: this.marksOf(event) }));
    return { events: told, next, cursor: this.cursor(this.tail), revision: this.revision };
  }

  /** Carries out a change, and tells it as the broker does. */
  mark({ mark = [], unmark = [], snooze_until, up_to, events }) {
    if (up_to && !up_to.endsWith(`-${this.epoch}`)) {
      throw new Problem({ status: 409, detail: "another epoch" });
    }
    const isNamed = (event) => events.some((it) => it.topic === event.topic && it.sequence === event.sequence);
    const isBefore = (event) =>
      this.placeOf(event) <= Number(/\d+/.exec(up_to)) &&
      !(Date.parse(this.marksOf(event).snoozed_until) > this.clock.now);
    const concerned = this.events.filter(events ? isNamed : isBefore);
    for (const event of concerned) {
      const of = { ...this.marksOf(event) };
      unmark.includes("seen") && (of.seen = of.read = false);
      unmark.includes("read") && (of.read = false);
      unmark.includes("archived") && (of.archived = false);
      unmark.includes("snoozed") && (of.snoozed_until = null);
      mark.includes("seen") && (of.seen = true);
      mark.includes("read") && (of.seen = of.read = true);
      mark.includes("archived") && Object.assign(of, { archived: true, snoozed_until: null });
      mark.includes("snoozed") && Object.assign(of, UNMARKED, { snoozed_until: snooze_until });
      this.#marks.set(`${event.topic}/${event.sequence}`, of);
    }
    const ranges = {};
    concerned.forEach(({ topic, sequence }) => (ranges[topic] = [ranges[topic], sequence].filter(Boolean).join(",")));
    const where = events ? { events: ranges } : { up_to };
    const time = new Date(this.clock.now).toISOString();
    this.changes.push({ mark, unmark, snooze_until, time, ...where });
    this.changes.at(-1).revision = this.revision;
    return { revision: this.revision };
  }

  /** Returns all marks, as the broker tells them to who has missed too many changes. */
  whole() {
    const told = { seen: {}, read: {}, archived: {} };
    const snoozed = {};
    for (const [key, of] of this.#marks) {
      const [topic, sequence] = key.split("/");
      for (const name of Object.keys(told)) {
        of[name] && (told[name][topic] = [told[name][topic], sequence].filter(Boolean).join(","));
      }
      of.snoozed_until && ((snoozed[topic] ??= {})[sequence] = of.snoozed_until);
    }
    const lists = Object.entries(told).map(([name, marked]) => [name, { up_to: 0, marked, unmarked: {} }]);
    return { whole: true, revision: this.revision, marks: { ...Object.fromEntries(lists), snoozed } };
  }

  counts() {
    const views = Object.keys(SHOWS).map((view) => [view, this.shown(view).length]);
    const { revision } = this;
    return { ...Object.fromEntries(views), more_than: false, position: this.#position, revision };
  }
}

/** A client of one device. `chance` decides what is late and what fails. */
export class Device extends EventTarget {
  connection = { state: "connected" };
  /** Whether requests may fail and be refused. */
  isUnlucky = true;
  refused = 0;
  #stream;

  constructor(notes, chance) {
    super();
    const { clock } = notes;
    const { set, clear } = { set: (run, ms) => clock.set(run, ms), clear: (timer) => clock.clear(timer) };
    this.io = { now: () => clock.now, random: chance, setTimeout: set, clearTimeout: clear };
    Object.assign(this, { notes, chance, clock });
  }

  /** Answers a request late. It may fail before or after the broker has done it. */
  async request(method, path, body) {
    const late = () => this.clock.wait(this.chance() * 300);
    const fate = this.isUnlucky ? this.chance() : 1;
    await late();
    if (fate < 0.15) {
      throw new Problem({ status: 503 });
    }
    if (fate < 0.25 && method === "POST") {
      this.refused++;
      throw new Problem({ status: 403, detail: "not permitted" });
    }
    const answer = method === "GET" ? this.notes.page(new URL(path, "http://b").searchParams) : this.notes.mark(body);
    const told = structuredClone(answer);
    // A snooze that ends between the first page and the first counts is told by neither.
    if (method === "POST" || !this.notes.wakesWithin(310)) {
      await late();
    }
    if (fate < 0.35) {
      throw new Problem({ status: 0 });
    }
    return told;
  }

  subscribe(topic, { from, marksAfter }, handlers) {
    const { notes } = this;
    const number = (cursor) => Number(/\d+/.exec(cursor));
    const [, epoch] = from.split("-");
    this.#stream = { handlers, epoch, place: number(from), change: number(marksAfter), counts: "" };
    this.#stream.isWhole = epoch !== notes.epoch;
    this.clock.set(() => this.#tellCounts(), 1); // They come first.
    return { close: () => (this.#stream = undefined) };
  }

  setUp(isUp) {
    this.connection = { state: isUp ? "connected" : "reconnecting" };
    // Who was away for long is told all marks.
    this.#stream && (this.#stream.isWhole ||= isUp && this.chance() < 0.5);
    this.dispatchEvent(new Event("state"));
    isUp && this.#tellCounts();
  }

  #tellCounts() {
    const { notes } = this;
    if (this.#stream?.epoch === notes.epoch && this.connection.state === "connected") {
      this.#stream.counts = JSON.stringify(notes.counts());
      this.#stream.handlers.counts(notes.counts());
    }
  }

  /** Delivers the next message of the stream: of events or of marks. Returns false without one. */
  deliver() {
    const { notes } = this;
    const stream = this.#stream;
    if (!stream || this.connection.state !== "connected") {
      return false;
    }
    const { handlers } = stream;
    const counts = JSON.stringify(notes.counts());
    if (stream.epoch !== notes.epoch) {
      Object.assign(stream, { epoch: notes.epoch, place: 0, isWhole: true });
      handlers.gap({ reason: "epoch" });
    } else if (stream.isWhole) {
      Object.assign(stream, { isWhole: false, change: notes.changes.length });
      handlers.marked(structuredClone(notes.whole()));
    } else {
      const event = notes.events.find((it) => notes.placeOf(it) > stream.place);
      const change = notes.changes[stream.change];
      if (event && (!change || this.chance() < 0.5)) {
        const oldest = notes.placeOf(notes.events[0]);
        !notes.isMany && oldest > stream.place + 1 && handlers.gap({ reason: "retention" });
        stream.place = notes.placeOf(event);
        handlers.event({ ...event }, { cursor: notes.cursor(stream.place) });
      } else if (change) {
        stream.change += 1;
        handlers.marked(structuredClone(change));
      } else if (stream.counts !== counts) {
        stream.counts = counts;
        handlers.counts(JSON.parse(counts));
      } else {
        return false;
      }
    }
    return true;
  }
}
