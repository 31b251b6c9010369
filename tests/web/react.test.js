// The hooks, in React itself: what StrictMode mounts twice is opened once, and what has gone is closed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { hooks } from "../../src/web/client/react.js";
import { installedPackage } from "./fakes/installed.js";
import { URL_OF_BROKER, world } from "./fakes/world.js";

const tasks = () => new Promise((done) => setTimeout(done, 5));

/** Returns a broker, a page, and what renders components in it; nothing without React. */
function opened(t) {
  const React = installedPackage("react", t);
  const renderer = React && installedPackage("react-test-renderer", t);
  if (!renderer) {
    return undefined;
  }
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  const warned = t.mock.method(console, "error", () => {});
  const { browser, broker, clock, leftoff } = world();
  leftoff.close();
  const page = browser.open();
  let connections = 0;
  class Counted extends page.io.WebSocket {
    constructor(...parts) {
      super(...parts);
      connections++;
    }
  }
  const options = { url: URL_OF_BROKER, io: { ...page.io, WebSocket: Counted }, shared: false };
  const used = hooks(React, options);
  const act = (run) => React.act(async () => run());
  const settle = () => act(() => clock.advance(50));
  const render = async (component) => {
    let root;
    const element = React.createElement(React.StrictMode, null, React.createElement(component));
    await act(() => (root = renderer.create(element)));
    await settle();
    return { root, end: () => act(() => root.unmount()) };
  };
  const warnings = () => warned.mock.calls.map(({ arguments: [text] }) => text).filter((text) => !/deprecated/.test(text));
  return { ...used, React, act, broker, clock, options, page, settle, render, warnings, connections: () => connections };
}

test("what StrictMode mounts twice opens one connection, which ends with the last component", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, broker, clock, render, settle, useConnectionState, useEvents, warnings } = world;
  const seen = [];
  const { end } = await render(function Orders() {
    const { state } = useConnectionState();
    const { events, isCaughtUp } = useEvents("orders", { from: "earliest", limit: 2 });
    seen.push([state, isCaughtUp, events.map(({ data }) => data)]);
    return React.createElement("p", null, state);
  });
  await settle();
  assert.equal(broker.open().length, 1, "one connection");
  assert.deepEqual(seen.at(-1), ["connected", true, []]);
  broker.publish("orders", { data: 1 }, { data: 2 }, { data: 3 });
  await settle();
  assert.deepEqual(seen.at(-1), ["connected", true, [2, 3]]);
  await end();
  await tasks();
  await clock.advance(50);
  assert.equal(broker.open().length, 0, "nobody uses the connection");
  assert.deepEqual(warnings(), []);
});

test("other topics begin anew, and handlers are those of the newest rendering", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, broker, page, render, settle, useEvents, useSubscription, warnings } = world;
  let show;
  const told = [];
  let events;
  let problem;
  const { end } = await render(function Shown() {
    const [topic, setTopic] = React.useState("a");
    show = setTopic;
    ({ events, problem } = useEvents(topic, { from: "earliest" }));
    useSubscription(topic, { from: "earliest", storage: "memory" }, { event: ({ data }) => told.push([topic, data]) });
    return null;
  });
  broker.publish("a", { data: 1 });
  broker.publish("b", { data: 2 });
  await settle();
  assert.deepEqual(events.map(({ data }) => data), [1]);
  await React.act(async () => show("b"));
  assert.deepEqual(events, [], "nothing of the other topic is shown");
  await settle();
  assert.deepEqual(events.map(({ data }) => data), [2]);
  assert.equal(problem, null);
  await React.act(async () => show("forbidden"));
  await settle();
  assert.equal(problem.status, 403);
  assert.deepEqual(page.errors.map(({ status }) => status), [403], "nobody handles it");
  assert.deepEqual(told, [["a", 1], ["b", 2]]);
  await end();
  await tasks();
  assert.deepEqual(warnings(), []);
});

