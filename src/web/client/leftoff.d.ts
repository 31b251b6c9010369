// The types of the client, and what everything means. README.md has examples.

/**
 * Connects to a broker. The client connects at once, and comes back until it is closed. Throws a
 * `Problem` if there is no `url`, and the module is a file, as with npm.
 */
export function connect(options?: ConnectOptions): Leftoff;

/** How a client connects, and what it keeps. */
export interface ConnectOptions {
  /**
   * The address of the broker, such as `https://broker.example/`. Default: the broker that serves
   * the module. A module of npm, or in a bundle, must be told.
   */
  url?: string | URL;
  /**
   * Returns a token or a key for `Authorization: Bearer`. It is asked for before each connect, once
   * after a 401, and when a fifth of a token's life is left. If that last one fails, it is asked again
   * every 10 to 30 seconds, and the connection stays for as long as the broker lets it. A token that
   * lives for less than 13 s is not renewed before its end. Without it the browser's cookie counts.
   */
  token?: () => string | undefined | Promise<string | undefined>;
  /** The transports, the best one first. Default: all of them, in the order of the type. */
  transports?: Transport[];
  /**
   * Whether the tabs of an origin share one connection. Default: true in pages, where the browser
   * has Web Locks and BroadcastChannel. Tabs share with tabs of the same `url`, of the same text if
   * this is one, and of the same person: that of `iss` and `sub`, if the token is a JWT. With tokens
   * that do not say so, such as keys, nothing is shared unless this is a text: give the person's id.
   *
   * An event that a browser cannot hand to another tab, since its data is nested thousands of levels
   * deep, ends the subscription in that tab, with the status 413.
   */
  shared?: boolean | string;
  /** Where cursors are kept, so that a page that is loaded again goes on. Default: "memory". */
  storage?: Storage;
  outbox?: OutboxOptions;
  /** Parts of the environment that take the place of those of `globalThis`. */
  io?: Partial<Environment>;
}

export type Transport = "websocket" | "sse" | "poll";

/**
 * "local" is `localStorage`, and "indexed" is IndexedDB, which workers have, too. Both are of browsers:
 * in Node and Deno give functions. Without it, each cursor that cannot be kept is reported.
 */
export type Storage = "memory" | "local" | "indexed" | Places;

/** Functions that keep cursors. An error of theirs is reported, and nothing else happens. */
export interface Places {
  get(name: string): string | null | undefined | void | Promise<string | null | undefined | void>;
  set(name: string, cursor: string): unknown;
}

/** What waits for the broker, and for how long. */
export interface OutboxOptions {
  /** The most publishes that wait. One more is refused at once. Default: 1000. */
  max?: number;
  /** The most characters of JSON that wait. Default: 1 MiB. */
  maxBytes?: number;
  /**
   * Whether what waits is kept in `localStorage`, and goes out after a reload, with the credential of
   * the page that sends it. Default: false.
   */
  keep?: boolean;
  /**
   * Told the refusals of what was published before a reload. Default: they are reported, as is an entry
   * that cannot be read. All that was kept goes out, also where it is more than `max`.
   */
  refused?: (problem: Problem, message: object) => void;
}

/** A client of one broker. It fires the event `state` with each change of `connection`. */
export interface Leftoff extends EventTarget {
  /** The present state of the connection. */
  readonly connection: ConnectionState;
  /** Called with each change of `connection`. */
  onstate: ((state: ConnectionState) => void) | null;

  /**
   * Follows one topic, one pattern, or a list of both. Each event comes once and in order. Without
   * `handlers` nothing is lost until the subscription is iterated over.
   *
   * Handlers are called one after the other; one that returns a promise is waited for. An error of a
   * handler is reported, and the subscription goes on. The cursor is kept after the handler, so that
   * an event whose handler was cut off by a reload comes again. Beyond 1,000 messages or 1 MiB that
   * wait for handlers, the rest stays with the broker, and ephemeral events are missed.
   */
  subscribe<Data = unknown>(
    topics: string | string[],
    options?: SubscribeOptions,
    handlers?: Handlers<Data>,
  ): Subscription<Data>;

  /** Keeps a map of the latest event of each key of one topic. After a gap it is loaded again. */
  state<Data = unknown>(
    topic: string,
    options?: { keyPrefix?: string },
    handlers?: StateHandlers<Data>,
  ): Keyed<Data>;

  /**
   * Publishes an event, and resolves when it is stored. While there is no connection, the event waits
   * in the outbox: also while the state is `denied`, or `closed` by the broker, until `retryNow` leads
   * to a connection, or `close` rejects it. Events go out in the order of the calls, and one that is
   * sent twice is stored once, for as long as the broker remembers its id.
   *
   * Rejects with a `Problem`: the broker's refusal; or status 0 if the outbox is full, or the client
   * was closed meanwhile. Its `mayBeStored` says whether the event may be stored all the same. An
   * ephemeral event is sent now or dropped, and never rejected for want of a connection.
   */
  publish(topic: string, event: NewEvent & { ephemeral: true }): Promise<EphemeralReceipt>;
  publish(topic: string, event: NewEvent): Promise<Receipt>;
  /** All topics store the event, or none does. */
  publish(topics: string[], event: NewEvent): Promise<{ topics: Receipt[] }>;

