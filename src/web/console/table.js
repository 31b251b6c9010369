// A list of any length: the rows that are seen are in the page, and asked for; no others.

import { h } from "./dom.js";

/** The rows that are asked for at once. */
const CHUNK = 100;
const REFRESH_MS = 2000;
/** Rows beside the seen ones, so that scrolling shows no empty place. */
const MARGIN = 8;

export class Rows {
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
    // Rows that are out of sight are asked for again when they come back.
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
    // From the last one up, so that each new row finds the one that it stands before: the order of
    // the elements is the order for the keyboard and for readers of screens.
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
