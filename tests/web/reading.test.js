// Subscriptions: every event once and in order, whatever happens below.

import assert from "node:assert/strict";
import { test } from "node:test";
import { problem } from "./fakes/broker.js";
import { client, follow, world } from "./fakes/world.js";

test("a subscription gets what is stored, and then what comes", async () => {
  const { clock, broker, leftoff, page } = world();
  broker.publish("orders", { data: 1 }, { data: 2 });
  const { noted, subscription } = follow(leftoff, "orders", { from: "earliest" });
  await clock.advance(10);
  assert.equal(leftoff.connection.state, "connected");
  broker.publish("orders", { data: 3 });
  await clock.advance(10);
  assert.deepEqual(noted, [
    ["event", 1],
    ["event", 2],
    ["caughtUp", "2-9f3c2a1b"],
    ["event", 3],
  ]);
  assert.equal(subscription.cursor, "3-9f3c2a1b");
  leftoff.close();
  await clock.advance(10);
  assert.equal(broker.open().length, 0);
  assert.equal(clock.timersOf(page), 0, "a closed client leaves no timer");
  assert.deepEqual(page.errors, []);
});

test("each event comes once and in order over ten lost connections", async () => {
  const { clock, broker, leftoff } = world();
  const { events } = follow(leftoff, "orders");
  await clock.advance(10);
  const sent = [];
  for (let round = 0; round < 10; round++) {
    for (let more = 0; more < 3; more++) {
      sent.push(sent.length);
      broker.publish("orders", { data: sent.at(-1) });
    }
    broker.open()[0].end();
    broker.publish("orders", { data: sent.push(sent.length) - 1 });
    await clock.advance(31_000);
    assert.equal(broker.open().length, 1, "one connection at a time");
  }
  assert.deepEqual(events(), sent);
  leftoff.close();
});

test("a gap is told, and a place is kept from the first moment on", async () => {
  const { clock, broker, leftoff } = world();
  broker.publish("orders", { data: 0 });
  const { noted } = follow(leftoff, "orders");
  await clock.advance(10);
  broker.kill();
  broker.publish("orders", { data: 1 }, { data: 2 }, { data: 3 });
  broker.drop("orders", 3);
  broker.restart();
  await clock.advance(31_000);
  assert.deepEqual(noted.slice(1), [
    ["gap", 2],
    ["event", 3],
    ["caughtUp", "4-9f3c2a1b"],
  ]);
  leftoff.close();
});

test("handlers are awaited in order, and the cursor follows them", async () => {
  const kept = [];
  const storage = {
    get: () => "1-9f3c2a1b",
    set: (name, cursor) => void kept.push([name, cursor]),
  };
  const { clock, broker, leftoff, page } = world({ storage });
  broker.publish("orders", { data: 1 }, { data: 2 }, { data: 3 }, { data: 4 });
  const seen = [];
  leftoff.subscribe(
    "orders",
    { name: "mine", from: "earliest" },
    {
      async event({ data }) {
        seen.push(`begin ${data}`);
        await new Promise((done) => page.io.setTimeout(done, 100));
        seen.push(`end ${data} ${kept.length}`);
        if (data === 3) {
          throw new Error("three");
        }
      },
    },
  );
  await clock.advance(1_000);
  assert.deepEqual(seen, ["begin 2", "end 2 0", "begin 3", "end 3 1", "begin 4", "end 4 2"]);
  assert.deepEqual(
    kept.map(([, cursor]) => cursor),
    ["2-9f3c2a1b", "3-9f3c2a1b", "4-9f3c2a1b"],
  );
  assert.ok(kept[0][0].endsWith(" mine"));
  assert.deepEqual(
    page.errors.map(({ message }) => message),
    ["three"],
  );
  leftoff.close();
});

for (const storage of ["local", "indexed"]) {
  test(`a page that is loaded again goes on from its cursor: ${storage}`, async () => {
    const { clock, broker, browser, page, leftoff } = world({ storage });
    broker.publish("orders", { data: 1 }, { data: 2 });
    const first = follow(leftoff, "orders", { from: "earliest" });
    await clock.advance(100);
    browser.kill(page);
    broker.publish("orders", { data: 3 });
    const again = client(browser, { shared: false, storage });
    const second = follow(again.leftoff, "orders", { from: "earliest" });
    const other = follow(again.leftoff, "orders", { from: "earliest", name: "another" });
    const forgetful = follow(again.leftoff, "orders", { from: "earliest", storage: "memory" });
    await clock.advance(100);
    assert.deepEqual([first.events(), second.events()], [[1, 2], [3]]);
    assert.deepEqual(
      [other.events(), forgetful.events()],
      [
        [1, 2, 3],
        [1, 2, 3],
      ],
    );
    assert.deepEqual(again.page.errors, []);
    again.leftoff.close();
  });
}

