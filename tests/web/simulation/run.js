// One run: a seed decides on the tabs, their transports and every fault. Then everything is healed,
// and what the tabs were told is compared with the model.

import { connect as theClient } from "../../../src/web/client/leftoff.js";
import { Broker, faults as noFaults, problem } from "../fakes/broker.js";
import { Browser } from "../fakes/browser.js";
import { chance, Clock } from "../fakes/clock.js";
import { edgeFaults, seen } from "./edge.js";
import { lots, steps, STOPPING_MS } from "./faults.js";
import { checkEphemeral, checkOrder, checkPublish, checkReceipt, OUTBOX } from "./model.js";
import { checkTab, openTab, subscriptionsOf } from "./tab.js";

const STEPS = 50;
const LOOK_MS = 2_000;
/** The time in which what was under way at the end of the faults comes to its end. */
const CALM_MS = 20_000;
/** The time in which everything is well again: the longest pauses, and a climb to the top. */
const HEAL_MS = 240_000;
const TRANSPORTS = [["websocket"], ["sse"], ["poll"], ["sse", "poll"]];
const ALL = ["websocket", "sse", "poll"];

/** Makes the world of a seed. */
function makeWorld(seed, say, connect) {
  const random = chance(seed);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const clock = new Clock();
  const broker = new Broker(clock);
  const browser = new Browser(clock, broker, seed * 7 + 1);
  const complaints = new Set();
  const storedAt = new Map();
  const store = broker.store.bind(broker);
  broker.store = (topic, event) => {
    storedAt.has(event.data) || storedAt.set(event.data, clock.passed);
    return store(topic, event);
  };
  const asked = new Map();
  const accept = broker.accept.bind(broker);
  broker.accept = (message) => {
    const answer = accept(message);
    const events = answer.error ? [] : (message.events ?? [message.event]);
    events.forEach(({ data }) => asked.set(data, (asked.get(data) ?? 0) + 1));
    return answer;
  };
  const subscribe = broker.subscribe.bind(broker);
  broker.subscribe = (connection, fields, send) => {
    const error = problem(429, "too many subscriptions", { retry_after_ms: 500 });
    random() < world.refuses
      ? send({ type: "error", subscription: fields.subscription, error })
      : subscribe(connection, fields, send);
  };
  let tokens = 0;
  const world = {
    say,
    connect,
    random,
    pick,
    clock,
    broker,
    browser,
    complaints,
    storedAt,
    asked,
    counts: seen(),
    /** The least pauses that the broker has asked for, by the reason that a client tells. */
    hints: new Map([["stopping", STOPPING_MS]]),
    followed: 0,
    refuses: 0, // The chance that a subscription is refused for a while.
    isShared: random() < 0.6,
    transports: pick([ALL, ALL, ALL, ...TRANSPORTS]),
    hasToken: random() < 0.5,
    tabs: [],
    entries: [],
    frozen: new Set(),
    complain: (text) => say(`! ${text}`) ?? complaints.add(text),
    live: () => world.tabs.filter(({ isKilled, isClosed }) => !isKilled && !isClosed),
    rotate() {
      const exp = Math.floor(clock.now / 1_000) + pick([30, 90, 600]);
      world.former = broker.token;
      const claims = btoa(JSON.stringify({ sub: "ann", exp, number: ++tokens }));
      broker.token = world.hasToken ? `x.${claims}.y` : null;
    },
  };
  // Two tabs with one kept outbox do not learn of each other's refusals.
  world.keepsOutbox = !world.isShared && random() < 0.5;
  world.rotate();
  return Object.assign(world, actions(world));
}

/** What the steps do with tabs. */
function actions(world) {
  const { clock, browser, frozen, entries } = world;
  return {
    open: (former) => world.tabs.push(openTab(world, former)),
    thaw(tab) {
      frozen.delete(tab);
      tab.manners?.disturbed();
      tab.isTold && tab.manners?.forced();
      tab.page.thaw(tab.isTold);
    },
    kill(tab) {
      tab.isKilled = true;
      frozen.delete(tab);
      browser.kill(tab.page);
    },
    reload(tab) {
      tab.wasKept = world.keepsOutbox;
      world.kill(tab);
      world.open(tab);
    },
    close(tab) {
      if (!tab.page.isFrozen) {
        tab.isClosed = true;
        tab.followers.forEach(({ model }) => (model.isClosed = true));
        tab.leftoff.close();
      }
    },
    settle(data, outcome) {
      const entry = entries.find((it) => it.data === data);
      Object.assign(entry, { ...outcome, at: clock.passed });
    },
    publish(tab, topic, type, { ephemeral } = {}) {
      const data = `${ephemeral ? "e" : "p"}${entries.length}`;
      const before = world.waiting(tab).length;
      entries.push({ tab, topic, data, before, ephemeral, state: "waits" });
      const key = world.pick([undefined, "a", "b"]);
      tab.leftoff.publish(topic, { type, key, data, ephemeral }).then(
        (value) => tab.isKilled || world.settle(data, { state: "fulfilled", value }),
        (error) => tab.isKilled || world.settle(data, { state: "rejected", error }),
      );
      return data;
    },
    /** The publishes of a tab that wait in its outbox. */
    waiting: (tab) =>
      entries.filter((it) => it.tab === tab && it.state === "waits" && !it.ephemeral),
  };
}

