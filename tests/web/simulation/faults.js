// What happens in a run, step by step: publishes, and faults of the broker, the network, the tokens,
// the clocks and the tabs. `world` is what `run.js` has made.

import { problem } from "../fakes/broker.js";

const HOUR_MS = 3_600_000;
const TEMPORARY = [408, 429, 502, 503, 504];
const FINAL = [400, 404, 409, 500];

/** An answer of a proxy or of the broker, some with the time after which to come back. */
function refusal(world) {
  const status = world.pick([...TEMPORARY, ...FINAL]);
  const headers = world.pick([{}, { "Retry-After": "3" }]);
  return new Response(JSON.stringify(problem(status, "by chance")), { status, headers });
}

const publishing = {
  publishOutside: ({ broker, pick }) => broker.publish(pick(["orders", "others"]), { data: "x" }),

  publishMany: ({ broker, random }) =>
    broker.publish(
      "orders",
      ...Array.from({ length: 1 + Math.floor(random() * 30) }, () => ({ data: "many" })),
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

  closeCode: ({ broker, pick }) =>
    pick(broker.open("websocket"))?.end(pick([1006, 1011, 1013, 4108, 4109, 4110])),
  forbidReturn: ({ broker, pick, random }) =>
    random() < 0.1 && pick(broker.open("websocket"))?.end(4029, "too many refusals"),
  stopping: ({ broker, pick }) =>
    pick(broker.open("stream"))?.tell({ type: "stopping", retry_ms: 1_000 }),
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
  network: ({ tab }) => tab.page.tell("online"),

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
  expireSocket: ({ broker, pick }) => pick(broker.open("websocket"))?.end(4001, "expired"),
  expireStream({ broker, pick, counts }) {
    const stream = pick(broker.open("stream"));
    counts.denials += stream ? 1 : 0;
    stream?.tell({ type: "expired" });
  },
  forbid({ broker, random }) {
    if (random() < 0.1) {
      broker.faults.answer = () => 403;
    }
  },
};

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
    clock.jump(pick([60_000, 8 * HOUR_MS]));
    pick([true, false]) && broker.open().forEach((connection) => connection.end());
    asleep.forEach(thaw);
  },
  jump: ({ clock, pick }) => clock.jump(pick([-HOUR_MS, -5_000, 5_000, HOUR_MS])),
  hide({ tab }) {
    tab.isHidden = !tab.isHidden;
    tab.page.tell(tab.isHidden ? "pagehide" : "pageshow", { persisted: true });
  },
  visible({ tab, pick }) {
    tab.page.visibilityState = pick(["visible", "hidden"]);
    tab.page.tell("visibilitychange");
  },
  retry: ({ tab }) => tab.leftoff.retryNow(),
};

const tabs = {
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
const OFTEN = { publishOutside: 9, publishInside: 7, publishMany: 2, restart: 3, thaw: 3 };

/** The names of the steps, each as often as it is to be taken. */
export const lots = Object.keys(steps).flatMap((name) => Array(OFTEN[name] ?? 1).fill(name));
