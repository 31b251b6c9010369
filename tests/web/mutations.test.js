// The simulation finds faults: each of these, made in a copy of the client's core, is noticed within a
// few seeds. Where a line of the core is written otherwise, its fault must be, too.

import assert from "node:assert/strict";
import { test } from "node:test";
import { imported, joined } from "./fakes/core.js";
import { run } from "./simulation/run.js";

/** The most seeds until a fault is noticed. `simulation.test.js` runs more; most need less than ten. */
const SEEDS = 100;

/** A publish with another id each time. */
const NEW_IDS = "events } : { ...message, event: { ...message.event, id: io.newId() } })";
/** What is wrong, and said of it; the text of the core, once in it, and the text in its place. */
const FAULTS = [
  ["the newest cursor is kept", /kept before/, "own.key, written)", "own.key, ask.from)"],
  ["both of two lines tell a gap", /told twice/, ` || (type === "gap" && isTwofold)`, ""],
  ["receipts are guessed", /said to be at|was sent/, "if (duplicates) {", "if (false) {"],
  ["who is seen does not wait", /too early/, "io.now() >= notBefore", "true"],
  ["the outbox has no limit", /publishes wait in/, "queue.length >= max ||", ""],
  ["each try has another id", /stored \d+ times/, "events } : message)", NEW_IDS],
  ["a new leader is not asked", /not told/, "meet(from);\n      on.reset();", "meet(from);"],
  ["a dead line is not given up", /can arrive/, "wait(ms, giveUp);", ""],
];

for (const [what, said, text, fault] of FAULTS) {
  test(`the simulation notices that ${what}`, async (t) => {
    const core = joined();
    assert.equal(core.split(text).length, 2, `${text} is in the core once`);
    const { connect } = await imported(core.replace(text, () => fault));
    for (let seed = 1; seed <= SEEDS; seed++) {
      const complaints = await run(seed, () => {}, connect);
      const complaint = complaints.find((it) => said.test(it));
      if (complaint) {
        t.diagnostic(`seed ${seed}: ${complaint}`);
        return;
      }
    }
    assert.fail(`${SEEDS} seeds have noticed nothing`);
  });
}