test("a storage that fails is reported, and the subscription goes on", async () => {
  const fail = async () => {
    throw new Error("no room");
  };
  const { clock, broker, leftoff, page } = world({ storage: { get: fail, set: fail } });
  const { events } = follow(leftoff, "orders");
  await clock.advance(10);
  broker.publish("orders", { data: 1 });
  await clock.advance(10);
  assert.deepEqual(events(), [1]);
  assert.ok(page.errors.every(({ message }) => message === "no room"));
  leftoff.close();
});

test("a reader that is slow leaves the rest with the broker, and gets all of it", async () => {
  const { clock, broker, leftoff, page } = world();
  const seen = [];
  leftoff.subscribe(
    "orders",
    { from: "earliest" },
    {
      async event({ data }) {
        seen.push(data);
        await (data % 100 === 0 && new Promise((done) => page.io.setTimeout(done, 10)));
      },
    },
  );
  await clock.advance(10);
  const sent = Array.from({ length: 5_000 }, (_, data) => data);
  const left = [];
  for (const data of sent) {
    broker.publish("orders", { data });
    data % 1_000 === 0 && (await clock.advance(2));
    broker.open()[0].readers.size === 0 && left.push(data);
  }
  assert.ok(left.length > 0, "with so much that waits, the subscription is left");
  await clock.advance(60_000);
  assert.deepEqual(seen, sent);
  leftoff.close();
});

test("a subscription can be iterated over; leaving the loop ends it", async () => {
  const { clock, broker, leftoff } = world();
  broker.publish("orders", { data: 1 }, { data: 2 });
  const subscription = leftoff.subscribe("orders", { from: "earliest" });
  const seen = [];
  const reading = (async () => {
    for await (const { type, event } of subscription) {
      seen.push(event?.data ?? type);
      if (event?.data === 3) {
        break;
      }
    }
  })();
  await clock.advance(10);
  broker.publish("orders", { data: 3 }, { data: 4 });
  await clock.advance(10);
  await reading;
  assert.deepEqual(seen, ["subscribed", 1, 2, "caught_up", 3]);
  assert.equal(subscription.isClosed, true);
  assert.equal(broker.open()[0].readers.size, 0);
  leftoff.close();
});

test("a refused subscription ends by itself, and the others go on", async () => {
  const { clock, broker, leftoff } = world();
  const forbidden = follow(leftoff, "forbidden");
  const other = follow(leftoff, "orders");
  await clock.advance(10);
  broker.publish("orders", { data: 1 });
  await clock.advance(10);
  assert.deepEqual(forbidden.noted, [["ended", 403]]);
  assert.deepEqual(other.events(), [1]);
  leftoff.close();
});

test("topics come and go over one connection", async () => {
  const { clock, broker, leftoff } = world();
  const all = follow(leftoff, "a.*");
  const one = follow(leftoff, ["a.x", "b"]);
  await clock.advance(10);
  broker.publish("a.x", { data: 1 });
  broker.publish("b", { data: 2 });
  await clock.advance(10);
  one.subscription.close();
  await clock.advance(10);
  broker.publish("a.x", { data: 3 });
  await clock.advance(10);
  assert.deepEqual(
    [all.events(), one.events()],
    [
      [1, 3],
      [1, 2],
    ],
  );
  assert.equal(broker.requests.filter((request) => request.startsWith("WS")).length, 1);
  leftoff.close();
});

test("the state of a topic is a map that stays current", async () => {
  const { clock, broker, leftoff } = world();
  const put = (key, data) => broker.publish("prices", { key, data });
  ["a", "b", "c", "d", "e"].forEach((key, at) => put(key, at));
  put("a", 10);
  put("b", undefined);
  const changes = [];
  const prices = leftoff.state(
    "prices",
    {},
    { changed: (key, event) => changes.push([key, event?.data]) },
  );
  await clock.advance(10);
  const shown = () => Object.fromEntries([...prices.map].map(([key, { data }]) => [key, data]));
  assert.deepEqual(shown(), { a: 10, c: 2, d: 3, e: 4 });
  put("c", undefined);
  put("f", 6);
  await clock.advance(10);
  assert.deepEqual(shown(), { a: 10, d: 3, e: 4, f: 6 });
  assert.deepEqual(changes, [
    [undefined, undefined],
    ["c", undefined],
    ["f", 6],
  ]);
  broker.open()[0].end();
  put("a", undefined);
  broker.drop("prices", 10);
  put("g", 7);
  await clock.advance(31_000);
  assert.deepEqual(shown(), { g: 7 }, "after a gap the state is loaded again");
  leftoff.close();
});

test("the state of a topic that does not exist yet is empty, and fills", async () => {
  const { clock, broker, leftoff } = world();
  const prices = leftoff.state("prices");
  await clock.advance(10);
  assert.equal((await prices.ready).size, 0);
  broker.publish("prices", { key: "a", data: 1 });
  await clock.advance(10);
  assert.equal(prices.map.get("a").data, 1);
  leftoff.close();
});

