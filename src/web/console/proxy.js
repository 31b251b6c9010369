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
/** What a heartbeat may be late. */
const LATE_MS = 2000;

const late = (ms) =>
  new Promise((_, reject) =>
    setTimeout(() => reject(new Error(`nothing came in ${span(ms)}`)), ms),
  );
const now = () => performance.now();
const QUESTION = {
  subscriptions: [{ subscription: "probe", topics: [SILENT_TOPIC], from: "latest" }],
};

/** A stream: when its first message comes, which has the broker's heartbeat, and if one comes. */
async function stream({ api }, tell, signal, known) {
  const begun = now();
  const abort = new AbortController();
  signal.addEventListener("abort", () => abort.abort());
  try {
    const headers = { Accept: "text/event-stream", "Content-Type": "application/json" };
    const body = JSON.stringify(QUESTION);
    const asked = api.fetch("/v1/follow", { method: "POST", headers, body, signal: abort.signal });
    let reader;
    let text = "";
    const until = async (pattern) => {
      reader ??= (await asked).body.pipeThrough(new TextDecoderStream()).getReader();
      while (!pattern.test(text)) {
        const { done, value } = await reader.read();
        if (done) {
          throw new Error("the stream was cut");
        }
        text += value;
      }
      return pattern.exec(text)[1];
    };
    const heartbeat = await Promise.race([until(/"heartbeat_ms":(\d+)/), late(PATIENCE_MS)]);
    known.heartbeatMs = Number(heartbeat);
    tell(
      `It begins after ${span(now() - begun)}: nothing holds it back so far. Waiting for a heartbeat, due in ${span(known.heartbeatMs)}…`,
    );
    await Promise.race([until(/^:/m), late(known.heartbeatMs + LATE_MS)]);
    tell("It passes: the first message came at once, and heartbeats come.", "good");
  } catch (problem) {
    tell(
      `It is held back or cut: ${problem.message}. Turn buffering off in the proxy (nginx: proxy_buffering off). Clients fall back to polling.`,
      "error",
    );
  } finally {
    abort.abort();
  }
}

/** A WebSocket: whether it opens, and how fast its answers are. */
async function webSocket({ api }, tell, signal, known) {
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
      const { data } = await Promise.race([answered, late(PATIENCE_MS)]);
      trips.push(now() - sent);
      known.heartbeatMs = JSON.parse(data).heartbeat_ms;
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
async function silence({ api }, tell, signal, known) {
  const left = new Set(SILENCES);
  let longest = 0;
  let failed;
  const one = async (seconds) => {
    try {
      const path = `/v1/topics/${SILENT_TOPIC}/events?from=latest&wait=${seconds}s`;
      await (await api.fetch(path, { signal })).text();
      longest = Math.max(longest, seconds);
    } catch (problem) {
      failed = failed?.seconds < seconds ? failed : { seconds, why: problem.message };
    }
    left.delete(seconds);
    tell(`${longest} s of silence are no problem. Trying ${[...left].join(", ")} s…`);
  };
  await Promise.all(SILENCES.map(one));
  // Without a stream and without a WebSocket it is not known.
  const { heartbeatMs = Infinity } = known;
  if (!failed) {
    tell(
      `At least ${longest} s of silence are no problem. The broker is never silent for longer than its heartbeat.`,
      "good",
    );
  } else {
    const { seconds, why } = failed;
    const isShort = seconds * 1000 <= heartbeatMs;
    const advice = isShort
      ? "Set follow.heartbeat_ms below that, or give the proxy a longer time limit."
      : `The broker's heartbeat of ${span(heartbeatMs)} is shorter, so that streams hold.`;
    tell(
      `Silence may last ${longest} s: a request of ${seconds} s was cut (${why}). ${advice}`,
      isShort ? "error" : "warning",
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
    const known = {};
    target.disabled = true;
    await Promise.all(
      places.map(({ note, run }) => {
        const tell = (text, kind) => signal.aborted || say(note, text, kind);
        tell("Measuring…");
        return run(console, tell, signal, known);
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
