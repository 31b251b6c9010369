// A broker in memory, as far as the client uses it: topics, subscriptions, publishes, and the ways
// to reach it. The faults of a test are fields of it and of its connections.

/** What may go wrong on the way to the broker. A test sets these fields. */
export const faults = () => ({
  isAway: false, // No connection can be made.
  refusesUpgrade: false, // A proxy refuses WebSockets.
  silencesUpgrade: false, // A proxy opens WebSockets and carries nothing.
  hangsUpgrade: false, // A proxy neither opens nor refuses WebSockets.
  buffersStreams: false, // A proxy keeps streams back until they end.
  hangs: false, // Requests get no answer.
  cutsAfterMs: Infinity, // A proxy ends long requests.
  expiresAfterMs: Infinity, // The credential of each connection ends so soon.
  answer: null, // A function of a request that returns a status, or a whole answer.
});

const EPOCH = "9f3c2a1b";
const problem = (status, detail, more = {}) => ({
  type: "about:blank",
  title: "refused",
  status,
  detail,
  ...more,
});

/** Whether a topic is named by a topic or a pattern. */
export function isMatch(pattern, topic) {
  const [tokens, names] = [pattern.split("."), topic.split(".")];
  return (
    tokens.every((token, at) =>
      token === ">" ? names.length > at : token === "*" ? names.length > at : token === names[at],
    ) &&
    (tokens.at(-1) === ">" || tokens.length === names.length)
  );
}

/** One subscription on a connection. */
class Reader {
  #broker;
  #send;
  #looked = 0;

  constructor(broker, fields, send) {
    const { topic, topics = [topic], from = "latest", subscription, filter } = fields;
    Object.assign(this, { subscription, topics, filter, isOne: topic !== undefined });
    this.#broker = broker;
    this.#send = (message) => send({ ...message, subscription });
    this.after = this.#begin(from);
  }

  #begin(from) {
    const { events } = this.#broker;
    const mine = events.filter((event) => this.isMine(event));
    if (from === "earliest") {
      return 0;
    }
    if (from === "latest") {
      return this.isOne ? (mine.at(-1)?.sequence ?? 0) : this.#broker.position;
    }
    return Number(/^@?(\d+)/.exec(from)[1]);
  }

  isMine(event) {
    const { types } = this.filter ?? {};
    return (
      this.topics.some((topic) => isMatch(topic, event.topic)) &&
      (!types || types.includes(event.type))
    );
  }

  placeOf({ sequence, position }) {
    return this.isOne ? sequence : position;
  }

  cursor(place = this.after) {
    return `${this.isOne ? "" : "@"}${place}-${this.#broker.epoch}`;
  }

  begin() {
    this.#send({ type: "subscribed", cursor: this.cursor(), earliest: 1, tail: 1 });
    this.deliver();
    this.#send({ type: "caught_up", cursor: this.cursor() });
  }

  /** Sends what is new. Events that were dropped before it are told as a gap. */
  deliver() {
    const { events, dropped } = this.#broker;
    // The newest events are the last ones: only those are looked at that came since.
    const isNew = (event) => event.position > this.#looked && this.placeOf(event) > this.after;
    const first = events.findLastIndex(({ position }) => position <= this.#looked) + 1;
    const lost = dropped.filter((event) => this.isMine(event) && isNew(event));
    const all = [...lost, ...events.slice(first)].sort(
      (one, other) => one.position - other.position,
    );
    this.#looked = this.#broker.position;
    let gone = 0;
    let requested;
    const tellGap = () => {
      gone &&
        this.#send({
          type: "gap",
          cursor: this.cursor(),
          gap: { reason: "retention", lost: gone, requested },
        });
      gone = 0;
    };
    for (const event of all) {
      if (lost.includes(event)) {
        requested = gone === 0 ? this.after : requested;
        gone++;
        this.after = this.placeOf(event);
      } else if (this.isMine(event) && this.placeOf(event) > this.after) {
        tellGap();
        this.after = this.placeOf(event);
        this.#send({ type: "event", cursor: this.cursor(), event });
      }
    }
    tellGap();
    this.#pass();
  }

  /** Tells a reader with a filter the place after the events that it does not want. */
  #pass() {
    const newest = this.isOne ? this.#broker.last(this.topics[0]) : this.#broker.position;
    if (this.filter && newest > this.after) {
      this.after = newest;
      this.#send({ type: "cursor", cursor: this.cursor() });
    }
  }

  ephemeral(event) {
    if (this.isMine(event)) {
      this.#send({ type: "ephemeral", event: { ...event, ephemeral: true } });
    }
  }
}

