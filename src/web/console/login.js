// Who is there: a key or a token, which stays in the memory of this page and is gone with it.

import { credentialField, form, h, refusal } from "./dom.js";

/** Returns the form. `enter` gets the credential. `hasAsked` says that one was given, and refused. */
export function login(problem, hasAsked, enter) {
  const told =
    hasAsked || problem.status === 403
      ? refusal(problem)
      : h("p", {}, "This broker asks who its callers are.");
  const run = ({ credential }) => enter(credential.trim());
  return h(
    "section",
    {},
    told,
    h(
      "p",
      {},
      "The console is for callers who administer the broker. To read events, they also need the permission to subscribe. Give a key or a token:",
    ),
    form(
      { class: "stacked" },
      run,
      credentialField(),
      h("button", {}, "Log in"),
    ),
    h(
      "p",
      { class: "quiet" },
      "It stays in the memory of this page, and is gone when you reload or close it.",
    ),
  );
}
