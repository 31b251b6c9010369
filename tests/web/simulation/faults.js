// What happens in a run, step by step: publishes, and faults of the broker, the network, the tokens,
// the clocks and the tabs. `world` is what `run.js` has made.

import { problem } from "../fakes/broker.js";
import { settle } from "../fakes/clock.js";
import { followMore, unfollow } from "./tab.js";

const HOUR_MS = 3_600_000;
const KEYS = ["a", "b", "c", "d", "e"];
/** The least pause after `stopping`: half of what it says. */
export const STOPPING_MS = 3_000;
const TEMPORARY = [408, 429, 502, 503, 504];
const FINAL = [400, 404, 409, 500];

/** An answer of a proxy or of the broker, some with the time after which to come back. */
function refusal(world) {
  const status = world.pick([...TEMPORARY, ...FINAL]);
  const afterS = world.pick([0, 3, 20]);
  const headers = afterS ? { "Retry-After": `${afterS}` } : {};
  const reason = `by chance, the refusal ${world.hints.size + 1}`;
  world.hints.set(reason, afterS * 1_000);
  return new Response(JSON.stringify(problem(status, reason)), { status, headers });
}

/** Stores events, and drops them before anybody is told; and one more, which is told. */
function loseAtOnce({ broker, random, pick }) {
  const topic = pick(["orders", "others"]);
  for (let count = 1 + Math.floor(random() * 3); count > 0; count--) {
    broker.store(topic, { type: "a", data: "lost" });
  }
  broker.drop(topic, Infinity);
  broker.publish(topic, { type: "a", data: "after a loss" });
}

const publishing = {
  publishOutside({ broker, pick }) {
    const key = pick([undefined, ...KEYS]);
    const data = pick(["x", "x", "x", key ? undefined : "x"]); // Some delete their key.
    broker.publish(pick(["orders", "others"]), { type: pick(["a", "b"]), key, data });
  },

  publishMany: ({ broker, random }) =>
    broker.publish(
      "orders",
      ...Array.from({ length: 1 + Math.floor(random() * 30) }, () => ({ type: "a", data: "many" })),
    ),

  publishInside({ tab, pick, random, broker, publish }) {
    for (let count = 1 + Math.floor(random() * 4); count > 0; count--) {
      const type = pick(["", "", "", "", "", "", "", "busy", "forbidden"]);
      const answers = {
        busy: [problem(503, "later", { retry_after_ms: 300 })],
        forbidden: [problem(403, "not permitted")],
      };
      broker.refusals.set(type, answers[type] ?? []);
      publish(tab, pick(["orders", "orders", "others"]), type);
    }
  },

  /** More than the outbox holds. */
  publishTooMany({ tab, publish }) {
    for (let count = 0; count < 30; count++) {
      publish(tab, "orders", "");
    }
  },

  /** Events that are sent now or dropped. */
  publishEphemeral({ tab, pick, random, publish }) {
    for (let count = 1 + Math.floor(random() * 3); count > 0; count--) {
      publish(tab, pick(["orders", "others"]), "", { ephemeral: true });
    }
  },

  /** The answer to a publish is lost, and more is published before it is sent again. */
  async publishInDoubt(world) {
    const { tab, broker, clock, publish, random, pick } = world;
    const sockets = broker.open("websocket");
    sockets.forEach((socket) => (socket.losesAnswers = true));
    tab.faults.losesAnswers = 1;
    for (let round = 0; round < 3; round++) {
      for (let count = 1 + Math.floor(random() * 3); count > 0; count--) {
        publish(tab, "orders", "");
      }
      await clock.advance(pick([0, 5, 50]));
      pick([true, false]) && broker.publish("orders", { type: "b", data: "x" });
    }
    tab.faults.losesAnswers = 0;
    sockets.forEach((socket) => (socket.losesAnswers = false));
    pick([true, false]) && sockets.forEach((socket) => socket.end());
  },

  /** Events that are gone before a live reader has got them. */
  lostAtOnce: loseAtOnce,

  /** The same while one line follows another, so that both tell it. */
  async lostOverTwoLines(world) {
    const { tab, clock, random } = world;
    tab.page.tell("online");
    tab.followers.length < 4 && followMore(world, tab);
    await clock.advance(15 + random() * 60);
    loseAtOnce(world);
    await clock.advance(random() * 300);
    loseAtOnce(world);
  },

  retention: ({ broker, pick }) => broker.drop(pick(["orders", "others"]), pick([1, 3, 20])),
};

