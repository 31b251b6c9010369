// The page: which inbox it shows is in its address, as in
// /examples/inbox?topic=users.42.%3E&consumer=inbox
//
// The elements do the work: they share the client's one connection, and so do the tabs.

import { define } from "../../web/elements.js";
import { connect } from "../../web/leftoff.js";

const query = new URLSearchParams(location.search);
const topic = query.get("topic") ?? "users.42.>";

const leftoff = connect();
define(leftoff);

const bell = document.querySelector("leftoff-inbox");
bell.setAttribute("consumer", query.get("consumer") ?? "inbox");
bell.setAttribute("topic", topic);
document.getElementById("selection").textContent = topic;

document.getElementById("notify").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const form = submitted.target;
  const problem = document.getElementById("problem");
  const data = { title: new FormData(form).get("text") };
  form.reset();
  // The form publishes to the selection, with a word in the place of each wildcard.
  const target = topic.split(".").map((token) => (/^[*>]$/.test(token) ? "notes" : token)).join(".");
  try {
    // While the broker is away the event waits, and goes out once when it is back.
    await leftoff.publish(target, { type: "note", data });
    problem.textContent = "";
  } catch ({ message }) {
    problem.textContent = `The broker refuses this: ${message}`;
  }
});
