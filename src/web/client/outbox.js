// The outbox: publishes that wait for the broker. They go out in the order in which they came, each
// under an id of its own, so that one that is sent again is not stored again.

import { spelled } from "./subscription.js";
import { backoff, Problem } from "./transports.js";

/** The most publishes to one topic that go out as one message. */
const MAX_BATCH = 100;
const CLOSED = { detail: "the client is closed" };

export function outbox(io, base, options, link) {
  const { max, maxBytes, keep, refused } = {
    max: 1_000,
    maxBytes: 1 << 20,
    refused: io.report,
    ...options,
  };
  /** The beginning of the keys of what is kept over reloads. */
  const prefix = `leftoff-outbox ${base} `;
  const pauses = backoff(io);
  let lastKey = 0;
  let queue = [];
  let bytes = 0;
  let isSending;
  let isClosed;
  /** How many publishes go out one by one, because they failed together. */
  let singles = 0;
  let timer;

  const store = (change) => {
    try {
      keep && change(io.storage());
    } catch (error) {
      io.report(error);
    }
  };

  const add = (message, key, isMany) =>
    new Promise((resolve, reject) => {
      const text = JSON.stringify(message);
      if (isClosed || queue.length >= max || bytes + text.length > maxBytes) {
        const detail = `the outbox is full: ${queue.length} events`;
        throw new Problem(isClosed ? CLOSED : { detail });
      }
      const { topics, expected_sequence: expected } = message;
      const topic = expected === undefined && !topics[1] ? topics[0] : key;
      queue.push({ message, key, topic, isMany, size: text.length, resolve, reject });
      bytes += text.length;
      store((storage) => storage.setItem(key, text));
      queueMicrotask(self.send); // Publishes of one task go out together.
    });

  const remove = (entry) => {
    singles = Math.max(0, singles - 1);
    queue.splice(queue.indexOf(entry), 1);
    bytes -= entry.size;
    store((storage) => storage.removeItem(entry.key));
  };

  const accept = (batch, topics) => {
    const [{ topic, first, duplicates, ...one }] = topics;
    pauses.tries = 0;
    if (duplicates) {
      singles = batch.length; // Each is sent again, to learn where it is stored.
      return;
    }
    batch.forEach((entry, index) => {
      const receipt = { ...(first ?? one), topic };
      receipt.sequence += index;
      receipt.position += index;
      remove(entry);
      entry.resolve(entry.isMany ? { topics } : receipt);
    });
  };

  const refuse = (batch, problem) => {
    const [entry, other] = batch;
    if (other) {
      singles = batch.length; // One of them may be refused, and the others not.
    } else if (!problem.isTemporary) {
      remove(entry);
      return entry.reject(problem);
    }
    if (problem.isTemporary && !isClosed && (problem.status > 0 || link.isUp())) {
      timer = io.setTimeout(() => {
        timer = undefined;
        self.send();
      }, pauses.next(problem.retryAfterMs));
    }
  };

  const self = {
    async publish(to, fields) {
      const { expected_sequence, ephemeral, ...event } = spelled(fields);
      const where = ephemeral ? { topic: to } : { topics: [to].flat() };
      const asked = { ...where, event, expected_sequence, ephemeral };
      // A copy: what waits is what was given, whatever happens to the objects.
      const message = JSON.parse(JSON.stringify(asked));
      if (ephemeral) {
        return link.publish(message).catch((problem) => {
          if (problem.status > 0) {
            throw problem;
          }
          return { ephemeral, dropped: true };
        });
      }
      message.event.id ??= io.newId();
      lastKey = Math.max(lastKey + 1, io.now() * 1e3);
      return add(message, prefix + lastKey, Array.isArray(to));
    },

    /** Sends what waits, one message after the other. */
    async send() {
      if (isSending) {
        return;
      }
      isSending = true;
      while (queue[0] && link.isUp() && !timer && !isClosed) {
        const [{ message, topic }] = queue;
        const most = singles > 0 ? 1 : MAX_BATCH;
        const end = queue.findIndex((entry, at) => at > 0 && (at >= most || entry.topic !== topic));
        const batch = queue.slice(0, end < 0 ? undefined : end);
        const events = batch.map((entry) => entry.message.event);
        try {
          const sent = link.publish(events[1] ? { topics: [topic], events } : message);
          accept(batch, (await sent).topics);
        } catch (problem) {
          refuse(batch, problem);
        }
      }
      isSending = false;
    },

    /** Refuses what waits, which stays where it is kept. */
    close() {
      isClosed = true;
      io.clearTimeout(timer);
      queue.splice(0).forEach(({ reject }) => reject(new Problem(CLOSED)));
    },
  };

  // What earlier pages have left goes out, too. If another tab sends it as well, it is stored once.
  store((storage) => {
    const keys = Array.from({ length: storage.length }, (_, at) => storage.key(at));
    for (const key of keys.filter((key) => key.startsWith(prefix)).sort()) {
      const message = JSON.parse(storage.getItem(key));
      add(message, key).catch((problem) => refused(problem, message));
    }
  });
  return self;
}
