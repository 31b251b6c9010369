// <leftoff-inbox topic="users.42.>">: a bell with a badge, and the list behind it.

import { inbox } from "../inbox.js";
import { ClientElement, make, styleOf } from "./base.js";
import { inStep } from "./list.js";

const BELL =
  "M12 22a2.5 2.5 0 0 0 2.4-2H9.6A2.5 2.5 0 0 0 12 22Zm7-6-1.5-2V9.5a5.5 5.5 0 0 0-4.2-5.3V3.3a1.3 1.3 0 0 0-2.6 0v.9a5.5 5.5 0 0 0-4.2 5.3V14L5 16v2h14v-2Z";

/** The largest number in the badge. */
const MOST_TOLD = 99;

const HOUR_MS = 3_600_000;

/** The views by their words. */
const VIEWS = { inbox: "Inbox", unread: "Unread", snoozed: "Snoozed", archived: "Archived" };

/** The buttons of an entry: each for entries with some marks, and what it changes. */
const ACTIONS = [
  { name: "read", words: "Read", isFor: (of) => !of.read, change: () => ({ mark: ["read"] }) },
  { name: "unread", words: "Unread", isFor: (of) => of.read, change: () => ({ unmark: ["read"] }) },
  { name: "archive", words: "Archive", isFor: (of) => !of.archived, change: () => ({ mark: ["archived"] }) },
  { name: "unarchive", words: "To the inbox", isFor: (of) => of.archived, change: () => ({ unmark: ["archived"] }) },
  {
    name: "snooze",
    words: "Snooze for an hour",
    isFor: (of) => of.snoozed_until === null,
    change: () => ({ mark: ["snoozed"], snooze_until: new Date(Date.now() + HOUR_MS).toISOString() }),
  },
  { name: "wake", words: "Wake up", isFor: (of) => of.snoozed_until !== null, change: () => ({ unmark: ["snoozed"] }) },
];

const CSS = `
  :host { display: inline-block; position: relative; }
  .bell { position: relative; min-width: 2.5rem; }
  .bell svg { display: block; margin: auto; }
  .badge {
    position: absolute; inset: -0.4rem -0.4rem auto auto; min-width: 1.3rem; padding: 0 0.3rem;
    border-radius: 1rem; font-size: 0.8rem; line-height: 1.3rem;
    background: var(--leftoff-alarm); color: var(--leftoff-on-alarm);
  }
  .panel {
    position: absolute; z-index: 1; inset: calc(100% + 0.4rem) 0 auto auto;
    box-sizing: border-box; width: min(26rem, 92vw); max-height: 70vh; overflow: auto; padding: 0.75rem;
    border: 1px solid var(--leftoff-line); border-radius: 0.6rem; background: var(--leftoff-ground);
  }
  .tools, .views, .actions { display: flex; flex-wrap: wrap; gap: 0.4rem; }
  .tools { justify-content: space-between; }
  ul { margin: 0.75rem 0; padding: 0; list-style: none; }
  li { padding: 0.6rem; border-top: 1px solid var(--leftoff-line); }
  li.unread .title { font-weight: 600; }
  li.unread .title::before { content: "● "; color: var(--leftoff-accent); }
  p { margin: 0 0 0.3rem; overflow-wrap: anywhere; }
  .about { color: var(--leftoff-quiet); font-size: 0.85rem; }
  .old { opacity: 0.7; }
`;

let style;

export class InboxElement extends ClientElement {
  static observedAttributes = ["topic", "consumer", "page-size", "label"];
  #bell;
  #badge;
  #panel;
  #list;
  #empty;
  #more;
  #said;
  #readAll;
  #views = {};
  /** The list's elements by the keys of their entries. */
  #items = new Map();
  /** What the element shows; undefined without a topic. */
  inbox;
  /** Returns the title of an event. Pages may set another one. */
  titleOf = ({ data, type }) =>
    typeof data === "string" ? data : (data?.title ?? data?.text ?? (type || "(no title)"));
  /** Returns the address that the title leads to, or undefined. Pages may set another one. */
  linkOf = ({ data }) => (/^(https?:\/\/|\/(?!\/))/.test(data?.url) ? data.url : undefined);

