// HTTP, and three transports of the messages in `protocol.md`. A transport tells `on` each
// `message`, `heard` when anything came, and `down`.

const REQUEST_MS = 30_000;
const LONGEST_RETRY_MS = 300_000;
const LONGEST_POLL_S = 25;
const ANSWER_MS = 10_000;
const POLL_PAUSE_MS = 5_000;
/** A poll that is cut after this time is cut for its length; much later, it failed. */
const CUT_MS = 3_000;

/** Why the broker refused something; with the status 0, why nothing is known of it. */
export class Problem extends Error {
  constructor(details) {
    const {
      status = 0,
      detail = `refused with ${status}`,
      retry_after_ms: retryAfterMs = 0,
    } = details;
    super(detail);
    Object.assign(this, { name: "Problem", status, details, retryAfterMs });
  }

  /** Whether the same request may succeed later. */
  get isTemporary() {
    const { status, details } = this;
    return (
      [0, 408, 429, 502, 503, 504, 507].includes(status) || /outcome-unknown$/.test(details.type)
    );
  }
}

/** The details of the problem of what was not answered, or not even sent. */
export const LOST = { detail: "there is no connection" };

/** Returns what takes a refusal with 404 for `value`. */
export const orMissing = (value) => (problem) => {
  if (problem.status !== 404) {
    throw problem;
  }
  return value;
};

/** Pauses by chance, each up to twice the one before: clients must not come back together. */
export function backoff(io) {
  return {
    tries: 0,
    next(leastMs) {
      return leastMs + io.random() * Math.min(30_000, 500 * 2 ** this.tries++);
    },
  };
}

/** Keeps calls that wait for their answers, each by its number. */
export function calls(io) {
  const waiting = new Map();
  let last = 0;
  return {
    make: (send) =>
      new Promise((resolve, reject) => {
        const call = ++last;
        const settle = ({ error, ...answer }) => {
          io.clearTimeout(timer);
          waiting.delete(call);
          error ? reject(new Problem(error)) : resolve(answer);
        };
        const timer = io.setTimeout(() => settle({ error: LOST }), REQUEST_MS);
        waiting.set(call, settle);
        send(call);
      }),
    settle: (call, answer) => waiting.get(call)?.(answer),
    lose: () => waiting.forEach((settle) => settle({ error: LOST })),
  };
}

