// The inbox: what a change of marks shows before and after the broker has answered.

import assert from "node:assert/strict";
import { test } from "node:test";
import { inbox } from "../../src/web/client/inbox.js";
import * as marks from "../../src/web/client/marks.js";
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
  assert.equal(asked.length, 1, "the second waits for the first");
  asked[0].reject(new Problem({ status: 403, detail: "not permitted" }));
  await assert.rejects(archived, /not permitted/);
  assert.deepEqual(shown(held), [[2, true], [1, false]]);
  asked[1].resolve({ revision: "@6-e" });
  await read;
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
  const first = { position: 5, revision: "@5-e", snoozed: 0, unseen: 3 };
  leftoff.handlers.counts({ type: "counts", subscription: "1.1", size: 99, ...first });
  assert.deepEqual(held.counts, first, "the numbers alone");
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

test("another view that is chosen before the first page is there begins at that page, too", async () => {
  const { leftoff, asked, page } = client(2, 1);
  const held = inbox(leftoff, { topic: "t" });
  const shownNow = held.show("unread");
  asked[0].resolve(page);
  await held.ready;
  assert.equal(leftoff.options, undefined, "not from the checkpoint");
  asked[1].resolve(page);
  await shownNow;
  assert.equal(leftoff.options.from, "2-e");
  assert.deepEqual(shown(held), [[2, false], [1, false]]);
});

test("marks that are told before their event count", async () => {
  const { held, leftoff } = await opened(1);
  leftoff.handlers.marked({ revision: "@6-e", mark: ["read"], unmark: [], events: { t: "2" } });
  leftoff.handlers.event({ topic: "t", sequence: 2, position: 2 }, { cursor: "2-e" });
  assert.deepEqual(shown(held), [[2, true], [1, false]]);
  const none = { up_to: 0, marked: {}, unmarked: {} };
  const marks = { seen: none, read: none, archived: { ...none, marked: { t: "3" } }, snoozed: {} };
  leftoff.handlers.marked({ revision: "@9-e", whole: true, marks });
  leftoff.handlers.event({ topic: "t", sequence: 3, position: 3 }, { cursor: "3-e" });
  leftoff.handlers.event({ topic: "t", sequence: 4, position: 4 }, { cursor: "4-e" });
  assert.deepEqual(shown(held), [[4, false], [2, false], [1, false]]);
});

test("an answer that comes after a later change of another device undoes nothing", async () => {
  const { held, leftoff, asked } = await opened(1);
  const marked = held.mark(held.entries[0], { mark: ["read"] });
  leftoff.handlers.marked({ revision: "@6-e", mark: ["read"], unmark: [], events: { t: "1" } });
  leftoff.handlers.marked({ revision: "@7-e", mark: [], unmark: ["read"], events: { t: "1" } });
  asked[0].resolve({ revision: "@6-e" });
  await marked;
  assert.deepEqual(shown(held), [[1, false]]);
});

test("an entry is another object when its marks are others, and the same one otherwise", async () => {
  const { held, asked, leftoff, timers } = await opened(2, 1);
  const { page } = client(2, 1);
  const [two, one] = held.entries;
  held.mark(two, { mark: ["read"] });
  assert.notEqual(held.entries[0], two);
  assert.equal(held.entries[1], one);
  assert.equal(two.marks.read, false);
  asked[0].resolve({ revision: "@6-e" });
  await settled();
  leftoff.handlers.gap({});
  timers.at(-1)();
  asked[1].resolve(page);
  await settled();
  assert.equal(held.entries[1], one, "also when it is loaded again");
});

test("older entries are asked for again if the list ends at another place meanwhile", async () => {
  const { leftoff, asked, timers } = client();
  const held = inbox(leftoff, { topic: "t", pageSize: 2 });
  const all = (sequences, next) => ({ ...client(...sequences).page, next, cursor: "9-e" });
  const before = () => new URLSearchParams(asked.at(-1).path.split("?")[1]).get("before");
  asked[0].resolve(all([9, 8], "8-e"));
  await held.ready;
  const second = held.more();
  asked[1].resolve(all([7, 6], "6-e"));
  await second;
  const more = held.more();
  assert.equal(before(), "6-e");
  leftoff.handlers.gap({});
  timers.at(-1)();
  asked[3].resolve(all([9, 8], "8-e"));
  await settled();
  asked[2].resolve(all([5, 4], null));
  await settled();
  assert.equal(before(), "8-e", "there is no hole in the list");
  asked[4].resolve(all([7, 6], "6-e"));
  await more;
  assert.deepEqual(shown(held).map(([sequence]) => sequence), [9, 8, 7, 6]);
});

test("what was refused is asked for again with the next connection, and is followed then", async () => {
  const { leftoff, asked, timers, page } = client(1);
  const held = inbox(leftoff, { topic: "t" });
  asked[0].reject(new Problem({ status: 403, detail: "not permitted" }));
  await assert.rejects(held.ready, /not permitted/);
  for (const state of ["denied", "connected"]) {
    leftoff.connection = { state };
    leftoff.dispatchEvent(new Event("state"));
  }
  timers.at(-1)();
  assert.equal(held.isOld, true);
  asked[1].resolve(page);
  await settled();
  assert.equal(held.isOld, false);
  assert.equal(leftoff.options.from, "1-e");
});

test("a page that is open for months keeps the newest entries", async () => {
  const { held, leftoff, asked } = await opened();
  for (let sequence = 1; sequence <= 1_100; sequence++) {
    leftoff.handlers.event({ topic: "t", sequence, position: sequence }, { cursor: `${sequence}-e` });
  }
  assert.deepEqual([held.entries.length, held.entries.at(-1).event.sequence], [1_000, 101]);
  held.more();
  assert.match(asked[0].path, /before=101-e/);
});

test("topics may have the names of what all objects have", async () => {
  const { leftoff, asked, page } = client();
  const names = ["constructor", "toString", "hasOwnProperty", "__proto__"];
  const events = names.map((topic, at) => ({ topic, sequence: 1, position: 9 - at, marks: UNMARKED }));
  const held = inbox(leftoff, { topic: "*" });
  asked.shift().resolve({ ...page, events, cursor: "@9-e" });
  await held.ready;
  const read = () => held.entries.map((entry) => entry.marks.read);
  // One is marked here, one by another device, one in all marks; the last one by nobody.
  held.mark(held.entries[3], { mark: ["read"] });
  assert.deepEqual(read(), [false, false, false, true]);
  leftoff.handlers.marked({ mark: ["read"], unmark: [], events: { toString: "1" }, revision: "@6-e" });
  assert.deepEqual(read(), [false, true, false, true]);
  const none = () => ({ up_to: 0, marked: {}, unmarked: {} });
  const all = { seen: none(), read: { ...none(), marked: { hasOwnProperty: "1-2" } }, archived: none(), snoozed: {} };
  leftoff.handlers.marked({ whole: true, marks: all, revision: "@7-e" });
  assert.deepEqual(read(), [false, false, true, true]);
  all.read = { up_to: 9, marked: {}, unmarked: JSON.parse(`{ "__proto__": "1" }`) };
  all.snoozed = JSON.parse(`{ "__proto__": { "1": "2030-01-01T00:00:00Z" } }`);
  assert.deepEqual(
    events.map((event) => marks.ofAll(all, event, "*")).map(({ read, snoozed_until }) => [read, snoozed_until]),
    [[true, null], [true, null], [true, null], [false, "2030-01-01T00:00:00Z"]],
  );
});