  build(root) {
    style ??= styleOf(CSS);
    root.adoptedStyleSheets = [style];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" })) {
      svg.setAttribute(name, value);
    }
    path.setAttribute("d", BELL);
    path.setAttribute("fill", "currentColor");
    svg.append(path);
    this.#badge = make("span", { className: "badge", part: "badge", hidden: true, "aria-hidden": "true" });
    this.#bell = make("button", { className: "bell", part: "bell", type: "button", "aria-expanded": "false" }, svg, this.#badge);
    this.#said = make("p", { className: "about", part: "said", role: "status" });
    this.#list = make("ul", { part: "list", tabIndex: -1, role: "list" });
    this.#empty = make("p", { part: "empty", textContent: "Nothing here.", hidden: true });
    this.#more = make("button", { part: "more", type: "button", textContent: "Show older", hidden: true });
    this.#readAll = make("button", { part: "read-all", type: "button", textContent: "Mark all as read" });
    const views = make("div", { className: "views", role: "group", "aria-label": "Shown notifications" });
    for (const [view, words] of Object.entries(VIEWS)) {
      const button = make("button", { type: "button", part: "view", textContent: words });
      button.addEventListener("click", () => this.inbox?.show(view));
      this.#views[view] = button;
      views.append(button);
    }
    const tools = make("div", { className: "tools", part: "tools" }, views, this.#readAll);
    const parts = [tools, this.#said, this.#list, this.#empty, this.#more];
    this.#panel = make("div", { className: "panel", part: "panel", role: "region", hidden: true }, ...parts);
    root.append(this.#bell, this.#panel);
    this.#listen();
  }

  #listen() {
    this.#bell.addEventListener("click", () => this.toggle());
    this.#more.addEventListener("click", () => this.inbox?.more());
    this.#readAll.addEventListener("click", () => this.#markAll("read"));
    this.#panel.addEventListener("keydown", (pressed) => {
      if (pressed.key === "Escape") {
        this.toggle();
        this.#bell.focus();
      } else if (pressed.key === "ArrowDown" || pressed.key === "ArrowUp") {
        this.#step(pressed.key === "ArrowDown" ? 1 : -1, pressed);
      }
    });
  }

  /** Moves the focus to the entry above or below. */
  #step(by, pressed) {
    const items = [...this.#list.children];
    const at = items.indexOf(this.shadowRoot.activeElement?.closest("li"));
    const next = items[Math.min(Math.max(at + by, 0), items.length - 1)];
    if (next) {
      pressed.preventDefault();
      next.querySelector("a, button:not([hidden])").focus();
    }
  }

  follow(leftoff) {
    const topic = this.getAttribute("topic");
    const label = this.getAttribute("label") ?? "Notifications";
    this.#panel.setAttribute("aria-label", label);
    this.#list.setAttribute("aria-label", label);
    if (!topic) {
      return undefined;
    }
    const consumer = this.getAttribute("consumer") ?? "inbox";
    const pageSize = Number(this.getAttribute("page-size")) || undefined;
    const followed = (this.inbox = inbox(leftoff, { topic, consumer, pageSize }));
    followed.addEventListener("change", () => this.#show());
    followed.addEventListener("arrived", ({ detail }) => this.#say(`New: ${this.titleOf(detail)}`));
    followed.addEventListener("refused", ({ detail }) => this.#say(`Refused: ${detail.message}`));
    this.#show();
    return () => {
      followed.close();
      this.inbox = undefined;
    };
  }

  #say(words) {
    this.#said.textContent = words;
  }

  /** Opens or closes the list. Whoever opens it has seen what it shows. */
  toggle() {
    this.#panel.hidden = !this.#panel.hidden;
    this.#bell.setAttribute("aria-expanded", String(!this.#panel.hidden));
    if (!this.#panel.hidden) {
      this.#markAll("seen");
    }
  }

  #mark(entry, change) {
    this.inbox?.mark(entry, change).catch(() => {}); // The inbox tells a refusal by "refused".
  }

  #markAll(mark) {
    this.inbox?.markAll(mark).catch(() => {});
  }

  #show() {
    const { inbox: shown } = this;
    if (!shown) {
      return;
    }
    this.#showBadge(shown.counts);
    for (const [view, button] of Object.entries(this.#views)) {
      button.setAttribute("aria-pressed", String(view === shown.view));
    }
    this.#showList(shown.entries);
    this.#list.classList.toggle("old", shown.isOld);
    this.#more.hidden = !shown.hasMore;
  }

  #showBadge(counts) {
    const unseen = counts?.unseen ?? 0;
    const told = `${Math.min(unseen, MOST_TOLD)}${unseen > MOST_TOLD || counts?.more_than ? "+" : ""}`;
    this.#badge.hidden = unseen === 0;
    this.#badge.textContent = told;
    const label = this.getAttribute("label") ?? "Notifications";
    this.#bell.setAttribute("aria-label", counts ? `${label}, ${told} new, ${counts.unread} unread` : label);
  }

  /** Brings the list's elements in step with the entries; an element that stays keeps the focus. */
  #showList(entries) {
    const focused = this.shadowRoot.activeElement?.closest("li");
    const index = focused ? [...this.#list.children].indexOf(focused) : -1;
    const makeItem = (event) => this.#item(event);
    const update = (item, entry) => this.#update(item, entry);
    this.#items = inStep(this.#list, this.#items, entries, makeItem, update);
    const elements = [...this.#list.children];
    this.#empty.hidden = elements.length > 0;
    if (index >= 0 && !this.shadowRoot.activeElement?.closest("li:not([hidden])")) {
      // The focused button has gone: its entry, or the one that took the entry's place, has others.
      const heir = focused.isConnected ? focused : elements[Math.min(index, elements.length - 1)];
      (heir?.querySelector("a, button:not([hidden])") ?? this.#list).focus();
    }
  }

  #item(event) {
    const id = `title-${event.position}`;
    const link = this.linkOf(event);
    const title = make("p", { className: "title", part: "title", id });
    title.append(link ? make("a", { href: link, textContent: this.titleOf(event) }) : this.titleOf(event));
    const time = make("time", { dateTime: event.time, textContent: new Date(event.time).toLocaleString() });
    const about = make("p", { className: "about", part: "about" }, time);
    const actions = make("div", { className: "actions", part: "actions" });
    for (const { name, words, change } of ACTIONS) {
      const button = make("button", { type: "button", textContent: words, id: `${name}-${event.position}` });
      button.dataset.action = name;
      button.setAttribute("aria-labelledby", `${button.id} ${id}`);
      button.addEventListener("click", () => this.#mark({ event }, change()));
      actions.append(button);
    }
    return make("li", { part: "entry" }, title, about, actions);
  }

  #update(item, { marks }) {
    item.classList.toggle("unread", !marks.read);
    for (const { name, isFor } of ACTIONS) {
      item.querySelector(`[data-action="${name}"]`).hidden = !isFor(marks);
    }
  }
}
