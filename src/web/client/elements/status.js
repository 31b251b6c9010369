// <leftoff-status>: says in words how the connection is, and lets people try again at once.

import { ClientElement, make, styleOf } from "./base.js";

/** A trouble that is over within this time, in milliseconds, is not told. */
const BLINK_MS = 2_000;

/** The words for each state. An attribute of the state's name has others: `offline="No network"`. */
const WORDS = {
  connecting: "Connecting…",
  connected: "",
  polling: "",
  reconnecting: "Connection lost. Trying again…",
  offline: "No network.",
  denied: "Not permitted. Log in again.",
  closed: "Disconnected.",
};

const isGood = (state) => state === "connected" || state === "polling";

let style;

export class StatusElement extends ClientElement {
  static observedAttributes = [...Object.keys(WORDS), "retry"];
  #text;
  #retry;
  #timer;
  #since;
  #shown = "";

  build(root) {
    style ??= styleOf(":host { display: inline-flex; align-items: center; gap: 0.5rem; }");
    root.adoptedStyleSheets = [style];
    this.#text = make("span", { part: "text", role: "status", "aria-live": "polite" });
    this.#retry = make("button", { part: "retry", type: "button", hidden: true });
    this.#retry.addEventListener("click", () => this.leftoff.retryNow());
    root.append(this.#text, this.#retry);
  }

  follow(leftoff) {
    this.#retry.textContent = this.getAttribute("retry") ?? "Try now";
    const look = () => this.#look(leftoff.connection.state);
    leftoff.addEventListener("state", look);
    look();
    return () => {
      leftoff.removeEventListener("state", look);
      clearTimeout(this.#timer);
      this.#timer = undefined;
    };
  }

  /** Tells good news at once, and bad news when they last. */
  #look(state) {
    if (isGood(state) || state === "denied" || state === "closed" || this.#isTold()) {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      this.#say(state);
    } else {
      this.#timer ??= this.#wait();
    }
  }

  #wait() {
    this.#since = Date.now();
    return setTimeout(() => {
      this.#timer = undefined;
      if (Date.now() - this.#since > 2 * BLINK_MS) {
        this.#look(this.leftoff.connection.state); // The page slept; the trouble is a new one.
      } else {
        this.#say(this.leftoff.connection.state);
      }
    }, BLINK_MS);
  }

  #isTold() {
    return this.#shown !== "" && !isGood(this.#shown);
  }

  #say(state) {
    const words = this.getAttribute(state) ?? WORDS[state];
    if (this.#text.textContent !== words) {
      this.#text.textContent = words; // Only a change is read out.
    }
    this.#retry.hidden = !["reconnecting", "offline", "connecting", "denied"].includes(state);
    this.#shown = state;
    this.dataset.state = state;
  }
}
