// What most tests begin with: a clock, a broker, a browser, a page, and a client in it.

import { connect } from "../../../src/web/client/leftoff.js";
import { Broker } from "./broker.js";
import { Browser } from "./browser.js";
import { Clock } from "./clock.js";

/** The address of the fake broker. */
export const URL_OF_BROKER = "http://broker.test";

/** Returns a world with one page, and a client in it that shares nothing. */
export function world({ faults = {}, seed, ...options } = {}) {
  const clock = new Clock();
  const broker = new Broker(clock);
  Object.assign(broker.faults, faults);
  const browser = new Browser(clock, broker, seed);
  const { page, leftoff, states } = client(browser, { shared: false, ...options });
  return { clock, broker, browser, page, leftoff, states };
}

/** Opens a page with a client, and notes the states of its connection. */
export function client(browser, options = {}) {
  const page = browser.open();
  const leftoff = connect({ url: URL_OF_BROKER, io: page.io, ...options });
  const states = [leftoff.connection.state];
  leftoff.onstate = ({ state }) => state === states.at(-1) || states.push(state);
  return { page, leftoff, states };
}

/** Follows a topic, and notes what it is told. */
export function follow(leftoff, topics, options = {}) {
  const noted = [];
  const note =
    (kind, valueOf = (value) => value) =>
    (value) =>
      noted.push([kind, valueOf(value)]);
  const subscription = leftoff.subscribe(topics, options, {
    event: note("event", ({ data }) => data),
    ephemeral: note("ephemeral", ({ data }) => data),
    gap: note("gap", ({ lost }) => lost),
    caughtUp: note("caughtUp", ({ cursor }) => cursor),
    ended: note("ended", ({ status }) => status),
  });
  const events = () => noted.filter(([kind]) => kind === "event").map(([, data]) => data);
  return { noted, events, subscription };
}
