// What the elements have in common: a client, a shadow tree with a style, and a life from when they
// are put into the page until they are taken out.

/** The style of all elements. Pages change it by these properties, and by `::part(…)`. */
const STYLE = `
  :host {
    --leftoff-ink: light-dark(#1b1f24, #e8eaed);
    --leftoff-quiet: light-dark(#59636e, #a7b0ba);
    --leftoff-ground: light-dark(#ffffff, #14171a);
    --leftoff-raised: light-dark(#f3f5f7, #1f2429);
    --leftoff-line: light-dark(#d0d7de, #363d45);
    --leftoff-accent: light-dark(#0b57d0, #7cacf8);
    --leftoff-alarm: light-dark(#b3261e, #f2b8b5);
    --leftoff-on-alarm: light-dark(#ffffff, #410e0b);
    color: var(--leftoff-ink);
    font: inherit;
  }
  [hidden] { display: none !important; }
  button {
    font: inherit;
    color: inherit;
    cursor: pointer;
    min-height: 2.25rem;
    padding: 0.2rem 0.7rem;
    border: 1px solid var(--leftoff-line);
    border-radius: 0.5rem;
    background: var(--leftoff-raised);
  }
  button[aria-pressed="true"] { border-color: var(--leftoff-accent); color: var(--leftoff-accent); }
  :focus-visible { outline: 3px solid var(--leftoff-accent); outline-offset: 2px; }
`;

/** Returns a style for a shadow tree. It is no `<style>`, which the policy of a page may forbid. */
export function styleOf(text) {
  const style = new CSSStyleSheet();
  style.replaceSync(STYLE + text);
  return style;
}

/** Makes an element with these properties and children. */
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "part" || key === "role") {
      element.setAttribute(key, value);
    } else {
      element[key] = value;
    }
  }
  element.append(...children);
  return element;
}

// Where there is no page, as on a server that renders one, the classes can be imported all the same.
const Base = globalThis.HTMLElement ?? class {};

/** An element that follows something of a client while it is in the page. */
export class ClientElement extends Base {
  #own;
  #close;
  /** The client of `define`. */
  shared;

  /** The client that the element uses. */
  get leftoff() {
    return this.#own ?? this.shared;
  }

  set leftoff(client) {
    this.#own = client;
    this.restart();
  }

  connectedCallback() {
    if (!this.shadowRoot) {
      this.attachShadow({ mode: "open" });
      this.build(this.shadowRoot);
    }
    this.restart();
  }

  disconnectedCallback() {
    this.#close?.();
    this.#close = undefined;
  }

  attributeChangedCallback(name, before, after) {
    if (before !== after) {
      this.restart();
    }
  }

  /** Begins anew, with the present client and attributes. */
  restart() {
    this.disconnectedCallback();
    if (this.isConnected && this.shadowRoot && this.leftoff) {
      this.#close = this.follow(this.leftoff);
    }
  }
}
