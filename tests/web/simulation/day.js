// A broker that makes its events when they are asked for, so that a day of them needs no memory of
// its own: the client's is measured. Every event of the topic is of the same size.

import { chance, Clock } from "../fakes/clock.js";

const EPOCH = "9f3c2a1b";
const HEARTBEAT_MS = 15_000;
/** The time from one burst of events to the next. */
export const BURST_MS = 5_000;

/** The topic, its connections, and a page that can reach them. */
export class Day {
  clock = new Clock();
  tail = 0;
  connections = new Set();
  opened = 0;
  errors = [];
  #random = chance(24);
  #kept = new Map();

  /** `size` is the number of events of a burst. */
  constructor(size) {
    const day = this;
    this.size = size;
    this.io = {
      now: () => this.clock.now,
      random: this.#random,
      setTimeout: (run, ms) => this.clock.set(run, ms, this),
      clearTimeout: (timer) => this.clock.clear(timer),
      fetch: (url, options) => this.#fetch(options),
      storage: () => ({
        getItem: (name) => this.#kept.get(name) ?? null,
        setItem: (name, text) => this.#kept.set(name, text),
      }),
      report: (error) => this.errors.push(error),
      document: undefined,
      window: undefined,
      locks: undefined,
      WebSocket: class extends DaySocket {
        constructor() {
          super(day);
        }
      },
    };
  }

  /** The number of timers of the client, and of entries of its storage. */
  get timers() {
    return this.clock.timersOf(this);
  }

  get kept() {
    return this.#kept.size;
  }

  /** Stores a burst of events, and tells all readers. */
  burst() {
    this.tail += this.size;
    this.connections.forEach((connection) => connection.deliver());
  }

  /** A stream of server-sent events. */
  async #fetch({ body, signal }) {
    const encoder = new TextEncoder();
    const [asked] = JSON.parse(body).subscriptions;
    let reader;
    const stream = new ReadableStream({
      start: (controller) => {
        const write = (text) => controller.enqueue(encoder.encode(text));
        reader = new Following(this, (messages) =>
          write(messages.map((message) => `data: ${JSON.stringify(message)}\n\n`).join("")),
        );
        reader.end = () => reader.leave() && controller.error(new TypeError("cut"));
        reader.beat = () => write(": heartbeat\n\n");
        signal.addEventListener("abort", () => reader.end());
        reader.send([{ type: "hello", heartbeat_ms: HEARTBEAT_MS }]);
        reader.follow(asked);
      },
    });
    return new Response(stream, { headers: { "Content-Type": "text/event-stream" } });
  }
}

/** One connection with at most one subscription. */
class Following {
  constructor(day, send) {
    Object.assign(this, { day, send });
    day.opened++;
    day.connections.add(this);
  }

  /** Returns whether the connection was there. */
  leave() {
    return this.day.connections.delete(this);
  }

  follow({ subscription, from }) {
    this.subscription = subscription;
    this.at = from === "earliest" ? 0 : Number(/^\d+/.exec(from)[0]);
    const cursor = `${this.at}-${EPOCH}`;
    this.send([{ type: "subscribed", subscription, cursor, earliest: 1, tail: 1 }]);
    this.deliver();
  }

  deliver() {
    const { subscription, day } = this;
    const messages = [];
    while (subscription && this.at < day.tail) {
      const sequence = ++this.at;
      const event = { topic: "orders", sequence, position: sequence, data: { order: sequence } };
      messages.push({ type: "event", subscription, cursor: `${sequence}-${EPOCH}`, event });
    }
    this.send(messages);
  }
}

/** A WebSocket, with a `Following` behind it. */
class DaySocket {
  readyState = 0;

  constructor(day) {
    day.clock.set(() => {
      if (this.readyState === 0) {
        this.readyState = 1;
        this.following = new Following(day, (messages) => messages.forEach((it) => this.#tell(it)));
        this.following.end = () => {
          this.close();
          this.onclose?.({ code: 1006, reason: "" });
        };
        this.following.beat = () => this.#tell({ type: "pong", heartbeat_ms: HEARTBEAT_MS });
        this.onopen?.({});
      }
    }, 1);
  }

  #tell(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  send(text) {
    const message = JSON.parse(text);
    if (message.type === "ping") {
      this.following.beat();
    } else if (message.type === "subscribe") {
      this.following.follow(message);
    } else if (message.type === "unsubscribe") {
      this.following.subscription = undefined;
    }
  }

  close() {
    this.readyState = 3;
    this.following?.leave();
  }
}