  /**
   * Sends a request of the HTTP API with the client's credential, and returns the JSON of the answer;
   * null if there is none. `path` is relative to `url`. Rejects with a `Problem`.
   */
  request<Answer = unknown>(method: string, path: string, body?: unknown): Promise<Answer>;

  /** Tries to connect now, also where the client waits or has given up. */
  retryNow(): void;

  /** Ends everything. Publishes that wait are rejected, and stay where they are kept. */
  close(): void;

  /** The environment of the client. */
  readonly io: Environment;
}

/** The state of the connection. */
export interface ConnectionState {
  /**
   * - `connecting`: for the first time; `reconnecting`: again.
   * - `connected`: events arrive, as far as a heartbeat can tell; `polling`: they are asked for.
   * - `offline`: as `reconnecting`, and the browser says that there is no network.
   * - `denied`: the credential was refused; `closed`: the page or the broker has ended it. In both the
   *   client does not come back by itself.
   */
  state: "connecting" | "connected" | "reconnecting" | "polling" | "offline" | "denied" | "closed";
  /** Why the last connection ended, in words; empty while it is well. */
  reason: string;
  /** The tries since the connection was last good, which it is after ten seconds. */
  attempt: number;
  /** The time of the next try, as `Date.now()` counts, in whole milliseconds; null if none is planned. */
  nextTryAt: number | null;
  /** The transport in use; null while there is none. */
  transport: Transport | null;
}

export interface SubscribeOptions {
  /**
   * Where to begin: `earliest`, `latest` (the default), `last:100` (of one topic),
   * `time:2026-01-31T00:00:00Z`, or a cursor. A kept cursor goes before it.
   */
  from?: string;
  /** Picks events. An event must have one of each list, and all of the headers. */
  filter?: {
    types?: string[];
    keys?: string[];
    keyPrefixes?: string[];
    headers?: Record<string, string>;
  };
  /** What follows on a gap. Default: `resume`, at the nearest event. */
  onGap?: "resume" | "earliest" | "latest" | "fail";
  /** Reads as this consumer: without `from` it begins after the consumer's checkpoint. */
  consumer?: string;
  owner?: string;
  /** Whether the consumer's counts are told. */
  counts?: boolean;
  /** The `revision` of the newest `marked` that the page has. */
  marksAfter?: string;
  /** Who is present in the topics, for as long as the subscription lasts; with polls, nobody is. */
  member?: { id?: string; info?: object };
  /** Refuse the subscription if a part of it is not permitted. */
  strict?: boolean;
  /** The name of the kept cursor. Default: made of topics, filter and consumer. */
  name?: string;
  /** Where the cursor is kept, in place of the client's `storage`. */
  storage?: Storage;
}

/** Each handler gets what it is about, and then the whole message of `protocol.md`. */
export interface Handlers<Data = unknown> {
  event?(event: StoredEvent<Data>, message: Message<Data>): unknown;
  /** An event that is not stored. Without this handler, `event` gets it. */
  ephemeral?(event: EphemeralEvent<Data>, message: Message<Data>): unknown;
  /** Events before the next one are gone. */
  gap?(gap: Gap, message: Message<Data>): unknown;
  /** The subscription has begun; also after each reconnect, and with each poll. */
  subscribed?(message: Message<Data>): unknown;
  /** Everything that was stored is delivered; also after each reconnect, and with each poll. */
  caughtUp?(message: Message<Data>): unknown;
  marked?(change: Message<Data>): unknown;
  counts?(counts: Message<Data>): unknown;
  /** These topics were named and may not be read; the others are followed. Told after each reconnect. */
  denied?(message: Message<Data>): unknown;
  /**
   * The broker has ended the subscription for good. A refusal for a while is asked again. Without this
   * handler, the problem is reported. A loop gets it as its last message, and nothing is thrown.
   */
  ended?(problem: Problem, message: Message<Data>): unknown;
}

/** A message of `src/edge/websocket/protocol.md`. */
export interface Message<Data = unknown> {
  type:
    | "subscribed"
    | "event"
    | "ephemeral"
    | "gap"
    | "cursor"
    | "caught_up"
    | "marked"
    | "counts"
    | "denied"
    | "ended";
  cursor?: string;
  event?: StoredEvent<Data>;
  gap?: Gap;
  /** Of `ended`: the broker's problem details. */
  error?: Problem["details"];
  [field: string]: unknown;
}

