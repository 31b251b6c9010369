// Measures what lies between this browser and the broker: is a stream held back? Does a WebSocket
// pass? How long may a connection be silent?

import { BASE } from "./api.js";
import { button, h, say, span } from "./dom.js";

export const title = "Proxy";

/** A topic that nobody publishes to. */
const SILENT_TOPIC = "console.silence";
/** The lengths of silence that are tried, in seconds: at most as long as a poll may wait. */
const SILENCES = [5, 15, 30, 58];
/** The time after which what has not come is held back. */
const PATIENCE_MS = 5000;
/** More than the broker's heartbeat of 15 s, so that one must have passed. */
const HEARTBEAT_MS = 17_000;

const late = (ms) =>
  new Promise((_, reject) =>
    setTimeout(() => reject(new Error(`nothing came in ${span(ms)}`)), ms),
  );
const now = () => performance.now();
const QUESTION = {
  subscriptions: [{ subscription: "probe", topics: [SILENT_TOPIC], from: "latest" }],
};

/** A stream: when its first message comes, and whether its heartbeats do. */
async function stream({ api }, tell, signal) {
  const begun = now();
  const abort = new AbortController();
  signal.addEventListener("abort", () => abort.abort());
  try {
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json" };
    const options = {
      method: "POST",
      headers,
      body: JSON.stringify(QUESTION),
      signal: abort.signal,
    };
    const first = api.fetch("/v1/follow", options).then(async ({ body }) => {
      const reader = body.getReader();
      await reader.read();
      return reader;
    });
    const reader = await Promise.race([first, late(PATIENCE_MS)]);
    tell(
      `It begins after ${span(now() - begun)}: nothing holds it back so far. Waiting for a heartbeat…`,
    );
    const next = async () => {
      for (;;) {
        const at = now();
        const { done } = await reader.read();
        if (done) {
          throw new Error("the stream was cut");
        }
        if (now() - at > 1000) {
          return;
        }
      }
    };
    await Promise.race([next(), late(HEARTBEAT_MS)]);
    tell(`It passes: the first message came at once, and heartbeats come.`, "good");
  } catch (problem) {
    const text = `It is held back or cut: ${problem.message}. Turn buffering off in the proxy (nginx: proxy_buffering off). Clients fall back to polling.`;
    tell(text, "error");
  } finally {
    abort.abort();
  }
}

/** A WebSocket: whether it opens, and how fast its answers are. */
async function webSocket({ api }, tell) {
  let socket;
  try {
    const url = new URL("v1/ws", BASE);
    url.protocol = url.protocol.replace("http", "ws");
    if (api.hasCredential) {
      const { ticket } = await api.send("POST", "/v1/tickets", { kind: "once" });
      url.searchParams.set("ticket", ticket);
    }
    const begun = now();
    socket = new WebSocket(url, "leftoff.v1.json");
    const opened = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onclose = socket.onerror = () => reject(new Error("it does not open"));
    });
    await Promise.race([opened, late(PATIENCE_MS)]);
    const took = now() - begun;
    const trips = [];
    for (let ref = 1; ref <= 5; ref += 1) {
      const sent = now();
      const answered = new Promise((resolve) => (socket.onmessage = resolve));
      socket.send(JSON.stringify({ type: "ping", ref }));
      await Promise.race([answered, late(PATIENCE_MS)]);
      trips.push(now() - sent);
    }
    const median = trips.sort((a, b) => a - b)[2];
    tell(`It passes: open after ${span(took)}, an answer takes ${median.toFixed(1)} ms.`, "good");
  } catch (problem) {
    const text = `It does not pass: ${problem.message}. Have the proxy forward the headers Upgrade and Connection. Clients fall back to streams.`;
    tell(text, "error");
  } finally {
    socket?.close();
  }
}

/** Polls that are silent for a while: the longest that is answered is how long silence may last. */
async function silence({ api }, tell, signal) {
  const survived = new Set();
  const failed = new Map();
  const one = async (seconds) => {
    try {
      const path = `/v1/topics/${SILENT_TOPIC}/events?from=latest&wait=${seconds}s`;
      await (await api.fetch(path, { signal })).text();
      survived.add(seconds);
    } catch (problem) {
      failed.set(seconds, problem.message);
    }
    const longest = Math.max(0, ...survived);
    const left = SILENCES.filter((it) => !survived.has(it) && !failed.has(it));
    tell(
      `${longest ? `${longest} s of silence are no problem.` : ""} ${left.length ? `Trying ${left.join(", ")} s…` : ""}`,
    );
  };
  await Promise.all(SILENCES.map(one));
  const longest = Math.max(0, ...survived);
  if (!failed.size) {
    tell(
      `At least ${longest} s of silence are no problem. The broker is never silent for longer than its heartbeat.`,
      "good",
    );
  } else {
    const [seconds, why] = [...failed].sort(([a], [b]) => a - b)[0];
    const advice =
      seconds <= 15
        ? "Set follow.keep_alive_ms below that, or give the proxy a longer time limit."
        : "The broker's heartbeat of 15 s is shorter, so that streams hold.";
    tell(
      `Silence may last ${longest} s: a request of ${seconds} s was cut (${why}). ${advice}`,
      seconds <= 15 ? "error" : "warning",
    );
  }
}

const TESTS = [
  ["Is a stream held back?", stream],
  ["Does a WebSocket pass?", webSocket],
  ["How long may silence last?", silence],
];

export function show(console, parts, signal) {
  const places = TESTS.map(([name, run]) => {
    const note = h("p", { role: "status" }, "Not measured yet.");
    return { name, note, run };
  });
  const measure = async ({ target }) => {
    target.disabled = true;
    await Promise.all(
      places.map(({ note, run }) => {
        const tell = (text, kind) => signal.aborted || say(note, text, kind);
        tell("Measuring…");
        return run(console, tell, signal);
      }),
    );
    target.disabled = false;
  };
  return [
    h(
      "p",
      {},
      "Between a browser and the broker there may be proxies, which hold data back or cut what is silent. This takes about a minute.",
    ),
    button("Measure", measure),
    places.map(({ name, note }) => [h("h2", {}, name), note]),
  ].flat(3);
}
