// The console: which view is shown is in the fragment of the address, as in #/topic/orders.new/events.
// Each view is a module of its own, loaded when it is shown first.

import { Api } from "./api.js";
import { h, refusal, repeat } from "./dom.js";

/** The views by the first part of the fragment. */
const VIEWS = {
  "": () => import("./overview.js"),
  topics: () => import("./topics.js"),
  topic: () => import("./topic.js"),
  connections: () => import("./connections.js"),
  webhooks: () => import("./webhooks.js"),
  access: () => import("./access.js"),
  maintenance: () => import("./maintenance.js"),
  proxy: () => import("./proxy.js"),
};

/** What the page says of the state of the connection. */
const STATES = {
  connecting: "… Connecting",
  connected: "● Connected",
  polling: "● Connected, by polling",
  reconnecting: "○ Not connected; trying again",
  offline: "○ No network",
  denied: "✕ Not permitted",
  closed: "○ Disconnected",
};

/** The time between two looks at the state of the broker: its history has steps as long. */
const LOOK_MS = 5000;
/** The time after which a look has failed. */
const PATIENCE_MS = 10_000;

/** A part of the address; one that is not encoded well stands for itself. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const byId = (id) => document.getElementById(id);
const main = byId("main");

class Console {
  api;
  /** The newest overview. */
  overview = null;
  #watchers = new Set();
  #shown = new AbortController();
  #session = new AbortController();
  /** Since when and why looks fail, as `{ since, problem }`; null while they do not. */
  #failure = null;
  /** Why the broker does not answer this caller; null while it does. */
  #refusal = null;

  /** Begins anew, with another credential. */
  async login(credential) {
    this.#session.abort();
    this.#session = new AbortController();
    this.api?.close();
    this.overview = null;
    this.#failure = null;
    this.#refusal = null;
    this.api = new Api(credential, ({ state }) => this.#tellState(state));
    byId("logout").hidden = !credential;
    this.#tellState("connecting");
    const { signal } = this.#session;
    await repeat(LOOK_MS, signal, () => this.#look());
    // A view would be refused as often as it asks.
    signal.aborted || this.route();
  }

  #tellState(state) {
    byId("state").textContent = STATES[state];
  }

  async #look() {
    const { api } = this;
    let problem = null;
    const asked = api.get("/v1/overview", PATIENCE_MS);
    const overview = await asked.catch((error) => void (problem = error));
    if (api !== this.api) {
      return;
    }
    if (problem?.status === 401 || problem?.status === 403) {
      return void this.#askWho(problem);
    }
    this.overview = overview ?? this.overview;
    this.#failure = problem && { since: this.#failure?.since ?? Date.now(), problem };
    if (problem) {
      byId("state").textContent = `○ ${problem.message}`;
    } else {
      byId("version").textContent = overview.version;
      this.#tellState(api.leftoff.connection.state);
    }
    this.#watchers.forEach((watcher) => watcher(this.overview, this.#failure));
  }

  async #askWho(problem) {
    this.#refusal = problem;
    this.#session.abort();
    this.#shown.abort();
    this.api.close();
    this.#tellState("closed");
    byId("logout").hidden = true;
    const { login } = await import("./login.js");
    const enter = (credential) => this.login(credential);
    this.#put("Log in", [login(problem, this.api.hasCredential, enter)]);
    main.querySelector("input").focus();
  }

  /**
   * Calls `watcher` with the newest overview, and with each newer one, until `signal`. While the
   * broker does not answer, it gets the last one, if there was one, and the failure.
   */
  watch(signal, watcher) {
    this.#watchers.add(watcher);
    signal.addEventListener("abort", () => this.#watchers.delete(watcher));
    (this.overview || this.#failure) && watcher(this.overview, this.#failure);
  }

  #put(title, elements) {
    document.title = `${title} – Leftoff console`;
    main.replaceChildren(h("h1", {}, title), ...elements);
  }

  /** Shows the view that the address names. */
  async route(isByUser = false) {
    if (location.hash && !location.hash.startsWith("#/")) {
      return; // The link to the content.
    }
    this.#shown.abort();
    const { signal } = (this.#shown = new AbortController());
    const parts = location.hash.slice(2).split("/").map(decoded);
    const name = Object.hasOwn(VIEWS, parts[0]) ? parts[0] : "";
    for (const link of document.querySelectorAll("nav a")) {
      const isHere = link.hash.slice(2) === (name === "topic" ? "topics" : name);
      isHere ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
    }
    if (this.#refusal) {
      return void this.#askWho(this.#refusal);
    }
    try {
      const view = await VIEWS[name]();
      if (signal.aborted) {
        return;
      }
      const shown = view.show(this, parts.slice(1), signal);
      this.#put(view.titleOf?.(parts.slice(1)) ?? view.title, shown);
    } catch (problem) {
      this.#put("This cannot be shown", [refusal(problem)]);
    }
    if (isByUser) {
      main.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }
}

const page = new Console();
addEventListener("hashchange", () => page.route(true));
byId("logout").addEventListener("click", () => page.login(undefined));
byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
page.login(undefined);
