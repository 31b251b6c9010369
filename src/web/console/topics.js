// All topics, sorted and searched by the broker, live.

import { query, topicPath } from "./api.js";
import {
  LAG,
  ago,
  bytes,
  choice,
  count,
  field,
  form,
  h,
  many,
  rate,
  refusal,
  short,
  topicLink,
} from "./dom.js";
import { Rows } from "./table.js";

export const title = "Topics";

const SORTS = [
  ["name", "Name"],
  ["rate", "Rate"],
  ["size", "Size"],
  ["followers", "Followers"],
  ["lag", "Lag"],
  ["newest", "Newest event"],
];
const COLUMNS = ["Topic", "Rate", "Lag", "Size", "Events", "Followers", "Newest"];

const cell = (value, unit, kind = "") =>
  h("span", { role: "cell", class: kind }, value, unit && h("span", { class: "unit" }, ` ${unit}`));

function cells(topic) {
  if (!topic) {
    return [cell("…")];
  }
  const { name, lag } = topic;
  return [
    h("span", { role: "cell", title: name }, topicLink(name)),
    cell(rate(topic.rate)),
    cell(short(lag), "lag", lag ? "late" : ""),
    cell(bytes(topic.size_bytes)),
    cell(short(topic.events)),
    cell(count(topic.followers)),
    cell(topic.last_time ? ago(topic.last_time) : "–"),
  ];
}

export function show(console, parts, signal) {
  const told = h("p", { role: "status", class: "quiet" }, "…");
  const note = h("div", {});
  const search = field("Name has", { type: "search", placeholder: "orders", spellcheck: false });
  const sort = choice("Sorted by", SORTS);
  let total = 0;
  const rows = new Rows(
    "Topics",
    COLUMNS,
    {
      ask: async (offset, limit) => {
        const values = {
          sort: sort.lastChild.value,
          contains: search.lastChild.value.trim(),
          offset,
          limit,
        };
        const {
          topics,
          matching,
          total: all,
        } = await console.api.get(`/v1/overview/topics${query(values)}`);
        total = all;
        return { rows: topics, length: matching };
      },
      render: cells,
      told: (length) => {
        const text = `${count(length)} of ${many(total, "topic")}`;
        told.textContent === text || (told.textContent = text);
        note.replaceChildren();
      },
      failed: (problem) => note.replaceChildren(refusal(problem)),
    },
    signal,
  );
  let timer;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => rows.reset(), 150);
  });
  sort.addEventListener("change", () => rows.reset());
  const make = async ({ name }) => {
    await console.api.send("PUT", topicPath(name.trim()), {});
    location.hash = `#/topic/${encodeURIComponent(name.trim())}/settings`;
  };
  const fresh = h(
    "details",
    {},
    h("summary", {}, "Make a topic"),
    form(
      {},
      make,
      field("Name", { name: "name", required: true, maxLength: 255 }),
      h("button", {}, "Make it"),
    ),
  );
  return [
    h("div", { class: "tools" }, search, sort, told),
    note,
    rows.element,
    h("p", { class: "quiet" }, LAG),
    fresh,
  ];
}
