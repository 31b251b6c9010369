// Publishes: in order, each stored once, each promise settled.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Broker, problem } from "./fakes/broker.js";
import { Browser } from "./fakes/browser.js";
import { Clock } from "./fakes/clock.js";
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

test("the outbox is bounded by its size, too, and has room again for what has gone out", async () => {
  const { clock, broker, leftoff } = world({ outbox: { maxBytes: 3_000 } });
  await clock.advance(100);
  const publish = () => outcome(leftoff.publish("orders", { data: "x".repeat(1_000) }));
  for (let round = 0; round < 3; round++) {
    broker.kill();
    await clock.advance(10);
    const all = [publish(), publish(), publish()];
    await clock.advance(10);
    assert.deepEqual(
      all.map(({ state }) => state),
      ["waits", "waits", "rejected"],
    );
    broker.restart();
    await clock.advance(40_000);
    assert.deepEqual(
      all.map(({ state }) => state),
      ["resolved", "resolved", "rejected"],
    );
  }
  leftoff.close();
});

test("a minute without a refusal ends the doubling of the pauses", async () => {
  const { clock, broker, leftoff } = world();
  await clock.advance(100);
  const refuse = (count) =>
    broker.refusals.set("busy", Array.from({ length: count }, () => problem(503, "no room")));
  const publish = () => outcome(leftoff.publish("orders", { type: "busy" }));
  refuse(12);
  const first = publish();
  await clock.advance(300_000);
  assert.equal(first.state, "resolved");
  for (let round = 0; round < 10; round++) {
    await clock.advance(61_000);
    refuse(1);
    const next = publish();
    await clock.advance(510);
    assert.equal(next.state, "resolved", "the first pause is at most half a second");
  }
  leftoff.close();
});