/** Answers of the broker for an inbox of the topic "t", and for its presence. */
function inboxOf(broker, notes) {
  broker.publish("t", ...notes.map((data) => ({ data })));
  const marks = { seen: false, read: false, archived: false, snoozed_until: null };
  const page = () => ({
    events: notes.map((sequence) => ({ topic: "t", sequence, position: sequence, data: sequence, time: "", marks })),
    next: null,
    cursor: `${broker.last("t")}-${broker.epoch}`,
    revision: `@0-${broker.epoch}`,
  });
  const json = (body) => new Response(JSON.stringify(body), { headers: { "Content-Type": "application/json" } });
  broker.faults.answer = ({ method, pathname }) => {
    if (pathname === "/v1/topics/t/events" && method === "GET") {
      return json(page());
    }
    if (pathname === "/v1/topics/t/presence") {
      return json({ members: [{ id: "ann" }] });
    }
    return pathname.endsWith("/marks") ? 403 : null;
  };
}

test("an inbox and presence are followed over the one connection, and what is refused is taken back", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, act, broker, clock, connections, page, render, settle, useInbox, usePresence, warnings } = world;
  inboxOf(broker, [2, 1]);
  const rows = [];
  const refusals = [];
  let held;
  let members;
  const Row = React.memo(function Row({ entry }) {
    rows.push([entry.event.sequence, entry.marks.read]);
    return null;
  });
  const { end } = await render(function Inbox() {
    held = useInbox({ topic: "t", refused: ({ status }) => refusals.push(status) });
    members = usePresence("t", { member: { id: "ann" } });
    return held.entries.map((entry) => React.createElement(Row, { key: entry.event.sequence, entry }));
  });
  await settle();
  assert.equal(connections(), 1, "one connection");
  assert.deepEqual(held.entries.map(({ event }) => event.data), [2, 1]);
  assert.deepEqual(members, [{ id: "ann" }]);
  const { mark } = held;
  rows.length = 0;
  await act(() => void held.mark(held.entries[0], { mark: ["read"] }));
  assert.deepEqual(rows.splice(0).at(-1), [2, true], "shown at once, in its row alone");
  await settle();
  assert.deepEqual(rows.at(-1), [2, false]);
  assert.ok(rows.every(([sequence]) => sequence === 2), `${rows}`);
  assert.deepEqual(refusals, [403]);
  assert.equal(held.mark, mark, "the functions stay the same");
  broker.accept({ topic: "t", event: { type: "leftoff.joined", data: { id: "bob" } }, ephemeral: true });
  broker.publish("t", { data: 3 });
  await settle();
  assert.deepEqual(members.map(({ id }) => id), ["ann", "bob"]);
  assert.equal(held.entries.length, 3);
  await end();
  await tasks();
  await clock.advance(60_000);
  assert.deepEqual([broker.open().length, clock.timersOf(page)], [0, 0], "nothing is left");
  assert.deepEqual(warnings(), []);
});

test("effects that depend on what the hooks return run when it changes, and not each time", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, broker, render, settle, useConnectionState, useEvents, useInbox, usePresence } = world;
  inboxOf(broker, [1]);
  let runs = 0;
  await render(function Shown() {
    const [, setTurn] = React.useState(0);
    const state = useConnectionState();
    const { events, gaps } = useEvents("t", { from: "earliest" });
    const { entries, counts, mark } = useInbox({ topic: "t" });
    const none = useInbox(null);
    const members = [usePresence("t"), usePresence(null)];
    const values = [state, events, gaps, entries, counts, mark, none.entries, none.mark, ...members];
    React.useEffect(() => {
      runs++;
      setTurn(runs); // Renders anew: what is another object each time never ends.
    }, values);
    return null;
  });
  broker.publish("t", { data: 2 });
  await settle();
  assert.ok(runs > 2 && runs < 30, `${runs} runs`);
});

test("what goes before it is connected leaves nothing", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, act, broker, clock, connections, page, render, useEvents, useInbox } = world;
  inboxOf(broker, [1]);
  let show;
  const { end } = await render(function Page() {
    const [isShown, setShown] = React.useState(false);
    show = setShown;
    return isShown ? React.createElement(Shown) : null;
  });
  function Shown() {
    useEvents("t");
    useInbox({ topic: "t" });
    return null;
  }
  assert.equal(connections(), 0, "no hook is mounted");
  for (let turn = 0; turn < 5; turn++) {
    await act(() => show(true));
    await act(() => show(false));
  }
  await tasks();
  await clock.advance(60_000);
  assert.deepEqual([broker.open().length, clock.timersOf(page)], [0, 0]);
  await end();
});

