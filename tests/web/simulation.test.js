// Runs of hours with faults of all kinds, each decided by a seed, against a model. `SEEDS=10000` runs
// as many, and `SEED=17` runs this one alone and prints all that happens in it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { run } from "./simulation/run.js";

const { SEED, SEEDS = "250", FIRST_SEED = "1" } = process.env;
/** The most seeds that are printed; the others would tell the same. */
const MOST_FAILED = 10;

test("whatever happens below, a client tells each event once and in order", async (t) => {
  if (SEED !== undefined) {
    assert.deepEqual(await run(Number(SEED), (text) => console.log(text)), []);
    return;
  }
  const first = Number(FIRST_SEED);
  const failed = [];
  for (let seed = first; seed < first + Number(SEEDS) && failed.length < MOST_FAILED; seed++) {
    const complaints = await run(seed);
    if (complaints.length > 0) {
      failed.push(seed);
      const lines = complaints.slice(0, 5).join("\n  ");
      t.diagnostic(`SEED=${seed} node --test tests/web/simulation.test.js\n  ${lines}`);
    }
  }
  assert.deepEqual(failed, [], "seeds that failed");
});
