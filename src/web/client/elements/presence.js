// <leftoff-presence topic="…">: the members who are present in a topic, as a list.

import { presence } from "../presence.js";
import { ClientElement, firstText, make, styleOf } from "./base.js";

/** The most members that are listed; beyond them their number is told. */
const MOST_SHOWN = 50;

let style;

export class PresenceElement extends ClientElement {
  static observedAttributes = ["topic", "member", "info", "label"];
  static properties = [...ClientElement.properties, "nameOf"];
  #list;
  /** Returns the text for a member `{ id, info }`. Pages may set another one. */
  nameOf = ({ id, info }) => firstText(info?.name, id);

  build(root) {
    style ??= styleOf(`
      ul { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 0; padding: 0; list-style: none; }
      .old { opacity: 0.7; }
      li { padding: 0.1rem 0.6rem; border: 1px solid var(--line); border-radius: 1rem; }
    `);
    root.adoptedStyleSheets = [style];
    this.#list = make("ul", { part: "list", role: "list" });
    root.append(this.#list);
  }

  follow(leftoff) {
    const topic = this.getAttribute("topic");
    this.#list.setAttribute("aria-label", this.getAttribute("label") ?? "Present");
    this.#show([]);
    if (!topic) {
      return undefined;
    }
    const id = this.getAttribute("member");
    const name = this.getAttribute("info");
    const info = name === null ? undefined : { name };
    // Who is known to the broker needs no id: the broker gives it.
    const member = id !== null || info ? { id: id || undefined, info } : undefined;
    const followed = presence(leftoff, topic, { member });
    followed.addEventListener("change", () => this.#show(followed.members, followed.isOld));
    followed.addEventListener("refused", ({ detail }) => leftoff.io.report(detail));
    return () => followed.close();
  }

  #show(members, isOld = true) {
    this.#list.classList.toggle("old", isOld);
    const shown = members.slice(0, MOST_SHOWN);
    const items = shown.map((member) => make("li", { part: "member", textContent: this.nameOf(member) }));
    if (members.length > shown.length) {
      items.push(make("li", { part: "more", textContent: `+${members.length - shown.length}` }));
    }
    this.#list.replaceChildren(...items);
  }
}