/** A subscription. Iterated over, it gives all messages; leaving the loop closes it. */
export interface Subscription<Data = unknown> extends AsyncIterable<Message<Data>> {
  /** The cursor after the last event whose handler has finished. */
  readonly cursor: string | undefined;
  readonly isClosed: boolean;
  /** Ends the subscription. What waits for its handlers is dropped. */
  close(): void;
}

/** A map that stays current. */
export interface Keyed<Data = unknown> {
  /** The latest event of each key, without deleted ones. After a gap it is another map. */
  readonly map: Map<string, StoredEvent<Data>>;
  /** Resolves when the map is loaded; rejects if that is refused. */
  readonly ready: Promise<Map<string, StoredEvent<Data>>>;
  /** Ends the map, which stays as it is. */
  close(): void;
}

export interface StateHandlers<Data = unknown> {
  /** A key has changed, or was deleted (`event` is undefined); without a key, the map was loaded. */
  changed?(key?: string, event?: StoredEvent<Data>): unknown;
  /** The broker has ended it for good. */
  ended?(problem: Problem): unknown;
}

/** An event to publish. Without `data`, an event with a key deletes the key. */
export interface NewEvent {
  type?: string;
  key?: string;
  /** The payload, as JSON; or a text, if `contentType` is not JSON. */
  data?: unknown;
  /** The payload in base64, in place of `data`. */
  data_base64?: string;
  contentType?: string;
  headers?: Record<string, string>;
  ttlMs?: number;
  publisherTimeMs?: number;
  /** The event's own id, by which the broker knows it again. Default: by chance. */
  id?: string;
  /** Store the event only if this is the topic's last sequence; 412 otherwise. */
  expectedSequence?: number;
  /**
   * Deliver the event to who is connected, and store nothing. Without a WebSocket it has no headers and
   * no content type.
   */
  ephemeral?: boolean;
}

export interface Receipt {
  topic: string;
  sequence: number;
  position: number;
  time: string;
  /** Whether an event with its id was stored before: by an earlier try, for example. */
  duplicate: boolean;
  durability: "fsync" | "process" | "memory" | "replicated";
}

/** Over a WebSocket it has further fields, which are about the message that brought it. */
export interface EphemeralReceipt {
  ephemeral: true;
  /** The subscribers that got it, if the caller may know. */
  receivers?: number;
  /** Whether it was dropped, because there was no connection. */
  dropped?: boolean;
}

/** An event as the broker has stored it. */
export interface StoredEvent<Data = unknown> {
  topic: string;
  sequence: number;
  position: number;
  time: string;
  id: string | null;
  type: string | null;
  key: string | null;
  headers: Record<string, string>;
  /** Null, with the `data` "", if there is no payload: then an event with a key deletes the key. */
  content_type: string | null;
  data?: Data;
  data_base64?: string;
}

export interface EphemeralEvent<Data = unknown> {
  topic: string;
  ephemeral: true;
  type: string | null;
  key: string | null;
  data?: Data;
  data_base64?: string;
}

/** Events that are gone before a reader came to them. `src/docs/reading.md` has the reasons. */
export interface Gap {
  topic?: string;
  reason: string;
  requested: number;
  earliest: number;
  tail: number;
  resume: number;
  lost: number | null;
}

/** A refusal of the broker, or why nothing is known of a request. */
export class Problem extends Error {
  /** The status of HTTP; 0 if there was no answer. */
  readonly status: number;
  /** The broker's problem details (RFC 9457). */
  readonly details: { type?: string; title?: string; detail?: string; [field: string]: unknown };
  /** The time after which the broker wants to be asked again, in milliseconds, at most five minutes. */
  readonly retryAfterMs: number;
  /** Whether the same request may succeed later. */
  readonly isTemporary: boolean;
  /**
   * Of a publish: whether a try of it had no answer that says what became of it, so that the event may
   * be stored, also later than this. Without it, nothing is stored, and nothing will be. If the outbox
   * is kept, it is true of all that wait when the client is closed: they go out after a reload.
   */
  readonly mayBeStored?: boolean;
}

/** What the client uses of the world around it. */
export interface Environment {
  now(): number;
  random(): number;
  setTimeout(run: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  fetch: typeof fetch;
  WebSocket: typeof WebSocket | undefined;
  BroadcastChannel: typeof BroadcastChannel | undefined;
  locks: LockManager | undefined;
  /** Returns `localStorage`. */
  storage(): globalThis.Storage;
  indexedDB: IDBFactory | undefined;
  /** The target of `online`, `offline`, `pagehide` and `pageshow`; the document's events pass it. */
  window: EventTarget | undefined;
  document: Document | undefined;
  isOnline(): boolean;
  /** Reports an error of the application's own code. */
  report(error: unknown): void;
  /** Returns a text that nobody else has. */
  newId(): string;
}
