// A browser: pages that can be frozen, locks and channels between the tabs of one origin.

import { chance } from "./clock.js";
import { fetches } from "./http.js";
import { indexedDatabases } from "./indexed.js";
import { webSockets } from "./websocket.js";

/** The locks of an origin, as far as the client uses them. Source: W3C Web Locks API. */
class Locks {
  stolenMs = 0; // The time until the page from which a lock was taken learns of it.
  #held = new Map();
  #queues = new Map();
  #clock;

  constructor(clock) {
    this.#clock = clock;
  }

  /** Returns `navigator.locks` of a page. */
  of(page) {
    return {
      request: (name, ...rest) =>
        this.#request(page, name, rest.length > 1 ? rest[0] : {}, rest.at(-1)),
    };
  }

  #request(page, name, { signal, steal, ifAvailable }, run) {
    return new Promise((resolve, reject) => {
      const request = { page, run, resolve, reject, name };
      if (steal) {
        const holder = this.#held.get(name);
        const tell = () => holder.reject(new DOMException("stolen", "AbortError"));
        holder && this.#clock.set(() => holder.page.run(tell), this.stolenMs);
        return this.#grant(request);
      }
      if (ifAvailable && this.#held.has(name)) {
        return resolve(run(null));
      }
      const queue = this.#queues.get(name) ?? [];
      this.#queues.set(name, [...queue, request]);
      signal?.addEventListener("abort", () => {
        this.#queues.set(
          name,
          this.#queues.get(name).filter((it) => it !== request),
        );
        request.isHeld || reject(new DOMException("aborted", "AbortError"));
      });
      this.#next(name);
    });
  }

  #grant(request) {
    request.isHeld = true;
    this.#held.set(request.name, request);
    setImmediate(() =>
      request.page.run(async () => {
        try {
          request.resolve(await request.run({ name: request.name }));
        } catch (error) {
          request.reject(error);
        }
        this.#free(request);
      }),
    );
  }

  #free(request) {
    if (this.#held.get(request.name) === request) {
      this.#held.delete(request.name);
      this.#next(request.name);
    }
  }

  #next(name) {
    const [next, ...rest] = this.#queues.get(name) ?? [];
    if (next && !this.#held.has(name)) {
      this.#queues.set(name, rest);
      this.#grant(next);
    }
  }

  /** Frees what a page holds or waits for, as a browser does when the page is gone. */
  leave(page) {
    for (const [name, queue] of this.#queues) {
      this.#queues.set(
        name,
        queue.filter((request) => request.page !== page),
      );
    }
    [...this.#held.values()]
      .filter((request) => request.page === page)
      .forEach((request) => this.#free(request));
  }
}

/** One page, or tab. */
class Page extends EventTarget {
  isOnline = true;
  isFrozen = false;
  isGone = false;
  visibilityState = "visible";
  errors = [];
  #later = [];

  /** Runs something in the page: later if it is frozen, never if it is gone. */
  run(task) {
    if (this.isFrozen) {
      this.#later.push(task);
    } else if (!this.isGone) {
      task();
    }
  }

  thawed() {
    return new Promise((done) => this.run(done));
  }

  tell(type, fields = {}) {
    this.dispatchEvent(Object.assign(new Event(type), fields));
  }

  /** Freezes the page. `isTold` says whether it hears of it; a page that hangs does not. */
  freeze(isTold = true) {
    isTold && this.tell("freeze");
    this.isFrozen = true;
  }

  thaw(isTold = true) {
    this.isFrozen = false;
    this.#later.splice(0).forEach((task) => this.run(task));
    isTold && this.tell("resume");
  }
}

/** Returns `localStorage` over a map. What is stored is seen as properties, too. */
function storageOf(stored) {
  const methods = {
    getItem: (name) => stored.get(name) ?? null,
    setItem: (name, text) => stored.set(name, String(text)),
    removeItem: (name) => stored.delete(name),
  };
  return Object.assign(Object.create(methods), Object.fromEntries(stored));
}

/** All tabs of one origin, and their way to the broker. */
export class Browser {
  #channels = new Map();
  #stored = new Map();
  #indexed;
  pages = [];

  constructor(clock, broker, seed = 1) {
    Object.assign(this, { clock, broker, random: chance(seed), locks: new Locks(clock) });
    this.#indexed = indexedDatabases(clock);
  }

  /** Opens a page, and returns it; its `io` is what the client gets. */
  open() {
    const { clock, broker, random } = this;
    const page = new Page();
    const stored = this.#stored;
    page.io = {
      now: () => clock.now,
      random,
      setTimeout: (run, ms) => clock.set(() => page.run(run), ms, page),
      clearTimeout: (timer) => clock.clear(timer),
      fetch: fetches(broker, page),
      WebSocket: webSockets(broker, page),
      locks: this.locks.of(page),
      BroadcastChannel: this.#channel(page),
      storage: () => storageOf(stored),
      indexedDB: this.#indexed,
      window: page,
      document: page,
      isOnline: () => page.isOnline,
      report: (error) => page.errors.push(error),
      newId: () =>
        Math.floor(random() * 2 ** 48)
          .toString(16)
          .padStart(12, "0"),
    };
    this.pages.push(page);
    return page;
  }

  #channel(page) {
    const { clock } = this;
    const all = this.#channels;
    return class FakeChannel {
      constructor(name) {
        this.name = name;
        this.page = page;
        all.set(name, [...(all.get(name) ?? []), this]);
      }

      postMessage(data) {
        const text = structuredClone(data);
        for (const channel of all.get(this.name) ?? []) {
          if (channel !== this) {
            clock.set(
              () => channel.page.run(() => channel.onmessage?.({ data: structuredClone(text) })),
              0,
            );
          }
        }
      }

      close() {
        all.set(
          this.name,
          all.get(this.name).filter((channel) => channel !== this),
        );
        this.onmessage = null;
      }
    };
  }

  /** Closes a page without a word, as a crash or a killed tab does. */
  kill(page) {
    page.isGone = true;
    this.broker
      .open()
      .filter((connection) => connection.page === page)
      .forEach((connection) => connection.end());
    this.locks.leave(page);
    for (const [name, channels] of this.#channels) {
      this.#channels.set(
        name,
        channels.filter((channel) => channel.page !== page),
      );
    }
  }

  /** The network of a page goes, or comes back. */
  setOnline(page, isOnline) {
    page.isOnline = isOnline;
    isOnline ||
      this.broker
        .open()
        .filter((connection) => connection.page === page)
        .forEach((connection) => connection.end());
    page.tell(isOnline ? "online" : "offline");
  }
}
