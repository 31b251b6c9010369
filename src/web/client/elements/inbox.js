// <leftoff-inbox topic="users.42.>">: a bell with a badge, and the list behind it.

import { inbox } from "../inbox.js";
import { ClientElement, firstText, make, styleOf } from "./base.js";

const BELL =
  "M12 22a2.5 2.5 0 0 0 2.4-2H9.6A2.5 2.5 0 0 0 12 22Zm7-6-1.5-2V9.5a5.5 5.5 0 0 0-4.2-5.3V3.3a1.3 1.3 0 0 0-2.6 0v.9a5.5 5.5 0 0 0-4.2 5.3V14L5 16v2h14v-2Z";

/** The largest number in the badge. */
const MOST_TOLD = 99;

/** The least distance of the list to the edges of the window, in pixels. */
const EDGE = 8;
/** The least room in pixels with which the list opens below the bell. With less, it may open above. */
const LEAST_ROOM = 256;
/** The most characters of a title that are shown, and read out. */
const MOST_TITLE = 300;

const HOUR_MS = 3_600_000;

const VIEWS = ["inbox", "unread", "snoozed", "archived"];

/** The words of the element. Pages may set others. */
const WORDS = {
  inbox: "Inbox",
  unread: "Unread",
  snoozed: "Snoozed",
  archived: "Archived",
  views: "Shown notifications",
  markAll: "Mark all as read",
  empty: "Nothing here.",
  more: "Show older",
  arrived: "New:",
  refused: "Refused:",
  isNew: "new",
  isUnread: "unread",
  read: "Mark as read",
  unreadAgain: "Mark as unread",
  archive: "Archive",
  unarchive: "To the inbox",
  snooze: "Snooze 1 h",
  wake: "Wake up",
};

/** The buttons of an entry by their words: each for entries with some marks, and what it changes. */
const ACTIONS = {
  read: { isFor: (of) => !of.read, change: () => ({ mark: ["read"] }) },
  unreadAgain: { isFor: (of) => of.read, change: () => ({ unmark: ["read"] }) },
  archive: { isFor: (of) => !of.archived, change: () => ({ mark: ["archived"] }) },
  unarchive: { isFor: (of) => of.archived, change: () => ({ unmark: ["archived"] }) },
  snooze: {
    isFor: (of) => of.snoozed_until === null,
    change: () => ({ mark: ["snoozed"], snooze_until: new Date(Date.now() + HOUR_MS).toISOString() }),
  },
  wake: { isFor: (of) => of.snoozed_until !== null, change: () => ({ unmark: ["snoozed"] }) },
};

const CSS = `
  :host { display: inline-block; position: relative; }
  .bell { position: relative; min-width: 2.5rem; }
  .bell svg { display: block; margin: auto; }
  .badge {
    position: absolute; inset: -0.4rem -0.4rem auto auto; min-width: 1.3rem; padding: 0 0.3rem;
    border-radius: 1rem; font-size: 0.8rem; line-height: 1.3rem;
    background: var(--alarm); color: var(--on-alarm);
  }
  .panel {
    position: absolute; z-index: 1; inset: calc(100% + 0.4rem) 0 auto auto;
    box-sizing: border-box; width: min(26rem, 92vw); max-height: 70vh; overflow: auto;
    scrollbar-width: thin; scrollbar-color: var(--quiet) transparent; padding: 0.75rem;
    border: 1px solid var(--line); border-radius: 0.6rem; background: var(--ground);
  }
  .tools, .views, .actions { display: flex; flex-wrap: wrap; gap: 0.4rem; }
  .tools { justify-content: space-between; }
  ul { margin: 0.75rem 0; padding: 0; list-style: none; }
  li { padding: 0.6rem; border-top: 1px solid var(--line); }
  li.unread .title { font-weight: 600; }
  li.unread .title::before { content: "● "; color: var(--accent); }
  p { margin: 0 0 0.3rem; overflow-wrap: anywhere; }
  .about { color: var(--quiet); font-size: 0.85rem; }
  .aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .old { opacity: 0.7; }
`;

let style;

export class InboxElement extends ClientElement {
  static observedAttributes = ["topic", "consumer", "page-size", "label"];
  static properties = [...ClientElement.properties, "titleOf", "linkOf", "words"];
  #bell;
  #badge;
  #panel;
  #list;
  #empty;
  #more;
  #said;
  #aloud;
  #readAll;
  #views = {};
  /** The list's elements by the keys of their entries. */
  #items = new Map();
  /** What the element shows; undefined without a topic. */
  inbox;
  /** Words that take the place of those above. */
  words = {};
  /** Returns the title of an event. Pages may set another one. */
  titleOf = ({ data, type }) =>
    typeof data === "string" ? data : firstText(data?.title, data?.text, type || "(no title)");
  /** Returns the address that the title leads to, or undefined. Pages may set another one. */
  linkOf = ({ data }) => (isLink(data?.url) ? data.url : undefined);

