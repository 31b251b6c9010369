// One tab of a run: its client, what it follows, publishes and keeps, and the model of each of these.

import { URL_OF_BROKER } from "../fakes/world.js";
import { edge, edgeFaults } from "./edge.js";
import { Manners } from "./manners.js";
import { OUTBOX, ReaderModel, wrongKeys } from "./model.js";
import { StateModel } from "./states.js";

/** The longest time for writing a cursor, and for a handler. */
const WRITE_MS = 200;
const HANDLE_MS = 50;
/** What a storage without room says. */
const NO_ROOM = "no room for a cursor";

async function tokenOf(world) {
  if (world.isTokenFailing) {
    throw new Error("the application has no token");
  }
  return (world.isTokenStale && world.former) || world.broker.token;
}

/** Opens a tab; or loads `former` again, which goes on with what it has kept. */
export function openTab(world, former) {
  const { browser, broker, random, say, isShared, transports, complain, clock } = world;
  const page = browser.open();
  const number = world.tabs.length;
  const faults = edgeFaults();
  const watch = edge(page, { ...world, faults });
  const told = (text) => complain(`tab ${number}: ${text}`);
  const owner = former?.owner ?? number;
  const tab = { number, owner, page, faults, watch, isShared, told, followers: [] };
  tab.isKeeping = world.keepsOutbox;
  tab.canPoll = () => !faults.stallsAnswers && !broker.faults.isAway;
  tab.states = new StateModel(tab, world, told);
  if (!isShared) {
    tab.manners = new Manners(tab, world, told);
    watch.asks = (what) => tab.manners.asks(what);
    watch.denied = () => tab.manners.denied();
  }
  tab.leftoff = world.connect({
    url: URL_OF_BROKER,
    io: page.io,
    shared: isShared,
    transports,
    token: world.hasToken ? () => tokenOf(world) : undefined,
    outbox: {
      max: OUTBOX,
      keep: world.keepsOutbox,
      refused: (error, { event }) => world.settle(event.data, { state: "rejected", error }),
    },
  });
  tab.leftoff.onstate = (state) => {
    const { transport, attempt, reason } = state;
    say(`${clock.passed} tab ${number} ${state.state} ${transport} ${attempt} ${reason}`);
    if (!tab.isKilled) {
      tab.states.told(state);
      tab.manners?.told(state);
    }
  };
  if (former) {
    former.followers.forEach((it) => it.isClosed || follow(world, tab, again(world, it)));
  } else {
    followMore(world, tab);
  }
  (former ? former.prices : random() < 0.25) && followKeys(world, tab);
  return tab;
}

/** What a subscription of the former page is in the next one. */
function again({ clock }, former) {
  const { kept, keeps, isWriting, hasFailed, handledAtMs, model } = former;
  if (keeps) {
    model.again(kept, !isWriting && !hasFailed && clock.passed - handledAtMs > WRITE_MS);
    return Object.assign(former, { isWriting: false });
  }
  return { ...former, model: undefined, subscription: undefined };
}

/** Follows something more. */
export function followMore(world, tab) {
  const { random, pick } = world;
  follow(world, tab, {
    number: ++world.followed,
    topics: pick(["orders", "*", ["orders", "others"]]),
    from: pick(["earliest", "latest"]),
    types: pick([undefined, undefined, ["", "a"]]),
    isIterated: random() < 0.2,
    isSlow: random() < 0.3,
    keeps: random() < 0.5,
    handledAtMs: 0,
  });
}

/** Functions that keep the cursor of a follower: slowly, and without room now and then. */
function placesOf({ random, clock }, tab, it) {
  return {
    get: async () => it.kept,
    async set(name, cursor) {
      if (tab.isKilled) {
        return;
      }
      it.isWriting && tab.told("two cursors are written at once");
      it.model.keeps(cursor, clock.passed > it.handledAtMs);
      it.isWriting = true;
      it.number % 2 || (await wait(tab, random() * WRITE_MS));
      it.isWriting = false;
      it.hasFailed = random() < 0.02;
      if (it.hasFailed) {
        throw new Error(NO_ROOM);
      }
      it.kept = cursor;
    },
  };
}

