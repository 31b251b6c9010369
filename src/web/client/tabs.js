// Tabs: one connection for all tabs of an origin. The tab that holds a lock leads: it has the
// connection, and the others call it over channels. Each keeps its own cursors, so that another one
// can lead at any time.

import { stateOf } from "./connection.js";
import { calls } from "./transports.js";

/** The time between two questions to the leader; longer while nobody looks. */
const ASK_MS = 400;
const HIDDEN_ASK_MS = 5_000;
/** A leader that leaves so many questions without an answer is frozen, and loses its place. */
const MOST_UNANSWERED = 3;

/** Joins the tabs. `on` is told what a connection tells, and `reset` by another leader. */
export function tabs(io, http, group, open, on) {
  let id;
  let name;
  /** Who leads, and the number of the lead: one with a lower number has been replaced. */
  let leader;
  let term = 0;
  /** The connection, if this tab leads. */
  let connection;
  const followers = new Set();
  const channels = new Map();
  const waiting = calls(io);
  let unanswered = 0;
  let timer;
  /** Gives locks back, and requests for them. */
  let releases = [];
  /** Rises when the tab joins the group or leaves it. */
  let stay = 0;

  /** Joins the tabs of the same person, as far as the token says who that is. */
  const join = async () => {
    const mine = ++stay;
    io.clearTimeout(timer);
    // Another name each time: a frozen tab may wait for the lock of the former one.
    id = io.newId();
    try {
      await http.renew();
    } catch {
      if (mine === stay) {
        timer = io.setTimeout(join, HIDDEN_ASK_MS);
      }
      return;
    }
    if (mine === stay) {
      const { iss, sub } = http.claims;
      name = JSON.stringify(["leftoff", http.base, group, iss, sub]);
      to("").onmessage = to(id).onmessage = ({ data }) => hear(data);
      // The lock of a tab tells the leader that the tab is there.
      hold(id, {}, () => {
        stand();
        ask();
      });
    }
  };

  /** Holds a lock until the tab leaves. */
  const hold = (lock, options, run) => {
    const mine = stay;
    const abort = new AbortController();
    const held = () =>
      new Promise((release) => {
        releases.push(release);
        mine === stay ? run() : release();
      });
    const { signal } = options.steal ? {} : abort;
    releases.push(() => abort.abort());
    io.locks.request(name + lock, { ...options, signal }, held).catch((error) => {
      if (mine === stay && error.name === "AbortError") {
        // Another tab has taken the lead: this one was frozen or busy.
        self.suspend();
        join();
      } else if (mine === stay) {
        lead(); // Locks are forbidden here, as in some frames.
      }
    });
  };

  const stand = (options = {}) => hold("", options, () => connection ?? lead());

  const lead = () => {
    const mine = stay;
    term = Math.max(term + 1, io.now());
    meet(id);
    const status = (told) => {
      if (mine === stay) {
        post("", { status: told });
        on.status(told);
      }
    };
    connection = open({ message: route, status });
    on.reset();
  };

  /** Hands a message to its tab, whose name is the beginning of the subscription's. */
  const route = (message, size) => {
    const [tab, subscription] = message.subscription.split("/");
    const told = { ...message, subscription };
    tab === id ? on.message(told, size) : post(tab, { message: told, size });
  };

  const to = (tab) => {
    const channel = channels.get(tab) ?? new io.BroadcastChannel(name + tab);
    channels.set(tab, channel);
    return channel;
  };

  const post = (tab, data) =>
    name && to(tab).postMessage({ from: id, term: leader === id && term, ...data });

  /** Asks the leader whether it is there. Questions count, not time: timers of tabs may stop. */
  const ask = () => {
    io.clearTimeout(timer);
    if (!connection && name) {
      timer = io.setTimeout(
        ask,
        io.document?.visibilityState === "hidden" ? HIDDEN_ASK_MS : ASK_MS,
      );
      if (unanswered++ < MOST_UNANSWERED) {
        return post("", {});
      }
      unanswered = 0;
      stand({ steal: true });
    }
  };

  const hear = ({ from, term: its, status, message, size, call, answer, ...asked }) => {
    if (!its) {
      return connection && serve(from, asked, call);
    }
    if (connection || its < term) {
      return; // Of two leaders, the earlier one was frozen, and will lose its lock.
    }
    unanswered = 0;
    if (from !== leader) {
      term = its;
      meet(from);
      on.reset();
    }
    status && on.status(status);
    message && on.message(message, size);
    waiting.settle(call, answer);
  };

  /** Takes a leader; calls of the former one are lost. */
  const meet = (tab) => {
    leader = tab;
    waiting.lose();
  };

  /** Calls a method of the connection for another tab, or tells it the state. */
  const serve = async (from, { method, values }, call) => {
    if (!followers.has(from)) {
      followers.add(from);
      io.locks.request(name + from, () => forget(from));
    }
    if (!method) {
      return post(from, { status: connection.status });
    }
    const done = (async () => connection[method](...values))();
    const answer = await done.catch(({ details: error }) => ({ error }));
    call && post(from, { call, answer });
  };

  const forget = (tab) => {
    followers.delete(tab);
    connection?.forget(tab);
    channels.get(tab)?.close();
    channels.delete(tab);
  };

  const callOn = (method, ...values) =>
    connection ? connection[method](...values) : leader && post(leader, { method, values });

  const self = {
    subscribe: (asked) =>
      callOn("subscribe", { ...asked, subscription: `${id}/${asked.subscription}` }),
    unsubscribe: (subscription) => callOn("unsubscribe", `${id}/${subscription}`),

    publish: (message) =>
      connection?.publish(message) ??
      waiting.make((call) =>
        leader ? post(leader, { method: "publish", values: [message], call }) : waiting.lose(),
      ),

    wake(...values) {
      if (!name) {
        return join(); // It slept, or had no token.
      }
      callOn("wake", ...values);
      ask();
    },

    /** Leaves the group while the page sleeps. */
    suspend(state = "reconnecting", reason = "the page sleeps") {
      stay++;
      io.clearTimeout(timer);
      connection?.close();
      connection = name = undefined;
      meet();
      followers.clear();
      releases.forEach((release) => release());
      releases = [];
      channels.forEach((channel) => channel.close());
      channels.clear();
      unanswered = 0;
      on.status(stateOf(state, reason));
    },

    close: () => self.suspend("closed", "closed"),
  };
  join();
  return self;
}