/** Ends all faults. */
function heal(world) {
  const { broker, browser, live, thaw } = world;
  world.isTokenStale = world.isTokenFailing = false;
  world.refuses = 0;
  broker.restart();
  Object.assign(broker.faults, noFaults());
  browser.locks.stolenMs = 0;
  broker.refusals.clear();
  for (const connection of broker.open()) {
    connection.losesAnswers = false;
    connection.isStalled && connection.end();
  }
  for (const tab of live()) {
    Object.assign(tab.faults, edgeFaults());
    tab.page.isFrozen && thaw(tab);
    tab.page.isOnline || browser.setOnline(tab.page, true);
    if (tab.isHidden) {
      tab.isHidden = false;
      tab.manners?.forced();
      tab.page.tell("pageshow", { persisted: true });
    }
    tab.page.visibilityState = "visible";
  }
}

/** What holds when nothing has gone wrong for a while. */
function checkHealed(world, ephemerals) {
  const { live, broker, isShared, complain, waiting } = world;
  for (const tab of live()) {
    checkTab(world, tab);
    waiting(tab).forEach(({ data }) => complain(`${data} waits though all is well`));
    if (tab.leftoff.connection.state === "connected") {
      tab.followers.forEach(({ isClosed, model, number }) => {
        const missing = isClosed ? 0 : model.missing("orders", ephemerals);
        missing > 1 && tab.told(`reader ${number} has missed ${missing} ephemeral events`);
      });
    }
  }
  const open = broker.open();
  const most = isShared ? 1 : live().length;
  open.length <= most || complain(`${open.length} connections at last`);
  const readers = open.reduce((sum, it) => sum + it.readers.size, 0);
  const wanted = live().reduce((sum, tab) => sum + subscriptionsOf(tab), 0);
  // Between two polls there is none.
  if (open.length > 0 && readers !== wanted) {
    complain(`the broker has ${readers} subscriptions at last, and not ${wanted}`);
  }
}

/** What holds after all clients are closed: nothing is left, and every promise is settled. */
function checkClosed({ tabs, broker, clock, entries, storedAt, asked, complain }) {
  const { all } = broker;
  for (const entry of entries.filter(({ ephemeral }) => !ephemeral)) {
    checkPublish(entry, all, storedAt, complain);
    checkReceipt(entry, broker, asked.get(entry.data), complain);
    const isLost = entry.tab.wasKept && entry.state === "waits" && !asked.has(entry.data);
    isLost && complain(`${entry.data} was kept over a reload, and not sent`);
  }
  entries
    .filter(({ ephemeral }) => ephemeral)
    .forEach((entry) => checkEphemeral(entry, broker, asked.get(entry.data) ?? 0, complain));
  for (const tab of tabs) {
    for (const topic of ["orders", "others"]) {
      const isMine = (entry) => entry.tab.owner === tab.owner && entry.topic === topic;
      const mine = tab.owner === tab.number ? entries.filter(isMine) : [];
      checkOrder(mine, all, (text) => complain(`tab ${tab.number}: ${text}`));
    }
    if (!tab.isKilled) {
      const timers = clock.timersOf(tab.page);
      timers === 0 || tab.told(`${timers} timers after its end`);
      tab.watch.open.size === 0 || tab.told(`${tab.watch.open.size} requests after its end`);
    }
  }
  broker.open().length === 0 || complain(`${broker.open().length} connections after the end`);
}

/** Runs a seed with a client, and returns the complaints. `say` is told what happens. */
export async function run(seed, say = () => {}, connect = theClient) {
  const world = makeWorld(seed, say, connect);
  const { clock, broker, random, pick, live, isShared, transports, complaints } = world;
  say(`seed ${seed}: shared ${isShared}, ${transports}, a token ${world.hasToken}`);
  for (let count = isShared ? 1 + Math.floor(random() * 4) : 1; count > 0; count--) {
    world.open();
  }
  const look = () => {
    live().forEach((tab) => {
      tab.states.look();
      const count = world.waiting(tab).length;
      count <= OUTBOX || world.complain(`${count} publishes wait in tab ${tab.number}`);
    });
    clock.set(look, LOOK_MS);
  };
  look();
  for (let step = 0; step < STEPS; step++) {
    const name = pick(lots);
    const tab = pick(live().filter(({ page }) => !page.isFrozen));
    say(`${clock.passed} ${name} ${tab?.number}`);
    tab && (await steps[name](Object.assign(world, { tab })));
    tab || world.frozen.forEach(world.thaw);
    await clock.advance(pick([0, 1, 20, 300, 1_000, 5_000, 20_000]));
  }
  say(`${clock.passed} heal`);
  heal(world);
  await clock.advance(CALM_MS);
  // Who was refused for good stays away until somebody asks for another try.
  for (const { leftoff, manners } of live()) {
    if (leftoff.connection.nextTryAt === null) {
      manners?.forced();
      leftoff.retryNow();
    }
  }
  await clock.advance(HEAL_MS);
  broker.publish("orders", { data: "last", type: "a" });
  broker.publish("others", { data: "last", type: "a" });
  live().forEach((tab) => world.publish(tab, "orders", ""));
  const ephemerals = [];
  for (let count = 0; count < 3; count++) {
    await clock.advance(3_000);
    ephemerals.push(world.publish(pick(live()), "orders", "", { ephemeral: true }));
  }
  await clock.advance(20_000);
  if (broker.open().length > (isShared ? 1 : live().length)) {
    await clock.advance(5_000); // A line may just be followed by one with another token.
  }
  checkHealed(world, ephemerals);
  live().forEach(world.close);
  await clock.advance(100);
  checkClosed(world);
  return [...complaints];
}
