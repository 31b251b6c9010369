// The client against a real broker: the program that the variable LEFTOFF_BIN names. Without it these
// tests say so. A Node without WebSockets falls back, as the client does anywhere.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../src/web/client/leftoff.js";
import { RealBroker, skip, until } from "./runtimes/broker.js";

const ALL = [...(globalThis.WebSocket ? ["websocket"] : []), "sse", "poll"];

for (const transport of ALL) {
  test(
    `what is published is read once and in order over kills, over ${transport}`,
    { skip },
    async (it) => {
      const broker = await new RealBroker().start();
      it.after(() => broker.remove());
      const leftoff = connect({ url: broker.url, transports: [transport] });
      it.after(() => leftoff.close());
      const seen = [];
      const gaps = [];
      leftoff.subscribe(
        ["orders.*", "others"],
        { from: "earliest" },
        {
          event: ({ data }) => seen.push(data),
          gap: (gap) => gaps.push(gap),
        },
      );
      const receipts = [];
      const sent = [];
      for (let round = 0; round < 3; round++) {
        for (let more = 0; more < 50; more++) {
          const topic = more % 10 === 9 ? "others" : "orders.new";
          receipts.push(
            leftoff.publish(topic, {
              type: "new",
              key: `${more}`,
              data: sent.push(sent.length) - 1,
            }),
          );
        }
        await Promise.race([receipts.at(-20), new Promise((done) => setTimeout(done, 100))]);
        await broker.kill(round === 1 ? "SIGTERM" : "SIGKILL");
        await broker.start();
      }
      const all = await Promise.all(receipts);
      await until(() => seen.length >= sent.length, "all events");
      assert.deepEqual(seen, sent);
      assert.deepEqual(gaps, []);
      const positions = all.map(({ position }) => position);
      assert.deepEqual(
        positions,
        [...positions].sort((one, other) => one - other),
        "in order",
      );
    },
  );
}

test("the first transport that works is used, and says so", { skip }, async (it) => {
  const broker = await new RealBroker().start();
  it.after(() => broker.remove());
  const leftoff = connect({ url: broker.url });
  it.after(() => leftoff.close());
  leftoff.subscribe("orders", {}, {});
  await until(() => leftoff.connection.state === "connected", "a connection");
  assert.equal(leftoff.connection.transport, ALL[0]);
});

test("a state, a filter, ephemeral events, a refusal and a request", { skip }, async (it) => {
  const broker = await new RealBroker().start();
  it.after(() => broker.remove());
  for (const transport of ALL) {
    const leftoff = connect({ url: broker.url, transports: [transport] });
    it.after(() => leftoff.close());
    const topic = `prices-${transport}`;
    await leftoff.publish(topic, { key: "a", data: 1 });
    await leftoff.publish(topic, { key: "b", data: 2 });
    const prices = leftoff.state(topic);
    await prices.ready;
    await leftoff.publish(topic, { key: "a" });
    await leftoff.publish(topic, { key: "c", type: "x", data: 3 });
    await until(() => String([...prices.map.keys()]) === "b,c", "the state");
    const told = [];
    leftoff.subscribe(
      topic,
      { from: "earliest", filter: { types: ["x", "typing"] } },
      {
        event: ({ data }) => told.push(data),
        ephemeral: ({ type, data }) => told.push([type, data]),
        caughtUp: () => told.includes("caught up") || told.push("caught up"),
      },
    );
    await until(() => told.length === 2, "the filter");
    const isSeen = async () => {
      await leftoff.publish(topic, { type: "typing", data: { who: "ann" }, ephemeral: true });
      return told.length > 2;
    };
    await until(isSeen, "an ephemeral event");
    assert.deepEqual(told.slice(0, 3), [3, "caught up", ["typing", { who: "ann" }]]);
    const refused = leftoff.publish(topic, { data: 4, expectedSequence: 77 });
    await assert.rejects(refused, { name: "Problem", status: 412 });
    await assert.rejects(leftoff.publish("$own", { data: 4 }), { status: 400 });
    const alive = [];
    leftoff.subscribe(`${topic}-new`, {}, { event: ({ data }) => alive.push(data) });
    const wrong = new Promise((done) => leftoff.subscribe("a b", {}, { ended: done }));
    const { status, message } = await wrong;
    assert.deepEqual([status, /^topic: holds ' '/.test(message)], [400, true], message);
    const isAlive = async () => {
      await leftoff.publish(`${topic}-new`, { data: 5 });
      return alive.length > 0;
    };
    await until(isAlive, "the subscription beside the wrong one");
    assert.equal((await leftoff.request("GET", "/v1/topics")).topics.length > 0, true);
    await assert.rejects(leftoff.request("GET", "v1/nothing"), { status: 404 });
  }
});
