// The broker, as the page speaks with it: pages of the inbox, marks, and the stream of news.

import { isPattern } from "./marks.js";

/** The path of the broker's API, wherever the page is mounted. */
const BASE = new URL("../../", import.meta.url);

/** The pauses between two tries, in milliseconds. */
const FIRST_PAUSE_MS = 200;
const LONGEST_PAUSE_MS = 5_000;

/** The time after which a request is given up, and tried again. */
const PATIENCE_MS = 10_000;

/** The broker's own types of news on a stream. */
const NEWS = ["counts", "marked", "gap", "caught-up", "error", "expired", "stopping"];

/** Why the broker refuses a request for good. */
export class Refused extends Error {}

/** A pause that doubles with each use, with some chance in it so that pages do not come together. */
class Backoff {
  #next = FIRST_PAUSE_MS;

  reset() {
    this.#next = FIRST_PAUSE_MS;
  }

  pause() {
    const pause = this.#next * (0.5 + Math.random() / 2);
    this.#next = Math.min(this.#next * 2, LONGEST_PAUSE_MS);
    return pause;
  }
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Sends a request until it is answered. A request may reach the broker twice; all requests of this
 * page may.
 */
async function ask(url, options, onTrouble) {
  const backoff = new Backoff();
  for (;;) {
    let pause = backoff.pause();
    try {
      const answer = await fetch(url, { ...options, signal: AbortSignal.timeout(PATIENCE_MS) });
      if (answer.ok) {
        return await answer.json();
      }
      const problem = await answer.json().catch(() => ({}));
      if (answer.status < 500 && answer.status !== 429 && answer.status !== 408) {
        throw new Refused(problem.detail ?? problem.title ?? `refused with ${answer.status}`);
      }
      pause = Math.max(pause, 1_000 * Number(answer.headers.get("Retry-After") ?? 0));
    } catch (error) {
      if (error instanceof Refused) {
        throw error;
      }
      // The broker is away, or the answer was cut off: the outcome is unknown.
    }
    onTrouble();
    await sleep(pause);
  }
}

/** One consumer of the broker. */
export class Broker {
  /** The topic or pattern, the name of the consumer, and what to call when an answer is late. */
  constructor(selection, consumer, onTrouble) {
    Object.assign(this, { selection, consumer, onTrouble });
  }

  #url(path, query) {
    const url = new URL(path, BASE);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined && value !== null) {
        url.searchParams.append(name, value);
      }
    }
    return url;
  }

  /** Returns the URL of the events of the selection. */
  #events(query) {
    const { selection, consumer } = this;
    return isPattern(selection)
      ? this.#url("v1/events", { topic: selection, consumer, ...query })
      : this.#url(`v1/topics/${encodeURIComponent(selection)}/events`, { consumer, ...query });
  }

  #consumer(what) {
    const path = `v1/consumers/${encodeURIComponent(this.consumer)}/${what}`;
    return this.#url(path, { topic: this.selection });
  }

  #send(url, body) {
    const headers = { "Content-Type": "application/json" };
    return ask(url, { method: "POST", headers, body: JSON.stringify(body) }, this.onTrouble);
  }

  /** Returns a page of the inbox, the newest entries first. */
  page(query) {
    const headers = { Accept: "application/json" };
    return ask(this.#events({ order: "newest", ...query }), { headers }, this.onTrouble);
  }

  /** Changes marks. The answer comes when the change is stored. */
  mark(change) {
    return this.#send(this.#consumer("marks"), change);
  }

  /** Returns the counts. */
  counts() {
    return ask(this.#consumer("counts"), {}, this.onTrouble);
  }

  /** Publishes an event to a topic. With its id, it is stored once however often it is sent. */
  publish(topic, event) {
    return this.#send(this.#url("v1/publish", {}), { topics: [topic], event });
  }

  /**
   * Follows the events, the marks and the counts, and comes back whenever the stream ends, at the
   * place where it ended. `on` is called with the kind of news, its data, and the cursor after it.
   *
   * The page reconnects by itself and not by the browser, because each connect says which marks the
   * page has by then.
   */
  follow(place, on) {
    const backoff = new Backoff();
    let source;
    let timer;
    const close = () => {
      clearTimeout(timer);
      source?.close();
    };
    const open = () => {
      close();
      const { cursor: from, revision: marksAfter } = place();
      source = new EventSource(
        this.#events({ from, marks_after: marksAfter, counts: true, format: "envelope" }),
      );
      source.onopen = () => on("open");
      source.onmessage = ({ data, lastEventId }) => on("event", JSON.parse(data), lastEventId);
      for (const kind of NEWS) {
        source.addEventListener(`leftoff.${kind}`, ({ data, lastEventId }) => {
          if (kind === "caught-up") {
            backoff.reset(); // A connection that ends at once is not tried again at once.
          }
          on(kind, JSON.parse(data), lastEventId);
        });
      }
      source.onerror = () => {
        close();
        on("closed");
        timer = setTimeout(open, backoff.pause());
      };
    };
    open();
    // A page in the browser's cache of pages holds no connection.
    addEventListener("pagehide", close);
    addEventListener("pageshow", ({ persisted }) => persisted && open());
    addEventListener("online", open);
    return close;
  }
}
