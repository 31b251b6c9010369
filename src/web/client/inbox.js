// The inbox of one consumer, as far as the page has loaded it. The broker has the truth: entries,
// marks and counts come from it, and nothing is counted here. A change of marks is shown at once,
// and taken back if the broker refuses it.

import { backoff } from "./leftoff.js";
import * as marks from "./marks.js";

/** The most entries that are loaded again at once. */
const MOST_AGAIN = 100;
/** The most changes of marks that are remembered, for pages that were asked for before them. */
const MOST_CHANGES = 256;
/** The most changes of marks that wait for the broker's answer. */
const MOST_PENDING = 256;
/** The time for which reloads are put together, in milliseconds. */
const RELOAD_MS = 50;

/** What each view asks the broker for, and which entries it shows. */
const VIEWS = {
  inbox: { query: {}, shows: (of, now) => !of.archived && !marks.isSnoozed(of, now) },
  unread: {
    query: { read: false },
    shows: (of, now) => !of.read && !of.archived && !marks.isSnoozed(of, now),
  },
  snoozed: { query: { snoozed: true }, shows: (of, now) => marks.isSnoozed(of, now) },
  archived: { query: { archived: true }, shows: (of) => of.archived },
};

const keyOf = ({ topic, sequence }) => `${topic}/${sequence}`;

/** Opens the inbox of a consumer. See inbox.d.ts. */
export function inbox(leftoff, options) {
  return new Inbox(leftoff, options);
}

/** The inbox. The event "change" says that something is to be shown anew, "refused" has a Problem. */
export class Inbox extends EventTarget {
  #leftoff;
  #topic;
  #consumer;
  #pageSize;
  #io;
  /** The loaded entries by their keys: each an event, its marks, and those that the broker told. */
  #entries = new Map();
  /** The newest changes of marks, the oldest first. */
  #changes = [];
  /** The changes of marks that the broker has not answered, the oldest first. */
  #pending = [];
  /** The place before which older entries are; null if all are loaded. */
  #next = null;
  /** The place up to which the list is complete, and the revision of the marks. */
  #cursor;
  #revision;
  #subscription;
  #reload;
  #wake;
  #onState = () => this.#tell();
  #isClosed = false;
  #isLoaded = false;
  view = "inbox";
  /** The counts, as the broker told them last; null before. */
  counts = null;