test("a subscription says which marks it has seen when it begins again", async () => {
  const { clock, broker, leftoff } = world();
  const original = broker.subscribe.bind(broker);
  const asked = [];
  broker.subscribe = (connection, fields, send) => {
    asked.push(fields.marks_after);
    original(connection, fields, send);
    const { subscription } = fields;
    send({ type: "marked", subscription, revision: `r${asked.length}`, changes: [] });
  };
  leftoff.subscribe("orders", { consumer: "ann", marksAfter: "r0" }, {});
  await clock.advance(11_000);
  broker.open()[0].end();
  await clock.advance(11_000);
  broker.open()[0].end();
  await clock.advance(11_000);
  assert.deepEqual(asked, ["r0", "r1", "r2"]);
  leftoff.close();
});

test("a cursor of another epoch is not compared: a broker that lost its data begins anew", async () => {
  const { clock, broker, leftoff } = world();
  broker.publish("orders", { data: 1 }, { data: 2 }, { data: 3 });
  const { noted, subscription } = follow(leftoff, "orders", { from: "earliest" });
  await clock.advance(11_000);
  const original = broker.subscribe.bind(broker);
  broker.epoch = "another";
  broker.subscribe = (connection, fields, send) => {
    const gap = { reason: "epoch", requested: 4, resume: 1, lost: null };
    send({ type: "gap", subscription: fields.subscription, cursor: "0-another", gap });
    original(connection, { ...fields, from: "earliest" }, send);
  };
  broker.open()[0].end();
  await clock.advance(11_000);
  const told = noted.filter(([kind]) => kind !== "caughtUp");
  const events = [1, 2, 3].map((data) => ["event", data]);
  assert.deepEqual(told, [...events, ["gap", null], ...events]);
  assert.equal(subscription.cursor, "3-another");
  leftoff.close();
});

test("a refusal for a while is asked again", async () => {
  const { clock, broker, leftoff } = world();
  const original = broker.subscribe.bind(broker);
  let refusals = 2;
  broker.subscribe = (connection, fields, send) =>
    refusals-- > 0
      ? send({
          type: "error",
          subscription: fields.subscription,
          error: problem(429, "too many", { retry_after_ms: 500 }),
        })
      : original(connection, fields, send);
  const { events } = follow(leftoff, "orders");
  await clock.advance(5_000);
  broker.publish("orders", { data: 1 });
  await clock.advance(10);
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("an ephemeral event has no place in the state of a topic", async () => {
  const { clock, broker, leftoff } = world();
  broker.publish("prices", { key: "a", data: 1 });
  const prices = leftoff.state("prices");
  await clock.advance(10);
  broker.accept({ topic: "prices", event: { key: "b", data: 2 }, ephemeral: true });
  await clock.advance(10);
  assert.deepEqual([...prices.map.keys()], ["a"]);
  leftoff.close();
});

test("a state that is loading ends with the client", async () => {
  const { clock, broker, leftoff, page } = world({ faults: { isAway: true } });
  leftoff.state("prices");
  await clock.advance(5_000);
  leftoff.close();
  const { length } = broker.requests;
  assert.equal(clock.timersOf(page), 0);
  await clock.advance(60_000);
  assert.equal(broker.requests.length, length);
});

test("the cursor that is kept does not go back", async () => {
  const kept = [];
  const storage = { get() {}, set: (_, cursor) => void kept.push(cursor) };
  const { clock, broker, leftoff } = world({ storage });
  follow(leftoff, "orders");
  await clock.advance(10);
  broker.publish("orders", { data: 1 }, { data: 2 });
  await clock.advance(10);
  const [connection] = broker.open();
  const [subscription] = connection.readers.keys();
  connection.tell({ type: "caught_up", cursor: "1-9f3c2a1b", subscription }); // It was late.
  await clock.advance(10);
  assert.equal(kept.at(-1), "2-9f3c2a1b");
  leftoff.close();
});

test("an end that no handler is there for is reported", async () => {
  const { clock, leftoff, page } = world();
  leftoff.subscribe("forbidden", {}, { event() {} });
  await clock.advance(10);
  assert.deepEqual(
    page.errors.map(({ status }) => status),
    [403],
  );
  leftoff.close();
});

test("an event with a key and no payload deletes the key, whatever its content type", async () => {
  const { clock, broker, leftoff } = world();
  broker.publish("prices", { key: "a", data: 1 }, { key: "b", data: 2 });
  const state = leftoff.state("prices");
  await clock.advance(100);
  broker.publish("prices", { key: "a", data_base64: "" }, { key: "b", data_base64: "eA==" });
  broker.publish("prices", { key: "c", data: "" });
  await clock.advance(100);
  assert.deepEqual([...state.map.keys()], ["b", "c"]);
  leftoff.close();
});