const wait = ({ page }, ms) => new Promise((done) => page.io.setTimeout(done, ms));

/** Follows as `it` says, with a model that `it` may bring from another page. */
function follow(world, tab, it) {
  const { broker, say, clock } = world;
  const { topics, types, keeps, number } = it;
  it.model ??= new ReaderModel(broker, it, (text) => tab.told(`reader ${number}: ${text}`));
  tab.followers.includes(it) || tab.followers.push(it);
  const handle = (type) => async (value, message) => {
    const end = it.model.begin();
    const { sequence, position, data } = message.event ?? {};
    const what = `${type} ${sequence} @${position} ${data ?? message.cursor}`;
    say(`tab ${tab.number} reader ${number} ${what}`);
    it.model[type](value, message);
    it.isSlow && type === "event" && (await wait(tab, HANDLE_MS));
    it.handledAtMs = clock.passed;
    end();
  };
  const ended = ({ status }) => {
    tab.told(`the subscription has ended with ${status}`);
    tab.page.io.setTimeout(() => {
      const cursor = keeps ? it.kept : it.subscription.cursor;
      it.model.again(cursor);
      it.isClosed || follow(world, tab, it);
    }, 1_000);
  };
  const kinds = ["event", "gap", "ephemeral", "subscribed", "caughtUp"];
  const handlers = Object.fromEntries(kinds.map((type) => [type, handle(type)]));
  it.subscription = tab.leftoff.subscribe(
    topics,
    {
      from: it.subscription?.cursor && !keeps ? it.subscription.cursor : it.from,
      filter: types && { types },
      name: `reader ${number}`,
      storage: keeps ? placesOf(world, tab, it) : "memory",
    },
    it.isIterated ? undefined : { ...handlers, ended },
  );
  it.isIterated && iterate(it.subscription, handlers, ended);
}

/** Hands the messages of an iterator to the handlers. */
async function iterate(subscription, handlers, ended) {
  for await (const message of subscription) {
    const { type, event, gap, error } = message;
    if (type === "ended") {
      ended(error);
    } else {
      await handlers[type === "caught_up" ? "caughtUp" : type]?.(event ?? gap ?? message, message);
    }
  }
}

/** Keeps a map of the topic's keys. A proxy's refusal ends it, and the application asks again. */
function followKeys(world, tab) {
  const ended = ({ status }) => {
    [400, 401, 403, 409, 500].includes(status) || tab.told(`the map has ended with ${status}`);
    tab.page.io.setTimeout(() => tab.isClosed || followKeys(world, tab), 1_000);
  };
  tab.prices = tab.leftoff.state("orders", {}, { ended });
}

/** Ends one of the subscriptions of a tab. */
export function unfollow(it) {
  it.isClosed = it.model.isClosed = true;
  it.subscription.close();
}

/** What holds for a tab when nothing has gone wrong for a while. */
export function checkTab({ transports, broker }, { leftoff, page, followers, prices, told }) {
  const { state, transport, reason } = leftoff.connection;
  const isWell = transport === transports[0] && ["connected", "polling"].includes(state);
  isWell || told(`${state} over ${transport} at last: ${reason}`);
  const errors = page.errors.filter(({ message }) => message !== NO_ROOM);
  errors.forEach((error) => told(`reports ${error.stack}`));
  followers.forEach(({ isClosed, model }) => isClosed || model.finish());
  const left = Object.keys(page.io.storage()).filter((key) => /outbox/.test(key));
  left.length === 0 || told(`${left.length} publishes are still kept`);
  prices && wrongKeys(prices.map, broker, "orders").forEach((text) => told(`key ${text}`));
}

/** How many subscriptions of a tab the broker should have. */
export const subscriptionsOf = ({ followers, prices }) =>
  followers.filter(({ isClosed }) => !isClosed).length + (prices ? 1 : 0);