/** The broker. */
export class Broker {
  epoch = EPOCH;
  all = []; // Every event that was ever stored, in order.
  events = [];
  dropped = [];
  position = 0;
  heartbeatMs = 15_000;
  expired = 0; // How many connections have ended with their credential.
  latencyMs = 1; // The time of a message on its way.
  token = null; // The only token that is accepted; null asks nobody.
  refusals = new Map(); // Refusals of publishes, by the type of the event: a list of problems.
  faults = faults();
  requests = []; // All requests, as "GET /path".
  connections = new Set(); // All open connections: each with `kind`, `end` and `isStalled`.
  #heard = new Set(); // Called when something was stored.
  #ids = new Map();
  #sequences = new Map();

  constructor(clock) {
    this.clock = clock;
  }

  /** The open connections of a kind: "websocket", "stream" or "poll". */
  open(kind) {
    return [...this.connections].filter((connection) => !kind || connection.kind === kind);
  }

  /** The last sequence of a topic. */
  last(topic) {
    return this.#sequences.get(topic) ?? 0;
  }

  /** Stores one event, or finds the one with its id. */
  store(topic, event) {
    const id = event.id === undefined ? undefined : `${topic} ${event.id}`;
    const known = this.#ids.get(id);
    const isBinary = event.data_base64 !== undefined;
    const { data = isBinary ? undefined : "" } = event; // No payload is an empty text without a type.
    const content_type = event.data === undefined && !isBinary ? null : "application/json";
    const stored = known ?? {
      ...event,
      data,
      content_type,
      topic,
      sequence: this.last(topic) + 1,
      position: this.position + 1,
    };
    if (!known) {
      this.position++;
      this.#sequences.set(topic, stored.sequence);
      this.events.push(stored);
      this.all.push(stored);
      id && this.#ids.set(id, stored);
    }
    const { sequence, position } = stored;
    return {
      topic,
      sequence,
      position,
      time: "2026-01-31T00:00:00.000Z",
      duplicate: Boolean(known),
      durability: "fsync",
    };
  }

  /** Drops the oldest events of a topic, as retention does. */
  drop(topic, count) {
    const gone = this.events.filter((event) => event.topic === topic).slice(0, count);
    this.dropped.push(...gone);
    this.events = this.events.filter((event) => !gone.includes(event));
  }

  /** Publishes events for a test, and tells the readers. */
  publish(topic, ...events) {
    const receipts = events.map((event) => this.store(topic, event));
    this.tell();
    return receipts;
  }

  tell() {
    this.#heard.forEach((hear) => hear());
  }

  onStored(hear) {
    this.#heard.add(hear);
    return () => this.#heard.delete(hear);
  }

  /** Carries out a publish, and returns its answer or a refusal. */
  accept({
    topic,
    topics = [topic],
    event,
    events = [event],
    expected_sequence: expected,
    ephemeral,
  }) {
    if (ephemeral && topic === undefined) {
      return { error: problem(400, "ephemeral: is for one topic") };
    }
    if (ephemeral) {
      const told = events.map((it) => ({ ...it, topic: topics[0] }));
      const readers = this.open().flatMap((connection) => [
        ...(connection.readers?.values() ?? []),
      ]);
      readers.forEach((reader) => told.forEach((it) => reader.ephemeral(it)));
      return { ephemeral: true, receivers: readers.length };
    }
    for (const { type } of events) {
      const refusal = this.refusals.get(type)?.shift();
      if (refusal) {
        return { error: refusal };
      }
    }
    const last = this.last(topics[0]);
    if (expected !== undefined && expected !== last) {
      return { error: problem(412, `the last sequence is ${last}`) };
    }
    const receipts = topics.map((name) => {
      const all = events.map((it) => this.store(name, it));
      const duplicates = all.filter(({ duplicate }) => duplicate).length;
      return all.length === 1
        ? all[0]
        : { topic: name, first: all[0], last: all.at(-1), count: all.length, duplicates };
    });
    queueMicrotask(() => this.tell());
    return topic === undefined ? { topics: receipts } : receipts[0];
  }

  /** Opens a subscription on a connection. */
  subscribe(connection, fields, send) {
    if (fields.topic === "forbidden") {
      return send({
        type: "error",
        subscription: fields.subscription,
        error: problem(403, "not permitted"),
      });
    }
    if (fields.topic?.includes(" ")) {
      const { subscription } = fields;
      return send({ type: "error", subscription, error: problem(400, "topic: holds ' '") });
    }
    const reader = new Reader(this, fields, send);
    connection.readers.set(fields.subscription, reader);
    reader.begin();
  }

  /** Ends all connections, and takes none. */
  kill() {
    this.faults.isAway = true;
    this.open().forEach((connection) => connection.end());
  }

  restart() {
    this.faults.isAway = false;
  }
}

export { problem };
