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

/** The rows that are asked for at once. */
const CHUNK = 100;
const REFRESH_MS = 2000;
/** Rows beside the seen ones, so that scrolling shows no empty place. */
const MARGIN = 8;

/** A list of any length: only rows that are seen are in the page, and asked for. */
class Rows {
  #chunks = new Map();
  #asked = new Set();
  #elements = new Map();
  #length = 0;
  #version = 0;
  #scrollTop = 0;

  /**
   * `ask(offset, limit)` returns `{ rows, length }`; `render(row)` returns the cells of a row, or of
   * a row that is not known yet; `told(length)` hears how many there are.
   */
  constructor(label, columns, { ask, render, told, failed }, signal) {
    Object.assign(this, { ask, render, told, failed, signal });
    this.space = h("div", {});
    this.body = h(
      "div",
      { class: "rows", tabIndex: 0, role: "rowgroup", "aria-label": `${label}, rows` },
      this.space,
    );
    const cells = columns.map((name) => h("span", { role: "columnheader" }, name));
    const head = h("div", { class: "head", role: "row", "aria-rowindex": 1 }, cells);
    this.element = h(
      "div",
      { role: "table", "aria-label": label },
      h("div", { role: "rowgroup" }, head),
      this.body,
    );
    this.body.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const resized = new ResizeObserver(() => this.#draw());
    resized.observe(this.body);
    const timer = setInterval(() => document.hidden || this.#refresh(), REFRESH_MS);
    signal.addEventListener("abort", () => {
      clearInterval(timer);
      resized.disconnect();
    });
    this.reset();
  }

  /** Forgets all rows, as after another search. */
  reset() {
    this.#version++;
    this.#chunks.clear();
    this.#asked.clear();
    this.body.scrollTop = 0;
    this.#load(0);
  }

  #rowPixels() {
    const probe = getComputedStyle(this.body);
    return (
      parseFloat(probe.getPropertyValue("--row")) *
      parseFloat(getComputedStyle(document.documentElement).fontSize)
    );
  }

  #range() {
    const pixels = this.#rowPixels();
    const first = Math.max(0, Math.floor(this.body.scrollTop / pixels) - MARGIN);
    const last = Math.ceil((this.body.scrollTop + this.body.clientHeight) / pixels) + MARGIN;
    return { pixels, first, last: Math.min(this.#length, last) };
  }

  #refresh() {
    const { first, last } = this.#range();
    const seen = new Set();
    for (let at = first; at < Math.max(last, 1); at += 1) {
      seen.add(Math.floor(at / CHUNK));
    }
    this.#chunks.forEach((_, chunk) => seen.has(chunk) || this.#chunks.delete(chunk));
    seen.forEach((chunk) => this.#load(chunk));
  }

  async #load(chunk) {
    if (this.#asked.has(chunk)) {
      return;
    }
    this.#asked.add(chunk);
    const version = this.#version;
    try {
      const { rows, length } = await this.ask(chunk * CHUNK, CHUNK);
      if (version !== this.#version || this.signal.aborted) {
        return;
      }
      this.#chunks.set(chunk, rows);
      this.#length = length;
      this.element.setAttribute("aria-rowcount", length + 1);
      this.told(length);
      this.#draw(true);
    } catch (problem) {
      version === this.#version && this.failed(problem);
    } finally {
      version === this.#version && this.#asked.delete(chunk);
    }
  }

  /** Draws, and asks for rows that come soon if the reader goes on. */
  #scrolled() {
    this.#draw();
    const isDown = this.body.scrollTop >= this.#scrollTop;
    this.#scrollTop = this.body.scrollTop;
    const { first, last } = this.#range();
    const next = Math.floor((isDown ? last + CHUNK / 2 : first - CHUNK / 2) / CHUNK);
    if (next >= 0 && next * CHUNK < this.#length && !this.#chunks.has(next)) {
      this.#load(next);
    }
  }

  #draw(isNew = false) {
    const { pixels, first, last } = this.#range();
    this.space.style.height = `${this.#length * pixels}px`;
    this.body.style.maxHeight = `${this.#length * pixels + 2}px`; // With its borders.
    for (const [index, element] of this.#elements) {
      if (index < first || index >= last) {
        element.remove();
        this.#elements.delete(index);
      }
    }
    // From the last one up, so that each new row finds the one that it stands before.
    for (let index = last - 1; index >= first; index -= 1) {
      const chunk = this.#chunks.get(Math.floor(index / CHUNK));
      chunk ?? this.#load(Math.floor(index / CHUNK));
      let element = this.#elements.get(index);
      if (!element) {
        element = h("div", { class: "row", role: "row", "aria-rowindex": index + 2 });
        this.#elements.set(index, element);
        this.space.insertBefore(element, this.#elements.get(index + 1) ?? null);
        this.#fill(element, chunk?.[index % CHUNK]);
      } else if (isNew) {
        this.#fill(element, chunk?.[index % CHUNK]);
      }
      element.style.top = `${index * pixels}px`;
    }
  }

  /** Fills a row; a link that stays the same keeps the focus. */
  #fill(element, row) {
    const cells = this.render(row);
    const link = element.querySelector("a");
    const fresh = cells[0].querySelector?.("a");
    if (link && fresh && link.href === fresh.href) {
      element.replaceChildren(element.firstChild, ...cells.slice(1));
    } else {
      element.replaceChildren(...cells);
    }
  }
}

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