const brokers = {
  kill: ({ broker }) => broker.kill(),
  restart: ({ broker }) => broker.restart(),
  comeBack: ({ broker }) => broker.restart(),

  /** Stops and starts at once: all connections end, with a word or without one. */
  bounce({ broker, pick }) {
    const code = pick([1001, 1006, 4109]);
    broker.open().forEach((connection) => connection.end(code));
  },

  closeCode({ broker, pick, hints }) {
    const code = pick([1006, 1011, 1013, 4108, 4109, 4110]);
    const retryMs = code === 1013 ? 2_000 : pick([0, 0, 4_000]);
    const said = code === 1013 || retryMs === 0 ? "" : ` retry_ms=${retryMs}`;
    const reason = `the end ${hints.size + 1}${said}`;
    hints.set(reason, retryMs / 2); // From half of it on.
    pick(broker.open("websocket"))?.end(code, reason);
  },

  /** The broker does not want the client back, which says so at once. */
  async forbidReturn({ broker, pick, random, live, complain }) {
    const socket = random() < 0.2 && pick(broker.open("websocket"));
    if (socket) {
      const { page } = socket;
      const isAlone = broker.open().every((it) => it === socket || it.page !== page);
      socket.end(pick([1008, 4000, 4029, 4099]), "not again");
      await settle();
      const { leftoff } = live().find((tab) => tab.page === page);
      const { state } = leftoff.connection;
      if (isAlone && !page.isFrozen && state !== "closed") {
        complain(`${state} though the broker does not want it back`);
      }
    }
  },
  refuseSubscriptions(world) {
    world.refuses = world.pick([0, 0.3]);
  },
  stopping: ({ broker, pick }) =>
    pick(broker.open("stream"))?.tell({ type: "stopping", retry_ms: 2 * STOPPING_MS }),
};

const network = {
  cut: ({ broker, pick }) => pick(broker.open())?.end(),
  finish: ({ broker, pick }) => pick(broker.open("stream"))?.finish(),
  stall({ broker, pick }) {
    const connection = pick(broker.open());
    connection && (connection.isStalled = true);
  },
  stallAnswers: ({ tab }) => (tab.faults.stallsAnswers = !tab.faults.stallsAnswers),
  loseAnswers: ({ tab, pick }) => (tab.faults.losesAnswers = pick([0, 0.5])),
  loseAnswersOfSocket({ broker, pick }) {
    const socket = pick(broker.open("websocket"));
    socket && (socket.losesAnswers = true);
  },
  double: ({ tab, pick }) => (tab.faults.doubles = pick([0, 0.3, 1])),
  delay: ({ tab, pick }) => (tab.faults.latencyMs = pick([0, 30, 800, 4_000])),
  online: ({ tab, browser }) => browser.setOnline(tab.page, !tab.page.isOnline),
  network({ tab }) {
    tab.states.woken(true);
    tab.page.tell("online");
  },
  /** Another network, on which the former connections are dead. */
  otherNetwork({ tab, broker }) {
    broker.open().forEach((it) => it.page === tab.page && (it.isStalled = true));
    tab.states.woken(true);
    tab.page.tell("online");
  },

  proxy({ broker, pick }) {
    const fault = pick(["refusesUpgrade", "silencesUpgrade", "buffersStreams", "hangsUpgrade"]);
    broker.faults[fault] = !broker.faults[fault];
  },
  cutLong: ({ broker, pick }) =>
    (broker.faults.cutsAfterMs = pick([Infinity, 1_000, 5_000, 20_000])),
  answers(world) {
    const share = world.pick([0, 0.2, 0.5]);
    world.broker.faults.answer = () => (world.random() < share ? refusal(world) : undefined);
  },
};

