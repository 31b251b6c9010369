// What people see of an inbox, and do with it: the bell, the badge and the list.

import { inStep } from "../../web/elements/list.js";

const byId = (id) => document.getElementById(id);

/** The buttons of an entry, and the marks that each of them changes. */
const ACTIONS = [
  { name: "Read", isFor: (of) => !of.read, change: () => ({ mark: ["read"] }) },
  { name: "Unread", isFor: (of) => of.read, change: () => ({ unmark: ["read"] }) },
  { name: "Archive", isFor: (of) => !of.archived, change: () => ({ mark: ["archived"] }) },
  { name: "To the inbox", isFor: (of) => of.archived, change: () => ({ unmark: ["archived"] }) },
  {
    name: "Snooze for an hour",
    isFor: (of) => of.snoozed_until === null,
    change: () => ({ mark: ["snoozed"], snooze_until: inHours(1) }),
  },
  {
    name: "Wake up",
    isFor: (of) => of.snoozed_until !== null,
    change: () => ({ unmark: ["snoozed"] }),
  },
];

const inHours = (hours) => new Date(Date.now() + hours * 3_600_000).toISOString();

/** Shows an inbox in the elements of the page. */
export class View {
  /** The list's elements by the keys of their entries. */
  #items = new Map();

  constructor(inbox, selection) {
    this.inbox = inbox;
    byId("selection").textContent = selection;
    inbox.addEventListener("change", () => this.#render());
    byId("bell").addEventListener("click", () => this.#toggle());
    byId("panel").addEventListener("keydown", ({ key }) => {
      if (key === "Escape") {
        this.#toggle();
        byId("bell").focus();
      }
    });
    byId("read-all").addEventListener("click", () => this.#markAll("read"));
    byId("more").addEventListener("click", () => inbox.more());
    for (const button of document.querySelectorAll("[data-view]")) {
      button.addEventListener("click", () => inbox.show(button.dataset.view));
    }
    this.#render();
  }

  /** Opens or closes the list. Whoever opens it has seen what it shows. */
  #toggle() {
    const panel = byId("panel");
    panel.hidden = !panel.hidden;
    byId("bell").setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) {
      this.#markAll("seen");
    }
  }

  // A refusal is told by the inbox's event "refused", and the change is taken back.
  #mark(entry, change) {
    this.inbox.mark(entry, change).catch(() => {});
  }

  #markAll(mark) {
    this.inbox.markAll(mark).catch(() => {});
  }

  #render() {
    const { inbox } = this;
    this.#renderBadge(inbox.counts);
    for (const button of document.querySelectorAll("[data-view]")) {
      button.setAttribute("aria-pressed", String(button.dataset.view === inbox.view));
    }
    this.#renderList(inbox.entries);
    byId("list").classList.toggle("old", inbox.isOld);
    byId("more").hidden = !inbox.hasMore;
  }

  #renderBadge(counts) {
    const unseen = counts?.unseen ?? 0;
    const shown = `${Math.min(unseen, 99)}${unseen > 99 || counts?.more_than ? "+" : ""}`;
    const badge = byId("badge");
    badge.hidden = unseen === 0;
    badge.textContent = shown;
    const told = counts ? `, ${shown} new, ${counts.unread} unread` : "";
    byId("bell").setAttribute("aria-label", `Notifications${told}`);
    document.title = unseen > 0 ? `(${shown}) Inbox` : "Inbox";
  }

  /** Brings the list's elements in step with the entries; an element that stays keeps the focus. */
  #renderList(entries) {
    const list = byId("list");
    const focused = document.activeElement?.closest("#list > li");
    const index = focused ? [...list.children].indexOf(focused) : -1;
    const action = document.activeElement?.dataset.action;
    const make = (event) => this.#item(event);
    const update = (item, entry) => this.#update(item, entry);
    this.#items = inStep(list, this.#items, entries, make, update);
    byId("empty").hidden = list.children.length > 0;
    if (index >= 0 && !list.contains(document.activeElement)) {
      // The focused entry has left the list: the one that took its place gets the focus.
      const heir = focused.isConnected ? focused : list.children[Math.min(index, list.children.length - 1)];
      const buttons = heir ? [...heir.querySelectorAll("button:not([hidden])")] : [];
      (buttons.find((it) => it.dataset.action === action) ?? buttons[0] ?? list).focus();
    }
  }

  #item(event) {
    const item = document.createElement("li");
    const title = document.createElement("p");
    title.className = "title";
    title.id = `title-${event.position}`;
    title.textContent = titleOf(event);
    const about = document.createElement("p");
    about.className = "about";
    const time = document.createElement("time");
    time.dateTime = event.time;
    time.textContent = new Date(event.time).toLocaleString();
    about.append(time, ` · ${event.topic}${event.type ? ` · ${event.type}` : ""}`);
    const actions = document.createElement("div");
    actions.className = "actions";
    for (const { name, change } of ACTIONS) {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.action = name;
      button.textContent = name;
      button.id = `action-${event.position}-${name.replaceAll(" ", "-")}`;
      button.setAttribute("aria-labelledby", `${button.id} ${title.id}`);
      button.addEventListener("click", () => this.#mark({ event }, change()));
      actions.append(button);
    }
    item.append(title, about, actions);
    return item;
  }

  #update(item, { marks }) {
    item.classList.toggle("unread", !marks.read);
    for (const { name, isFor } of ACTIONS) {
      item.querySelector(`[data-action="${name}"]`).hidden = !isFor(marks);
    }
  }
}

/** Returns the text that stands for an event. */
export function titleOf({ data, type }) {
  if (typeof data === "string") {
    return data;
  }
  return data?.title ?? data?.text ?? (data === undefined ? type || "(empty)" : JSON.stringify(data));
}
