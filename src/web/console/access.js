// Access: what a credential may do, and whose credentials are refused.

import { button, clock, credentialField, field, form, h, refusal, say, table } from "./dom.js";

export const title = "Access";

function explain(console) {
  const note = h("p", { role: "status" });
  const answer = h("div", {});
  const run = async ({ credential, topic }) => {
    answer.replaceChildren();
    say(note, "");
    const asked = { credential: credential.trim(), topic: topic.trim() || undefined };
    const { refused, lines } = await console.api.send("POST", "/v1/access/explain", asked);
    say(
      note,
      refused ? "The broker refuses it." : "The broker takes it.",
      refused ? "error" : "good",
    );
    answer.replaceChildren(
      h(
        "ul",
        { class: "card" },
        lines.map((line) => h("li", {}, line)),
      ),
    );
  };
  return [
    h("h2", {}, "Explain a key or a token"),
    h(
      "p",
      {},
      "Says who it is, whether it is taken, and what it permits. It is neither kept nor logged.",
    ),
    form(
      { class: "stacked" },
      run,
      credentialField(),
      field("Topic (empty: all)", { name: "topic", class: "wide" }),
      h("button", {}, "Explain"),
    ),
    note,
    answer,
  ];
}

function revocations(console, isOpen) {
  const place = h("div", {}, "…");
  const load = async () => {
    try {
      const { revocations: all } = await console.api.get("/v1/access/revocations?limit=1000");
      const rows = all.map(({ sub, before }) => [sub, clock(before)]);
      const none = h("p", {}, "Nobody is revoked.");
      place.replaceChildren(
        rows.length ? table("Revocations", [["Caller"], ["Credentials from before"]], rows) : none,
      );
    } catch (problem) {
      problem.status === 404 ? isOpen() : place.replaceChildren(refusal(problem));
    }
  };
  const revoke = async ({ sub }) => {
    const { before } = await console.api.send("POST", "/v1/access/revocations", { sub });
    load();
    return `The connections of ${sub} end, and its credentials from before ${clock(before)} are refused.`;
  };
  load();
  return [
    h("h2", {}, "Revocations"),
    place,
    form(
      {},
      revoke,
      field("Id of the caller", { name: "sub", required: true }),
      h("button", { class: "danger" }, "Revoke"),
    ),
    button("Look again", load),
  ];
}

export function show(console) {
  const place = h("div", {});
  const isOpen = () =>
    place.replaceChildren(
      h("p", {}, "This broker runs without access control: whoever reaches it may do everything."),
      h(
        "p",
        {},
        "The setting ",
        h("code", {}, 'access.mode = "required"'),
        " has it ask who its callers are.",
      ),
    );
  place.append(...explain(console), ...revocations(console, isOpen));
  return [place];
}
