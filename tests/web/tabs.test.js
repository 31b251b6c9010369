// Tabs: one connection for all of them, and each event once in each of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../src/web/client/leftoff.js";
import { Broker } from "./fakes/broker.js";
import { Browser } from "./fakes/browser.js";
import { Clock } from "./fakes/clock.js";
import { client, follow, URL_OF_BROKER } from "./fakes/world.js";

/** Opens tabs that follow one topic. */
async function tabs(count, options = {}) {
  const clock = new Clock();
  const broker = new Broker(clock);
  const browser = new Browser(clock, broker);
  const open = () => {
    const tab = client(browser, { shared: true, ...options });
    return { ...tab, ...follow(tab.leftoff, "orders") };
  };
  const all = Array.from({ length: count }, open);
  await clock.advance(1_000);
  let data = 0;
  const publish = () => broker.publish("orders", { data: ++data });
  const isWhole = ({ events }, from = 1) =>
    assert.deepEqual(
      events(),
      Array.from({ length: data - from + 1 }, (_, at) => at + from),
    );
  return { clock, broker, browser, open, all, publish, isWhole };
}

test("ten tabs have one connection, and each gets everything", async () => {
  const { clock, broker, all, publish, isWhole } = await tabs(10);
  assert.equal(broker.open().length, 1);
  publish();
  await clock.advance(100);
  all.forEach((tab) => isWhole(tab));
  assert.ok(all.every(({ leftoff }) => leftoff.connection.state === "connected"));
  const published = all[7].leftoff.publish("orders", { data: "by a follower" });
  await clock.advance(100);
  assert.equal((await published).sequence, 2);
  await clock.advance(120_000);
  assert.equal(broker.requests.length, 1, "nobody steals the lead of a tab that is well");
  all.forEach(({ leftoff }) => leftoff.close());
});

for (const [name, lose] of [
  ["is closed", (world, tab) => tab.leftoff.close()],
  ["is killed", ({ browser }, tab) => browser.kill(tab.page)],
  ["is frozen", (world, tab) => tab.page.freeze()],
  ["hangs", (world, tab) => tab.page.freeze(false)],
]) {
  test(`another tab takes over within two seconds when the leader ${name}`, async () => {
    const world = await tabs(5);
    const { clock, broker, all, publish, isWhole } = world;
    for (let round = 0; round < 4; round++) {
      const [connection] = broker.open().filter(({ page }) => !page.isFrozen);
      const leader = all.find(({ page }) => page === connection.page);
      const others = all.filter((tab) => tab !== leader && !tab.isLost);
      leader.isLost = true;
      publish();
      lose(world, leader);
      publish();
      await clock.advance(2_000);
      publish();
      await clock.advance(50);
      others.forEach((tab) => isWhole(tab));
      assert.ok(others.every(({ leftoff }) => leftoff.connection.state === "connected"));
    }
    const back = all.filter(({ page }) => page.isFrozen);
    back.forEach(({ page }) => page.thaw(name === "is frozen"));
    await clock.advance(5_000);
    publish();
    await clock.advance(100);
    back.forEach((tab) => isWhole(tab));
    assert.equal(broker.open().length, 1);
    all.forEach(({ leftoff }) => leftoff.close());
  });
}

test("a leader that was replaced, and does not know it yet, is not listened to", async () => {
  const { clock, broker, browser, all, open, publish, isWhole } = await tabs(2);
  const former = all.find(({ page }) => page === broker.open()[0].page);
  browser.locks.stolenMs = 10_000;
  former.page.freeze(false);
  await clock.advance(2_000);
  all.push(open(), open());
  await clock.advance(2_000);
  const others = all.filter((tab) => tab !== former);
  const asked = [];
  const original = broker.subscribe.bind(broker);
  broker.subscribe = (connection, fields, send) => {
    asked.push(fields.subscription);
    original(connection, fields, send);
  };
  former.page.thaw(false);
  for (let round = 0; round < 10; round++) {
    publish();
    await clock.advance(500);
  }
  assert.equal(broker.open().length, 2, "two tabs lead");
  others.forEach((tab) => isWhole(tab));
  assert.deepEqual(asked, [], "nobody goes to and fro");
  await clock.advance(10_000);
  publish();
  await clock.advance(100);
  all.forEach((tab) => isWhole(tab));
  assert.equal(broker.open().length, 1);
  all.forEach(({ leftoff }) => leftoff.close());
});

test("a publish on its way is not lost with the leader, nor stored twice", async () => {
  const { clock, broker, browser, all } = await tabs(3);
  const leader = all.find(({ page }) => page === broker.open()[0].page);
  const other = all.find((tab) => tab !== leader);
  broker.open()[0].losesAnswers = true;
  const published = other.leftoff.publish("orders", { data: 1 });
  await clock.advance(100);
  browser.kill(leader.page);
  await clock.advance(3_000);
  assert.equal((await published).duplicate, true);
  assert.equal(broker.events.length, 1);
  all.forEach(({ leftoff }) => leftoff.close());
});

