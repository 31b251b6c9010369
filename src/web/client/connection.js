// The connection: one state machine that picks a transport, comes back after each end, and climbs
// back to the best transport. All subscriptions go over one line, each from its cursor.

import { CHANGE_MS, DOUBT_MS, GOOD_MS, OPEN_MS, OVERLAP_MS, PROBE_MS, STRIKES } from "./limits.js";
import { move } from "./subscription.js";
import { backoff, bounded, LOST, Problem, transports } from "./transports.js";

export const stateOf = (state, reason = "", attempt = 0, nextTryAt = null, transport = null) => ({
  state,
  reason,
  attempt,
  nextTryAt,
  transport,
});

/** Opens a line: a transport with deadlines. It is up with its first message, and ends once. */
function openLine(io, http, on, open) {
  let timer;
  let heardAt = io.now();
  let hasAsked;
  let heartbeatMs = 15_000;

  const wait = (ms, run) => {
    io.clearTimeout(timer);
    timer = io.setTimeout(run, ms);
  };
  const giveUp = () => line.end({ message: "silent" });
  const ask = (ms) => {
    hasAsked = true;
    wait(ms, giveUp);
    line.transport.ping?.();
  };
  const heard = () => {
    heardAt = io.now();
    // The deadline is set while the network speaks: browsers delay other timers of hidden tabs.
    if (line.isUp) {
      hasAsked = false;
      wait(heartbeatMs, () => ask(heartbeatMs / 2));
    }
  };
  const message = (told) => {
    const { isUp, isOver } = line;
    if (isOver) {
      return;
    }
    if (!told.type) {
      throw new Error("not a broker");
    }
    heartbeatMs = bounded(told.heartbeat_ms) || heartbeatMs;
    line.isUp = true;
    heard();
    isUp || on.up(line);
    on.message(line, told);
  };

  const line = {
    /** Looks at the clock, since timers stand still while a page sleeps. */
    check(isDoubtful) {
      const isSilent = Math.abs(io.now() - heardAt) > 1.5 * heartbeatMs;
      line.isUp && !hasAsked && (isDoubtful || isSilent) && ask(DOUBT_MS);
    },
    /** Ends the line. The error says why; without it nobody is told. */
    end(problem) {
      if (!line.isOver) {
        line.isOver = true;
        io.clearTimeout(timer);
        line.transport?.close();
        problem && on.down(line, problem);
      }
    },
  };
  http.renew().then(() => {
    if (!line.isOver) {
      wait(OPEN_MS, giveUp);
      line.transport = open({ message, heard, down: line.end });
    }
  }, line.end);
  return line;
}