  constructor(leftoff, { topic, consumer = "inbox", view = "inbox", pageSize = 20 }) {
    super();
    this.#leftoff = leftoff;
    this.#topic = topic;
    this.#consumer = consumer;
    this.#pageSize = pageSize;
    this.#io = leftoff.io;
    this.view = view;
    leftoff.addEventListener("state", this.#onState);
    /** Settles when the first page is there. */
    this.ready = this.#load().then(() => this.#follow());
    this.ready.catch((problem) => this.#refused(problem));
  }

  /** The entries of the view, the newest first: each `{ event, marks }`. */
  get entries() {
    const now = this.#io.now();
    const shown = [...this.#entries.values()].filter((entry) => VIEWS[this.view].shows(entry.marks, now));
    return shown.sort((one, other) => other.event.position - one.event.position);
  }

  /** Whether older entries may be loaded. */
  get hasMore() {
    return this.#next !== null;
  }

  /** Whether the list may be behind what the broker has. */
  get isOld() {
    return !this.#isLoaded || !["connected", "polling"].includes(this.#leftoff.connection.state);
  }

  #tell() {
    for (const entry of this.#entries.values()) {
      entry.marks = this.#pending.reduce((of, change) => this.#after(change, entry, of), entry.told);
    }
    this.#wakeUp();
    this.dispatchEvent(new Event("change"));
  }

  #refused(problem) {
    if (!this.#isClosed) {
      this.dispatchEvent(Object.assign(new Event("refused"), { detail: problem }));
    }
  }

  /** Sends a request until it is answered. All requests of an inbox may reach the broker twice. */
  async #ask(method, path, body) {
    const pauses = backoff(this.#io);
    for (;;) {
      try {
        return await this.#leftoff.request(method, path, body);
      } catch (problem) {
        if (!problem.isTemporary || this.#isClosed) {
          throw problem;
        }
        await new Promise((done) => this.#io.setTimeout(done, pauses.next(problem.retryAfterMs)));
      }
    }
  }

  #page(query) {
    const all = { consumer: this.#consumer, order: "newest", ...query };
    const topic = encodeURIComponent(this.#topic);
    return marks.isPattern(this.#topic)
      ? this.#ask("GET", `/v1/events?${new URLSearchParams({ topic: this.#topic, ...all })}`)
      : this.#ask("GET", `/v1/topics/${topic}/events?${new URLSearchParams(all)}`);
  }

  /** Shows another view. */
  async show(view) {
    this.view = view;
    this.#entries.clear();
    this.#next = null;
    this.#isLoaded = false;
    this.#tell();
    await this.#loadAgain();
  }

  /** Loads the newest entries anew: as many as are shown. */
  async #load() {
    const { view } = this;
    const limit = Math.min(Math.max(this.#pageSize, this.entries.length), MOST_AGAIN);
    const page = await this.#page({ limit, ...VIEWS[view].query });
    if (view !== this.view) {
      return; // Another view was chosen meanwhile.
    }
    const isNewer = ({ event }) => marks.placeOfEvent(event, this.#topic) > marks.placeOf(page.cursor);
    // Events that came over the stream while the page was on its way.
    this.#entries = new Map([...this.#entries].filter(([, entry]) => isNewer(entry)));
    this.#cursor ??= page.cursor;
    this.#revision ??= page.revision;
    this.#take(page);
    this.#isLoaded = true;
    this.#tell();
  }

  #loadAgain() {
    return this.#load().catch((problem) => this.#refused(problem));
  }

  #loadSoon() {
    this.#io.clearTimeout(this.#reload);
    this.#reload = this.#io.setTimeout(() => this.#loadAgain(), RELOAD_MS);
  }

  /** Loads older entries. */
  async more() {
    const { view } = this;
    try {
      const page = await this.#page({ limit: this.#pageSize, before: this.#next, ...VIEWS[view].query });
      if (view === this.view) {
        this.#take(page);
        this.#tell();
      }
    } catch (problem) {
      this.#refused(problem);
    }
  }

  #take({ events, next, revision }) {
    for (const { marks: told, ...event } of events) {
      const entry = { event, told, marks: told };
      this.#entries.set(keyOf(event), entry);
      // The page may be older than what the stream has told.
      const later = this.#changes.filter((change) => marks.isAfter(change.revision, revision));
      later.forEach((change) => this.#apply(change, entry));
    }
    this.#next = next;
  }

  /** Follows the events, the marks and the counts, from where the first page was true. */
  #follow() {
    if (this.#isClosed) {
      return;
    }
    const options = {
      from: this.#cursor,
      consumer: this.#consumer,
      counts: true,
      marksAfter: this.#revision,
      storage: "memory",
    };
    this.#subscription = this.#leftoff.subscribe(this.#topic, options, {
      event: (event, { cursor }) => this.#came(event, cursor),
      ephemeral: () => {},
      gap: () => this.#loadSoon(), // What is shown stays, and is loaded again behind it.
      marked: (told) => this.#marked(told),
      counts: (counts) => this.#counted(counts),
      ended: (problem) => {
        this.#isLoaded = false;
        this.#tell();
        this.#refused(problem);
      },
    });
  }

  #came(event, cursor) {
    this.#cursor = cursor;
    if (!this.#entries.has(keyOf(event))) {
      this.#entries.set(keyOf(event), { event, told: marks.UNMARKED, marks: marks.UNMARKED });
      this.dispatchEvent(Object.assign(new Event("arrived"), { detail: event }));
      this.#tell();
    }
  }

