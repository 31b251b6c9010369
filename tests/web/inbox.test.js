// The inbox: what a change of marks shows before and after the broker has answered.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inbox } from "../../src/web/client/inbox.js";
import { Problem } from "../../src/web/client/transports.js";

const UNMARKED = { seen: false, read: false, archived: false, snoozed_until: null };
const settled = () => new Promise((done) => setImmediate(done));

/** A client whose broker answers what the test says, request by request. */
function client(...events) {
  const asked = [];
  const timers = [];
  const leftoff = Object.assign(new EventTarget(), {
    connection: { state: "connected" },
    io: {
      now: () => 0,
      random: () => 0,
      setTimeout: (run) => timers.push(run),
      clearTimeout: () => {},
    },
    request: (method, path, body) =>
      new Promise((resolve, reject) => asked.push({ method, path, body, resolve, reject })),
    subscribe: (topic, options, handlers) => {
      Object.assign(leftoff, { topic, options, handlers });
      return { close: () => (leftoff.isClosed = true) };
    },
  });
  const page = {
    events: events.map((sequence) => ({ topic: "t", sequence, position: sequence, data: sequence, marks: UNMARKED })),
    next: null,
    cursor: `${events[0] ?? 0}-e`,
    revision: "@5-e",
  };
  return { leftoff, asked, timers, page };
}

async function opened(...events) {
  const { leftoff, asked, timers, page } = client(...events);
  const held = inbox(leftoff, { topic: "t" });
  const refusals = [];
  held.addEventListener("refused", ({ detail }) => refusals.push(detail.message));
  asked.shift().resolve(page);
  await held.ready;
  return { held, leftoff, asked, timers, refusals };
}

const shown = (held) => held.entries.map(({ event, marks }) => [event.sequence, marks.read]);

test("the list is followed from the place and the marks of the first page", async () => {
  const { held, leftoff } = await opened(2, 1);
  assert.deepEqual(shown(held), [[2, false], [1, false]]);
  assert.equal(leftoff.options.from, "2-e");
  assert.equal(leftoff.options.marksAfter, "@5-e");
  leftoff.handlers.event({ topic: "t", sequence: 3, position: 3 }, { cursor: "3-e" });
  leftoff.handlers.event({ topic: "t", sequence: 3, position: 3 }, { cursor: "3-e" });
  assert.deepEqual(shown(held), [[3, false], [2, false], [1, false]]);
  held.close();
  assert.equal(leftoff.isClosed, true);
});

test("a change of marks is shown at once, and stays when it is stored", async () => {
  const { held, asked } = await opened(2, 1);
  const marked = held.mark(held.entries[0], { mark: ["read"] });
  assert.deepEqual(shown(held), [[2, true], [1, false]]);
  assert.deepEqual(asked[0].body, { mark: ["read"], events: [{ topic: "t", sequence: 2 }] });
  asked[0].resolve({ revision: "@6-e" });
  await marked;
  assert.deepEqual(shown(held), [[2, true], [1, false]]);
});

test("a change of marks that is refused is taken back, and others stay", async () => {
  const { held, asked, refusals } = await opened(2, 1);
  const archived = held.mark(held.entries[1], { mark: ["archived"] });
  const read = held.mark(held.entries[0], { mark: ["read"] });
  assert.deepEqual(shown(held), [[2, true]]);
  asked[1].resolve({ revision: "@6-e" });
  asked[0].reject(new Problem({ status: 403, detail: "not permitted" }));
  await read;
  await assert.rejects(archived, /not permitted/);
  assert.deepEqual(shown(held), [[2, true], [1, false]]);
  assert.deepEqual(refusals, ["not permitted"]);
});

test("a change of marks waits while the broker is away", async () => {
  const { held, asked, timers } = await opened(1);
  const marked = held.mark(held.entries[0], { mark: ["read"] });
  asked[0].reject(new Problem({ status: 503 }));
  await settled();
  assert.deepEqual(shown(held), [[1, true]]);
  timers.shift()();
  await settled();
  assert.deepEqual(asked[1].body, asked[0].body);
  asked[1].resolve({ revision: "@6-e" });
  await marked;
  assert.deepEqual(shown(held), [[1, true]]);
});

test("all are marked up to the newest that is shown", async () => {
  const { held, asked, leftoff } = await opened(2, 1);
  const marked = held.markAll("read");
  assert.deepEqual(asked[0].body, { mark: ["read"], up_to: "2-e" });
  leftoff.handlers.event({ topic: "t", sequence: 3, position: 3 }, { cursor: "3-e" });
  assert.deepEqual(shown(held), [[3, false], [2, true], [1, true]]);
  asked[0].resolve({ revision: "@6-e" });
  await marked;
  assert.deepEqual(shown(held), [[3, false], [2, true], [1, true]]);
});

test("counts that are older than the known ones are dropped", async () => {
  const { held, leftoff } = await opened(1);
  leftoff.handlers.counts({ position: 5, revision: "@5-e", snoozed: 0, unseen: 3 });
  leftoff.handlers.counts({ position: 4, revision: "@5-e", snoozed: 0, unseen: 9 });
  leftoff.handlers.counts({ position: 6, revision: "@4-e", snoozed: 0, unseen: 9 });
  assert.equal(held.counts.unseen, 3);
  leftoff.handlers.counts({ position: 1, revision: "@1-f", snoozed: 0, unseen: 0 });
  assert.equal(held.counts.unseen, 0, "of another epoch");
});

test("marks of another device reach a page that was asked for before them", async () => {
  const { held, leftoff, asked, page } = { ...(await opened(2)), page: client(2).page };
  const shownAgain = held.show("inbox");
  leftoff.handlers.marked({ revision: "@7-e", mark: ["read"], unmark: [], events: { t: "2" } });
  asked[0].resolve(page);
  await shownAgain;
  assert.deepEqual(shown(held), [[2, true]]);
});
