// The connection: states that are true, coming back, falling back, and climbing up again.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect } from "../../src/web/client/leftoff.js";
import { problem } from "./fakes/broker.js";
import { follow, world } from "./fakes/world.js";

const kinds = (broker) => broker.open().map(({ kind }) => kind);

test("tries are spread by chance, up to thirty seconds, and begin anew after a good connection", async () => {
  const { clock, broker, leftoff, states } = world({ transports: ["websocket"] });
  await clock.advance(10);
  broker.kill();
  const pauses = [];
  leftoff.addEventListener(
    "state",
    ({ detail }) => detail.nextTryAt && pauses.push(detail.nextTryAt - clock.now),
  );
  await clock.advance(300_000);
  assert.ok(Number.isInteger(leftoff.connection.nextTryAt));
  const most = pauses.map((_, at) => Math.min(30_000, 500 * 2 ** (at + 1)));
  assert.ok(pauses.length > 10);
  assert.ok(
    pauses.every((pause, at) => pause <= most[at]),
    `${pauses}`,
  );
  assert.ok(new Set(pauses.map(Math.round)).size > 8, "each pause is another one");
  broker.restart();
  await clock.advance(31_000);
  assert.equal(leftoff.connection.state, "connected");
  await clock.advance(11_000);
  pauses.length = 0;
  broker.open()[0].end();
  await clock.advance(10);
  assert.ok(pauses[0] <= 500, "a good connection ends the doubling");
  assert.deepEqual(states.slice(0, 3), ["connecting", "connected", "reconnecting"]);
  leftoff.close();
});

test("a connection that dies at once does not end the doubling", async () => {
  const { clock, broker, leftoff } = world({ transports: ["websocket"] });
  const attempts = [];
  leftoff.onstate = ({ state, attempt }) => {
    attempts.push(attempt);
    state === "connected" &&
      setImmediate(() => broker.open().forEach((connection) => connection.end()));
  };
  await clock.advance(120_000);
  assert.ok(Math.max(...attempts) >= 7, `${attempts}`);
  assert.ok(broker.requests.length < 20, `${broker.requests.length} tries in two minutes`);
  leftoff.close();
});