  build(root) {
    style ??= styleOf(CSS);
    root.adoptedStyleSheets = [style];
    const words = (this.words = { ...WORDS, ...this.words });
    const ofButton = (part, text) => make("button", { type: "button", part, textContent: text });
    this.#badge = make("span", { className: "badge", part: "badge", hidden: true, "aria-hidden": "true" });
    const attributes = { "aria-expanded": "false", "aria-controls": "panel" };
    this.#bell = make("button", { className: "bell", part: "bell", type: "button", ...attributes }, icon(), this.#badge);
    this.#said = make("p", { className: "about", part: "said", "aria-hidden": "true" });
    // News are read out while the panel is closed, too.
    this.#aloud = make("div", { className: "aloud", role: "status" });
    this.#list = make("ul", { part: "list", tabIndex: -1, role: "list" });
    this.#empty = make("p", { part: "empty", textContent: words.empty, hidden: true });
    this.#more = Object.assign(ofButton("more", words.more), { hidden: true });
    this.#readAll = ofButton("read-all", words.markAll);
    const views = make("div", { className: "views", role: "group", "aria-label": words.views });
    for (const view of VIEWS) {
      const button = ofButton("view", words[view]);
      button.addEventListener("click", () => this.inbox?.show(view));
      this.#views[view] = button;
      views.append(button);
    }
    const tools = make("div", { className: "tools", part: "tools" }, views, this.#readAll);
    const parts = [tools, this.#said, this.#list, this.#empty, this.#more];
    const region = { className: "panel", part: "panel", id: "panel", role: "region", hidden: true };
    this.#panel = make("div", region, ...parts);
    root.append(this.#bell, this.#aloud, this.#panel);
    this.#listen(root);
  }

  #listen(root) {
    this.#bell.addEventListener("click", () => this.toggle());
    this.#more.addEventListener("click", () => this.inbox?.more());
    this.#readAll.addEventListener("click", () => this.#markAll("read"));
    root.addEventListener("keydown", (pressed) => {
      if (this.#panel.hidden) {
        return;
      }
      if (pressed.key === "Escape") {
        pressed.preventDefault(); // A dialog around it stays.
        this.toggle();
        this.#bell.focus();
      } else if (pressed.key === "ArrowDown" || pressed.key === "ArrowUp") {
        this.#step(pressed.key === "ArrowDown" ? 1 : -1, pressed);
      }
    });
  }

  /** Moves the focus to the entry below or above; from elsewhere, to the first one. */
  #step(by, pressed) {
    const items = [...this.#list.children];
    const at = items.indexOf(this.shadowRoot.activeElement?.closest("li"));
    const next = items[Math.min(Math.max(at + by, 0), items.length - 1)];
    if (next) {
      pressed.preventDefault();
      next.querySelector("a, button:not([hidden])").focus();
    }
  }

  get #label() {
    return this.getAttribute("label") ?? "Notifications";
  }

  follow(leftoff) {
    const topic = this.getAttribute("topic");
    this.#panel.setAttribute("aria-label", this.#label);
    this.#list.setAttribute("aria-label", this.#label);
    this.#show();
    if (!topic) {
      return undefined;
    }
    const consumer = this.getAttribute("consumer") ?? undefined;
    const pageSize = Number(this.getAttribute("page-size")) || undefined;
    const followed = (this.inbox = inbox(leftoff, { topic, consumer, pageSize }));
    const { arrived, refused } = this.words;
    addEventListener("resize", this.#place);
    followed.addEventListener("change", () => this.#show());
    followed.addEventListener("arrived", ({ detail }) => this.#say(`${arrived} ${this.#title(detail)}`));
    followed.addEventListener("refused", ({ detail }) => this.#say(`${refused} ${detail.message}`));
    return () => {
      removeEventListener("resize", this.#place);
      followed.close();
      this.inbox = undefined;
      this.#say("");
    };
  }

  #say(words) {
    this.#said.textContent = words;
    this.#aloud.textContent = words;
  }

  /** Opens or closes the list. Whoever opens it has seen what it shows. */
  toggle() {
    this.#panel.hidden = !this.#panel.hidden;
    this.#bell.setAttribute("aria-expanded", String(!this.#panel.hidden));
    if (!this.#panel.hidden) {
      this.#place();
      this.#markAll("seen");
    }
  }

  /** Puts the open list inside of the window: the bell may stand in any corner of the page. */
  #place = () => {
    if (this.#panel.hidden) {
      return;
    }
    const { style } = this.#panel;
    const { top, bottom } = this.#bell.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const below = clientHeight - bottom;
    const isAbove = below < LEAST_ROOM && top > below;
    const room = Math.max(isAbove ? top : below, LEAST_ROOM / 4); // The bell may be out of sight.
    style.inset = isAbove ? "auto 0 calc(100% + 0.4rem) auto" : "";
    style.maxHeight = `min(70vh, ${room - 2 * EDGE}px)`;
    // It begins at the right edge of the bell, and is moved from there as far as it has to be.
    const { left, right } = this.#panel.getBoundingClientRect();
    style.right = `${-Math.max(EDGE - left, Math.min(0, clientWidth - EDGE - right))}px`;
  };

  #mark(entry, change) {
    this.inbox?.mark(entry, change).catch(() => {}); // The inbox tells a refusal by "refused".
  }

  /** Marks all up to the newest entry, where the list has them all: not what other views hide. */
  #markAll(mark) {
    if (hasAllNew(this.inbox?.view)) {
      this.inbox.markAll(mark).catch(() => {});
    }
  }

  #show() {
    const { view = "inbox", entries = [], hasMore = false, isOld = true, counts } = this.inbox ?? {};
    this.#showBadge(counts);
    for (const [name, button] of Object.entries(this.#views)) {
      button.setAttribute("aria-pressed", String(name === view));
    }
    this.#showList(entries);
    this.#list.classList.toggle("old", isOld);
    this.#empty.hidden = entries.length > 0 || hasMore || isOld; // Nothing is known yet.
    this.#more.hidden = !hasMore;
    this.#readAll.hidden = !hasAllNew(view);
  }

  #showBadge(counts) {
    const unseen = counts?.unseen ?? 0;
    const told = `${Math.min(unseen, MOST_TOLD)}${unseen > MOST_TOLD || counts?.more_than ? "+" : ""}`;
    const { isNew, isUnread } = this.words;
    this.#badge.hidden = unseen === 0;
    this.#badge.textContent = told;
    const numbers = counts ? `, ${told} ${isNew}, ${counts.unread} ${isUnread}` : "";
    this.#bell.setAttribute("aria-label", `${this.#label}${numbers}`);
  }

  /** Brings the list's elements in step with the entries. One that stays is not moved: so it keeps the focus. */
  #showList(entries) {
    const list = this.#list;
    const active = this.shadowRoot.activeElement;
    const focused = active?.closest("li");
    const index = [...list.children].indexOf(focused);
    const items = new Map();
    for (const entry of entries) {
      const { topic, sequence, time } = entry.event;
      const key = `${topic}/${sequence}/${time}`;
      items.set(key, this.#items.get(key) ?? this.#item(entry.event));
      this.#update(items.get(key), entry);
    }
    this.#items.forEach((item, key) => items.has(key) || item.remove());
    this.#items = items;
    [...items.values()].forEach((item, at) => {
      if (list.children[at] !== item) {
        list.insertBefore(item, list.children[at] ?? null);
      }
    });
    if (focused && (active.hidden || !focused.isConnected)) {
      // The focused button is gone: its entry has another one, or the entry that took its place has.
      const heir = focused.isConnected ? focused : list.children[Math.min(index, list.children.length - 1)];
      const same = heir?.querySelector(`[data-action="${active.dataset.action}"]:not([hidden])`);
      (same ?? heir?.querySelector("button:not([hidden])") ?? list).focus();
    }
  }

  #title(event) {
    const text = String(this.titleOf(event));
    return text.length > MOST_TITLE ? `${text.slice(0, MOST_TITLE)}…` : text;
  }

