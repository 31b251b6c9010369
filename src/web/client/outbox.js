// The outbox: publishes that wait for the broker. They go out in the order in which they came, each
// under an id of its own, so that one that is sent again is not stored again.

import { MAX_BATCH } from "./limits.js";
import { spelled } from "./subscription.js";
import { backoff, instead, Problem } from "./transports.js";

export function outbox(client, base, options = {}, link) {
  const { io } = client;
  const { max = 1_000, maxBytes = 1 << 20, keep, refused = io.report } = options;
  /** The beginning of the keys of what is kept over reloads. */
  const prefix = `leftoff-outbox ${base} `;
  const pauses = backoff(io);
  let lastKey = 0;
  let queue = [];
  let bytes = 0;
  let isSending;
  let isClosed;
  let timer;

  const store = (change) => {
    try {
      keep && change(io.storage());
    } catch (error) {
      io.report(error);
    }
  };

  const refusal = () => new Problem({ detail: `the outbox is ${isClosed ? "closed" : "full"}` });

  /** `unknown` is the number of tries whose outcome is not known. */
  const add = (message, key, isMany, unknown = 0) =>
    new Promise((resolve, reject) => {
      const text = JSON.stringify(message);
      const size = text.length;
      const isFull = queue.length >= max || bytes + size > maxBytes;
      // There is always room for what was kept.
      if (isClosed || (isFull && !unknown)) {
        throw refusal();
      }
      const { topics, expected_sequence: expected } = message;
      // Those of one group go out together.
      const group = expected === undefined && !topics[1] ? topics[0] : key;
      queue.push({ message, key, group, isMany, unknown, size, resolve, reject });
      bytes += size;
      store((storage) => storage.setItem(key, text));
      queueMicrotask(self.send); // Publishes of one task go out together.
    });

  const remove = (entry) => {
    queue.splice(queue.indexOf(entry), 1);
    bytes -= entry.size;
    store((storage) => storage.removeItem(entry.key));
  };

  const part = (batch) => batch.forEach((entry) => (entry.group = entry.key));

  const accept = (batch, topics) => {
    const [{ topic, first, duplicates, ...one }] = topics;
    if (duplicates) {
      return part(batch); // Each is sent again, to learn where it is stored.
    }
    batch.forEach((entry, index) => {
      const receipt = { ...(first ?? one), topic };
      receipt.sequence += index;
      receipt.position += index;
      remove(entry);
      entry.resolve(entry.isMany ? { topics } : receipt);
    });
  };

  /** Rejects a publish, and says whether a try may be stored all the same. */
  const reject = (entry, problem) =>
    entry.reject(Object.assign(problem, { mayBeStored: entry.unknown > 0 }));

  const refuse = (batch, problem) => {
    const [entry, other] = batch;
    // Other answers do not say that this try has stored nothing.
    /^4/.test(problem.status) && batch.forEach((it) => it.unknown--);
    if (other) {
      part(batch); // One of them may be refused, and the others not.
    } else if (!problem.isTemporary) {
      remove(entry);
      return reject(entry, problem);
    }
    if (problem.isTemporary && !isClosed && (problem.status > 0 || client.connection.transport)) {
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
      const message = JSON.parse(JSON.stringify(asked)); // What waits is a copy.
      if (ephemeral) {
        return link.publish(message).catch(instead(0, { ephemeral, dropped: true }));
      }
      message.event.id ??= io.newId();
      lastKey = Math.max(lastKey + 1, io.now() * 1e3);
      return add(message, prefix + lastKey + message.event.id, Array.isArray(to));
    },

    async send() {
      if (isSending) {
        return;
      }
      isSending = true;
      while (queue[0] && client.connection.transport && !timer && !isClosed) {
        const [{ message, group }] = queue;
        const isOther = (entry, at) => at === MAX_BATCH || entry.group !== group;
        const batch = queue.slice(0, queue.concat({}).findIndex(isOther));
        const events = batch.map((entry) => entry.message.event);
        batch.forEach((entry) => entry.unknown++);
        try {
          const sent = link.publish(events[1] ? { topics: message.topics, events } : message);
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
      for (const entry of queue.splice(0)) {
        keep && entry.unknown++; // A later page sends it.
        reject(entry, refusal());
      }
    },
  };

  // What earlier pages have left. If another tab sends it as well, it is stored once.
  store((storage) => {
    const keys = Object.keys(storage).filter((key) => key.startsWith(prefix));
    for (const key of keys.sort()) {
      let message;
      const load = async () => add((message = JSON.parse(storage.getItem(key))), key, false, 1);
      load().catch((problem) => {
        isClosed || store(() => storage.removeItem(key)); // It may be damaged.
        (problem.details ? refused : io.report)(problem, message);
      });
    }
  });
  return self;
}
