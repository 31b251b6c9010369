// Two devices with one inbox, by chance: whatever is late, fails, is refused or is told twice, in the
// end both show what the broker has. `SEEDS=10000` runs as many seeds, and `FIRST_SEED` is the first.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inbox } from "../../src/web/client/inbox.js";
import { chance, Clock } from "./fakes/clock.js";
import { Device, Notes } from "./fakes/notes.js";

const { SEEDS = "300", FIRST_SEED = "1" } = process.env;
const STEPS = 60;
const VIEWS = ["inbox", "unread", "snoozed", "archived"];

/** Runs one seed, and returns what each device shows and what it should show. */
async function run(seed) {
  const random = chance(seed);
  const pick = (all) => all[Math.floor(random() * all.length)];
  const clock = new Clock();
  const notes = new Notes(clock, seed % 2 ? "u.>" : "u");
  const publish = () => notes.publish(notes.isMany ? pick(["u.a", "u.b"]) : "u");
  for (let number = 0; number < 8; number++) {
    publish();
  }
  const devices = [1, 2].map(() => new Device(notes, random));
  const opened = devices.map((device) => inbox(device, { topic: notes.topic, pageSize: 5 }));
  const settled = [];
  const begin = (promise) => settled.push(promise) && promise.catch(() => {}); // They are looked at later.
  let refused = 0;
  opened.forEach((it) => it.addEventListener("refused", () => refused++));

  const until = () => new Date(clock.now + 500 + random() * 2_000).toISOString();
  const change = () =>
    pick([
      { mark: ["read"] },
      { unmark: ["read"] },
      { mark: ["archived"] },
      { unmark: ["archived"] },
      { mark: ["snoozed"], snooze_until: until() },
      { unmark: ["snoozed"] },
      { unmark: ["seen"] },
    ]);
  const mark = (it) => {
    const entry = pick(it.entries);
    entry && begin(it.mark(entry, change()));
  };
  const steps = [
    publish,
    publish,
    () => mark(pick(opened)),
    () => mark(pick(opened)),
    () => void begin(pick(opened).markAll(pick(["seen", "read", "archived"]))),
    () => void begin(pick(opened).more()),
    () => void begin(pick(opened).show(pick(VIEWS))),
    () => pick(devices).setUp(random() < 0.6),
    () => notes.events.splice(0, random() < 0.3 ? 2 : 0), // The topic's limit.
    () => random() < 0.05 && notes.beginAnew(),
    () => clock.advance(random() * 1_000),
    () => clock.advance(random() * 100),
    ...[1, 2, 3, 4].map(() => () => pick(devices).deliver()),
  ];
  for (let step = 0; step < STEPS; step++) {
    await pick(steps)();
  }
  devices.forEach((device) => Object.assign(device, { isUnlucky: false }).setUp(true));
  for (let turn = 0; turn < 20; turn++) {
    await clock.advance(3_000); // Longer than a snooze; and than a pause, most times.
    devices.forEach((device) => {
      while (device.deliver());
    });
  }
  await clock.advance(60_000);
  const outcomes = await Promise.allSettled(settled);
  const rejected = outcomes.filter(({ status }) => status === "rejected").map(({ reason }) => reason.status);
  const told = ({ topic, sequence }, marks) => ({ topic, sequence, ...marks });
  const result = opened.map(({ view, entries, hasMore, counts, isOld }) => {
    const all = notes.shown(view);
    const due = all.slice(0, hasMore ? entries.length : undefined);
    return {
      shown: { isOld, counts: counts[view], entries: entries.map((it) => told(it.event, it.marks)) },
      due: { isOld: false, counts: all.length, entries: due.map((it) => told(it, notes.marksOf(it))) },
    };
  });
  opened.forEach((it) => it.close());
  return { result, rejected, refused };
}

test(`two devices agree with the broker, over ${SEEDS} seeds`, async () => {
  let all = 0;
  let refusals = 0;
  const first = Number(FIRST_SEED);
  for (let seed = first; seed < first + Number(SEEDS); seed++) {
    const { result, rejected, refused } = await run(seed);
    for (const { shown, due } of result) {
      assert.deepEqual(shown, due, `seed ${seed}`);
      all += shown.entries.length;
    }
    assert.ok(rejected.every((status) => status === 403 || status === 409), `seed ${seed}: ${rejected}`);
    assert.ok(refused >= rejected.length, `seed ${seed}: each refusal is told`);
    refusals += rejected.length;
  }
  assert.ok(all > Number(SEEDS) && refusals > Number(SEEDS) / 10, `${all} entries, ${refusals} refusals`);
});
