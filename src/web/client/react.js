// Hooks for React, which is the page's own: `hooks(React, options)` returns them for one broker.
//
// The connection is outside of React. It is opened with the first hook that is mounted, and closed
// one task after the last one has gone: StrictMode mounts everything twice, and opens it once.

import { inbox } from "./inbox.js";
import { connect } from "./leftoff.js";
import { presence } from "./presence.js";

const NOT_CONNECTED = Object.freeze({ state: "closed", reason: "", attempt: 0, nextTryAt: null, transport: null });

/** A client that lives as long as something uses it. `open` returns a new one. */
class Shared {
  #open;
  #users = 0;
  #ending;
  #watchers = new Set();
  client = null;

  constructor(open) {
    this.#open = open;
  }

  /** Uses the client until the returned function is called. */
  use() {
    clearTimeout(this.#ending);
    this.#users += 1;
    if (!this.client) {
      this.client = this.#open();
      this.client.addEventListener("state", this.#tell);
      this.#tell();
    }
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
    this.client.close();
    this.client = null;
    this.#tell();
  }

  #tell = () => this.#watchers.forEach((watcher) => watcher());

  /** Uses the client, and calls `watcher` with each change of its state. */
  watch = (watcher) => {
    this.#watchers.add(watcher);
    const release = this.use();
    return () => {
      this.#watchers.delete(watcher);
      release();
    };
  };

  state = () => this.client?.connection ?? NOT_CONNECTED;
}

/** Returns the hooks for the broker that `options` names, as for `connect`. See react.d.ts. */
export function hooks(React, options = {}) {
  const { useEffect, useRef, useState, useSyncExternalStore } = React;
  const shared = new Shared(() => connect(options));

  /** Runs `open(client)` for as long as the component is mounted with these values. */
  function useClient(open, values) {
    useEffect(() => {
      const release = shared.use();
      const close = open(shared.client);
      return () => {
        close?.();
        release();
      };
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
      const names = ["event", "gap", "caughtUp", "marked", "counts", "denied", "ended"];
      const all = Object.fromEntries(names.map((name) => [name, call(name)]));
      // A handler for ephemeral events that is not there is that for events, as with `subscribe`.
      all.ephemeral = (...values) => {
        const { ephemeral, event } = newest.current ?? {};
        return (ephemeral ?? event)?.(...values);
      };
      const subscription = client.subscribe(topics, options, all);
      return () => subscription.close();
    }, [topics, options]);
  }

  /** Returns the newest events of topics, the oldest first: at most `limit`, 100 if it is missing. */
  function useEvents(topics, { limit = 100, ...options } = {}) {
    const none = { events: [], gaps: [], isCaughtUp: false };
    const [{ of, ...shown }, setShown] = useState({ ...none, of: null });
    const asked = JSON.stringify([topics, options]);
    const change = (to) =>
      setShown((known) => {
        const before = known.of === asked ? known : { ...none, of: asked };
        return { ...before, ...to(before) };
      });
    useSubscription(topics, { storage: "memory", ...options }, {
      event: (event) => change(({ events }) => ({ events: [...events, event].slice(-limit) })),
      gap: (gap) => change(({ gaps }) => ({ gaps: [...gaps, gap].slice(-limit) })),
      caughtUp: () => change(() => ({ isCaughtUp: true })),
    });
    return of === asked ? shown : none;
  }

  /** Returns the state of the connection. */
  function useConnectionState() {
    return useSyncExternalStore(shared.watch, shared.state, () => NOT_CONNECTED);
  }

  /** Returns what `open(client)` holds now, anew with each of its events "change". */
  function useHeld(open, read, values) {
    const held = useRef(null);
    const [, setTurn] = useState(0);
    useClient((client) => {
      const own = (held.current = open(client));
      const turn = () => setTurn((last) => last + 1);
      own.addEventListener("change", turn);
      turn();
      return () => {
        own.removeEventListener("change", turn);
        own.close();
        held.current = held.current === own ? null : held.current;
      };
    }, values);
    return read(held.current);
  }

  /** Returns an inbox: its entries and counts, and what to do with them. */
  function useInbox(options) {
    const refused = useNewest(options.refused);
    const { refused: _, ...values } = options;
    const open = (client) => {
      const opened = inbox(client, values);
      opened.addEventListener("refused", ({ detail }) => refused.current?.(detail));
      return opened;
    };
    const quietly = (promise) => promise?.catch(() => {}); // `refused` has been told.
    return useHeld(open, (held) => ({
      entries: held?.entries ?? [],
      counts: held?.counts ?? null,
      view: held?.view ?? values.view ?? "inbox",
      hasMore: held?.hasMore ?? false,
      isOld: held?.isOld ?? true,
      show: (view) => held?.show(view),
      more: () => held?.more(),
      mark: (entries, change) => quietly(held?.mark(entries, change)),
      markAll: (mark) => quietly(held?.markAll(mark)),
    }), [values]);
  }

  /** Returns the members of a topic. With `member`, the page's user is one of them. */
  function usePresence(topic, options) {
    const open = (client) => presence(client, topic, options);
    return useHeld(open, (held) => held?.members ?? [], [topic, options]);
  }

  return { useSubscription, useEvents, useConnectionState, useInbox, usePresence };
}
