// A day of events through one subscription, with many connections one after the other: the memory of
// the client is the same after the last hour as after the first one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { connect } from "../../src/web/client/leftoff.js";
import { BURST_MS, Day } from "./simulation/day.js";

const HOUR_MS = 3_600_000;
const HOURS = 24;
/** A connection is cut after so many bursts: 120 times in an hour. */
const CUT_AFTER = 6;
/** What the engine itself may need more than after the first hour, for code that it has compiled. */
const MAX_GROWN_BYTES = 1024 * 1024;
/** The same for the second half of the day, when all is compiled: 180 bytes for a connection. */
const MAX_GROWN_LATE_BYTES = 256 * 1024;

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc");

/** Returns what is in use when everything that is not has been collected. */
async function used() {
  for (let turn = 0; turn < 3; turn++) {
    await new Promise((done) => setImmediate(done));
    collect();
  }
  return process.memoryUsage().heapUsed;
}

for (const [transport, size] of [
  ["websocket", 58],
  ["sse", 6],
]) {
  test(`a day of events over ${transport} leaves nothing behind`, async (t) => {
    const day = new Day(size);
    const leftoff = connect({ url: "http://broker.test", io: day.io, transports: [transport] });
    let last = 0;
    let wrong = 0;
    leftoff.subscribe(
      "orders",
      { from: "earliest", storage: "local" },
      {
        event({ sequence }) {
          wrong += sequence !== last + 1;
          last = sequence;
        },
      },
    );
    const bursts = HOUR_MS / BURST_MS;
    const marks = [];
    for (let hour = 0; hour < HOURS; hour++) {
      for (let burst = 1; burst <= bursts; burst++) {
        day.burst();
        burst % CUT_AFTER === 0 && day.connections.forEach((connection) => connection.end());
        await day.clock.advance(BURST_MS);
      }
      marks.push({ bytes: await used(), timers: day.timers, kept: day.kept });
    }
    const [first] = marks;
    const final = marks.at(-1);
    const grown = final.bytes - first.bytes;
    const grownLate = final.bytes - marks[HOURS / 2].bytes;
    t.diagnostic(`${last} events, ${day.opened} connections, ${final.timers} timers`);
    t.diagnostic(`${grown} bytes more after a day, ${grownLate} in its second half`);
    assert.equal(last, HOURS * bursts * size);
    assert.equal(wrong, 0, "events that came twice, or not in order");
    assert.ok(day.opened > HOURS * 100, `${day.opened} connections`);
    assert.ok(grown < MAX_GROWN_BYTES, `${grown} bytes more after a day`);
    assert.ok(grownLate < MAX_GROWN_LATE_BYTES, `${grownLate} bytes more in the second half`);
    assert.ok(final.timers <= first.timers + 1, `${first.timers} timers, and then ${final.timers}`);
    assert.equal(final.kept, 1, "one cursor is kept");
    assert.ok(day.connections.size <= 1);
    assert.deepEqual(day.errors, []);
    leftoff.close();
    await day.clock.advance(100);
    assert.equal(day.timers, 0, "timers after the end");
    assert.equal(day.connections.size, 0, "connections after the end");
  });
}