test("a component that waits opens nothing, and stays connected when it waits again", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, act, broker, connections, render, settle, useEvents, warnings } = world;
  let wait;
  let load;
  let loading = new Promise((done) => (load = done));
  let events;
  function Waiting() {
    const [, setTurn] = React.useState(0);
    wait = setTurn;
    ({ events } = useEvents("t", { from: "earliest" }));
    if (loading) {
      throw loading;
    }
    return null;
  }
  const fallback = React.createElement("p");
  const waiting = () => React.createElement(React.Suspense, { fallback }, React.createElement(Waiting));
  const { end } = await render(waiting);
  assert.equal(connections(), 0);
  const loaded = async () => {
    loading = undefined;
    await act(load);
    await settle();
  };
  await loaded();
  assert.equal(connections(), 1);
  loading = new Promise((done) => (load = done));
  await act(() => wait(1));
  broker.publish("t", { data: 1 });
  await settle();
  await loaded();
  assert.deepEqual(events.map(({ data }) => data), [1]);
  assert.equal(connections(), 1);
  await end();
  assert.deepEqual(warnings(), []);
});

test("an error boundary gets what connecting or subscribing throws, and others go on", async (t) => {
  const world = opened(t);
  if (!world) {
    return;
  }
  const { React, act, clock, connections, options, page, render, settle, useConnectionState, useSubscription } = world;
  const caught = [];
  class Boundary extends React.Component {
    state = {};
    static getDerivedStateFromError(error) {
      caught.push(error);
      return { error };
    }
    render() {
      return this.state.error ? null : this.props.children;
    }
  }
  const bad = hooks(React, { ...options, url: "http://[" });
  const within = (child) => React.createElement(Boundary, null, React.createElement(child));
  let state;
  const { end } = await render(function Page() {
    ({ state } = useConnectionState());
    const unconnected = within(function Unconnected() {
      return bad.useConnectionState().state;
    });
    const unsent = within(function Unsent() {
      useSubscription("t", { storage: "memory", filter: null, from: 1n }); // No JSON has it.
      return null;
    });
    return [unconnected, unsent].map((child, key) => React.createElement(React.Fragment, { key }, child));
  });
  await settle();
  assert.ok(caught.some(({ code }) => code === "ERR_INVALID_URL"), `${caught}`);
  assert.ok(caught.some(({ message }) => /BigInt/.test(message)), `${caught}`);
  assert.deepEqual([state, connections()], ["connected", 1]);
  await end();
  await tasks();
  await act(() => clock.advance(60_000));
  assert.equal(clock.timersOf(page), 0);
});

test("on a server nothing is connected, and a page's own client is left open", async (t) => {
  const { broker, leftoff } = world();
  const server = {
    useEffect() {},
    useRef: (current) => ({ current }),
    useState: (value) => [value, () => {}],
    useSyncExternalStore: (subscribe, read, readOnServer) => readOnServer(),
  };
  const { useConnectionState, useEvents, useInbox, usePresence, useSubscription } = hooks(server, { url: "http://[" });
  useSubscription("t", {}, {});
  assert.equal(useConnectionState().state, "connecting");
  assert.deepEqual(useEvents("t"), { events: [], gaps: [], isCaughtUp: false, problem: null });
  assert.deepEqual([useInbox({ topic: "t" }).entries, usePresence("t")], [[], []]);

  const ends = [];
  const page = { ...server, useEffect: (run) => ends.push(run()) };
  hooks(page, leftoff).useSubscription("t", {}, {});
  ends.forEach((end) => end?.());
  await tasks();
  assert.notEqual(leftoff.connection.state, "closed");
  leftoff.close();
  assert.equal(broker.open().length, 0);
});
