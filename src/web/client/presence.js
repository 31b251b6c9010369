// Who is present in a topic, kept current: the list of the broker, and those who come and go.

import { backoff } from "./leftoff.js";

/** Follows the presence of a topic. See presence.d.ts. */
export function presence(leftoff, topic, options) {
  return new Presence(leftoff, topic, options);
}

/** The members of a topic. The event "change" says that one came or left. */
export class Presence extends EventTarget {
  #leftoff;
  #topic;
  #subscription;
  #members = new Map();
  /** Who came and left while the list was on its way; undefined at other times. */
  #meanwhile;
  #isClosed = false;
  #isLoaded = false;
  #onState = () => this.dispatchEvent(new Event("change"));

  constructor(leftoff, topic, { member } = {}) {
    super();
    this.#leftoff = leftoff;
    this.#topic = topic;
    leftoff.addEventListener("state", this.#onState);
    this.#subscription = leftoff.subscribe(topic, { from: "latest", member, storage: "memory" }, {
      // Said after each connect: whoever came and left before it was not told.
      caughtUp: () => void this.#load(),
      ephemeral: (event) => this.#take(event),
      event: () => {},
      ended: (problem) => this.#refused(problem),
    });
  }

  /** The members, each `{ id, info }`, by their ids. */
  get members() {
    return [...this.#members.values()].sort((one, other) => (one.id < other.id ? -1 : 1));
  }

  /** Whether the list may be behind what the broker has. */
  get isOld() {
    return !this.#isLoaded || !["connected", "polling"].includes(this.#leftoff.connection.state);
  }

  #take({ type, data }) {
    if (type === "leftoff.joined" || type === "leftoff.left") {
      this.#meanwhile?.push([type, data]);
      this.#apply(type, data);
      this.dispatchEvent(new Event("change"));
    }
  }

  #apply(type, member) {
    if (type === "leftoff.joined") {
      this.#members.set(member.id, member);
    } else {
      this.#members.delete(member.id);
    }
  }

  async #load() {
    const mine = (this.#meanwhile = []);
    const pauses = backoff(this.#leftoff.io);
    while (mine === this.#meanwhile && !this.#isClosed) {
      try {
        const path = `/v1/topics/${encodeURIComponent(this.#topic)}/presence`;
        const { members } = await this.#leftoff.request("GET", path);
        if (mine === this.#meanwhile) {
          this.#members = new Map(members.map((member) => [member.id, member]));
          mine.forEach((change) => this.#apply(...change));
          this.#meanwhile = undefined;
          this.#isLoaded = true;
          this.dispatchEvent(new Event("change"));
        }
      } catch (problem) {
        if (!problem.isTemporary) {
          this.#refused(problem);
        } else {
          await new Promise((done) => this.#leftoff.io.setTimeout(done, pauses.next(problem.retryAfterMs)));
        }
      }
    }
  }

  #refused(problem) {
    this.#meanwhile = undefined;
    this.#isLoaded = false;
    this.dispatchEvent(new CustomEvent("refused", { detail: problem }));
  }

  /** Ends the presence: the own member leaves. */
  close() {
    this.#isClosed = true;
    this.#subscription.close();
    this.#leftoff.removeEventListener("state", this.#onState);
  }
}