test("a publish whose outcome is unknown is sent again, and stored once", async () => {
  for (const transports of [["websocket"], ["sse"]]) {
    const { clock, broker, leftoff } = world({ transports });
    const accept = broker.accept.bind(broker);
    let answers = 0;
    broker.accept = (message) => {
      const answer = accept(message);
      const type = "https://leftoff.example/problems/outcome-unknown";
      return answers++ > 0 ? answer : { error: { ...problem(500, "it may be stored"), type } };
    };
    const published = outcome(leftoff.publish("orders", { data: 1 }));
    await clock.advance(1_000);
    assert.equal(published.value.duplicate, true);
    assert.deepEqual(stored(broker), [1]);
    leftoff.close();
  }
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

for (const transports of [["websocket"], ["sse"]]) {
  test(`a refusal says whether an earlier try may be stored, over ${transports[0]}`, async () => {
    const { clock, broker, leftoff } = world({ transports });
    follow(leftoff, "orders");
    await clock.advance(100);
    const refuse = () => broker.refusals.set("bad", [problem(403, "ann may not publish this")]);
    refuse();
    const first = outcome(leftoff.publish("orders", { type: "bad", data: 1 }));
    await clock.advance(100);
    assert.equal(first.error.mayBeStored, false, "its only try was refused");
    const [connection] = broker.open();
    connection.losesAnswers = true;
    broker.faults.answer = ({ pathname, body }) => {
      if (pathname === "/v1/publish") {
        broker.accept(JSON.parse(body));
        return 502; // The proxy has lost the answer.
      }
    };
    const second = outcome(leftoff.publish("orders", { type: "bad", data: 2 }));
    await clock.advance(100);
    assert.equal(second.state, "waits");
    broker.faults.answer = null;
    refuse();
    connection.end();
    await clock.advance(5_000);
    assert.equal(second.error.status, 403);
    assert.equal(second.error.mayBeStored, true);
    assert.deepEqual(stored(broker), [2]);
    leftoff.close();
  });
}

test("what a closed client rejects may be stored only if it was sent, or is kept", async () => {
  for (const keep of [false, true]) {
    const { clock, broker, leftoff } = world({ transports: ["websocket"], outbox: { keep } });
    await clock.advance(100);
    broker.open()[0].losesAnswers = true;
    const sent = outcome(leftoff.publish("orders", { data: 1 }));
    await clock.advance(100);
    const waiting = outcome(leftoff.publish("orders", { data: 2 }));
    leftoff.close();
    await clock.advance(100);
    assert.deepEqual([sent.error.mayBeStored, waiting.error.mayBeStored], [true, keep]);
    assert.deepEqual(stored(broker), [1]);
  }
});

test("a leader that was frozen does not send what the next leader has sent meanwhile", async () => {
  const clock = new Clock();
  const broker = new Broker(clock);
  const browser = new Browser(clock, broker);
  const tabs = [1, 2].map(() => client(browser, { shared: true, transports: ["sse"] }));
  tabs.forEach(({ leftoff }) => follow(leftoff, "orders"));
  await clock.advance(1_000);
  const leader = tabs.find(({ page }) => page === broker.open()[0].page);
  const other = tabs.find((tab) => tab !== leader);
  leader.page.freeze(false);
  broker.refusals.set("bad", [problem(403, "ann may not publish this")]);
  const published = outcome(other.leftoff.publish("orders", { type: "bad", data: 1 }));
  await clock.advance(10_000);
  assert.equal(published.error?.status, 403);
  assert.equal(published.error.mayBeStored, true, "what the first leader does is not known");
  leader.page.thaw(false);
  await clock.advance(10_000);
  assert.deepEqual(stored(broker), []);
  tabs.forEach(({ leftoff }) => leftoff.close());
});

test("a publish waits while the application has no token, and is not refused for it", async () => {
  let isFailing = false;
  const token = async () => {
    if (isFailing) {
      throw new Error("the page's server is away");
    }
    return broker.token;
  };
  const { clock, broker, leftoff } = world({ transports: ["sse"], token });
  broker.token = "first";
  follow(leftoff, "orders");
  await clock.advance(100);
  broker.token = "second";
  isFailing = true;
  const all = [1, 2].map((data) => outcome(leftoff.publish("orders", { data })));
  await clock.advance(10_000);
  assert.deepEqual(
    all.map(({ state }) => state),
    ["waits", "waits"],
  );
  isFailing = false;
  await clock.advance(31_000);
  assert.ok(all.every(({ state }) => state === "resolved"));
  assert.deepEqual(stored(broker), [1, 2]);
  leftoff.close();
});

test("an entry of a kept outbox that is damaged does not keep back the others", async () => {
  const { clock, broker, browser, page, leftoff } = world({
    faults: { isAway: true },
    outbox: { keep: true },
  });
  const storage = page.io.storage();
  storage.setItem("leftoff-outbox http://broker.test/ 1", "{");
  leftoff.publish("orders", { data: 1 }).catch(() => {});
  await clock.advance(100);
  browser.kill(page);
  broker.restart();
  const next = client(browser, { shared: false, outbox: { keep: true } });
  await clock.advance(1_000);
  assert.deepEqual(stored(broker), [1]);
  assert.equal(next.page.errors.length, 1, "the damaged one is reported");
  next.leftoff.close();
});

/** Publishes by two tabs that are killed while the broker is away, and opens a third one. */
async function afterReload(counts, outbox) {
  const clock = new Clock();
  const broker = new Broker(clock);
  const browser = new Browser(clock, broker);
  broker.faults.isAway = true;
  const kept = { shared: false, outbox: { keep: true, ...outbox } };
  const tabs = counts.map(() => client(browser, kept));
  await clock.advance(10);
  tabs.forEach(({ leftoff }, tab) => {
    for (let number = 0; number < counts[tab]; number++) {
      leftoff.publish("orders", { data: `${tab}-${number}` }).catch(() => {});
    }
  });
  await clock.advance(100);
  tabs.forEach(({ page }) => browser.kill(page));
  broker.restart();
  const refused = [];
  const note = (problem, message) => refused.push(message.event.data);
  const next = client(browser, { shared: false, outbox: { ...kept.outbox, refused: note } });
  return { clock, broker, browser, refused, ...next };
}

test("an outbox that is kept keeps what two tabs publish in the same millisecond", async () => {
  const { clock, broker, leftoff } = await afterReload([3, 3]);
  await clock.advance(1_000);
  assert.deepEqual(stored(broker).sort(), ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]);
  leftoff.close();
});

test("what was kept goes out, also where it is more than one outbox holds, and is not refused", async () => {
  const { clock, broker, leftoff, refused, page } = await afterReload([4, 4], { max: 5 });
  const more = outcome(leftoff.publish("orders", { data: "more" }));
  await clock.advance(1_000);
  assert.match(more.error.message, /outbox is full/);
  assert.equal(stored(broker).length, 8);
  assert.deepEqual(refused, []);
  assert.deepEqual(Object.keys(page.io.storage()), []);
  leftoff.close();
});

test("an entry of a kept outbox that is no publish is reported, and goes", async () => {
  const { clock, browser, page, leftoff } = world();
  const storage = page.io.storage();
  ["{", "null", "{}"].forEach((text, at) =>
    storage.setItem(`leftoff-outbox http://broker.test/ ${at}`, text),
  );
  const next = client(browser, { shared: false, outbox: { keep: true, refused: assert.fail } });
  await clock.advance(1_000);
  assert.equal(next.page.errors.length, 3);
  assert.deepEqual(Object.keys(page.io.storage()), []);
  [leftoff, next.leftoff].forEach((it) => it.close());
});
