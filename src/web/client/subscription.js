// Subscriptions: their cursors and handlers, one event after the other.

import { MAX_WAITING, MAX_WAITING_SIZE } from "./limits.js";
import { backoff, instead, Problem } from "./transports.js";

const CURSOR = /^(@?)(\d+)(?:~\d+)?-(.+)$/;

/** Whether a cursor is not after another one. Two epochs or kinds cannot be compared. */
function isOld(cursor, other) {
  const [, kind, place, epoch] = CURSOR.exec(cursor) ?? [];
  const [, otherKind, otherPlace, otherEpoch] = CURSOR.exec(other) ?? [];
  return epoch && kind === otherKind && epoch === otherEpoch && +place <= +otherPlace;
}

/** Moves `ask.from` with a message. Returns false if it has come before; a gap may, from two lines. */
export function move(ask, { type, cursor, revision }, isTwofold) {
  const isKnown = isOld(cursor, ask.from);
  if (isKnown && (type === "event" || type === "cursor" || (type === "gap" && isTwofold))) {
    return false;
  }
  // The place of a word such as "latest" is known from here on.
  if (cursor && (type === "subscribed" ? !CURSOR.test(ask.from) : !isKnown || type === "gap")) {
    ask.from = cursor;
  }
  if (type === "marked") {
    ask.marks_after = revision;
  }
  return true;
}

/** Spells `onGap` as `on_gap`. */
export function spelled(fields) {
  const spell = ([name, value]) => [
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    value,
  ];
  return Object.fromEntries(Object.entries(fields).map(spell));
}

/** Follows topics. */
export function subscription(own, topics, { name, storage, filter, ...options }, handlers) {
  const { io, link, kept } = own;
  const pauses = backoff(io);
  const isOne = typeof topics === "string" && !/[*>]/.test(topics);
  /** What asks for the subscription, from the newest message, handled or not. */
  const ask = {
    ...spelled(options),
    ...(isOne ? { topic: topics } : { topics: [topics].flat() }),
    filter: filter && spelled(filter),
  };
  /** Its name on the wire. The number after the dot is another one each time. */
  let id;
  let asked = 0;
  let waiting = [];
  let waitingSize = 0;
  let isReady;
  let isHandling;
  let isPaused;
  let timer;
  /** Hands a message to the iterator. */
  let hand;
  let written;
  let isWriting;

  const leave = () => {
    id && link.unsubscribe(id);
    id = undefined;
  };

  /** Keeps the cursor, one write after the other. */
  const keep = async () => {
    while (written !== self.cursor && !isWriting) {
      written = self.cursor;
      isWriting = true;
      try {
        await kept.set(own.key, written);
      } catch (error) {
        io.report(error);
      }
      isWriting = false;
    }
  };

  const tell = (message) => {
    const { type, event, gap, error } = message;
    const value = type === "ended" ? new Problem(error) : (event ?? gap ?? message);
    const name = type === "ephemeral" && !handlers.ephemeral ? "event" : type;
    type === "ended" && !handlers.ended && io.report(value);
    return handlers[name === "caught_up" ? "caughtUp" : name]?.(value, message);
  };

  const handle = async () => {
    if (isHandling || !(handlers || hand)) {
      return;
    }
    isHandling = true;
    while (waiting.length > 0 && !self.isClosed) {
      const message = waiting.shift();
      const { type, size, cursor = self.cursor } = message;
      try {
        const handled = hand ? hand(message) : tell(message);
        handled?.then && (await handled);
      } catch (error) {
        io.report(error);
      }
      waitingSize -= size;
      const isNew = type === "gap" || !isOld(cursor, self.cursor);
      if (isNew && !self.isClosed && !(type === "subscribed" && self.cursor)) {
        self.cursor = cursor;
        keep();
      }
      type === "ended" && self.close();
    }
    isHandling = false;
    if (isPaused) {
      isPaused = false;
      self.ask();
    }
  };

  const self = {
    isClosed: false,

    ask() {
      if (isReady && !self.isClosed && !isPaused) {
        id = `${own.name}.${++asked}`;
        link.subscribe({ ...ask, subscription: id });
      }
    },

    /** Takes a message, if it is for this subscription and has not come before. */
    take(message) {
      if (message.subscription !== id || !move(ask, message)) {
        return;
      }
      const problem = message.type === "ended" && new Problem(message.error);
      if (problem.isTemporary) {
        id = undefined;
        timer = io.setTimeout(self.ask, pauses.next(problem.retryAfterMs));
        return;
      }
      waiting.push(message);
      waitingSize += message.size;
      if (waiting.length > MAX_WAITING || waitingSize > MAX_WAITING_SIZE) {
        isPaused = true;
        leave();
      }
      handle();
    },

    close() {
      self.isClosed = true;
      io.clearTimeout(timer);
      leave();
      waiting = [];
      hand?.();
      own.onClose();
    },

    async *[Symbol.asyncIterator]() {
      let deliver;
      hand = (message) => new Promise((done) => deliver({ message, done }));
      try {
        while (!self.isClosed) {
          const { message, done } = await new Promise((resolve) => {
            deliver = resolve;
            handle();
          });
          if (message) {
            yield message;
            done();
          }
        }
      } finally {
        self.close();
      }
    },
  };

  (async () => {
    try {
      self.cursor = (await kept.get(own.key)) ?? undefined;
    } catch (error) {
      io.report(error);
    }
    ask.from = self.cursor ?? ask.from;
    isReady = true;
    self.ask();
  })();
  return self;
}

