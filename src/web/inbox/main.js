// The page: which inbox it shows is in its address, as in
// /examples/inbox?topic=users.42.%3E&consumer=inbox
//
// The client and its inbox do the work: the connection that the tabs share, the entries, the marks
// and the counts. The page shows them.

import { connect } from "../../web/leftoff.js";
import { inbox as open } from "../../web/inbox.js";
import { isPattern } from "../../web/marks.js";
import { titleOf, View } from "./view.js";

/** What the page says of the state of the connection. */
const STATES = {
  connecting: "Connecting…",
  connected: "Connected.",
  polling: "Connected.",
  reconnecting: "Not connected; trying again…",
  offline: "No network.",
  denied: "Your permission is over; log in again.",
  closed: "Disconnected.",
};

const query = new URLSearchParams(location.search);
const topic = query.get("topic") ?? "users.42.>";
const consumer = query.get("consumer") ?? "inbox";

const say = (text) => {
  document.getElementById("state").textContent = text;
};

const leftoff = connect({ storage: "memory" });
const sayState = ({ state }) => say(STATES[state]);
leftoff.onstate = sayState;
sayState(leftoff.connection);

const inbox = open(leftoff, { topic, consumer });
inbox.addEventListener("arrived", ({ detail }) => say(`New: ${titleOf(detail)}`));
inbox.addEventListener("refused", ({ detail }) => say(`The broker refuses this: ${detail.message}`));
new View(inbox, topic);

/** The topic that the form publishes to: the selection, with a word in the place of each wildcard. */
const target = isPattern(topic)
  ? topic.split(".").map((token) => (token === "*" || token === ">" ? "notes" : token)).join(".")
  : topic;

document.getElementById("notify").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const form = submitted.target;
  const title = new FormData(form).get("text");
  form.reset();
  try {
    // While the broker is away the event waits, and goes out once when it is back.
    await leftoff.publish(target, { type: "note", data: { title } });
  } catch (problem) {
    say(`The broker refuses this: ${problem.message}`);
  }
});