/** `on` is told `message` and, with each change of the state, `status`. */
export function connection(io, http, names, on) {
  /** The messages that ask for the subscriptions, each from its present cursor. */
  const asks = new Map();
  let version = 0;
  let line;
  let beside;
  /** The present transport by its place in the list, and the last one that was good. */
  let level = 0;
  let good;
  let strikes = 0;
  const pauses = backoff(io);
  let hasRenewed;
  let wasUp;
  /** The time before which the broker forbids to come back. */
  let notBefore = 0;
  const timers = {};

  /** Sets the timer of this name; without a time to come, ends it. */
  const after = (name, ms, run) => {
    io.clearTimeout(timers[name]);
    timers[name] = ms >= 0 && io.setTimeout(run, ms);
  };

  const tell = (state, reason, nextTryAt) => {
    const transport = line?.isUp ? names[level] : null;
    on.status((self.status = stateOf(state, reason, pauses.tries, nextTryAt, transport)));
  };

  const tellTrying = (reason, nextTryAt) =>
    tell(io.isOnline() ? (wasUp ? "reconnecting" : "connecting") : "offline", reason, nextTryAt);

  const leaveBeside = () => {
    beside?.end();
    beside = undefined;
    after("overlap");
  };

  const end = () => {
    for (const name in timers) {
      after(name);
    }
    leaveBeside();
    line?.end();
    line = undefined;
  };

  const stop = (state, reason) => {
    end();
    notBefore = Infinity;
    tell(state, reason);
  };

  const connect = (isWell) => {
    end();
    line = open(level);
    isWell || tellTrying(self.status?.reason);
  };

  const open = (at) => {
    const opened = openLine(io, http, { up, message: take, down }, (told) => {
      opened.version = version;
      return transports[names[at]](io, http, () => [...asks.values()], told);
    });
    opened.level = at;
    return opened;
  };

  const up = (it) => {
    asks.forEach((ask) => it.transport.subscribe?.(ask));
    it === beside ? after("overlap", OVERLAP_MS, () => lead(it)) : lead(it);
  };

  /** Everything goes over this line from now on. */
  const lead = (it) => {
    it === line || line.end();
    line = it;
    level = it.level;
    wasUp = true;
    beside = undefined;
    after("overlap");
    after("good", GOOD_MS, () => {
      it.isGood = true;
      pauses.tries = strikes = 0;
      hasRenewed = false;
      good = it.level;
    });
    (level && timers.probe) || probeLater();
    // A line with another token is there before the permission of this one is over.
    const life = Math.max((http.claims.exp * 1000 - io.now()) * 0.8, GOOD_MS);
    const renew = () => {
      after("token", OPEN_MS * (1 + 2 * io.random()), renew); // Until a line has another token.
      beside || probe(level);
    };
    after("token", Math.min(life, 2e9), renew);
    reopen();
    tell(names[level] === "poll" ? "polling" : "connected");
  };

  const probeLater = () =>
    after("probe", level ? PROBE_MS : -1, () => probeLater(probe(0)));

  /** Opens a line of this level beside the present one; failing that, of the next levels. */
  const probe = (at) => {
    leaveBeside();
    beside = line?.isUp ? open(at) : undefined;
  };

  /** Whether the line carries all, or can be told of it. */
  const isWhole = () => line.version === version || !!line.transport.subscribe;

  /** Opens a line again that does not carry all. */
  const reopen = () =>
    line?.isUp && !isWhole() && after("change", CHANGE_MS, () => probe(level));

  /** Takes a message. Two lines may bring the same event: the first one counts. */
  const take = (from, message) => {
    const { type, subscription } = message;
    const ask = asks.get(subscription);
    const isRepeated = type === "ephemeral" && from !== line;
    if (!ask || isRepeated || !move(ask, message, beside?.isUp)) {
      return;
    }
    if (type === "ended" || type === "error") {
      message.type = "ended";
      asks.delete(subscription);
    }
    on.message(message);
  };

  const down = (it, problem) => {
    // The broker may name the subscription that is wrong.
    const error = problem.details;
    const subscription = error?.subscription;
    version -= asks.has(subscription);
    take(it, { type: "ended", subscription, error });
    if (it === beside) {
      leaveBeside();
      if (subscription) {
        return reopen();
      }
      if (it.level + isWhole() < level) {
        return probe(it.level + 1);
      }
      if (isWhole()) {
        return; // Its token may still be good.
      }
    } else if (beside?.isUp) {
      return lead(beside);
    }
    end();
    subscription ? connect(it.isUp) : failed(it, problem);
  };

  const failed = (it, { message: reason, status, details, closeCode = 1006, retryAfterMs }) => {
    const { level: at, isUp, isGood } = it;
    if (/^40(1|3|01)$/.test(status ?? closeCode)) {
      if (details || hasRenewed || !http.askToken) {
        return stop("denied", reason);
      }
      hasRenewed = true;
    } else if (/^(100[2789]|40..)$/.test(closeCode)) {
      return stop("closed", reason); // The broker forbids to come back.
    } else if (!isUp && /^(0|429|5..)$/.test(status)) {
      // The broker is away, and no other transport would reach it.
      level = good ?? 0;
    } else if (!isGood && closeCode === 1006) {
      strikes += isUp || good === at ? 1 : STRIKES;
      if (strikes >= STRIKES) {
        strikes = 0;
        good = undefined;
        level = (at + 1) % names.length;
        if (level && !isUp) {
          return connect();
        }
      }
    }
    // Without a word, a broker that has no room wants two seconds.
    const leastMs = bounded(retryAfterMs ?? 2_000 * (closeCode === 1013));
    const pause = pauses.next(leastMs);
    notBefore = io.now() + leastMs;
    after("pause", pause, connect);
    tellTrying(reason, Math.ceil(io.now() + pause));
  };

  const tellLines = (method, value) => {
    version++;
    [line, beside].forEach((it) => it?.isUp && it.transport[method]?.(value));
    reopen();
  };

  const self = {
    subscribe(ask) {
      self.forget(ask.subscription.split(".")[0] + "."); // What was asked for it before.
      // Two lines would begin "latest" at two places.
      beside?.isUp ? lead(beside) : leaveBeside();
      asks.set(ask.subscription, ask);
      tellLines("subscribe", ask);
    },

    unsubscribe(subscription) {
      asks.delete(subscription) && tellLines("unsubscribe", subscription);
    },

    /** Ends the subscriptions whose names begin so, such as those of a tab. */
    forget(start) {
      asks.forEach((ask, name) => name.startsWith(start) && self.unsubscribe(name));
    },

    async publish(message) {
      if (!line?.isUp) {
        throw new Problem(LOST);
      }
      const { transport } = line;
      if (transport.request) {
        return transport.request({ type: "publish", ...message });
      }
      const { ephemeral, topic, event } = message;
      if (!ephemeral) {
        return http.send("POST", "v1/publish", message);
      }
      const { data, ...fields } = event;
      const query = new URLSearchParams({ ephemeral, ...fields });
      return http.send("POST", `v1/topics/${encodeURIComponent(topic)}/events?${query}`, data);
    },

    /** Looks at the line, or comes back unless the broker forbids it. */
    wake(isForced, isOtherNetwork) {
      if (line) {
        line.check(isOtherNetwork);
        isOtherNetwork && level && probe(0);
      } else if (isForced || io.now() >= notBefore) {
        level = isOtherNetwork ? 0 : level;
        connect();
      }
    },

    suspend() {
      end();
      tellTrying("the page sleeps");
    },

    close: () => stop("closed", "closed"),
  };
  tellTrying();
  // What is subscribed to in the first task goes with the first request.
  after("pause", 0, connect);
  return self;
}
