// The connections: who, from where, what they read, how far behind; ended on request.

import {
  button,
  bytes,
  count,
  fail,
  h,
  many,
  notice,
  refill,
  refusal,
  repeat,
  say,
  span,
  table,
} from "./dom.js";

export const title = "Connections";

const PAGE = 200;
/** The time in which a second press ends a connection. */
const SURE_MS = 5000;

const COLUMNS = [["Caller"], ["Address"], ["Reads"], ["Lag", 1], ["Sent", 1], ["Age", 1], ["End"]];

function reads({ protocol, topics, cursor }) {
  return h(
    "div",
    {},
    protocol,
    " ",
    h("span", { class: "mono" }, topics),
    cursor && h("small", {}, ` at ${cursor}`),
  );
}

export function show(console, parts, signal) {
  const told = h("p", { class: "quiet", role: "status" }, "…");
  const note = notice();
  const place = h("div", {});
  const pages = [undefined];
  /** The connection whose end was asked for once. */
  let asked = null;
  const end = async (id) => {
    if (asked !== id) {
      asked = id;
      setTimeout(() => {
        asked = null;
        draw();
      }, SURE_MS);
      return draw();
    }
    asked = null;
    try {
      await console.api.send("DELETE", `/v1/connections/${id}`);
      say(note, `Connection ${id} is ended. Its client may come back.`, "good");
    } catch (problem) {
      fail(note, problem);
    }
    return load();
  };
  let answer = { connections: [], count: 0 };
  const line = ({ id, address, caller, user, age_ms, sent_bytes, streams }) => {
    const most = (of) => Math.max(0, ...of.map(({ lag }) => lag ?? 0));
    // A reader of many topics is behind by positions, of which most may be of others.
    const ofMany = streams.filter(({ cursor }) => cursor?.startsWith("@"));
    const lag = most(streams.filter((it) => !ofMany.includes(it)));
    const bound = most(ofMany);
    const behind = bound > lag ? `≤ ${count(bound)}` : count(lag);
    const press = button(asked === id ? "Really end it" : "End", () => end(id), {
      class: "danger",
      id: `end-${id}`,
      "aria-label": `${asked === id ? "Really end" : "End"} connection ${id}`,
    });
    return [
      caller ?? user ?? h("span", { class: "quiet" }, "not logged in"),
      h("span", { class: "mono" }, address),
      streams.length ? streams.map(reads) : h("span", { class: "quiet" }, "idle"),
      streams.length ? h("span", { class: lag ? "late" : "" }, behind) : "–",
      bytes(sent_bytes),
      span(age_ms),
      press,
    ];
  };
  const draw = () => {
    const { connections } = answer;
    refill(place, table("Connections", COLUMNS, connections.map(line), true));
    told.textContent = `${many(answer.count, "connection")}, those of this page among them; ${count(connections.length)} shown.`;
    next.hidden = connections.length < PAGE;
    first.hidden = pages.length === 1;
  };
  const load = async () => {
    const after = pages.at(-1);
    try {
      answer = await console.api.get(
        `/v1/connections?limit=${PAGE}${after === undefined ? "" : `&after=${after}`}`,
      );
      draw();
    } catch (problem) {
      // Whoever sees this administers the broker: only the setting forbids it.
      const off =
        "The list of connections is off: it shows addresses. To turn it on, start the broker with ";
      place.replaceChildren(
        problem.status === 403
          ? h("p", {}, off, h("code", {}, "--set follow.list_connections=true"), ".")
          : refusal(problem),
      );
      told.textContent = "";
    }
  };
  const next = button(
    "Next page",
    () => {
      pages.push(answer.connections.at(-1).id);
      load();
    },
    { hidden: true },
  );
  const first = button(
    "First page",
    () => {
      pages.length = 1;
      load();
    },
    { hidden: true },
  );
  repeat(3000, signal, load);
  return [told, note, place, h("div", { class: "tools" }, first, next)];
}
