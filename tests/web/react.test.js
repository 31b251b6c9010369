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
  const used = hooks(React, { url: URL_OF_BROKER, io: page.io, shared: false });
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
  return { ...used, React, broker, clock, settle, render, warnings };
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
  const { React, broker, render, settle, useEvents, useSubscription, warnings } = world;
  let show;
  const told = [];
  let events;
  const { end } = await render(function Shown() {
    const [topic, setTopic] = React.useState("a");
    show = setTopic;
    ({ events } = useEvents(topic, { from: "earliest" }));
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
  assert.deepEqual(told, [["a", 1], ["b", 2]]);
  await end();
  await tasks();
  assert.deepEqual(warnings(), []);
});
