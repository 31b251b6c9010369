// What a broker has told of the marks of an inbox: all of them at one time, and what has changed since.

import * as marks from "./marks.js";

/** The most changes that are remembered, for events that come after them. */
const MOST_CHANGES = 256;

/** The marks of one selection, as they were told. */
export class Changes {
  #selection;
  #io;
  /** All marks, if the broker told them, and the newest changes after them, the oldest first. */
  #whole;
  #newest = [];

  constructor(selection, io) {
    this.#selection = selection;
    this.#io = io;
  }

  /** Takes all marks. */
  takeWhole(told) {
    this.#whole = told;
    this.#newest = [];
  }

  /** Takes a change. One that is taken twice, with nothing in between, is the same. */
  take(told) {
    this.#newest.push(told);
    this.#newest.splice(0, this.#newest.length - MOST_CHANGES);
  }

  /** Returns an event's marks, of those that were true at a revision and what was told after it. */
  marksOf(event, told, revision) {
    const isWhole = this.#whole && marks.isAfter(this.#whole.revision, revision);
    const base = isWhole ? marks.ofAll(this.#whole.marks, event, this.#selection) : told;
    const later = this.#newest.filter((change) => marks.isAfter(change.revision, revision));
    return later.reduce((of, change) => this.after(change, event, of), base);
  }

  /** Returns the marks of an event after a change. */
  after(change, event, of) {
    // Whether an event was snoozed when the change was made, and not when it is told.
    const at = change.time ? Date.parse(change.time) : this.#io.now();
    const concerned = marks.concerns(change, { event, marks: of }, this.#selection, at);
    return concerned ? marks.changed(of, change) : of;
  }
}
