// The page: which inbox it shows is in its address, as in
// /examples/inbox?topic=users.42.%3E&consumer=inbox

import { Broker } from "./broker.js";
import { Inbox } from "./inbox.js";
import { isPattern } from "./marks.js";
import { View } from "./view.js";

const query = new URLSearchParams(location.search);
const selection = query.get("topic") ?? "users.42.>";
const consumer = query.get("consumer") ?? "inbox";

const say = (text) => {
  document.getElementById("state").textContent = text;
};

const broker = new Broker(selection, consumer, () => say("The broker is away; trying again…"));
const inbox = new Inbox(broker);
new View(inbox, selection);

/** The topic that the form publishes to: the selection, with a word in the place of each wildcard. */
const target = isPattern(selection)
  ? selection.split(".").map((token) => (token === "*" || token === ">" ? "notes" : token)).join(".")
  : selection;

/** Returns an id for an event. `crypto.randomUUID` is missing on pages without TLS. */
const newId = () =>
  crypto.getRandomValues(new Uint8Array(16)).reduce((id, byte) => id + byte.toString(16).padStart(2, "0"), "");

document.getElementById("notify").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const form = submitted.target;
  const title = new FormData(form).get("text");
  form.reset();
  try {
    await broker.publish(target, { id: newId(), type: "note", data: { title } });
  } catch (error) {
    say(`The broker refuses this: ${error.message}`);
  }
});

inbox.open().catch((error) => say(`The broker refuses this: ${error.message}`));