  #counted(counts) {
    const { counts: known } = this;
    // A consumer that was deleted begins anew, at revision 0.
    const isAnew = marks.placeOf(counts.revision) === 0;
    const isOlder =
      known &&
      marks.epochOf(known.revision) === marks.epochOf(counts.revision) &&
      (counts.position < known.position || (!isAnew && marks.isAfter(known.revision, counts.revision)));
    if (isOlder) {
      return;
    }
    this.counts = counts;
    if (known && counts.snoozed < known.snoozed) {
      this.#loadSoon(); // A snooze is over, maybe of an entry that is not loaded.
    }
    this.#tell();
  }

  #marked(told) {
    this.#revision = told.revision;
    if (told.whole) {
      this.#changes = [];
      for (const entry of this.#entries.values()) {
        entry.told = marks.ofAll(told.marks, entry.event, this.#topic);
      }
      this.#loadSoon();
      return this.#tell();
    }
    this.#remember(told);
    // The change may bring entries into the view that are not loaded.
    const hides = told.mark.every((mark) => mark !== "snoozed" && mark !== "archived");
    const isNarrow = this.view === "inbox" || this.view === "unread";
    if (told.unmark.length > 0 || !(isNarrow || hides)) {
      this.#loadSoon();
    }
    this.#tell();
  }

  /** Applies a change that the broker has made. One that is applied twice is the same. */
  #remember(told) {
    this.#changes.push(told);
    this.#changes.splice(0, this.#changes.length - MOST_CHANGES);
    this.#entries.forEach((entry) => this.#apply(told, entry));
  }

  #apply(change, entry) {
    entry.told = this.#after(change, entry, entry.told);
  }

  #after(change, { event }, of) {
    const concerned = marks.concerns(change, { event, marks: of }, this.#topic, this.#io.now());
    return concerned ? marks.changed(of, change) : of;
  }

  /** Looks again when the next snooze of a loaded entry is over. */
  #wakeUp() {
    this.#io.clearTimeout(this.#wake);
    const now = this.#io.now();
    const snoozed = [...this.#entries.values()].filter((entry) => marks.isSnoozed(entry.marks, now));
    const ends = snoozed.map((entry) => Date.parse(entry.marks.snoozed_until));
    if (ends.length > 0 && !this.#isClosed) {
      const wait = Math.min(Math.min(...ends) - now + 1, 2 ** 31 - 1);
      this.#wake = this.#io.setTimeout(() => {
        this.#loadSoon();
        this.#tell();
      }, wait);
    }
  }

  /**
   * Changes marks: of these entries, or of all up to a cursor. What is to come is shown at once. The
   * promise settles when the broker has stored the change, or has refused it and it is taken back.
   */
  async #mark(change) {
    const { mark = [], unmark = [], snooze_until, up_to } = change;
    const told = { mark, unmark, snooze_until, up_to, events: change.events && marks.rangesOf(change.events) };
    if (this.#pending.length >= MOST_PENDING) {
      throw new RangeError(`${MOST_PENDING} changes of marks wait for the broker already`);
    }
    this.#pending.push(told);
    this.#tell();
    const path = `/v1/consumers/${encodeURIComponent(this.#consumer)}/marks?topic=${encodeURIComponent(this.#topic)}`;
    try {
      const { revision } = await this.#ask("POST", path, change);
      this.#remember({ ...told, revision });
    } catch (problem) {
      this.#refused(problem);
      throw problem;
    } finally {
      this.#pending.splice(this.#pending.indexOf(told), 1);
      this.#tell();
    }
  }

  /** Marks entries, or takes marks from them. See inbox.d.ts. */
  mark(entries, change) {
    const events = [entries].flat().map(({ event: { topic, sequence } }) => ({ topic, sequence }));
    return this.#mark({ ...change, events });
  }

  /**
   * Marks all entries up to the newest that is shown. What has come meanwhile, and nobody has seen,
   * stays as it is.
   */
  async markAll(mark) {
    const [newest] = this.entries;
    if (newest) {
      const place = marks.placeOfEvent(newest.event, this.#topic);
      const kind = marks.isPattern(this.#topic) ? "@" : "";
      await this.#mark({ mark: [mark], up_to: `${kind}${place}-${marks.epochOf(this.#cursor)}` });
    }
  }

  /** Ends the inbox. Changes of marks that were begun are still sent. */
  close() {
    this.#isClosed = true;
    this.#io.clearTimeout(this.#reload);
    this.#io.clearTimeout(this.#wake);
    this.#subscription?.close();
    this.#leftoff.removeEventListener("state", this.#onState);
  }
}
