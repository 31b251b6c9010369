// Tabs: one connection for all tabs of an origin. The tab that holds a lock has it, and the others
// call it over channels. Each keeps its own cursors, so that another one can lead at any time.

import { stateOf } from "./connection.js";
import { ASK_MS, JOIN_AGAIN_MS, MOST_UNANSWERED } from "./limits.js";
import { calls, LOST } from "./transports.js";

/** `on` is told what a connection tells, and `reset` by another leader. */
export function tabs(io, http, group, open, on) {
  let id;
  let name;
  /** Who leads, and the number of the lead: one with a lower number has been replaced. */
  let leader;
  let term = 0;
  let connection;
  const channels = new Map();
  const waiting = calls(io);
  let unanswered = 0;
  let timer;
  /** Ends when the tab leaves the group. Then all locks are given back. */
  let stay = new AbortController();

  /** Joins the tabs of the same person, as far as the token says who that is. */
  const join = async () => {
    stay.abort();
    stay = new AbortController();
    const { signal } = stay;
    io.clearTimeout(timer);
    // Another name each time: a frozen tab may wait for the lock of the former one.
    id = io.newId();
    const problem = await http.renew().catch((problem) => problem);
    if (signal.aborted) {
      return;
    }
    if (problem) {
      timer = io.setTimeout(join, JOIN_AGAIN_MS);
    } else {
      // Who is not named, neither by the token nor by the application, is alone.
      const { iss, sub = http.askToken && group === true && id } = http.claims;
      name = JSON.stringify(["leftoff", http.base, group, iss, sub]);
      // The lock of a tab tells the leader that the tab is there: first of all it is held.
      hold(id, false, () => {
        to("").onmessage = to(id).onmessage = ({ data }) => hear(data);
        stand();
        ask();
      });
    }
  };

  const hold = (lock, steal, run) => {
    const { signal } = stay;
    const held = () =>
      new Promise((release) => {
        signal.addEventListener("abort", release);
        signal.aborted ? release() : run();
      });
    io.locks.request(name + lock, steal ? { steal } : { signal }, held).catch((error) => {
      if (signal.aborted) {
        return;
      }
      if (error.name === "AbortError") {
        // Another tab has taken the lead: this one was frozen or busy.
        self.suspend();
        join();
      } else {
        lead(); // Locks are forbidden here, as in some frames.
      }
    });
  };

  const stand = (steal) => hold("", steal, () => connection ?? lead());

  const lead = () => {
    const { signal } = stay;
    term = Math.max(term + 1, io.now());
    meet(id);
    const status = (told) => {
      if (!signal.aborted) {
        post("", { status: told });
        on.status(told);
      }
    };
    connection = open({ message: route, status });
    on.reset();
  };

  /** Hands a message to its tab, whose name is the beginning of the subscription's. */
  const route = (message) => {
    const [tab, subscription] = message.subscription.split("/");
    const told = { ...message, subscription };
    if (tab === id) {
      return on.message(told);
    }
    try {
      post(tab, { message: told });
    } catch {
      const detail = "nested too deep"; // No browser copies such data to another tab.
      post(tab, { message: { type: "ended", subscription, error: { detail, status: 413 } } });
    }
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
      timer = io.setTimeout(ask, ASK_MS);
      if (unanswered++ < MOST_UNANSWERED) {
        return post("", {});
      }
      unanswered = 0;
      stand(true);
    }
  };

  const hear = ({ from, term: its, status, message, call, answer, ...asked }) => {
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
    message && on.message(message);
    waiting.settle(call, answer);
  };

  /** Takes a leader; calls of the former one are lost. */
  const meet = (tab) => {
    leader = tab;
    waiting.lose();
  };

  /** Calls a method of the connection for another tab, or tells it the state. */
  const serve = async (from, { method, values, at }, call) => {
    if (!channels.has(from)) {
      to(from);
      io.locks.request(name + from, () => forget(from));
    }
    if (!method) {
      return post(from, { status: connection.status });
    }
    const run = async () => connection[method](...values);
    const isLate = io.now() - at > 1_000; // Its tab has gone to another leader.
    const answer = isLate ? { error: LOST } : run().catch(({ details: error }) => ({ error }));
    call && post(from, { call, answer: await answer });
  };

  const forget = (tab) => {
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
        leader
          ? post(leader, { method: "publish", values: [message], call, at: io.now() })
          : waiting.lose(),
      ),

    wake(...values) {
      if (!name) {
        return join(); // It slept, or had no token.
      }
      callOn("wake", ...values);
      ask();
    },

    suspend(state = "reconnecting", reason = "the page sleeps") {
      stay.abort();
      io.clearTimeout(timer);
      connection?.close();
      connection = name = undefined;
      meet();
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