  #item(event) {
    const id = `title-${event.position}`;
    const link = this.linkOf(event);
    const title = make("p", { className: "title", part: "title", id });
    const text = this.#title(event);
    title.append(link ? make("a", { href: link, textContent: text }) : text);
    const time = make("time", { dateTime: event.time, textContent: new Date(event.time).toLocaleString() });
    const about = make("p", { className: "about", part: "about" }, time);
    const actions = make("div", { className: "actions", part: "actions" });
    for (const [name, { change }] of Object.entries(ACTIONS)) {
      const properties = { type: "button", textContent: this.words[name], id: `${name}-${event.position}` };
      const button = make("button", properties);
      button.dataset.action = name;
      button.setAttribute("aria-labelledby", `${button.id} ${title.id}`);
      button.addEventListener("click", () => this.#mark({ event }, change()));
      actions.append(button);
    }
    return make("li", { part: "entry" }, title, about, actions);
  }

  #update(item, { marks }) {
    item.classList.toggle("unread", !marks.read);
    for (const [name, { isFor }] of Object.entries(ACTIONS)) {
      item.querySelector(`[data-action="${name}"]`).hidden = !isFor(marks);
    }
  }
}

/**
 * Whether an event's address may be a link: one that begins with http:// or https://, or a path of this
 * site. Browsers read "/\host" and "/<tab>/host" as "//host", which is another site.
 */
function isLink(url) {
  if (typeof url !== "string" || !/^(https?:\/)?\//.test(url) || !URL.canParse(url, document.baseURI)) {
    return false;
  }
  const isPath = url.startsWith("/");
  return !isPath || new URL(url, document.baseURI).origin === new URL(document.baseURI).origin;
}

/** Whether a view shows all that is new, so that whoever looks at it has seen that. */
function hasAllNew(view) {
  return view === "inbox" || view === "unread";
}

/** Returns the picture of a bell. */
function icon() {
  const named = (name, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach((attribute) => element.setAttribute(...attribute));
    element.append(...children);
    return element;
  };
  const path = named("path", { d: BELL, fill: "currentColor" });
  return named("svg", { viewBox: "0 0 24 24", width: 24, height: 24, "aria-hidden": "true" }, path);
}
