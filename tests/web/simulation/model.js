// The model: what each subscription, each publish and each state may tell, given what the broker has
// stored and dropped. Everything that differs is noted as a complaint.

import { isMatch } from "../fakes/broker.js";

/** The time for a client to notice what the model knows at once. */
const TOLERANCE_MS = 12_000;
/** The longest poll, and the time for its answer, as the client has them. */
const POLL_MS = 35_000;

/** Checks what a subscription tells, message by message. */
export class ReaderModel {
  #place; // The place up to which everything was told; unknown until the broker says it.
  #broker;
  #complain;

  constructor(broker, topics, from, complain) {
    Object.assign(this, { topics: [topics].flat(), isOne: topics === "orders" });
    this.#broker = broker;
    this.#complain = complain;
    this.#place = from === "earliest" ? 0 : undefined;
  }

  #placeOf({ sequence, position }) {
    return this.isOne ? sequence : position;
  }

  /** All that was ever stored for this subscription after a place, and up to another one. */
  #between(after, upTo) {
    const isMine = (event) =>
      this.topics.some((topic) => isMatch(topic, event.topic)) &&
      this.#placeOf(event) > after &&
      this.#placeOf(event) <= upTo;
    return [...this.#broker.events, ...this.#broker.dropped].filter(isMine);
  }

  subscribed({ cursor }) {
    this.#place ??= Number(/\d+/.exec(cursor)[0]);
  }

  event(event) {
    const place = this.#placeOf(event);
    const all = this.#between(this.#place, place);
    if (all.length !== 1) {
      this.#complain(`the event at ${place} came after ${this.#place}, ${all.length} later`);
    }
    this.#place = place;
  }

  gap({ lost }, { cursor }) {
    const place = Number(/\d+/.exec(cursor)[0]);
    const all = this.#between(this.#place, place);
    if (all.length !== lost || all.some((event) => this.#broker.events.includes(event))) {
      this.#complain(`a gap of ${lost} up to ${place} after ${this.#place}: ${all.length} lost`);
    }
    this.#place = place;
  }

  /** Everything that was stored has been told. */
  finish() {
    const missing = this.#between(this.#place ?? 0, Infinity);
    if (missing.length > 0) {
      this.#complain(`${missing.length} events after ${this.#place} were not told`);
    }
  }
}

/** Checks a publish at the end: its promise is settled, and tells what the broker has stored. */
export function checkPublish(entry, stored, storedAt, complain) {
  const { data, state, value, error, tab } = entry;
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
  // An answer may be lost, and the next try be refused: but nothing is sent after a refusal.
  const isLater = storedAt.get(data) > entry.at && error?.message !== "the client is closed";
  if (state === "rejected" && isLater) {
    complain(`${data} was refused (${error.message}), and stored afterwards`);
  }
  if (state === "rejected" && error.status === 0 && !/full|closed/.test(error.message)) {
    complain(`${data} was rejected though it may succeed later: ${error.message}`);
  }
}

/** The publishes of a tab to a topic are stored in the order in which they were called. */
export function checkOrder(entries, stored, complain) {
  const places = entries
    .map(({ data }) => stored.find((event) => event.data === data)?.sequence)
    .filter((sequence) => sequence !== undefined);
  if (places.some((sequence, at) => at > 0 && sequence < places[at - 1])) {
    complain(`publishes in order are stored in another one: ${places}`);
  }
}

/** Watches the state of a tab: it does not stay good while nothing can arrive. */
export class StateModel {
  #deadSinceMs;

  constructor(tab, { broker, clock, tabs, counts, hasToken }, complain) {
    Object.assign(this, { tab, broker, clock, tabs, counts, hasToken, complain });
  }

  /** Whether the network could bring something to this tab. */
  #canArrive() {
    const { tab } = this;
    const isMine = ({ page }) => tab.isShared || page === tab.page;
    const isThere = ({ page }) => page.isOnline && !page.isFrozen && !page.isGone;
    const others = this.tabs.filter((other) => isMine(other) && isThere(other));
    // Between two polls there is no connection, and the next one brings what there is.
    if (tab.leftoff.connection.transport === "poll") {
      return others.some((other) => other.canPoll());
    }
    const open = this.broker.open().filter((it) => isMine(it) && isThere(it) && !it.isStalled);
    return open.some(({ kind }) => kind !== "poll");
  }

  look() {
    const { state } = this.tab.leftoff.connection;
    const isGood = state === "connected" || state === "polling";
    if (!isGood || this.tab.page.isFrozen || this.#canArrive()) {
      this.#deadSinceMs = undefined;
      return;
    }
    this.#deadSinceMs ??= this.clock.passed;
    const beatMs = state === "polling" ? POLL_MS : this.broker.heartbeatMs;
    const silentMs = this.clock.passed - this.#deadSinceMs;
    if (silentMs > 1.5 * beatMs + TOLERANCE_MS) {
      this.complain(`${state} for ${silentMs} ms while nothing can arrive`);
      this.#deadSinceMs = undefined;
    }
  }

  /** A state that ends everything has a reason. */
  told({ state, reason }) {
    const { denials, forbidden, ends } = this.counts;
    // Without a token there is none to ask for, and the first refusal is the last.
    if (state === "denied" && forbidden === 0 && denials < (this.hasToken ? 2 : 1)) {
      this.complain(`denied without a cause: ${reason}`);
    }
    if (state === "closed" && ends === 0 && !this.tab.isClosed) {
      this.complain(`closed without a cause: ${reason}`);
    }
  }
}
