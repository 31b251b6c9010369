// The inbox of one consumer. See README.md.

import type { Leftoff, Problem, StoredEvent } from "./leftoff.js";

/** The marks of one event for one consumer. */
export interface EventMarks {
  /** Somebody saw the event in a list. */
  seen: boolean;
  /** Somebody read the event. A read event is seen. */
  read: boolean;
  /** The event is out of the inbox. */
  archived: boolean;
  /** The time until which the event is out of the inbox, by RFC 3339; null if it is not snoozed. */
  snoozed_until: string | null;
}

export type Mark = "seen" | "read" | "archived" | "snoozed";

/** What a list shows: neither archived nor snoozed; of these the unread; snoozed; archived. */
export type View = "inbox" | "unread" | "snoozed" | "archived";

export interface Entry {
  readonly event: StoredEvent;
  /** The marks, with the changes that the broker has not answered yet. */
  readonly marks: EventMarks;
}

/** A change of marks. */
export interface Change {
  mark?: Mark[];
  unmark?: Mark[];
  /** The time until which to snooze, by RFC 3339; with the mark "snoozed" alone. */
  snooze_until?: string;
}

/** Exact counts of a consumer's events, as the broker told them. */
export interface Counts {
  total: number;
  unfinished: number;
  lost: number;
  /** Whether `lost` is a lower bound. */
  lost_more_than: boolean;
  inbox: number;
  unseen: number;
  unread: number;
  archived: number;
  snoozed: number;
  /** Whether the numbers are lower bounds, because more events than the broker looks at would count. */
  more_than: boolean;
  /** The position and the revision of the marks at which the counts are true. */
  position: number;
  revision: string;
}

export interface InboxOptions {
  /** The topic of the entries, or one pattern of topics such as "users.42.>". */
  topic: string;
  /** The consumer whose marks these are; "inbox" if it is missing. */
  consumer?: string;
  /** The first view; "inbox" if it is missing. */
  view?: View;
  /** The number of entries that are loaded at once, 1 to 1,000; 20 if it is missing. */
  pageSize?: number;
}

/** The events of an inbox by their types. */
export interface InboxEvents {
  /** Something is to be shown anew. */
  change: Event;
  /** There is a new entry: `detail` is its event. */
  arrived: CustomEvent<StoredEvent>;
  /** The broker refuses something: `detail` says why. What was shown before its time is taken back. */
  refused: CustomEvent<Problem>;
}

/** The inbox, as far as it was loaded. */
export class Inbox extends EventTarget {
  constructor(leftoff: Leftoff, options: InboxOptions);
  addEventListener<Type extends keyof InboxEvents>(
    type: Type,
    listener: (event: InboxEvents[Type]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Type extends keyof InboxEvents>(
    type: Type,
    listener: (event: InboxEvents[Type]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
  /** Settles when the first entries are there. Rejects with a {@link Problem} if they are refused. */
  readonly ready: Promise<void>;
  readonly view: View;
  /** The entries of the view, the newest first. */
  readonly entries: Entry[];
  /** The counts; null before the first ones came. */
  readonly counts: Counts | null;
  /** Whether older entries may be loaded. */
  readonly hasMore: boolean;
  /** Whether the list may be behind what the broker has. What it shows was right before. */
  readonly isOld: boolean;
  /** Shows another view. */
  show(view: View): Promise<void>;
  /** Loads older entries. */
  more(): Promise<void>;
  /**
   * Changes the marks of entries. The change is shown at once. The promise is fulfilled when it is
   * stored, and rejected with a {@link Problem} when it is refused and taken back. While the broker
   * is away the change waits, with at most 255 others; one more is a RangeError.
   */
  mark(entries: Pick<Entry, "event"> | Pick<Entry, "event">[], change: Change): Promise<void>;
  /** Marks all entries up to the newest that is shown; never one that nobody saw. */
  markAll(mark: "seen" | "read" | "archived"): Promise<void>;
  /** Ends the inbox. Changes of marks that were begun are still sent. */
  close(): void;
}

/** Opens the inbox of a consumer. */
export function inbox(leftoff: Leftoff, options: InboxOptions): Inbox;
