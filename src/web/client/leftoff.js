// The client. README.md shows how it is used, and leftoff.d.ts says what everything means.

import { connection, stateOf } from "./connection.js";
import { outbox } from "./outbox.js";
import { keyed, subscription } from "./subscription.js";
import { tabs } from "./tabs.js";
import { backoff, Problem, requests, transports } from "./transports.js";

export { backoff, Problem };

/** What the client uses of the world. Tests give parts of their own. */
function environment(own) {
  const all = globalThis;
  return {
    now: Date.now,
    random: Math.random,
    setTimeout: (run, ms) => all.setTimeout(run, ms),
    clearTimeout: (timer) => all.clearTimeout(timer),
    fetch: (url, options) => all.fetch(url, options),
    WebSocket: all.WebSocket,
    BroadcastChannel: all.BroadcastChannel,
    locks: all.navigator?.locks,
    storage: () => all.localStorage, // A page may be forbidden to look at it.
    indexedDB: all.indexedDB,
    window: all,
    document: all.document,
    isOnline: () => all.navigator?.onLine !== false,
    report: (error) => (all.reportError ?? console.error)(error),
    newId: () => crypto.getRandomValues(new Uint32Array(4)).join("-"),
    ...own,
  };
}

/** Returns what keeps cursors: `get` and `set`, which may return promises. */
function placesOf(io, storage = "memory") {
  const done = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  const open = () => {
    const opening = io.indexedDB.open("leftoff");
    opening.onupgradeneeded = () => opening.result.createObjectStore("cursors");
    return done(opening);
  };
  let database;
  const cursors = async () =>
    (await (database ??= open())).transaction("cursors", "readwrite").objectStore("cursors");
  const kinds = {
    memory: { get() {}, set() {} },
    local: {
      get: (name) => io.storage().getItem(name),
      set: (name, cursor) => io.storage().setItem(name, cursor),
    },
    indexed: {
      get: async (name) => done((await cursors()).get(name)),
      set: async (name, cursor) => done((await cursors()).put(cursor, name)),
    },
  };
  return kinds[storage] ?? storage;
}

/** Connects to a broker. */
export function connect(options = {}) {
  const io = environment(options.io);
  const {
    token,
    transports: names = Object.keys(transports),
    shared = Boolean(io.document),
  } = options;
  // The broker serves this file as `web/leftoff.js`.
  const url = new URL(options.url ?? new URL("..", import.meta.url), io.document?.baseURI);
  if (!url.host) {
    throw new Problem({ detail: "connect needs a url" });
  }
  const base = url.href.replace(/\/*$/, "/");
  const http = requests(io, base, token);
  const places = placesOf(io, options.storage);
  const subscriptions = new Set();
  const page = new AbortController();
  let last = 0;
  let out;

  const self = Object.assign(new EventTarget(), {
    io,
    onstate: null,
    connection: stateOf("connecting"),

    subscribe(topics, options = {}, handlers) {
      const { name = JSON.stringify([topics, options.filter, options.consumer]), storage } =
        options;
      const own = {
        io,
        link,
        name: ++last,
        key: `leftoff ${base} ${name}`,
        kept: storage ? placesOf(io, storage) : places,
        onClose: () => subscriptions.delete(opened),
      };
      const opened = subscription(own, topics, options, handlers);
      subscriptions.add(opened);
      return opened;
    },

    state: (...asked) => keyed(self, page.signal, ...asked),
    publish: (...asked) => out.publish(...asked),
    request: http.send,
    retryNow: () => page.signal.aborted || link.wake(true),

    close() {
      page.abort();
      subscriptions.forEach((it) => it.close());
      out.close();
      link.close();
    },
  });

  self.addEventListener("state", ({ detail }) => self.onstate?.(detail));
  const on = {
    message: (message) => subscriptions.forEach((it) => it.take(message)),
    reset: () => subscriptions.forEach((it) => it.ask()),
    status(status) {
      if (JSON.stringify(status) === JSON.stringify(self.connection)) {
        return;
      }
      self.connection = status;
      self.dispatchEvent(new CustomEvent("state", { detail: status }));
      out?.send();
    },
  };
  const open = (told) => connection(io, http, names, told);
  const isShared = shared && io.locks && io.BroadcastChannel;
  const link = isShared ? tabs(io, http, shared, open, on) : open(on);
  out = outbox(self, base, options.outbox, link);

  // The window sees the events of its document, too.
  for (const [types, run] of [
    ["online offline", () => link.wake(false, true)],
    ["visibilitychange", () => link.wake()],
    ["pagehide freeze", () => link.suspend()],
    ["pageshow resume", () => link.wake(true)],
  ]) {
    types
      .split(" ")
      .forEach((type) =>
        io.window?.addEventListener?.(type, run, { capture: true, signal: page.signal }),
      );
  }
  return self;
}