const tokens = {
  /** The former token is refused from now on; the page has the next one when it asks. */
  rotate: (world) => world.rotate(),
  /** The page has no next token yet. */
  staleToken(world) {
    world.isTokenStale = !world.isTokenStale;
  },
  tokenFails(world) {
    world.isTokenFailing = !world.isTokenFailing;
  },
  expireSocket: ({ broker, pick }) => pick(broker.open("websocket"))?.expire(),
  expireStream: ({ broker, pick }) => pick(broker.open("stream"))?.expire(),
  /** Whatever the token, the broker ends each connection for it. */
  expireAll: ({ broker, pick, hasToken }) =>
    hasToken && (broker.faults.expiresAfterMs = pick([Infinity, 50, 3_000])),
  forbid({ broker, random }) {
    if (random() < 0.1) {
      broker.faults.answer = () => 403;
    }
  },
};

/** Tells a page that it is seen, or not any more. */
function see({ states, page }) {
  states.woken();
  page.tell("visibilitychange");
}

const pages = {
  freeze({ tab, pick, frozen }) {
    tab.isTold = pick([true, false]);
    tab.page.freeze(tab.isTold);
    frozen.add(tab);
  },
  thaw({ frozen, pick, thaw }) {
    const tab = pick([...frozen]);
    tab && thaw(tab);
  },
  /** The whole device sleeps: timers stand still, and the clock on the wall goes on. */
  sleep({ live, clock, pick, thaw, broker }) {
    const asleep = live().filter(({ page }) => !page.isFrozen);
    asleep.forEach((tab) => tab.page.freeze((tab.isTold = false)));
    clock.jump(pick([60_000, 8 * HOUR_MS, -HOUR_MS]));
    const end = pick([() => {}, (it) => it.end(), (it) => (it.isStalled = true)]);
    broker.open().forEach(end);
    asleep.forEach(thaw);
    asleep.forEach(see);
  },
  jump({ clock, pick, live }) {
    clock.jump(pick([-HOUR_MS, -5_000, 5_000, HOUR_MS]));
    live().forEach(({ manners }) => manners?.disturbed());
  },
  hide({ tab }) {
    tab.isHidden = !tab.isHidden;
    tab.isHidden || tab.manners?.forced();
    tab.page.tell(tab.isHidden ? "pagehide" : "pageshow", { persisted: true });
  },
  visible({ tab, pick }) {
    tab.page.visibilityState = pick(["visible", "hidden"]);
    see(tab);
  },
  retry({ tab }) {
    tab.manners?.forced();
    tab.leftoff.retryNow();
  },
};

const tabs = {
  follow: (world) => world.tab.followers.length < 4 && followMore(world, world.tab),
  unfollow({ tab }) {
    const open = tab.followers.filter(({ isClosed }) => !isClosed);
    open.length > 1 && unfollow(open[0]);
  },
  reload: ({ tab, reload }) => reload(tab),
  /** The time until a page learns that another tab leads in its place. */
  tellLate: ({ browser, pick }) => (browser.locks.stolenMs = pick([0, 300, 3_000])),
  open: ({ isShared, live, open }) => isShared && live().length < 5 && open(),
  killTab: ({ tab, live, kill }) => live().length > 1 && kill(tab),
  closeTab: ({ tab, live, close }) => live().length > 1 && close(tab),
  killLeader({ broker, live, kill }) {
    const leader = live().find(({ page }) => broker.open().some((it) => it.page === page));
    live().length > 1 && leader && kill(leader);
  },
  freezeLeader({ broker, live, frozen }) {
    const leader = live().find(({ page }) => broker.open().some((it) => it.page === page));
    if (leader && !leader.page.isFrozen) {
      leader.page.freeze((leader.isTold = false));
      frozen.add(leader);
    }
  },
};

/** All steps by their names. */
export const steps = { ...publishing, ...brokers, ...network, ...tokens, ...pages, ...tabs };

/** How often a step is taken; the others once. */
const OFTEN = {
  publishOutside: 9,
  publishInside: 7,
  publishInDoubt: 3,
  publishMany: 2,
  lostAtOnce: 2,
  lostOverTwoLines: 3,
  restart: 3,
  thaw: 3,
  answers: 2,
  network: 2,
  sleep: 2,
  otherNetwork: 2,
  visible: 3,
};

/** The names of the steps, each as often as it is to be taken. */
export const lots = Object.keys(steps).flatMap((name) => Array(OFTEN[name] ?? 1).fill(name));
