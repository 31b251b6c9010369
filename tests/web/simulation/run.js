// One run: a seed decides on the tabs, their transports and every fault. Then everything is healed,
// and what the tabs were told is compared with the model.

import { connect } from "../../../src/web/client/leftoff.js";
import { Broker } from "../fakes/broker.js";
import { Browser } from "../fakes/browser.js";
import { chance, Clock } from "../fakes/clock.js";
import { URL_OF_BROKER } from "../fakes/world.js";
import { edge, edgeFaults, seen } from "./edge.js";
import { lots, steps } from "./faults.js";
import { checkOrder, checkPublish, ReaderModel, StateModel } from "./model.js";

const STEPS = 50;
const LOOK_MS = 2_000;
const OUTBOX = 25;
/** The time in which what was under way at the end of the faults comes to its end. */
const CALM_MS = 20_000;
/** The time in which everything is well again: the longest pauses, and a climb to the top. */
const HEAL_MS = 240_000;
const TRANSPORTS = [["websocket"], ["sse"], ["poll"], ["sse", "poll"]];
const ALL = ["websocket", "sse", "poll"];

/** Makes the world of a seed. `say` is told what happens. */
function makeWorld(seed, say) {
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
  let tokens = 0;
  const world = {
    seed,
    say,
    random,
    pick,
    clock,
    broker,
    browser,
    complaints,
    storedAt,
    counts: seen(),
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
  world.rotate();
  return Object.assign(world, actions(world));
}

/** What the steps do with tabs. */
function actions(world) {
  const { clock, browser, frozen, entries } = world;
  return {
    open: () => world.tabs.push(openTab(world)),
    thaw(tab) {
      frozen.delete(tab);
      tab.page.thaw(tab.isTold);
    },
    kill(tab) {
      tab.isKilled = true;
      frozen.delete(tab);
      browser.kill(tab.page);
    },
    close(tab) {
      if (!tab.page.isFrozen) {
        tab.isClosed = true;
        tab.leftoff.close();
      }
    },
    publish(tab, topic, type) {
      const entry = { tab, topic, data: `p${entries.length}`, state: "waits" };
      entries.push(entry);
      tab.leftoff.publish(topic, { type, data: entry.data }).then(
        (value) => Object.assign(entry, { state: "fulfilled", value, at: clock.passed }),
        (error) => Object.assign(entry, { state: "rejected", error, at: clock.passed }),
      );
    },
  };
}

async function tokenOf(world) {
  if (world.isTokenFailing) {
    throw new Error("the application has no token");
  }
  return (world.isTokenStale && world.former) || world.broker.token;
}

/** Opens a tab that follows something, and watches what it is told. */
function openTab(world) {
  const { browser, broker, random, pick, say, isShared, transports, complain } = world;
  const page = browser.open();
  const number = world.tabs.length;
  const faults = edgeFaults();
  const open = edge(page, { ...world, faults });
  const leftoff = connect({
    url: URL_OF_BROKER,
    io: page.io,
    shared: isShared,
    transports,
    token: world.hasToken ? () => tokenOf(world) : undefined,
    outbox: { max: OUTBOX },
  });
  const told = (text) => complain(`tab ${number}: ${text}`);
  const topics = pick(["orders", "*", ["orders", "others"]]);
  const from = pick(["earliest", "latest"]);
  const reader = new ReaderModel(broker, topics, from, told);
  const isSlow = random() < 0.3;
  const tab = { number, page, leftoff, faults, open, topics, reader, isShared };
  tab.canPoll = () => !faults.stallsAnswers && !broker.faults.isAway;
  tab.states = new StateModel(tab, world, told);
  leftoff.onstate = (state) => {
    say(`tab ${number} ${state.state} ${state.transport} ${state.reason}`);
    tab.states.told(state);
  };
  const event = async (it) => {
    say(`tab ${number} event ${it.topic} ${it.sequence} @${it.position}`);
    reader.event(it);
    isSlow && (await new Promise((done) => page.io.setTimeout(done, 50)));
  };
  const gap = (it, message) => {
    say(`tab ${number} gap ${it.lost} ${message.cursor}`);
    reader.gap(it, message);
  };
  const follow = () => {
    const cursor = tab.subscription?.cursor;
    tab.subscription = leftoff.subscribe(
      topics,
      { from: cursor ?? from },
      { event, gap, subscribed: (it) => reader.subscribed(it), ended: (it) => ended(it) },
    );
  };
  // A proxy's 400 ends what has no cursor yet, and the application asks again.
  const ended = ({ status }) => {
    status === 400 || told(`the subscription has ended with ${status}`);
    page.io.setTimeout(follow, 1_000);
  };
  follow();
  return tab;
}

/** Ends all faults. */
function heal(world) {
  const { broker, browser, live, thaw } = world;
  world.isTokenStale = world.isTokenFailing = false;
  broker.restart();
  const none = { refusesUpgrade: false, silencesUpgrade: false, hangsUpgrade: false };
  Object.assign(broker.faults, none, { buffersStreams: false, cutsAfterMs: Infinity, answer: null });
  broker.refusals.clear();
  for (const connection of broker.open()) {
    connection.losesAnswers = false;
    connection.isStalled && connection.end();
  }
  for (const tab of live()) {
    Object.assign(tab.faults, edgeFaults());
    tab.page.isFrozen && thaw(tab);
    tab.page.isOnline || browser.setOnline(tab.page, true);
    tab.isHidden && tab.page.tell("pageshow", { persisted: true });
    tab.page.visibilityState = "visible";
  }
}

/** What holds when nothing has gone wrong for a while. */
function checkHealed(world) {
  const { live, broker, transports, isShared, complain } = world;
  for (const { number, leftoff, page, reader } of live()) {
    const { state, transport, reason } = leftoff.connection;
    const isWell = transport === transports[0] && ["connected", "polling"].includes(state);
    isWell || complain(`tab ${number} is ${state} over ${transport} at last: ${reason}`);
    page.errors.forEach((error) => complain(`tab ${number} reports ${error.stack}`));
    reader.finish();
  }
  const most = isShared ? 1 : live().length;
  broker.open().length <= most || complain(`${broker.open().length} connections at last`);
}

/** What holds after all clients are closed: nothing is left, and every promise is settled. */
function checkClosed({ tabs, broker, clock, entries, storedAt, complain }) {
  const stored = [...broker.events, ...broker.dropped];
  entries.forEach((entry) => checkPublish(entry, stored, storedAt, complain));
  for (const tab of tabs.filter(({ isKilled }) => !isKilled)) {
    for (const topic of ["orders", "others"]) {
      const mine = entries.filter((entry) => entry.tab === tab && entry.topic === topic);
      checkOrder(mine, stored, (text) => complain(`tab ${tab.number}: ${text}`));
    }
    const timers = clock.timersOf(tab.page);
    timers === 0 || complain(`tab ${tab.number} has ${timers} timers after its end`);
    tab.open.size === 0 || complain(`tab ${tab.number} has ${tab.open.size} requests after its end`);
  }
  broker.open().length === 0 || complain(`${broker.open().length} connections after the end`);
}

/** Runs a seed, and returns the complaints. */
export async function run(seed, say = () => {}) {
  const world = makeWorld(seed, say);
  const { clock, broker, random, pick, live, isShared, transports, complaints } = world;
  say(`seed ${seed}: shared ${isShared}, ${transports}, a token ${world.hasToken}`);
  for (let count = isShared ? 1 + Math.floor(random() * 4) : 1; count > 0; count--) {
    world.open();
  }
  const look = () => {
    live().forEach((tab) => {
      tab.states.look();
      const waiting = world.entries.filter((it) => it.tab === tab && it.state === "waits").length;
      waiting <= OUTBOX || world.complain(`${waiting} publishes wait in tab ${tab.number}`);
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
  live().forEach(({ leftoff }) => leftoff.connection.nextTryAt ?? leftoff.retryNow());
  await clock.advance(HEAL_MS);
  broker.publish("orders", { data: "last" });
  broker.publish("others", { data: "last" });
  await clock.advance(30_000);
  if (broker.open().length > (isShared ? 1 : live().length)) {
    await clock.advance(5_000); // A line may just be followed by one with another token.
  }
  checkHealed(world);
  live().forEach(world.close);
  await clock.advance(100);
  checkClosed(world);
  return [...complaints];
}
