// The model: what each subscription and each publish may tell, given what the broker has stored and
// dropped. Everything that differs is noted as a complaint.

import { isMatch } from "../fakes/broker.js";

/** The most publishes that wait in a tab. */
export const OUTBOX = 25;

/** Checks what a subscription tells, message by message, and the cursors that it keeps. */
export class ReaderModel {
  #broker;
  #complain;
  #place; // The place up to which everything was told; unknown until the broker says it.
  #done; // The place up to which everything was told, and its handlers have finished.
  #ephemerals = new Set();
  #begun = 0; // How often the broker has said that the subscription begins, and has caught up.
  #caughtUp = 0;
  #isCaughtUp = false;
  isHandling = false;
  isClosed = false;

  /** `types` are those that the filter picks, if there is one. */
  constructor(broker, { topics, from, types }, complain) {
    Object.assign(this, { from, types, topics: [topics].flat(), isOne: topics === "orders" });
    this.#broker = broker;
    this.#complain = complain;
    this.again();
  }

  #placeOf({ sequence, position }) {
    return this.isOne ? sequence : position;
  }

  #isMine({ topic, type }) {
    return (
      this.topics.some((pattern) => isMatch(pattern, topic)) &&
      (!this.types || this.types.includes(type))
    );
  }

  /** All that was ever stored for this subscription after a place, and up to another one. */
  #between(after, upTo) {
    const { all } = this.#broker;
    const found = [];
    // From the newest one on: what is looked for is among the last ones, nearly always.
    for (let at = all.length - 1; at >= 0 && all[at].position > after; at--) {
      const place = this.#placeOf(all[at]);
      if (this.#isMine(all[at]) && place > after && place <= upTo) {
        found.push(all[at]);
      } else if (this.isOne && this.#isMine(all[at]) && place <= after) {
        break;
      }
    }
    return found;
  }

  /** Notes that a handler is called. Returns what notes its end. */
  begin() {
    if (this.isClosed) {
      this.#complain("a handler was called after the end of its subscription");
    }
    if (this.isHandling) {
      this.#complain("a handler was called before the one before it had finished");
    }
    this.isHandling = true;
    return () => {
      this.isHandling = false;
      this.#done = this.#place;
    };
  }

  subscribed({ cursor }) {
    this.#begun++;
    this.#isCaughtUp = false;
    this.#place ??= placeIn(cursor);
  }

  event(event) {
    const place = this.#placeOf(event);
    const all = this.#between(this.#place, place);
    if (all.length !== 1) {
      this.#complain(`the event at ${place} came after ${this.#place}, ${all.length} later`);
    }
    this.#place = place;
  }

  /** A line that began before the other one may have had more to lose; but something is new. */
  gap({ lost, requested }, { cursor }) {
    const place = placeIn(cursor);
    const all = this.#between(requested, place);
    const unsaid = this.#between(this.#place, requested);
    if (all.length !== lost || unsaid.length > 0 || all.some((event) => this.#broker.events.includes(event))) {
      this.#complain(`a gap of ${lost} from ${requested} to ${place}: ${all.length} lost`);
    }
    if (this.#between(this.#place, place).length === 0) {
      this.#complain(`a gap up to ${place} was told twice`);
    }
    this.#place = place;
  }

  caughtUp({ cursor }) {
    this.#isCaughtUp = true;
    if (++this.#caughtUp > this.#begun) {
      this.#complain("it has caught up twice");
    }
    const missing = this.#between(this.#place, placeIn(cursor));
    if (missing.length > 0) {
      this.#complain(`it has caught up, and ${missing.length} events were not told`);
    }
  }

  ephemeral({ topic, type, data }) {
    if (!this.#isMine({ topic, type }) || this.#ephemerals.has(data)) {
      this.#complain(`the ephemeral event ${data} of ${topic} came twice, or to the wrong reader`);
    }
    this.#ephemerals.add(data);
  }

  /** How many of these ephemeral events of a topic have not come. */
  missing(topic, all) {
    const isMine = this.#isMine({ topic, type: "" });
    return isMine ? all.filter((data) => !this.#ephemerals.has(data)).length : 0;
  }

  /** A cursor is kept: the place up to which handlers have finished, if none did just now. */
  keeps(cursor, isCalm) {
    const place = placeIn(cursor);
    const done = this.#done ?? place;
    const early = this.#between(done, place).length;
    const late = this.#between(place, done).length;
    early === 0 || this.#complain(`a cursor was kept before ${early} handlers had finished`);
    late === 0 || !isCalm || this.#complain(`a cursor was kept from before ${late} handled events`);
  }

  /** It begins again, at a kept cursor. `isCalm` says that there was time to keep the last one. */
  again(cursor, isCalm) {
    const before = this.#done;
    this.#place = this.from === "earliest" ? 0 : undefined;
    if (cursor) {
      this.#place = placeIn(cursor);
    }
    this.#done = this.#place;
    this.isHandling = false;
    if (isCalm && before > 0 && this.#between(this.#place ?? 0, before).length > 0) {
      this.#complain(`the cursor ${cursor} is kept, though all up to ${before} was handled`);
    }
  }

  /** Everything that was stored has been told. */
  finish() {
    const missing = this.#between(this.#place ?? 0, Infinity);
    if (missing.length > 0) {
      this.#complain(`${missing.length} events after ${this.#place} were not told`);
    }
    if (!this.#isCaughtUp) {
      this.#complain("it was not told that it has caught up");
    }
  }
}

const placeIn = (cursor) => Number(/\d+/.exec(cursor)[0]);

/** Returns what is wrong with a map of the latest event of each key, at last. */
export function wrongKeys(map, broker, topic) {
  const latest = new Map();
  for (const event of broker.all) {
    event.topic === topic && event.key !== undefined && latest.set(event.key, event);
  }
  return [...latest].flatMap(([key, { data, content_type: type, position }]) => {
    const has = map.get(key);
    const isGone = broker.dropped.some((event) => event.position === position);
    const isRight = type === null ? !has : has?.position === position;
    return isRight || (isGone && !has) ? [] : `${key} is ${has?.data}, and not ${data}`;
  });
}

/** Checks a publish at the end: its promise is settled, and tells what the broker has stored. */
export function checkPublish(entry, stored, storedAt, complain) {
  const { data, state, value, error, tab, before } = entry;
  const mine = stored.filter((event) => event.data === data);
  if (mine.length > 1) {
    complain(`${data} was stored ${mine.length} times`);
  }
  if (state === "waits" && !tab.isKilled) {
    complain(`${data} is not settled`);
  }
  if (state === "fulfilled" && mine[0]?.sequence !== value.sequence) {
    complain(`${data} is said to be at ${value.sequence}, and is at ${mine[0]?.sequence}`);
  }
  // A try whose answer is lost may be stored at any time, also after a later one was refused: the
  // rejection says so. Without these words nothing is stored, neither before nor afterwards.
  if (state === "rejected" && mine.length > 0 && !error.mayBeStored) {
    complain(`${data} was refused (${error.message}), and is stored at ${storedAt.get(data)}`);
  }
  // What was kept over a reload waits as well, and is not counted here.
  if (/is full/.test(error?.message) && before < OUTBOX && !tab.isKeeping) {
    complain(`the outbox is said to be full though ${before} publishes wait`);
  }
  if (state === "rejected" && !error.status && !/full|closed/.test(error.message)) {
    complain(`${data} was rejected though it may succeed later: ${error.message}`);
  }
}

/** Checks what a promise says, given how often the broker was asked for this publish. */
export function checkReceipt({ data, state, value, topic, tab }, broker, asked, complain) {
  if (state === "fulfilled") {
    const stored = broker.all.find((event) => event.data === data);
    const isSame = value.topic === topic && value.position === stored?.position;
    isSame || complain(`${data} is said to be at position ${value.position} of ${value.topic}`);
    // Said to be known, it was sent before; and otherwise not, but by a leader that was frozen.
    (value.duplicate ? asked > 1 : asked === 1 || tab.isShared) ||
      complain(`${data} was sent ${asked} times, and duplicate is ${value.duplicate}`);
  }
}

/** Checks an ephemeral publish: it was sent once or dropped, and never stored. */
export function checkEphemeral({ data, state, value, error, tab }, broker, asked, complain) {
  if (asked > 1 || broker.all.some((event) => event.data === data)) {
    complain(`the ephemeral event ${data} was sent ${asked} times, or stored`);
  }
  if (state === "waits" && !tab.isKilled) {
    complain(`the ephemeral event ${data} is not settled`);
  }
  if (state === "fulfilled" && !value.dropped && asked !== 1) {
    complain(`the ephemeral event ${data} was not sent, and not said to be dropped`);
  }
  if (state === "rejected" && error.status === 0) {
    complain(`the ephemeral event ${data} was rejected for want of a connection`);
  }
}

/**
 * The publishes of a tab to a topic are stored in the order in which they were called. One that was
 * refused, and may be stored, has no place in it: the ones after it need not wait for its first try.
 */
export function checkOrder(entries, stored, complain) {
  const places = entries
    .filter(({ error }) => !error?.mayBeStored)
    .map(({ data }) => stored.find((event) => event.data === data)?.sequence)
    .filter((sequence) => sequence !== undefined);
  if (places.some((sequence, at) => at > 0 && sequence < places[at - 1])) {
    complain(`publishes in order are stored in another one: ${places}`);
  }
}
