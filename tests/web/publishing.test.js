// Publishes: in order, each stored once, each promise settled.

import assert from "node:assert/strict";
import { test } from "node:test";
import { problem } from "./fakes/broker.js";
import { client, follow, world } from "./fakes/world.js";

const stored = (broker) => broker.events.map(({ data }) => data);

/** Returns the outcome of a promise, without waiting for it. */
function outcome(promise) {
  const seen = { state: "waits" };
  promise.then(
    (value) => Object.assign(seen, { state: "resolved", value }),
    (error) => Object.assign(seen, { state: "rejected", error }),
  );
  return seen;
}

for (const transports of [["websocket"], ["sse"]]) {
  const over = `over ${transports[0]}`;

  test(`publishes get their receipts, ${over}`, async () => {
    const { clock, broker, leftoff } = world({ transports });
    const all = [1, 2, 3].map((data) =>
      outcome(leftoff.publish("orders", { type: "new", key: "k", data })),
    );
    const other = outcome(leftoff.publish("others", { data: 4 }));
    const many = outcome(leftoff.publish(["orders", "others"], { data: 5 }));
    await clock.advance(100);
    assert.deepEqual(
      all.map(({ value }) => [value.sequence, value.position, value.duplicate]),
      [
        [1, 1, false],
        [2, 2, false],
        [3, 3, false],
      ],
    );
    assert.equal(other.value.sequence, 1);
    assert.deepEqual(
      many.value.topics.map(({ topic, sequence }) => [topic, sequence]),
      [
        ["orders", 4],
        ["others", 2],
      ],
    );
    assert.deepEqual(stored(broker), [1, 2, 3, 4, 5, 5]);
    leftoff.close();
  });

  test(`publishes wait for the broker, and go out in order, ${over}`, async () => {
    const { clock, broker, leftoff } = world({ transports });
    await clock.advance(100);
    broker.kill();
    const waiting = Array.from({ length: 250 }, (_, data) =>
      outcome(leftoff.publish(data % 7 ? "a" : "b", { data })),
    );
    await clock.advance(10_000);
    assert.ok(waiting.every(({ state }) => state === "waits"));
    broker.restart();
    await clock.advance(40_000);
    assert.ok(waiting.every(({ state }) => state === "resolved"));
    assert.deepEqual(
      stored(broker),
      waiting.map((_, data) => data),
    );
    const events = waiting.map(({ value }) =>
      broker.events.find(({ position }) => position === value.position),
    );
    assert.deepEqual(
      events.map(({ data }) => data),
      waiting.map((_, data) => data),
      "each receipt is its own",
    );
    leftoff.close();
  });

  test(`a refusal rejects its own promise with the broker's reason, ${over}`, async () => {
    const { clock, broker, leftoff } = world({ transports });
    broker.refusals.set(
      "bad",
      Array.from({ length: 9 }, () => problem(403, "ann may not publish this")),
    );
    const all = ["good", "bad", "good", "good"].map((type, data) =>
      outcome(leftoff.publish("orders", { type, data })),
    );
    await clock.advance(100);
    assert.deepEqual(
      all.map(({ state }) => state),
      ["resolved", "rejected", "resolved", "resolved"],
    );
    assert.equal(all[1].error.status, 403);
    assert.equal(all[1].error.message, "ann may not publish this");
    assert.deepEqual(stored(broker), [0, 2, 3]);
    const unexpected = outcome(leftoff.publish("orders", { data: 9, expectedSequence: 77 }));
    await clock.advance(100);
    assert.equal(unexpected.error.status, 412);
    leftoff.close();
  });

  test(`a refusal for a while is tried again, and keeps the order, ${over}`, async () => {
    const { clock, broker, leftoff } = world({ transports });
    broker.refusals.set("busy", [
      problem(429, "too fast", { retry_after_ms: 2_000 }),
      problem(503, "no room"),
    ]);
    const all = ["x", "busy", "x", "x"].map((type, data) =>
      outcome(leftoff.publish("orders", { type, data })),
    );
    await clock.advance(1_900);
    assert.deepEqual(stored(broker), []);
    await clock.advance(10_000);
    assert.ok(all.every(({ state }) => state === "resolved"));
    assert.deepEqual(stored(broker), [0, 1, 2, 3]);
    leftoff.close();
  });
}

test("an answer that is lost stores nothing twice", async () => {
  const { clock, broker, leftoff } = world({ transports: ["websocket"] });
  await clock.advance(100);
  broker.open()[0].losesAnswers = true;
  const all = [0, 1, 2].map((data) => outcome(leftoff.publish("orders", { data })));
  await clock.advance(100);
  broker.open()[0].end();
  await clock.advance(5_000);
  assert.deepEqual(stored(broker), [0, 1, 2]);
  assert.deepEqual(
    all.map(({ value }) => [value.sequence, value.duplicate]),
    [
      [1, true],
      [2, true],
      [3, true],
    ],
  );
  leftoff.close();
});

test("the outbox is bounded", async () => {
  const { clock, leftoff } = world({
    faults: { isAway: true },
    outbox: { max: 3, maxBytes: 10_000 },
  });
  const all = [1, 2, 3, 4].map((data) => outcome(leftoff.publish("orders", { data })));
  await clock.advance(10);
  assert.deepEqual(
    all.map(({ state }) => state),
    ["waits", "waits", "waits", "rejected"],
  );
  assert.match(all[3].error.message, /outbox is full/);
  leftoff.close();
  await clock.advance(10);
  assert.deepEqual(
    all.map(({ state }) => state),
    Array(4).fill("rejected"),
    "no promise is left",
  );
  assert.equal(outcome(leftoff.publish("orders", {})).state, "waits");
});

test("ephemeral events are sent now or dropped", async () => {
  for (const transports of [["websocket"], ["sse"]]) {
    const { clock, broker, leftoff } = world({ transports });
    const { noted } = follow(leftoff, "room");
    await clock.advance(100);
    const sent = outcome(leftoff.publish("room", { data: "typing", ephemeral: true }));
    await clock.advance(100);
    assert.equal(sent.value.receivers, 1);
    assert.deepEqual(noted.slice(1), [["ephemeral", "typing"]]);
    broker.kill();
    await clock.advance(10);
    const dropped = outcome(leftoff.publish("room", { data: "typing", ephemeral: true }));
    await clock.advance(10);
    assert.deepEqual(dropped.value, { ephemeral: true, dropped: true });
    leftoff.close();
  }
});

test("an outbox that is kept goes out after a reload, once", async () => {
  const { clock, broker, browser, page, leftoff } = world({
    faults: { isAway: true },
    outbox: { keep: true },
  });
  [1, 2].forEach((data) => leftoff.publish("orders", { data }).catch(() => {}));
  await clock.advance(1_000);
  browser.kill(page);
  const next = client(browser, { shared: false, outbox: { keep: true } });
  await clock.advance(10);
  next.leftoff.publish("orders", { data: 3 });
  broker.restart();
  await clock.advance(60_000);
  assert.deepEqual(stored(broker), [1, 2, 3]);
  browser.kill(next.page);
  const third = client(browser, { shared: false, outbox: { keep: true } });
  await clock.advance(10_000);
  assert.deepEqual(stored(broker), [1, 2, 3], "what was sent is not kept");
  third.leftoff.close();
});