test("silence is asked about after a heartbeat, and ends the connection after one and a half", async () => {
  const { clock, broker, leftoff } = world();
  const { events } = follow(leftoff, "orders");
  await clock.advance(60_000);
  assert.equal(broker.requests.length, 1, "an answered ping keeps the connection");
  broker.open()[0].isStalled = true;
  const since = clock.now;
  let endedAt;
  leftoff.onstate = () => (endedAt ??= clock.now);
  await clock.advance(40_000);
  assert.ok(endedAt - since <= 1.5 * broker.heartbeatMs, `${endedAt - since}`);
  broker.publish("orders", { data: 1 });
  await clock.advance(100);
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("a page that comes back goes on at once, by its cursor", async () => {
  const { clock, broker, leftoff, page, states } = world();
  const { events } = follow(leftoff, "orders");
  await clock.advance(11_000);
  page.tell("pagehide", { persisted: true });
  assert.equal(leftoff.connection.state, "reconnecting");
  await clock.advance(10);
  assert.equal(broker.open().length, 0, "a page in the cache of pages holds no connection");
  broker.publish("orders", { data: 1 });
  await clock.advance(600_000);
  assert.deepEqual(events(), []);
  page.tell("pageshow", { persisted: true });
  await clock.advance(10);
  assert.deepEqual(events(), [1]);
  page.freeze();
  broker.publish("orders", { data: 2 });
  await clock.advance(600_000);
  page.thaw();
  await clock.advance(10);
  assert.deepEqual(events(), [1, 2]);
  assert.equal(states.at(-1), "connected");
  leftoff.close();
});

test("a page that slept without being told looks at its connection when it is seen again", async () => {
  const { clock, broker, leftoff, page } = world();
  const { events } = follow(leftoff, "orders");
  await clock.advance(11_000);
  const [connection] = broker.open();
  connection.isStalled = true;
  clock.jump(3_600_000); // Timers have stood still.
  broker.publish("orders", { data: 1 });
  page.tell("visibilitychange");
  await clock.advance(4_000);
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("offline is told, and online comes back at once", async () => {
  const { clock, broker, browser, leftoff, page } = world();
  const { events } = follow(leftoff, "orders");
  await clock.advance(11_000);
  browser.setOnline(page, false);
  await clock.advance(100_000);
  assert.equal(leftoff.connection.state, "offline");
  broker.publish("orders", { data: 1 });
  browser.setOnline(page, true);
  await clock.advance(20);
  assert.equal(leftoff.connection.state, "connected");
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("close codes say whether to come back", async () => {
  for (const [code, state] of [
    [4029, "closed"],
    [4001, "denied"],
    [1008, "closed"],
    [4108, "connected"],
    [4109, "connected"],
    [1013, "connected"],
    [1006, "connected"],
  ]) {
    const { clock, broker, leftoff } = world();
    await clock.advance(11_000);
    broker.open()[0].end(code, `because of ${code}`);
    await clock.advance(1);
    assert.match(leftoff.connection.reason, new RegExp(code));
    await clock.advance(60_000);
    assert.equal(leftoff.connection.state, state, `after ${code}`);
    if (state !== "connected") {
      leftoff.retryNow();
      await clock.advance(10);
      assert.equal(leftoff.connection.state, "connected", "the application may try again");
    }
    leftoff.close();
  }
});

test("a broker that is being restarted is not stormed", async () => {
  const { clock, broker, leftoff } = world();
  await clock.advance(11_000);
  broker.open()[0].end(4109, "retry_ms=2000");
  await clock.advance(900);
  assert.equal(broker.requests.length, 1);
  await clock.advance(3_000);
  assert.equal(leftoff.connection.state, "connected");
  leftoff.close();
});

test("Retry-After is waited for, whatever the page does", async () => {
  const { clock, broker, leftoff, page } = world({ transports: ["sse"] });
  follow(leftoff, "orders");
  broker.faults.answer = () =>
    new Response("{}", { status: 503, headers: { "Retry-After": "20" } });
  await clock.advance(100);
  broker.faults.answer = null;
  page.tell("online");
  page.tell("visibilitychange");
  await clock.advance(19_000);
  assert.equal(broker.open().length, 0);
  await clock.advance(3_000);
  assert.equal(leftoff.connection.state, "connected");
  leftoff.close();
});

test("the token is asked for before each connect, and once more after a 401", async () => {
  const asked = [];
  const { clock, broker, leftoff } = world({ token: async () => `t${asked.push(1)}` });
  broker.token = "t2";
  const { events } = follow(leftoff, "orders");
  await clock.advance(100);
  assert.equal(asked.length, 2);
  assert.equal(leftoff.connection.state, "connected");
  broker.publish("orders", { data: 1 });
  broker.token = "t3";
  broker.open()[0].end();
  await clock.advance(11_000);
  assert.equal(asked.length, 3);
  broker.token = "t5";
  broker.open()[0].end(4001, "the permission is over");
  await clock.advance(11_000);
  assert.equal(leftoff.connection.state, "connected", "another token may be better");
  broker.token = "none";
  broker.open()[0].end(4001, "the permission is over");
  await clock.advance(11_000);
  assert.equal(leftoff.connection.state, "denied");
  const before = asked.length;
  await clock.advance(600_000);
  assert.equal(asked.length, before, "a refusal is not repeated");
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a token is renewed before it ends, and nobody notices, over ${transport}`, async () => {
    const jwt = (exp) => `x.${btoa(JSON.stringify({ sub: "ann", exp }))}.y`;
    const made = [];
    const { clock, broker, leftoff, states } = world({
      transports: [transport],
      token: async () => {
        made.push(jwt(Math.floor(clock.now / 1000) + 600));
        broker.token = made.at(-1);
        return made.at(-1);
      },
    });
    const { events } = follow(leftoff, "orders");
    await clock.advance(479_500);
    for (let data = 0; data < 20; data++) {
      broker.publish("orders", { data });
      await clock.advance(100);
    }
    assert.ok(made.length === 2 || made.length === 3);
    assert.equal(broker.open().length, 1);
    assert.deepEqual(
      events(),
      Array.from({ length: 20 }, (_, data) => data),
    );
    assert.deepEqual(states.slice(1), [transport === "poll" ? "polling" : "connected"]);
    leftoff.close();
  });
}

test("without WebSockets a stream is used at once, then polls; and the best way is looked for", async () => {
  const { clock, broker, leftoff, states } = world({ faults: { refusesUpgrade: true } });
  const { events, noted } = follow(leftoff, "orders");
  await clock.advance(20);
  assert.deepEqual(kinds(broker), ["stream"]);
  assert.equal(leftoff.connection.transport, "sse");
  broker.publish("orders", { data: 1 });
  await clock.advance(20);
  broker.faults.refusesUpgrade = false;
  await clock.advance(61_000);
  assert.deepEqual(kinds(broker), ["websocket"], "the better one is taken, the other one closed");
  broker.publish("orders", { data: 2 });
  await clock.advance(20);
  assert.deepEqual(events(), [1, 2]);
  assert.deepEqual(states, ["connecting", "connected"], "nobody notices the change");
  assert.equal(noted.filter(([kind]) => kind === "gap").length, 0);
  leftoff.close();
});

test("a proxy that opens WebSockets and carries nothing, and keeps streams, leaves polls", async () => {
  const { clock, broker, leftoff } = world({
    faults: { silencesUpgrade: true, buffersStreams: true },
  });
  const { events } = follow(leftoff, "orders", { from: "earliest" });
  broker.publish("orders", { data: 1 });
  await clock.advance(21_000);
  assert.equal(leftoff.connection.state, "polling");
  assert.deepEqual(events(), [1]);
  for (let data = 2; data < 20; data++) {
    broker.publish("orders", { data });
    await clock.advance(700);
  }
  assert.deepEqual(
    events(),
    Array.from({ length: 19 }, (_, at) => at + 1),
  );
  Object.assign(broker.faults, { silencesUpgrade: false, buffersStreams: false });
  await clock.advance(90_000);
  assert.equal(leftoff.connection.state, "connected");
  assert.deepEqual(kinds(broker), ["websocket"]);
  leftoff.close();
});

test("polls that are cut for their length become shorter, down to short ones", async () => {
  const { clock, broker, leftoff } = world({
    transports: ["poll"],
    faults: { cutsAfterMs: 4_000 },
  });
  const { events } = follow(leftoff, "orders");
  await clock.advance(30_000);
  assert.equal(leftoff.connection.state, "polling");
  const waits = broker.requests
    .filter((request) => request.includes("wait="))
    .map((it) => it.split("wait=")[1]);
  assert.deepEqual(waits.slice(0, 4), ["0s", "25s", "2s", "2s"]);
  broker.publish("orders", { data: 1 });
  await clock.advance(5_000);
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("a stream takes further subscriptions without losing a beat, and is watched", async () => {
  const { clock, broker, leftoff } = world({ transports: ["sse", "poll"] });
  const one = follow(leftoff, "a");
  await clock.advance(20);
  const two = follow(leftoff, "b.*", { from: "earliest" });
  broker.publish("a", { data: 1 });
  broker.publish("b.x", { data: 2 });
  await clock.advance(1_100);
  assert.equal(broker.open().length, 1);
  assert.deepEqual([one.events(), two.events()], [[1], [2]]);
  one.subscription.close();
  await clock.advance(1_100);
  assert.equal(broker.open()[0].readers.size, 1);
  await clock.advance(100_000);
  assert.equal(broker.open().length, 1, "heartbeats keep it");
  const [stalled] = broker.open();
  stalled.isStalled = true;
  broker.publish("b.y", { data: 3 });
  await clock.advance(30_000);
  assert.deepEqual(two.events(), [2, 3]);
  assert.equal(leftoff.connection.transport, "sse");
  leftoff.close();
});

test("a broker that is away is not taken for a proxy", async () => {
  const { clock, broker, leftoff } = world();
  await clock.advance(11_000);
  broker.kill();
  await clock.advance(300_000);
  broker.restart();
  await clock.advance(31_000 + 61_000);
  assert.equal(leftoff.connection.transport, "websocket");
  leftoff.close();
});

for (const transport of ["websocket", "sse"]) {
  test(`a clock that jumps ends no good connection, over ${transport}`, async () => {
    const { clock, broker, leftoff, page } = world({ transports: [transport] });
    const { events } = follow(leftoff, "orders");
    await clock.advance(11_000);
    for (const jump of [-7_200_000, 7_200_000, -100_000, 500_000]) {
      clock.jump(jump);
      transport === "websocket" && page.tell("visibilitychange"); // A stream has no ping.
      await clock.advance(40_000);
    }
    broker.publish("orders", { data: 1 });
    await clock.advance(10);
    assert.deepEqual(events(), [1]);
    assert.equal(broker.requests.length, 1);
    leftoff.close();
  });
}

test("a transport in between is taken where the best one is refused for ever", async () => {
  const { clock, broker, leftoff } = world({
    faults: { refusesUpgrade: true, buffersStreams: true },
  });
  const { events } = follow(leftoff, "orders");
  await clock.advance(21_000);
  assert.equal(leftoff.connection.transport, "poll");
  broker.faults.buffersStreams = false;
  await clock.advance(75_000);
  assert.equal(leftoff.connection.transport, "sse");
  broker.publish("orders", { data: 1 });
  await clock.advance(10);
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

test("a transport that was good is not left for one failure", async () => {
  const { clock, broker, leftoff } = world();
  await clock.advance(11_000);
  broker.faults.refusesUpgrade = true;
  broker.open()[0].end();
  while (broker.requests.length < 2) {
    await clock.advance(10);
  }
  await clock.advance(1);
  broker.faults.refusesUpgrade = false;
  await clock.advance(2_000);
  assert.equal(leftoff.connection.transport, "websocket");
  leftoff.close();
});

test("a broker that is away for tickets, too, is not taken for a proxy", async () => {
  const { clock, broker, leftoff } = world({ token: async () => "ann" });
  broker.token = "ann";
  follow(leftoff, "orders");
  await clock.advance(11_000);
  broker.kill();
  await clock.advance(100_000);
  broker.restart();
  await clock.advance(31_000);
  assert.equal(leftoff.connection.transport, "websocket");
  assert.ok(broker.requests.every((request) => !request.includes("follow")));
  leftoff.close();
});

test("a module that no broker has served must be told where the broker is", () => {
  assert.throws(() => connect(), { name: "Problem", message: "connect needs a url" });
});

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a subscription that is wrong ends by itself, and nothing else is heard of it, over ${transport}`, async () => {
    const { clock, broker, leftoff, states } = world({ transports: [transport] });
    broker.publish("orders", { data: 1 });
    const good = follow(leftoff, "orders", { from: "earliest" });
    const bad = follow(leftoff, "not a topic", { from: "earliest" });
    const bare = follow(leftoff, "orders");
    await clock.advance(2_000);
    assert.deepEqual(bad.noted, [["ended", 400]]);
    assert.deepEqual([good.events(), bare.events()], [[1], []]);
    const well = transport === "poll" ? "polling" : "connected";
    const count = () => broker.requests.filter((request) => request === "POST /v1/follow").length;
    const asked = count();
    const later = follow(leftoff, "not a topic", { from: "latest" });
    await clock.advance(2_000);
    assert.deepEqual(later.noted, [["ended", 400]]);
    assert.equal(count() - asked, transport === "sse" ? 1 : 0, "the good stream goes on");
    broker.publish("orders", { data: 2 });
    await clock.advance(12_000);
    assert.deepEqual([good.events(), bare.events()], [[1, 2], [2]]);
    assert.deepEqual(states, ["connecting", well]);
    leftoff.close();
  });
}

test("a wrong subscription that is dropped before its refusal harms no other one", async () => {
  const { clock, broker, leftoff, states } = world({ transports: ["sse"] });
  const good = follow(leftoff, "orders");
  await clock.advance(100);
  broker.latencyMs = 100;
  const bad = follow(leftoff, "not a topic");
  await clock.advance(50);
  bad.subscription.close();
  const next = follow(leftoff, "others");
  await clock.advance(1_000);
  broker.publish("orders", { data: 1 });
  broker.publish("others", { data: 2 });
  await clock.advance(1_000);
  assert.deepEqual([good.events(), next.events(), bad.noted], [[1], [2], []]);
  assert.deepEqual(states, ["connecting", "connected"]);
  leftoff.close();
});

test("a stream all of whose subscriptions were refused goes on without them", async () => {
  const { clock, broker, leftoff, states } = world({ transports: ["sse"] });
  const refused = follow(leftoff, "forbidden");
  await clock.advance(1_000);
  assert.deepEqual(refused.noted, [["ended", 403]]);
  assert.equal(leftoff.connection.transport, "sse");
  const next = follow(leftoff, "orders");
  await clock.advance(1_000);
  broker.publish("orders", { data: 1 });
  await clock.advance(1_000);
  assert.deepEqual(next.events(), [1]);
  assert.equal(broker.open("stream").length, 1);
  assert.deepEqual(states, ["connecting", "connected"]);
  broker.kill();
  await clock.advance(1_000);
  assert.equal(leftoff.connection.state, "reconnecting");
  leftoff.close();
});

test("a client that is closed as its stream ends asks for nothing more", async () => {
  const { clock, broker, leftoff } = world({ transports: ["sse"] });
  leftoff.subscribe("forbidden", {}, { ended: () => leftoff.close() });
  await clock.advance(1_000);
  const { length } = broker.requests;
  await clock.advance(60_000);
  assert.equal(broker.requests.length, length);
});

test("polls that nobody answers are given up, and are not taken for polls that were cut", async () => {
  const { clock, broker, leftoff } = world({ transports: ["poll"] });
  follow(leftoff, "orders");
  await clock.advance(1_000);
  assert.equal(leftoff.connection.state, "polling");
  broker.faults.hangs = true;
  await clock.advance(62_000);
  assert.equal(leftoff.connection.state, "reconnecting");
  leftoff.close();
});

test("a token of a short life does not keep a client from a better transport", async () => {
  const { clock, broker, leftoff } = world({
    token: async () => `x.${btoa(JSON.stringify({ exp: clock.now / 1_000 + 30 }))}.y`,
    faults: { refusesUpgrade: true },
  });
  follow(leftoff, "orders");
  await clock.advance(5_000);
  assert.equal(leftoff.connection.transport, "sse");
  broker.faults.refusesUpgrade = false;
  await clock.advance(65_000);
  assert.equal(leftoff.connection.transport, "websocket");
  leftoff.close();
});

const jwt = (exp) => `x.${btoa(JSON.stringify({ sub: "ann", exp }))}.y`;

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a token that cannot be renewed ends nothing before its time, over ${transport}`, async () => {
    let isFailing = false;
    let asked = 0;
    const { clock, broker, leftoff, states } = world({
      transports: [transport],
      token: async () => {
        asked++;
        if (isFailing) {
          throw new Error("the page's server is away");
        }
        return (broker.token = jwt(Math.floor(clock.now / 1_000) + 600));
      },
    });
    const { events } = follow(leftoff, "orders");
    await clock.advance(100);
    isFailing = true;
    await clock.advance(598_000);
    const isGood = transport === "poll" ? "polling" : "connected";
    assert.deepEqual(states, ["connecting", isGood], "the line is good for as long as its token");
    assert.ok(asked >= 4 && asked <= 15, `${asked} tokens were asked for: later, and not at once`);
    broker.publish("orders", { data: 1 });
    await clock.advance(100);
    assert.deepEqual(events(), [1]);
    broker.token = "another"; // The token has ended.
    const [line] = broker.open();
    line.kind === "websocket" && line.end(4001, "the permission is over");
    line.kind === "stream" && line.tell({ type: "expired" });
    await clock.advance(30_000);
    assert.equal(leftoff.connection.state, "reconnecting");
    assert.equal(leftoff.connection.reason, "the page's server is away");
    isFailing = false;
    broker.publish("orders", { data: 2 });
    await clock.advance(31_000);
    assert.equal(leftoff.connection.state, isGood);
    assert.deepEqual(events(), [1, 2]);
    leftoff.close();
  });

  test(`a renewal that succeeds at the second try is noticed by nobody, over ${transport}`, async () => {
    let failures = 1;
    const { clock, broker, leftoff, states } = world({
      transports: [transport],
      token: async () => {
        if (clock.now > start + 400_000 && failures-- > 0) {
          throw new Error("the page's server is away");
        }
        return (broker.token = jwt(Math.floor(clock.now / 1_000) + 600));
      },
    });
    const start = clock.now;
    follow(leftoff, "orders");
    await clock.advance(550_000);
    assert.ok(failures < 0, "it was asked again");
    const { exp } = JSON.parse(atob(broker.token.split(".")[1]));
    assert.ok(exp * 1_000 > start + 1_000_000, "the line has the next token");
    assert.equal(states.length, 2);
    assert.equal(broker.open().length, 1);
    leftoff.close();
  });

  test(`a second refusal of a new token ends in denied, over ${transport}`, async () => {
    let asked = 0;
    const { clock, broker, leftoff } = world({
      transports: [transport],
      token: async () => `t${++asked}`,
    });
    broker.token = "none of these";
    follow(leftoff, "orders");
    await clock.advance(600_000);
    assert.equal(leftoff.connection.state, "denied");
    assert.equal(asked, 2, "one for the connect, and one more after the refusal");
    assert.ok(broker.requests.length <= 4, `${broker.requests}`);
    // The same for a connection that was good, and whose permission ends.
    broker.token = "t3";
    leftoff.retryNow();
    await clock.advance(40_000);
    assert.match(leftoff.connection.state, /connected|polling/);
    broker.token = "none of these";
    broker.requests.length = 0;
    broker.open().forEach((line) => line.kind === "websocket" && line.end(4001, "over"));
    broker.open().forEach((line) => line.kind === "stream" && line.tell({ type: "expired" }));
    await clock.advance(600_000);
    assert.equal(leftoff.connection.state, "denied");
    assert.ok(broker.requests.length <= 8, `${broker.requests}`);
    leftoff.close();
  });
}

test("a permission that ends at once, whatever the token, is not asked for in a circle", async () => {
  for (const transport of ["websocket", "sse"]) {
    let asked = 0;
    const { clock, broker, leftoff } = world({
      transports: [transport],
      token: async () => `t${++asked}`,
    });
    const end = () => {
      broker.open("websocket").forEach((line) => line.end(4001, "over"));
      broker.open("stream").forEach((line) => line.tell({ type: "expired" }));
    };
    leftoff.onstate = ({ state }) => state === "connected" && setImmediate(end);
    follow(leftoff, "orders");
    await clock.advance(600_000);
    assert.equal(leftoff.connection.state, "denied");
    assert.equal(asked, 2);
    leftoff.close();
  }
});

test("a subscription is not lost when a better transport is tried just then", async () => {
  const { clock, broker, leftoff, page } = world({ faults: { refusesUpgrade: true } });
  const one = follow(leftoff, "a");
  await clock.advance(20_000);
  assert.equal(leftoff.connection.transport, "sse");
  broker.latencyMs = 1_000;
  const two = follow(leftoff, "b");
  await clock.advance(500);
  page.tell("online"); // The next stream is on its way, and another network may let WebSockets pass.
  await clock.advance(100);
  broker.publish("a", { data: 0 }); // The present stream is alive.
  await clock.advance(20_000);
  broker.publish("a", { data: 1 });
  broker.publish("b", { data: 2 });
  await clock.advance(5_000);
  assert.deepEqual([one.events(), two.events()], [[0, 1], [2]]);
  leftoff.close();
});

test("a broker that says to come back in a year is asked in five minutes at the latest", async () => {
  const { clock, broker, leftoff } = world({ transports: ["sse"] });
  follow(leftoff, "orders");
  const year = 365 * 24 * 3_600_000; // A timer of so many milliseconds fires at once.
  const later = (status) => problem(status, "later", { retry_after_ms: year });
  broker.faults.answer = () => new Response(JSON.stringify(later(503)), { status: 503 });
  await clock.advance(60_000);
  assert.ok(broker.requests.length < 3, `${broker.requests.length} tries in a minute`);
  broker.faults.answer = null;
  await clock.advance(300_000);
  assert.equal(leftoff.connection.state, "connected");
  leftoff.close();
});

test("a token that does not come is asked for again, and no transport is left for it", async () => {
  let isHanging = true;
  const token = () => (isHanging ? new Promise(() => {}) : "first");
  const { clock, broker, leftoff, page } = world({ token });
  broker.token = "first";
  const { events } = follow(leftoff, "orders");
  await clock.advance(31_000);
  assert.notEqual(leftoff.connection.reason, "", "the page is told why");
  isHanging = false;
  await clock.advance(31_000);
  assert.equal(leftoff.connection.transport, "websocket");
  broker.publish("orders", { data: 1 });
  await clock.advance(100);
  assert.deepEqual(events(), [1]);
  leftoff.close();
  await clock.advance(10);
  assert.equal(clock.timersOf(page), 0);
});

test("a broker says with its code when to come back", async () => {
  const { clock, broker, leftoff, page } = world({ transports: ["websocket"] });
  follow(leftoff, "orders");
  await clock.advance(11_000);
  broker.open()[0].end(4111, "an administrator ended the connection; retry_ms=2000");
  await clock.advance(900);
  page.tell("visibilitychange");
  assert.equal(broker.requests.length, 1);
  await clock.advance(3_000);
  assert.equal(leftoff.connection.state, "connected");
  leftoff.close();
});

test("a token of a short life is renewed before its end, too", async () => {
  const { clock, broker, leftoff, states } = world({
    token: async () => (broker.token = jwt(Math.floor(clock.now / 1_000) + 15)),
  });
  follow(leftoff, "orders");
  for (let turn = 0; turn < 10; turn++) {
    const { token } = broker;
    await clock.advance(13_500);
    assert.notEqual(broker.token, token);
  }
  assert.deepEqual(states, ["connecting", "connected"]);
  assert.equal(broker.open().length, 1);
  leftoff.close();
});

test("a place that is a word is the same one for both lines when a line follows another one", async () => {
  const { clock, broker, leftoff } = world({ faults: { refusesUpgrade: true } });
  follow(leftoff, "others");
  await clock.advance(59_000);
  broker.faults.refusesUpgrade = false;
  while (!broker.open("websocket")[0]) {
    await clock.advance(1);
  }
  for (let data = 0; data < 200; data++) {
    if (data === 50) {
      var { events } = follow(leftoff, "orders");
    }
    broker.publish("orders", { data });
    await clock.advance(1);
  }
  await clock.advance(5_000);
  const [first] = events();
  assert.ok(first >= 50);
  assert.deepEqual(
    events(),
    Array.from({ length: 200 - first }, (_, at) => first + at),
  );
  leftoff.close();
});

test("a stream that breaks off is opened again when the broker has said", async () => {
  const { clock, broker, leftoff, page } = world({ transports: ["sse"] });
  const { events } = follow(leftoff, "orders");
  await clock.advance(11_000);
  broker.open()[0].end();
  await clock.advance(900);
  page.tell("visibilitychange");
  assert.deepEqual(broker.requests, ["POST /v1/follow"]);
  broker.publish("orders", { data: 1 });
  await clock.advance(3_000);
  assert.equal(leftoff.connection.state, "connected");
  assert.deepEqual(events(), [1]);
  leftoff.close();
});

/** Answers each poll with one event, whose data is this text of JSON. */
const answering = (data) => ({ pathname, body }) => {
  if (pathname !== "/v1/follow") {
    return null;
  }
  const [{ subscription, from }] = JSON.parse(body).subscriptions;
  const place = { subscription, cursor: "1-e" };
  const told = JSON.stringify({ type: "event", ...place, event: { sequence: 1, data: "data" } });
  const messages = from === "1-e" ? "" : told.replace('"data"}', `${data}}`);
  return new Response(`{"messages":[${messages}]}`);
};

test("an event whose data is nested very deep comes over polls, too", async () => {
  const { clock, broker, leftoff } = world({ transports: ["poll"] });
  const depth = 20_000;
  broker.faults.answer = answering("[".repeat(depth) + "]".repeat(depth));
  const { noted } = follow(leftoff, "orders", { from: "earliest" });
  await clock.advance(10_000);
  assert.equal(noted.length, 1);
  assert.equal(leftoff.connection.state, "polling");
  leftoff.close();
});

test("an answer that is none of a broker's ends no poll for good, and is not taken for one", async () => {
  for (const text of ["{}", "1", "<html>log in</html>", '{"messages":[1]}']) {
    for (const isFollowing of [true, false]) {
      const { clock, broker, leftoff, states } = world({ transports: ["sse", "poll"] });
      broker.faults.answer = () => new Response(text);
      const { events } = isFollowing ? follow(leftoff, "orders") : { events: () => [1] };
      await clock.advance(60_000);
      assert.ok(!states.includes("connected"), `${text}: ${states}`);
      assert.ok(isFollowing || !states.includes("polling"), `${text}: ${states}`);
      broker.faults.answer = null;
      await clock.advance(60_000);
      broker.publish("orders", { data: 1 });
      await clock.advance(100);
      assert.match(leftoff.connection.state, /connected|polling/);
      assert.deepEqual(events(), [1]);
      leftoff.close();
    }
  }
});

for (const transport of ["websocket", "sse", "poll"]) {
  test(`a credential that is refused is told, also to who follows nothing, over ${transport}`, async () => {
    const { clock, broker, leftoff } = world({ transports: [transport], token: () => "wrong" });
    broker.token = "right";
    await clock.advance(1_000);
    assert.equal(leftoff.connection.state, "denied");
    leftoff.close();
  });
}

test("what comes over a WebSocket and is no message ends it, and does not make it good", async () => {
  for (const data of ["hello", "1", "null", "{}", new Blob(["x"])]) {
    const { clock, broker, leftoff, states } = world({
      transports: ["websocket"],
      faults: { silencesUpgrade: true },
    });
    await clock.advance(100);
    broker.open()[0].onmessage({ data });
    assert.deepEqual(states, ["connecting"]);
    broker.faults.silencesUpgrade = false;
    await clock.advance(10_000);
    assert.equal(leftoff.connection.state, "connected");
    broker.open()[0].onmessage({ data });
    assert.equal(leftoff.connection.state, "reconnecting");
    await clock.advance(10_000);
    assert.equal(leftoff.connection.state, "connected");
    leftoff.close();
  }
});

test("an end without a reason is asked about again, and nothing is lost", async () => {
  const { clock, broker, leftoff } = world({ transports: ["websocket"] });
  const { events, noted } = follow(leftoff, "orders");
  await clock.advance(100);
  const [connection] = broker.open();
  const [subscription] = connection.readers.keys();
  connection.readers.clear();
  connection.tell({ type: "ended", subscription });
  broker.publish("orders", { data: 1 });
  await clock.advance(2_000);
  assert.deepEqual(events(), [1]);
  assert.ok(noted.every(([kind]) => kind !== "ended"));
  leftoff.close();
});

for (const [how, told, end] of [
  ["a close", ["websocket"], (it) => it.end(4100, "retry_ms=99999999999")],
  ["a stream", ["sse"], (it) => it.tell({ type: "stopping", retry_ms: 99_999_999_999 })],
]) {
  test(`a pause that ${how} asks for has a bound`, async () => {
    const { clock, broker, leftoff } = world({ transports: told });
    follow(leftoff, "orders");
    await clock.advance(100);
    end(broker.open()[0]);
    await clock.advance(10);
    const pause = leftoff.connection.nextTryAt - clock.now;
    assert.ok(pause > 299_000 && pause < 301_000, `${pause} ms`);
    leftoff.close();
  });
}

test("a heartbeat of years is not believed: silence ends the connection all the same", async () => {
  const { clock, broker, leftoff } = world({ transports: ["websocket"] });
  broker.heartbeatMs = 1e12;
  await clock.advance(1_000);
  assert.equal(leftoff.connection.state, "connected");
  broker.open()[0].isStalled = true;
  broker.faults.isAway = true;
  await clock.advance(500_000);
  assert.equal(leftoff.connection.state, "reconnecting");
  leftoff.close();
});

test("Retry-After may be a date", async () => {
  const { clock, broker, leftoff } = world({ transports: ["sse"] });
  const headers = () => ({ "Retry-After": new Date(clock.now + 60_000).toUTCString() });
  broker.faults.answer = () => new Response("{}", { status: 503, headers: headers() });
  follow(leftoff, "orders");
  await clock.advance(100);
  const pause = leftoff.connection.nextTryAt - clock.now;
  assert.ok(pause > 58_000 && pause < 61_000, `${pause} ms`);
  leftoff.close();
});

test("a token whose claims are null is a token without claims", async () => {
  const token = () => `x.${btoa("null")}.y`;
  const { clock, leftoff, page } = world({ transports: ["websocket"], token });
  await clock.advance(1_000);
  assert.equal(leftoff.connection.state, "connected");
  assert.deepEqual(page.errors, []);
  leftoff.close();
});
