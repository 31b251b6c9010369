// Custom elements: <leftoff-status>, <leftoff-inbox> and <leftoff-presence>. `define(leftoff)`
// registers them for a client; README.md has their attributes, parts and custom properties.

import { InboxElement } from "./elements/inbox.js";
import { PresenceElement } from "./elements/presence.js";
import { StatusElement } from "./elements/status.js";

const ELEMENTS = {
  "leftoff-status": StatusElement,
  "leftoff-inbox": InboxElement,
  "leftoff-presence": PresenceElement,
};

/** Registers the elements. Those without a client of their own, in `leftoff`, use this one. */
export function define(leftoff) {
  for (const [name, Element] of Object.entries(ELEMENTS)) {
    // A class of its own, so that a page may define the classes under other names, too.
    customElements.get(name) ?? customElements.define(name, class extends Element { shared = leftoff; });
  }
}

export { InboxElement, PresenceElement, StatusElement };
