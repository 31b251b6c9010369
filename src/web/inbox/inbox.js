// The inbox of one consumer, as far as the page has loaded it. The broker has the truth: entries,
// marks and counts come from it, and nothing is counted here.

import { Refused } from "./broker.js";
import * as marks from "./marks.js";

/** The entries of a page. */
const PAGE = 20;
/** The most entries that are loaded again at once. */
const MOST_AGAIN = 100;
/** The most changes of marks that are remembered, for pages that were asked for before them. */
const MOST_CHANGES = 256;
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

/** The inbox. It tells each change of it by the event "change", and what to say by "say". */
export class Inbox extends EventTarget {
  view = "inbox";
  /** The loaded entries by their keys: each an event and its marks. */
  #entries = new Map();
  /** The newest changes of marks, the oldest first. */
  #changes = [];
  /** The place before which older entries are; null if all are loaded. */
  #next = null;
  /** The cursor of the stream, and the revision of the marks. */
  #cursor;
  #revision;
  #reload;
  #wake;
  counts = null;
  /** Whether the page is behind what the broker has. */
  isOld = true;

  constructor(broker) {
    super();
    this.broker = broker;
  }

  #tell() {
    this.#wakeUp();
    this.dispatchEvent(new Event("change"));
  }

  #say(text) {
    this.dispatchEvent(new CustomEvent("say", { detail: text }));
  }

  /** The entries of the view, the newest first. */
  get entries() {
    const now = Date.now();
    const shown = [...this.#entries.values()].filter((entry) =>
      VIEWS[this.view].shows(entry.marks, now),
    );
    return shown.sort((one, other) => other.event.position - one.event.position);
  }

  get hasMore() {
    return this.#next !== null;
  }

  /** Loads the newest entries, and follows from there for as long as the page is open. */
  async open() {
    await this.#load();
    this.broker.follow(
      () => ({ cursor: this.#cursor, revision: this.#revision }),
      (kind, data, cursor) => this.#hear(kind, data, cursor),
    );
  }

  /** Shows another view. */
  async show(view) {
    this.view = view;
    this.#entries.clear();
    this.#next = null;
    this.isOld = true;
    this.#tell();
    await this.#load().catch((error) => this.#failed(error));
  }

  /** Loads the newest entries anew: as many as are shown. */
  async #load() {
    const { view } = this;
    const limit = Math.min(Math.max(PAGE, this.entries.length), MOST_AGAIN);
    const page = await this.broker.page({ limit, ...VIEWS[view].query });
    if (view !== this.view) {
      return; // Another view was chosen meanwhile.
    }
    const { selection } = this.broker;
    const isNewer = ({ event }) =>
      marks.placeOfEvent(event, selection) > marks.placeOf(page.cursor);
    // Events that came over the stream while the page was on its way.
    const newer = [...this.#entries].filter(([, entry]) => isNewer(entry));
    this.#entries = new Map(newer);
    this.#cursor ??= page.cursor;
    this.#revision ??= page.revision;
    this.#take(page);
    this.isOld = false;
    this.#tell();
  }

  /** Loads older entries. */
  async more() {
    const { view } = this;
    const query = { limit: PAGE, before: this.#next, ...VIEWS[view].query };
    try {
      const page = await this.broker.page(query);
      if (view === this.view) {
        this.#take(page);
        this.#tell();
      }
    } catch (error) {
      this.#failed(error);
    }
  }

  #take({ events, next, revision }) {
    for (const { marks: of, ...event } of events) {
      const entry = { event, marks: of };
      this.#entries.set(keyOf(event), entry);
      // The page may be older than what the stream has told.
      this.#changes
        .filter((change) => this.#isAfter(change.revision, revision))
        .forEach((change) => this.#apply(change, entry));
    }
    this.#next = next;
  }

  /** Whether a revision is after another one. Each is, after one of another epoch. */
  #isAfter(revision, other) {
    const isOfOther = marks.epochOf(revision) !== marks.epochOf(other);
    return isOfOther || marks.placeOf(revision) > marks.placeOf(other);
  }

  #reloadSoon() {
    clearTimeout(this.#reload);
    this.#reload = setTimeout(() => this.#load().catch((error) => this.#failed(error)), RELOAD_MS);
  }

  #failed(error) {
    if (!(error instanceof Refused)) {
      throw error;
    }
    this.#say(`The broker refuses this: ${error.message}`);
  }

  /** Takes news of the stream. */
  #hear(kind, data, cursor) {
    this.#cursor = cursor || this.#cursor;
    const take = {
      open: () => this.#say("Connected."),
      event: () => this.#came(data),
      counts: () => this.#counted(data),
      marked: () => this.#marked(data),
      gap: () => this.#reloadSoon(), // What is shown stays, and is loaded again behind it.
      closed: () => {
        this.isOld = true;
        this.#say("Not connected; trying again…");
        this.#tell();
      },
      "caught-up": () => {
        this.isOld = false;
        this.#tell();
      },
      error: () => this.#say(`The broker refuses this: ${data.detail ?? data.title}`),
      expired: () => this.#say("Your permission is over; log in again."),
      stopping: () => this.#say("The broker is being restarted…"),
    };
    take[kind]();
  }

  #came(event) {
    if (!this.#entries.has(keyOf(event))) {
      this.#entries.set(keyOf(event), { event, marks: marks.UNMARKED });
      this.#say(`New: ${titleOf(event)}`);
      this.#tell();
    }
  }

  #counted(counts) {
    const { counts: known } = this;
    const isSameEpoch = marks.epochOf(known?.revision) === marks.epochOf(counts.revision);
    // A consumer that was deleted begins anew, at revision 0.
    const isAnew = marks.placeOf(counts.revision) === 0;
    const isOlder =
      known &&
      isSameEpoch &&
      (counts.position < known.position ||
        (!isAnew && this.#isAfter(known.revision, counts.revision)));
    if (isOlder) {
      return;
    }
    this.counts = counts;
    if (known && counts.snoozed < known.snoozed) {
      this.#reloadSoon(); // A snooze is over, maybe of an entry that is not loaded.
    }
    this.#tell();
  }

  #marked(told) {
    this.#revision = told.revision;
    if (told.whole) {
      this.#changes = [];
      for (const entry of this.#entries.values()) {
        entry.marks = marks.ofAll(told.marks, entry.event, this.broker.selection);
      }
      this.#reloadSoon();
      return this.#tell();
    }
    this.#changes.push(told);
    this.#changes.splice(0, this.#changes.length - MOST_CHANGES);
    this.#entries.forEach((entry) => this.#apply(told, entry));
    // The change may bring entries into the view that are not loaded.
    const hides = told.mark.every((mark) => mark !== "snoozed" && mark !== "archived");
    const isNarrow = this.view === "inbox" || this.view === "unread";
    if (told.unmark.length > 0 || !(isNarrow || hides)) {
      this.#reloadSoon();
    }
    this.#tell();
  }

  #apply(change, entry) {
    if (marks.concerns(change, entry, this.broker.selection, Date.now())) {
      entry.marks = marks.changed(entry.marks, change);
    }
  }

  /** Looks again when the next snooze of a loaded entry is over. */
  #wakeUp() {
    clearTimeout(this.#wake);
    const now = Date.now();
    const snoozes = [...this.#entries.values()]
      .filter((entry) => marks.isSnoozed(entry.marks, now))
      .map((entry) => Date.parse(entry.marks.snoozed_until));
    if (snoozes.length > 0) {
      const wait = Math.min(Math.min(...snoozes) - now + 1, 2 ** 31 - 1);
      this.#wake = setTimeout(() => {
        this.#reloadSoon();
        this.#tell();
      }, wait);
    }
  }

  async #mark(change) {
    try {
      const { revision } = await this.broker.mark(change);
      // The stream tells it, too; whichever comes first. A change that is applied twice is the same.
      const { mark = [], unmark = [], snooze_until, up_to } = change;
      const events = change.events && rangesOf(change.events);
      const told = { revision, mark, unmark, snooze_until, up_to, events };
      if (!this.#changes.some((known) => known.revision === revision)) {
        this.#entries.forEach((entry) => this.#apply(told, entry));
      }
      this.#tell();
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Marks one entry, or takes marks from it. */
  async mark({ event: { topic, sequence } }, change) {
    await this.#mark({ ...change, events: [{ topic, sequence }] });
  }

  /**
   * Marks all entries up to the newest that is shown. What has come meanwhile, and nobody has seen,
   * stays as it is.
   */
  async markAll(mark) {
    const [newest] = this.entries;
    if (newest) {
      await this.#mark({ mark: [mark], up_to: this.#cursorAt(newest.event) });
    }
  }

  #cursorAt(event) {
    const { selection } = this.broker;
    const epoch = marks.epochOf(this.#cursor);
    const place = marks.placeOfEvent(event, selection);
    return `${marks.isPattern(selection) ? "@" : ""}${place}-${epoch}`;
  }
}

/** Returns named events as the broker tells them: ranges of sequences by their topics. */
function rangesOf(events) {
  return Object.fromEntries(events.map(({ topic, sequence }) => [topic, `${sequence}`]));
}

/** Returns the text that stands for an event. */
export function titleOf({ data, type }) {
  if (typeof data === "string") {
    return data;
  }
  return data?.title ?? data?.text ?? (data === undefined ? type || "(empty)" : JSON.stringify(data));
}
