// What the elements have in common: a client, a shadow tree with a style, and a life from when they
// are put into the page until they are taken out.

/** The style of all elements. Pages change it by the properties `--leftoff-…`, and by `::part(…)`. */
const STYLE = `
  :host {
    --ink: var(--leftoff-ink, light-dark(#1b1f24, #e8eaed));
    --quiet: var(--leftoff-quiet, light-dark(#59636e, #a7b0ba));
    --ground: var(--leftoff-ground, light-dark(#ffffff, #14171a));
    --raised: var(--leftoff-raised, light-dark(#f3f5f7, #1f2429));
    --line: var(--leftoff-line, light-dark(#d0d7de, #363d45));
    --accent: var(--leftoff-accent, light-dark(#0b57d0, #7cacf8));
    --alarm: var(--leftoff-alarm, light-dark(#b3261e, #f2b8b5));
    --on-alarm: var(--leftoff-on-alarm, light-dark(#ffffff, #410e0b));
    color: var(--ink);
    font: inherit;
  }
  [hidden] { display: none !important; }
  button {
    font: inherit;
    color: inherit;
    cursor: pointer;
    min-height: 2.25rem;
    padding: 0.2rem 0.7rem;
    border: 1px solid var(--line);
    border-radius: 0.5rem;
    background: var(--raised);
  }
  button[aria-pressed="true"] { border-color: var(--accent); color: var(--accent); }
  a { color: var(--accent); }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
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

/** Returns the first value that is a text or a number. Events and members have any JSON. */
export function firstText(...values) {
  return String(values.find((value) => typeof value === "string" || typeof value === "number"));
}

// Where there is no page, as on a server that renders one, the classes can be imported all the same.
const Base = globalThis.HTMLElement ?? class {};

/** An element that follows something of a client while it is in the page. */
export class ClientElement extends Base {
  /** The properties that a page may set, also before the element is defined. */
  static properties = ["leftoff"];
  #early = {};
  #own;
  #close;
  #isDue = false;
  /** The client of `define`. */
  shared;

  constructor() {
    super();
    for (const name of this.constructor.properties) {
      if (Object.hasOwn(this, name)) {
        this.#early[name] = this[name];
        delete this[name]; // It hides the one of the class.
      }
    }
  }

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
      Object.assign(this, this.#early);
      this.attachShadow({ mode: "open" });
      this.build(this.shadowRoot);
    }
    if (!this.#close) {
      this.restart(); // Else it was moved within the page.
    }
  }

  disconnectedCallback() {
    queueMicrotask(() => this.isConnected || this.#end());
  }

  /** Begins anew when all attributes that are changed now have changed. */
  attributeChangedCallback(name, before, after) {
    if (before !== after && this.shadowRoot && !this.#isDue) {
      this.#isDue = true;
      queueMicrotask(() => {
        this.#isDue = false;
        this.restart();
      });
    }
  }

  #end() {
    this.#close?.();
    this.#close = undefined;
  }

  /** Begins anew, with the present client and attributes. */
  restart() {
    this.#end();
    if (this.isConnected && this.shadowRoot && this.leftoff) {
      this.#close = this.follow(this.leftoff);
    }
  }
}
