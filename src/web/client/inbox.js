// The inbox of one consumer, as far as the page has loaded it. The broker has the truth: entries,
// marks and counts come from it, and nothing is counted here. A change of marks is shown at once,
// and taken back if the broker refuses it.

import { Changes } from "./changes.js";
import { backoff } from "./leftoff.js";
import * as marks from "./marks.js";

/** The most entries that are loaded again at once. */
const MOST_AGAIN = 100;
/** The most entries that are kept. When more come, the oldest ones have to be loaded again. */
const MOST_ENTRIES = 1_000;
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
  /**
   * The loaded entries by their keys: each an event, its epoch, the marks that the broker told, and
   * what is shown of it, which is another object when the marks are others.
   */
  #entries = new Map();
  /** What the broker told of the marks. */
  #changes;
  /** The changes of marks that the broker has not answered, the oldest first; that one is sent. */
  #pending = [];
  /** The place before which older entries are; null if all are loaded. */
  #next = null;
  /** The place up to which the newest page has the list, and the revision of the stream's marks. */
  #listed;
  #revision;
  #subscription;
  /** The numbers of the page that was asked for last, and of the one that is shown; pages to come. */
  #asked = 0;
  #shown = 0;
  #loads = 0;
  #reload;
  #isStale = false;
  #wasUp = true;
  #wake;
  /** The ends of the snoozes that were told, of entries that may not be loaded. */
  #ends = [];
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
    this.#changes = new Changes(topic, this.#io);
    this.view = view;
    leftoff.addEventListener("state", this.#onState);
    /** Settles when the first page is there. */
    this.ready = this.#load();
    this.ready.catch((problem) => this.#refused(problem));
  }

  /** The entries of the view, the newest first: each `{ event, marks }`. */
  get entries() {
    const now = this.#io.now();
    const all = [...this.#entries.values()].map(({ shown }) => shown);
    const shown = all.filter((entry) => VIEWS[this.view].shows(entry.marks, now));
    return shown.sort((one, other) => other.event.position - one.event.position);
  }

  /** Whether older entries may be loaded. */
  get hasMore() {
    return this.#next !== null;
  }

  /** Whether the list may be behind what the broker has. */
  get isOld() {
    return !this.#isLoaded || !this.#isUp;
  }

  get #isUp() {
    return ["connected", "polling"].includes(this.#leftoff.connection.state);
  }

  #onState = () => {
    const isBack = this.#isUp && !this.#wasUp;
    this.#wasUp = this.#isUp;
    // What was refused may be permitted now; and a snooze may have ended without a word.
    const isWrong = !this.#subscription || this.counts?.snoozed > 0;
    if (isBack && isWrong && this.#loads === 0) {
      this.#loadSoon();
    }
    this.#tell();
  };

  #tell() {
    for (const entry of this.#entries.values()) {
      const after = this.#pending.reduce((of, { told }) => this.#changes.after(told, entry.event, of), entry.told);
      if (!marks.areSame(after, entry.shown.marks)) {
        entry.shown = { event: entry.event, marks: after };
      }
    }
    this.#wakeUp();
    this.dispatchEvent(new Event("change"));
  }

  #refused(problem) {
    if (!this.#isClosed) {
      this.dispatchEvent(new CustomEvent("refused", { detail: problem }));
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
    const number = ++this.#asked;
    const limit = Math.max(this.#pageSize, Math.min(this.entries.length, MOST_AGAIN));
    this.#loads += 1;
    const page = await this.#page({ limit, ...VIEWS[view].query }).finally(() => (this.#loads -= 1));
    if (view !== this.view || number < this.#shown) {
      return; // Another view was chosen meanwhile, or a newer page is there.
    }
    this.#shown = number;
    const epoch = marks.epochOf(page.cursor);
    const isNewer = (entry) =>
      entry.epoch === epoch && marks.placeOfEvent(entry.event, this.#topic) > marks.placeOf(page.cursor);
    // Events that came over the stream while the page was on its way.
    const before = this.#entries;
    this.#entries = new Map([...before].filter(([, entry]) => isNewer(entry)));
    this.#listed = page.cursor;
    this.#take(page);
    for (const [key, entry] of this.#entries) {
      const known = before.get(key);
      if (known?.epoch === entry.epoch && marks.areSame(known.shown.marks, entry.told)) {
        entry.shown = known.shown; // The same object for what has not changed.
      }
    }
    this.#isLoaded = true;
    this.#follow(page);
    this.#tell();
  }

  #loadAgain() {
    return this.#load().catch((problem) => this.#refused(problem));
  }

  /**
   * Loads the list again, together with what else asks for that. Without `isSure` the list is loaded
   * if its length is still wrong then: counts may come before the event that they count.
   */
  #loadSoon(isSure = true) {
    this.#isStale ||= isSure;
    if (this.#isClosed) {
      return;
    }
    this.#reload ??= this.#io.setTimeout(async () => {
      if (this.#isStale || this.#isMiscounted) {
        this.#isStale = false;
        await this.#loadAgain();
      }
      this.#reload = undefined;
      this.#isStale && this.#loadSoon();
    }, RELOAD_MS);
  }

  /** Whether entries are missing, or are gone from the topic, by what the broker counts. */
  get #isMiscounted() {
    const { counts, entries } = this;
    const isCounted = counts && !counts.more_than && !(entries[0]?.event.position > counts.position);
    if (!isCounted || !this.#isLoaded || this.#pending.length > 0) {
      return false;
    }
    const due = counts[this.view];
    return entries.length > due || (!this.hasMore && entries.length < due);
  }

  /** Loads older entries. */
  async more() {
    const { view } = this;
    try {
      while (this.hasMore && view === this.view) {
        const before = this.#next;
        const page = await this.#page({ limit: this.#pageSize, before, ...VIEWS[view].query });
        if (before === this.#next && view === this.view) {
          this.#take(page);
          this.#isMiscounted && this.#loadSoon(false);
          return this.#tell();
        } // Else the list ends at another place since it was loaded again.
      }
    } catch (problem) {
      this.#refused(problem);
    }
  }

  #take({ events, next, cursor, revision }) {
    for (const { marks: told, ...event } of events) {
      // The page may be older than what the stream has told.
      this.#add(event, marks.epochOf(cursor), this.#changes.marksOf(event, told, revision));
    }
    this.#next = next;
  }

  #add(event, epoch, told) {
    this.#entries.set(keyOf(event), { event, epoch, told, shown: { event, marks: told } });
  }

  /** Follows the events, the marks and the counts, from where the first page was true. */
  #follow({ cursor, revision }) {
    if (this.#isClosed || this.#subscription) {
      return;
    }
    this.#revision = revision;
    const options = {
      from: cursor,
      consumer: this.#consumer,
      counts: true,
      marksAfter: revision,
      storage: "memory",
    };
    this.#subscription = this.#leftoff.subscribe(this.#topic, options, {
      event: (event, { cursor: place }) => this.#came(event, place),
      ephemeral: () => {},
      gap: () => this.#loadSoon(), // What is shown stays, and is loaded again behind it.
      marked: (told) => this.#marked(told),
      counts: ({ type, subscription, size, ...counts }) => this.#counted(counts),
      ended: (problem) => {
        this.#subscription = undefined;
        this.#isLoaded = false;
        this.#tell();
        this.#refused(problem);
      },
    });
  }

  #came(event, cursor) {
    const epoch = marks.epochOf(cursor);
    // Its marks may have come before it: all marks are told first after a reconnect.
    const told = this.#changes.marksOf(event, marks.UNMARKED);
    const place = marks.placeOfEvent(event, this.#topic);
    const isListed = epoch === marks.epochOf(this.#listed) && place <= marks.placeOf(this.#listed);
    const isKnown = this.#entries.get(keyOf(event))?.epoch === epoch;
    if (!isListed && !isKnown && VIEWS[this.view].shows(told, this.#io.now())) {
      this.#add(event, epoch, told);
      this.#dropOldest(epoch);
    }
    if (this.#isMiscounted) {
      this.#loadSoon(false);
    }
    if (!isKnown && !told.seen && !told.archived) {
      this.dispatchEvent(new CustomEvent("arrived", { detail: event }));
    }
    this.#tell();
  }

  /** Keeps the list bounded in a page that is open for months. */
  #dropOldest(epoch) {
    if (this.#entries.size > MOST_ENTRIES) {
      const places = [...this.#entries.values()].map(({ event }) => event.position).sort((one, other) => one - other);
      const [oldest, next] = places;
      for (const [key, { event }] of this.#entries) {
        event.position === oldest && this.#entries.delete(key);
        if (event.position === next) {
          this.#next = this.#cursorOf(event, epoch);
        }
      }
    }
  }

  /** Returns the cursor of an event, as the broker writes it. */
  #cursorOf(event, epoch) {
    return `${marks.isPattern(this.#topic) ? "@" : ""}${marks.placeOfEvent(event, this.#topic)}-${epoch}`;
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
    } else if (this.#isMiscounted) {
      this.#loadSoon(false);
    }
    this.#tell();
  }

  #marked(told) {
    this.#revision = told.revision;
    const ends = told.whole ? Object.values(told.marks.snoozed).flatMap(Object.values) : [told.snooze_until];
    this.#ends.push(...ends.map((end) => Date.parse(end ?? "")));
    if (told.whole) {
      this.#changes.takeWhole(told);
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
    const isOver = Date.parse(told.snooze_until ?? "") <= this.#io.now(); // It is told late.
    if (told.unmark.length > 0 || isOver || !(isNarrow || hides)) {
      this.#loadSoon();
    }
    this.#tell();
  }

  /** Applies a change that the broker has made. One that is applied twice is the same. */
  #remember(told) {
    this.#changes.take(told);
    for (const entry of this.#entries.values()) {
      entry.told = this.#changes.after(told, entry.event, entry.told);
    }
  }

  /** Looks again when the next snooze is over. */
  #wakeUp() {
    this.#io.clearTimeout(this.#wake);
    const now = this.#io.now();
    const all = [...this.#entries.values()].map(({ shown }) => shown.marks);
    const loaded = all.map((of) => Date.parse(of.snoozed_until ?? ""));
    this.#ends = this.#ends.filter((end) => end > now);
    const ends = [...loaded.filter((end) => end > now), ...this.#ends];
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
    const settled = new Promise((resolve, reject) => {
      this.#pending.push({ told, change, revision: this.#revision, resolve, reject });
    });
    this.#pending.length === 1 && this.#send();
    this.#tell();
    return settled;
  }

  /** Sends the changes that wait one after the other: their order decides what is true at the end. */
  async #send() {
    const path = `/v1/consumers/${encodeURIComponent(this.#consumer)}/marks?topic=${encodeURIComponent(this.#topic)}`;
    while (this.#pending.length > 0) {
      const [{ told, change, revision: before, resolve, reject }] = this.#pending;
      try {
        const { revision } = await this.#ask("POST", path, change);
        // The stream may have told this change already, and later ones of other devices.
        const isSameLog = [before, this.#revision].every((it) => marks.epochOf(it) === marks.epochOf(revision));
        if (isSameLog && marks.isAfter(revision, this.#revision)) {
          this.#remember({ ...told, revision, time: new Date(this.#io.now()).toISOString() });
        }
        this.#pending.shift();
        resolve();
      } catch (problem) {
        this.#pending.shift();
        this.#refused(problem);
        reject(problem);
      }
      this.#tell();
      this.#isMiscounted && this.#loadSoon(false); // The entry may be gone from the topic.
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
      const { epoch } = this.#entries.get(keyOf(newest.event));
      await this.#mark({ mark: [mark], up_to: this.#cursorOf(newest.event, epoch) });
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
