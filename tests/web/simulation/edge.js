// The edge of the network, between a page and the fake broker: what is late, doubled, cut into
// pieces or lost there. A connection keeps its order, as TCP does; two connections have none.

/** What goes wrong at the edge of one page. */
export const edgeFaults = () => ({
  latencyMs: 0, // The most that a message is late by.
  doubles: 0, // The chance that an event comes twice.
  losesAnswers: 0, // The chance that a request is carried out, and its answer lost.
  stallsAnswers: false, // No answer comes any more, and nobody is told.
});

/** What the edge has seen of the whole run. */
export const seen = () => ({ denials: 0, forbidden: 0, ends: 0 });

/**
 * Puts the edge between a page and its broker. Returns the sockets and requests that are `open`, and
 * when something was heard. `watch` may have `asks` and `denied`, which are told what the page does.
 */
export function edge(page, { clock, random, faults, counts }) {
  const open = new Set();
  const watch = { open, heardAtMs: -Infinity, heardOnWallMs: clock.now, asks() {}, denied() {} };
  const late = () => random() * faults.latencyMs;
  const heard = () => {
    watch.heardAtMs = clock.passed;
    watch.heardOnWallMs = clock.now;
  };
  const Base = page.io.WebSocket;

  page.io.WebSocket = class extends Base {
    #lastMs = 0;
    #take;

    constructor(url) {
      super(url);
      open.add(this);
      watch.asks("a WebSocket");
    }

    get onmessage() {
      return this.#take;
    }

    set onmessage(take) {
      this.#take = take && ((message) => (heard(), take(message)));
    }

    /** Each message is late by chance, and none is before an earlier one. */
    tell(message) {
      const isDoubled = message.type === "event" && random() < faults.doubles;
      for (let copy = 0; copy < (isDoubled ? 2 : 1); copy++) {
        this.#lastMs = Math.max(this.#lastMs, clock.passed + late());
        clock.set(() => super.tell(message), this.#lastMs - clock.passed);
      }
    }

    end(code, reason) {
      open.delete(this);
      counts.ends += code === 1008 || (code >= 4000 && code < 4100 && code !== 4001);
      super.end(code, reason);
    }

    close(code) {
      open.delete(this);
      super.close(code);
    }
  };

  const fetch = page.io.fetch;
  page.io.fetch = async (url, options) => {
    const { pathname } = new URL(url);
    const isLine = pathname === "/v1/tickets" || pathname === "/v1/follow";
    isLine && watch.asks(pathname);
    open.add(options.signal);
    try {
      await clock.wait(late());
      const answer = await fetch(url, options);
      await clock.wait(late());
      await page.thawed(); // A page that is frozen or gone hears of nothing.
      await stalled(faults, options.signal);
      if (answer.ok && /publish|events/.test(pathname) && random() < faults.losesAnswers) {
        throw new TypeError("the answer was lost");
      }
      counts.denials += answer.status === 401;
      counts.forbidden += answer.status === 403;
      isLine && answer.status === 401 && watch.denied();
      heard();
      return options.headers.Accept === "text/event-stream" && answer.ok
        ? new Response(answer.body.pipeThrough(pieces(random, heard)), answer)
        : answer;
    } finally {
      open.delete(options.signal);
    }
  };
  return watch;
}

/** Waits for the page to give up, if answers are stalled. */
function stalled(faults, signal) {
  if (!faults.stallsAnswers) {
    return undefined;
  }
  return new Promise((_, reject) => {
    const abort = () => reject(new DOMException("aborted", "AbortError"));
    signal.aborted ? abort() : signal.addEventListener("abort", abort);
  });
}

/** Cuts a stream into pieces anywhere, within a character as well. */
function pieces(random, heard) {
  return new TransformStream({
    transform(chunk, controller) {
      heard();
      const at = Math.floor(random() * chunk.length);
      at > 0 && controller.enqueue(chunk.subarray(0, at));
      controller.enqueue(chunk.subarray(at));
    },
  });
}
