// Hooks for React, which is the page's own: `hooks(React, options)` returns them for one broker.
//
// The connection is outside of React. It is opened with the first hook that is mounted, and closed
// one task after the last one has gone: StrictMode mounts everything twice, and opens it once.

import { inbox } from "./inbox.js";
import { connect } from "./leftoff.js";
import { presence } from "./presence.js";

/** What is shown before there is a connection: in the first rendering, and on a server. */
const BEFORE = Object.freeze({ state: "connecting", reason: "", attempt: 0, nextTryAt: null, transport: null });

// The same objects each time: React compares them, and so do effects that depend on them.
const NONE = Object.freeze([]);
const NO_EVENTS = Object.freeze({ events: NONE, gaps: NONE, isCaughtUp: false, problem: null });
const nothing = () => undefined;
const NO_INBOX = Object.freeze({
  entries: NONE,
  counts: null,
  hasMore: false,
  isOld: true,
  show: nothing,
  more: nothing,
  mark: nothing,
  markAll: nothing,
});

/** A client that lives as long as something uses it; or the page's own one, which the page closes. */
class Shared {
  #options;
  #isOwn;
  #users = 0;
  #ending;
  #watchers = new Set();
  client = null;

  constructor(options) {
    this.#options = options;
    this.#isOwn = typeof options.subscribe !== "function";
  }

  /** Uses the client until the returned function is called. */
  use() {
    clearTimeout(this.#ending);
    if (!this.client) {
      // What is thrown here is for the error boundary, and nothing is used.
      this.client = this.#isOwn ? connect(this.#options) : this.#options;
      this.client.addEventListener("state", this.#tell);
      this.#tell();
    }
    this.#users += 1;
    let isUsed = true;
    return () => {
      if (isUsed) {
        isUsed = false;
        this.#users -= 1;
        this.#ending = this.#users === 0 ? setTimeout(() => this.#end()) : undefined;
      }
    };
  }

  #end() {
    this.client.removeEventListener("state", this.#tell);
    this.#isOwn && this.client.close();
    this.client = null;
    this.#tell();
  }

  #tell = () => this.#watchers.forEach((watcher) => watcher());

  /** Uses the client, and calls `watcher` with each change of its state. */
  watch = (watcher) => {
    const release = this.use();
    this.#watchers.add(watcher);
    return () => {
      this.#watchers.delete(watcher);
      release();
    };
  };

  state = () => this.client?.connection ?? BEFORE;
}

/** Returns the hooks for the broker that `options` names, as for `connect`. See react.d.ts. */
export function hooks(React, options = {}) {
  const { useEffect, useRef, useState, useSyncExternalStore } = React;
  const shared = new Shared(options);

  /** Runs `open(client)` for as long as the component is mounted with these values. */
  function useClient(open, values) {
    useEffect(() => {
      const release = shared.use();
      try {
        const close = open(shared.client);
        return () => {
          close?.();
          release();
        };
      } catch (error) {
        release();
        throw error; // For the error boundary.
      }
    }, [JSON.stringify(values)]);
  }

  /** Returns the newest value, for handlers that are called later. */
  function useNewest(value) {
    const newest = useRef(value);
    useEffect(() => {
      newest.current = value;
    });
    return newest;
  }

  /** Follows topics. The handlers may be others each time; topics and options are compared by value. */
  function useSubscription(topics, options, handlers) {
    const newest = useNewest(handlers);
    useClient((client) => {
      if (!topics) {
        return undefined;
      }
      const call = (name) => (...values) => newest.current?.[name]?.(...values);
      const names = ["event", "gap", "subscribed", "caughtUp", "marked", "counts", "denied"];
      const all = Object.fromEntries(names.map((name) => [name, call(name)]));
      // A handler for ephemeral events that is not there is that for events, as with `subscribe`.
      all.ephemeral = (...values) => {
        const { ephemeral, event } = newest.current ?? {};
        return (ephemeral ?? event)?.(...values);
      };
      all.ended = (problem, message) => {
        const { ended = client.io.report } = newest.current ?? {}; // Nobody would hear of it.
        ended(problem, message);
      };
      const subscription = client.subscribe(topics, options, all);
      return () => subscription.close();
    }, [topics, options]);
  }

  /** Returns the newest events of topics, the oldest first: at most `limit`, 100 if it is missing. */
  function useEvents(topics, { limit = 100, ...options } = {}) {
    const asked = JSON.stringify([topics, options]);
    const [shown, setShown] = useState({ of: null, value: NO_EVENTS });
    const most = useNewest(Math.max(limit, 1));
    const kept = useRef({});
    useClient((client) => {
      if (!topics) {
        return undefined;
      }
      // A component that was hidden, and is shown again, goes on where it was.
      const own = kept.current.of === asked ? kept.current : { of: asked, value: NO_EVENTS };
      kept.current = own;
      const change = (to) => {
        own.value = { ...own.value, ...to(own.value) };
        setShown({ of: asked, value: own.value });
      };
      const newest = (list, one) => [...list, one].slice(-most.current);
      const begin = own.cursor && { from: own.cursor };
      const subscription = client.subscribe(topics, { storage: "memory", ...options, ...begin }, {
        event: (event) => change(({ events }) => ({ events: newest(events, event) })),
        gap: (gap) => change(({ gaps }) => ({ gaps: newest(gaps, gap) })),
        caughtUp: () => change(() => ({ isCaughtUp: true })),
        ended: (problem) => change(() => ({ problem })),
      });
      return () => {
        own.cursor = subscription.cursor;
        subscription.close();
      };
    }, [topics, options]);
    return shown.of === asked ? shown.value : NO_EVENTS;
  }

  /** Returns the state of the connection. */
  function useConnectionState() {
    return useSyncExternalStore(shared.watch, shared.state, () => BEFORE);
  }

  /** Returns what is read of something that `open(client)` opens, anew with each event "change". */
  function useHeld(open, values, none) {
    const asked = JSON.stringify(values);
    const [shown, setShown] = useState({ of: null, value: none });
    useClient((client) => {
      const [held, read] = open(client) ?? [];
      const look = () => setShown({ of: asked, value: read() });
      held?.addEventListener("change", look);
      held && look();
      return () => {
        held?.removeEventListener("change", look);
        held?.close();
      };
    }, values);
    return shown.of === asked ? shown.value : none;
  }

  /** Returns an inbox: its entries and counts, and what to do with them. */
  function useInbox(options) {
    const { refused, ...values } = options ?? {};
    const newest = useNewest(refused);
    const open = (client) => {
      if (!values.topic) {
        return undefined;
      }
      const held = inbox(client, values);
      held.addEventListener("refused", ({ detail }) => newest.current?.(detail));
      const quietly = (promise) => promise.catch(() => {}); // `refused` has been told.
      const actions = {
        show: (view) => held.show(view),
        more: () => held.more(),
        mark: (entries, change) => quietly(held.mark(entries, change)),
        markAll: (mark) => quietly(held.markAll(mark)),
      };
      const read = () => {
        const { entries, counts, view, hasMore, isOld } = held;
        return { entries, counts, view, hasMore, isOld, ...actions };
      };
      return [held, read];
    };
    return useHeld(open, values, { ...NO_INBOX, view: values.view ?? "inbox" });
  }

  /** Returns the members of a topic. With `member`, the page's user is one of them. */
  function usePresence(topic, options) {
    const open = (client) => {
      const held = topic && presence(client, topic, options);
      return held ? [held, () => held.members] : undefined;
    };
    return useHeld(open, [topic, options], NONE);
  }

  return { useSubscription, useEvents, useConnectionState, useInbox, usePresence };
}