test("a tab that goes takes its subscriptions with it", async () => {
  const { clock, broker, browser, all } = await tabs(4);
  const [connection] = broker.open();
  const others = all.filter(({ page }) => page !== connection.page);
  assert.equal(connection.readers.size, 4);
  browser.kill(others[0].page);
  others[1].leftoff.close();
  await clock.advance(100);
  assert.equal(connection.readers.size, 2);
  all.forEach(({ leftoff }) => leftoff.close());
});

test("tabs of two people share nothing", async () => {
  const clock = new Clock();
  const broker = new Broker(clock);
  const browser = new Browser(clock, broker);
  const token = (sub) => async () => `x.${btoa(JSON.stringify({ sub }))}.y`;
  const people = ["ann", "ann", "bob"].map((sub) =>
    client(browser, { shared: true, token: token(sub) }),
  );
  await clock.advance(1_000);
  assert.equal(broker.open().length, 2);
  people.forEach(({ leftoff }) => leftoff.close());
});

test("a state is told to all tabs, and each can ask to try again", async () => {
  const { clock, broker, all } = await tabs(3);
  broker.open()[0].end(4029, "too many refusals");
  await clock.advance(100);
  assert.ok(all.every(({ leftoff }) => leftoff.connection.state === "closed"));
  all.find(({ page }) => page !== broker.page).leftoff.retryNow();
  all[2].leftoff.retryNow();
  await clock.advance(100);
  assert.ok(all.every(({ leftoff }) => leftoff.connection.state === "connected"));
  all.forEach(({ leftoff }) => leftoff.close());
});

test("a tab without a token joins the others later, however often it is woken meanwhile", async () => {
  const { clock, browser, all, publish } = await tabs(2);
  let isFailing = true;
  const token = async () => {
    if (isFailing) {
      throw new Error("no token yet");
    }
  };
  const late = client(browser, { shared: true, token });
  const { events } = follow(late.leftoff, "orders", { from: "earliest" });
  const closed = client(browser, { shared: true, token });
  closed.leftoff.close();
  await clock.advance(100);
  late.page.tell("visibilitychange");
  late.page.tell("online");
  await clock.advance(100);
  isFailing = false;
  publish();
  await clock.advance(6_000);
  assert.equal(late.leftoff.connection.state, "connected");
  assert.deepEqual(events(), [1]);
  assert.equal(closed.leftoff.connection.state, "closed");
  assert.equal(clock.timersOf(closed.page), 0, "a tab that is closed does not come back");
  [late, ...all].forEach(({ leftoff }) => leftoff.close());
});

test("a tab whose lock comes late is not taken for one that is gone", async () => {
  const { clock, broker, browser, all, publish } = await tabs(1);
  const page = browser.open();
  const { request } = page.io.locks;
  page.io.locks.request = (...asked) => clock.wait(50).then(() => request(...asked));
  const leftoff = connect({ url: URL_OF_BROKER, io: page.io, shared: true });
  const { events } = follow(leftoff, "orders");
  await clock.advance(1);
  broker.open()[0].end(); // The leader tells all tabs of it, also the new one.
  await clock.advance(3_000);
  publish();
  await clock.advance(100);
  assert.deepEqual(events(), [1]);
  [leftoff, ...all.map((tab) => tab.leftoff)].forEach((it) => it.close());
});

test("an event that cannot be handed to another tab ends the subscription there, and is not lost in silence", async () => {
  const { clock, broker, all, publish, isWhole } = await tabs(3);
  const leader = all.find(({ page }) => page === broker.open()[0].page);
  const [other, third] = all.filter((tab) => tab !== leader);
  const channel = leader.page.io.BroadcastChannel.prototype;
  const { postMessage } = channel;
  let failures = 0;
  channel.postMessage = function (data) {
    if (data.message?.event?.data === 2 && failures++ === 0) {
      throw new RangeError("Maximum call stack size exceeded");
    }
    postMessage.call(this, data);
  };
  publish();
  publish();
  publish();
  await clock.advance(100);
  const cut = [other, third].find(({ subscription }) => subscription.isClosed);
  const whole = all.filter((tab) => tab !== cut);
  whole.forEach((tab) => isWhole(tab));
  assert.deepEqual(cut.events(), [1]);
  assert.deepEqual(cut.noted.at(-1), ["ended", 413]);
  assert.equal(cut.subscription.cursor, whole[0].subscription.cursor.replace("3-", "1-"));
  assert.equal(broker.open()[0].readers.size, 2, "the broker is not asked for it any more");
  all.forEach(({ leftoff }) => leftoff.close());
});

test("tabs whose tokens name nobody share only what the application names", async () => {
  for (const [shared, token, connections] of [
    [true, () => "opaque", 2],
    ["ann", () => "opaque", 1],
    [true, undefined, 1],
  ]) {
    const clock = new Clock();
    const broker = new Broker(clock);
    const browser = new Browser(clock, broker);
    const both = [1, 2].map(() => client(browser, { shared, token }));
    await clock.advance(1_000);
    assert.equal(broker.open().length, connections);
    assert.ok(both.every(({ leftoff }) => leftoff.connection.state === "connected"));
    both.forEach(({ leftoff }) => leftoff.close());
  }
});