/** Keeps the state of a topic. */
export function keyed(client, signal, topic, { keyPrefix = "" } = {}, handlers = {}) {
  const { io } = client;
  let settle;
  let following;
  let isClosed;
  let timer;

  const pages = async () => {
    const map = new Map();
    for (let page_token = ""; ;) {
      const query = new URLSearchParams({ limit: 500, key_prefix: keyPrefix, page_token });
      const asked = client.request("GET", `v1/topics/${encodeURIComponent(topic)}/state?${query}`);
      const page = await asked.catch(instead(404, { events: [], cursor: "earliest" }));
      page.events.forEach((event) => map.set(event.key, event));
      page_token = page.next_page_token;
      if (!page_token) {
        return { map, from: page.cursor };
      }
    }
  };

  const follow = ({ map, from }) => {
    self.map = map;
    const filter = keyPrefix ? { keyPrefixes: [keyPrefix] } : undefined;
    following = client.subscribe(
      topic,
      { from, filter, storage: "memory" },
      {
        event(event) {
          const { key, data, data_base64, content_type } = event;
          const isDeletion = data_base64 === "" || (data === "" && !/json/.test(content_type));
          const value = isDeletion ? undefined : event;
          if (key) {
            value ? map.set(key, value) : map.delete(key);
            return handlers.changed?.(key, value);
          }
        },
        ephemeral() {},
        gap: loadAll,
        ended: stop,
      },
    );
    settle.resolve(map);
    queueMicrotask(() => handlers.changed?.());
  };

  /** Loads the state, and follows the topic from exactly there. */
  const loadAll = async () => {
    const pauses = backoff(io);
    following?.close();
    while (!isClosed) {
      try {
        const loaded = await pages();
        return isClosed || follow(loaded);
      } catch (problem) {
        if (!problem.isTemporary) {
          return stop(problem);
        }
        await new Promise((done) => {
          timer = io.setTimeout(done, pauses.next(problem.retryAfterMs));
        });
      }
    }
  };

  const stop = (problem) => {
    settle.reject(problem);
    self.close();
    handlers.ended?.(problem);
  };

  const self = {
    map: new Map(),
    ready: new Promise((resolve, reject) => (settle = { resolve, reject })),
    close() {
      isClosed = true;
      signal.removeEventListener("abort", self.close);
      io.clearTimeout(timer);
      following?.close();
    },
  };
  self.ready.catch(() => {});
  signal.addEventListener("abort", self.close);
  loadAll();
  return self;
}