export function requests(io, base, askToken) {
  let token;
  const http = {
    base,
    hasToken: Boolean(askToken),
    /** The claims of the token, if it is a JWT. */
    claims: {},

    async renew() {
      token = await askToken?.();
      try {
        http.claims = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
      } catch {
        http.claims = {};
      }
      return token;
    },

    /** Returns what `read` makes of the answer. A 401 is asked again with another token, once. */
    async send(method, path, body, options = {}) {
      const { accept = "application/json", timeoutMs = REQUEST_MS, isAgain } = options;
      const { read = (it) => (it.status === 204 ? null : it.json()) } = options;
      const { abort = new AbortController() } = options;
      token ?? (await http.renew());
      const headers = { Accept: accept };
      if (body !== undefined) {
        headers["Content-Type"] = "application/json";
      }
      if (token) {
        headers.Authorization = `Bearer ${token}`;
      }
      const timer = io.setTimeout(() => abort.abort(), timeoutMs);
      let answer;
      let result;
      try {
        const url = new URL(path.replace(/^\//, ""), base).href;
        answer = await io.fetch(url, {
          method,
          headers,
          body: JSON.stringify(body),
          signal: abort.signal,
        });
        result = await (answer.ok ? read(answer) : answer.json().catch(() => ({})));
      } catch (error) {
        throw new Problem({ detail: `no answer: ${error.message}` });
      } finally {
        io.clearTimeout(timer);
      }
      const { ok, status } = answer;
      if (ok) {
        return result;
      }
      if (status === 401 && askToken && !isAgain) {
        await http.renew();
        return http.send(method, path, body, { ...options, isAgain: true });
      }
      const retryMs = 1000 * answer.headers.get("Retry-After") || 0;
      throw new Problem({ retry_after_ms: Math.min(retryMs, LONGEST_RETRY_MS), ...result, status });
    },
  };
  return http;
}

function websocket(io, http, asks, on) {
  const waiting = calls(io);
  let socket;
  let isClosed;
  const send = (message) => socket?.readyState === 1 && socket.send(JSON.stringify(message));

  const open = async () => {
    const url = new URL("v1/ws", http.base);
    url.protocol = url.protocol.replace("http", "ws");
    if (http.hasToken) {
      const asked = http.send("POST", "v1/tickets", { kind: "once" });
      const { ticket } = await asked.catch(orMissing({})); // A broker may ask nobody who they are.
      ticket && url.searchParams.set("ticket", ticket);
    }
    if (isClosed) {
      return;
    }
    socket = new io.WebSocket(url.href, "leftoff.v1.json");
    socket.onopen = () => send({ type: "ping" });
    socket.onclose = ({ code, reason }) => on.down({ why: reason || `closed with ${code}`, code });
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      waiting.settle(message.ref, message);
      on.message(message, data.length);
    };
  };
  open().catch((problem) => on.down({ problem }));

  return {
    subscribe: (ask) => send({ type: "subscribe", ...ask }),
    unsubscribe: (subscription) => send({ type: "unsubscribe", subscription }),
    ping: () => send({ type: "ping" }),
    request: (message) => waiting.make((ref) => send({ ...message, ref })),
    close() {
      isClosed = true;
      waiting.lose();
      if (socket) {
        socket.onopen = socket.onclose = socket.onmessage = null;
        socket.close();
      }
    },
  };
}

/** Server-sent events, read with `fetch` so that the token goes into a header. */
function sse(io, http, asks, on) {
  const subscriptions = asks();
  if (!subscriptions[0]) {
    return poll(io, http, asks, on); // There is nothing to stream.
  }
  const abort = new AbortController();

  const take = (message, size) => {
    const { type: why, retry_ms: retryAfterMs } = message;
    if (why === "stopping" || why === "expired") {
      on.down({ why, retryAfterMs, status: why === "expired" ? 401 : undefined });
    } else {
      on.message(message, size);
    }
  };

  const run = async () => {
    const options = { accept: "text/event-stream", abort, read: ({ body }) => body };
    const body = await http.send("POST", "v1/follow", { subscriptions }, options);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) {
        return on.down({ why: "cut off" });
      }
      on.heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:"));
        const text = data.map((line) => line.slice(5)).join("\n");
        text && take(JSON.parse(text), text.length);
      }
    }
  };
  run().catch((problem) => on.down({ problem }));
  return { close: () => abort.abort() };
}

/** One request after the other. Where a proxy cuts long ones, they become shorter. */
function poll(io, http, asks, on) {
  let waitS = 0;
  let longestS = LONGEST_POLL_S;
  let abort = new AbortController();
  let timer;
  let isClosed;

  const run = async () => {
    while (!isClosed) {
      const since = io.now();
      // Members would come and go with each poll.
      const subscriptions = asks().map(({ member, ...ask }) => ask);
      let messages = [];
      abort = new AbortController();
      const options = { abort, timeoutMs: 1000 * waitS + ANSWER_MS };
      try {
        if (subscriptions[0]) {
          ({ messages } = await http.send(
            "POST",
            `v1/follow?wait=${waitS}s`,
            { subscriptions },
            options,
          ));
        } else {
          await http.send("GET", "healthz", undefined, { ...options, read() {} });
        }
      } catch (problem) {
        const tookMs = io.now() - since;
        const isLost = tookMs < CUT_MS || tookMs > 1000 * waitS + CUT_MS;
        if (isLost || ![0, 502, 504].includes(problem.status)) {
          return on.down({ problem });
        }
        longestS = Math.floor(Math.min(waitS, tookMs / 1000) / 2);
      }
      on.message({ heartbeat_ms: 1000 * longestS + ANSWER_MS });
      messages.forEach((message) => on.message(message, JSON.stringify(message).length));
      waitS = longestS;
      if (!waitS || !subscriptions[0]) {
        await new Promise((done) => (timer = io.setTimeout(done, POLL_PAUSE_MS)));
      }
    }
  };
  run();

  return {
    isPolling: true,
    close() {
      isClosed = true;
      io.clearTimeout(timer);
      abort.abort();
    },
  };
}

export const transports = { websocket, sse, poll };
