// HTTP, and three transports of the messages in `protocol.md`. A transport tells `on` each
// `message` with its `size` in characters, `heard` when anything came, and `down` with the error.

const REQUEST_MS = 30_000;
const LONGEST_MS = 300_000;
/** What has not failed for so long after a pause is well again. */
const WELL_MS = 60_000;
const LONGEST_POLL_S = 25;
/** More characters than a message can have. */
const LONGEST_BLOCK = 1e8;
const ANSWER_MS = 10_000;
const POLL_PAUSE_MS = 5_000;
/** A poll that is cut after this time is cut for its length; much later, it failed. */
const CUT_MS = 3_000;

/** A time from the network, in bounds; 0 if it makes no sense. */
export const bounded = (ms) => Math.max(0, Math.min(ms, LONGEST_MS)) || 0;

export class Problem extends Error {
  constructor(details = {}) {
    const { status = 0, detail = `refused with ${status}`, retry_after_ms } = details;
    super(detail);
    const retryAfterMs = bounded(retry_after_ms);
    Object.assign(this, { name: "Problem", status, details, retryAfterMs });
  }

  get isTemporary() {
    const { status, details } = this;
    return /^(0|408|429|50[2347])$/.test(status) || /outcome-unknown$/.test(details.type);
  }
}

/** The details of the problem of what was not answered, or not even sent. */
export const LOST = { detail: "no answer" };

/** Returns what takes a problem with this status for `value`. */
export const instead = (status, value) => (problem) => {
  if (problem.status !== status) {
    throw problem;
  }
  return value;
};

/** Pauses by chance, so that clients do not come back together. */
export function backoff(io) {
  let until = 0;
  return {
    tries: 0,
    next(leastMs) {
      if (io.now() - until > WELL_MS) {
        this.tries = 0;
      }
      const pause = leastMs + io.random() * Math.min(30_000, 500 * 2 ** this.tries++);
      until = io.now() + pause;
      return pause;
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
  const waiting = calls(io);
  let token;
  const http = {
    base,
    askToken,

    async renew() {
      const ask = async () => ({ token: await askToken?.() });
      ({ token } = await waiting.make(async (call) => {
        const answer = await ask().catch(({ message: detail }) => ({ error: { detail } }));
        waiting.settle(call, answer);
      }));
      let claims;
      try {
        claims = JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
      } catch {
        // It is no JWT.
      }
      http.claims = claims ?? {};
    },

    /** Returns what `read` makes of the answer. A 401 is asked again with another token, once. */
    async send(method, path, body, options = {}) {
      const {
        accept = "application/json",
        timeoutMs = REQUEST_MS,
        isAgain,
        read = (it) => (it.status === 204 ? null : it.json()),
        abort = new AbortController(),
      } = options;
      token ?? (await http.renew());
      const headers = {
        Accept: accept,
        "Content-Type": "application/json",
        ...(token && { Authorization: `Bearer ${token}` }),
      };
      const timer = io.setTimeout(() => abort.abort(), timeoutMs);
      let answer;
      let result;
      try {
        answer = await io.fetch(base + path.replace(/^\//, ""), {
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
      const { status } = answer;
      if (answer.ok) {
        return result;
      }
      if (status === 401 && askToken && !isAgain) {
        await http.renew();
        return http.send(method, path, body, { ...options, isAgain: true });
      }
      const after = answer.headers.get("Retry-After");
      throw new Problem({
        retry_after_ms: 1000 * after || Date.parse(after) - io.now(),
        ...result,
        status,
      });
    },
  };
  return http;
}

function websocket(io, http, asks, on) {
  const waiting = calls(io);
  let socket;
  let isClosed;
  const send = (message) => socket?.readyState === 1 && socket.send(JSON.stringify(message));
  const ping = () => send({ type: "ping" });

  const open = async () => {
    let url = `${http.base.replace("http", "ws")}v1/ws`;
    if (http.askToken) {
      const asked = http.send("POST", "v1/tickets", { kind: "once" });
      const { ticket } = await asked.catch(instead(404, {})); // A broker may ask nobody who they are.
      if (ticket) {
        url += `?ticket=${ticket}`;
      }
    }
    if (isClosed) {
      return;
    }
    socket = new io.WebSocket(url, "leftoff.v1.json");
    socket.onopen = ping;
    socket.onclose = ({ code: closeCode, reason }) =>
      on.down({
        message: reason || `closed with ${closeCode}`,
        closeCode,
        retryAfterMs: /retry_ms=(\d+)/.exec(reason)?.[1],
      });
    socket.onmessage = ({ data }) => {
      try {
        const message = { ...JSON.parse(data), size: data.length };
        waiting.settle(message.ref, message);
        on.message(message);
      } catch (error) {
        on.down(error);
      }
    };
  };
  open().catch(on.down);

  return {
    subscribe: (ask) => send({ type: "subscribe", ...ask }),
    unsubscribe: (subscription) => send({ type: "unsubscribe", subscription }),
    ping,
    request: (message) => waiting.make((ref) => send({ ...message, ref })),
    close() {
      isClosed = true;
      waiting.lose();
      socket?.close();
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
  const self = { close: () => abort.abort() };

  let retryAfterMs;
  const take = (message) => {
    const { type, retry_ms } = message;
    retryAfterMs ??= retry_ms;
    if (/^(stopping|expired)$/.test(type)) {
      on.down({ message: type, retryAfterMs: retry_ms, status: { expired: 401 }[type] });
    } else {
      on.message(message);
    }
  };

  const run = async () => {
    const options = { accept: "text/event-stream", abort, read: ({ body }) => body };
    const body = await http.send("POST", "v1/follow", { subscriptions }, options);
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value } = await reader.read().catch(() => ({}));
      if (!value) {
        // A stream ends when all that it carried has ended.
        return abort.signal.aborted || asks().some((ask) => subscriptions.includes(ask))
          ? on.down({ message: "cut off", retryAfterMs })
          : Object.assign(self, poll(io, http, asks, on));
      }
      on.heard();
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop().slice(0, LONGEST_BLOCK);
      for (const block of blocks) {
        // Data, and comments.
        const text = block.replace(/^(data:|:.*)/gm, "").trim();
        text && take({ ...JSON.parse(text), size: text.length });
      }
    }
  };
  run().catch(on.down);
  return self;
}

/** One request after the other. Where a proxy cuts long ones, they become shorter. */
function poll(io, http, asks, on) {
  let waitS = 0;
  let longestS = LONGEST_POLL_S;
  let timer;
  const abort = new AbortController();

  const read = async (answer) => {
    const text = await answer.text();
    const { topics, messages = topics } = JSON.parse(text);
    return messages.map((message) => ({ ...message, size: text.length / messages.length }));
  };

  const run = async () => {
    while (!abort.signal.aborted) {
      const since = io.now();
      // Members would come and go with each poll.
      const subscriptions = asks().map(({ member, ...ask }) => ask);
      // Who follows nothing asks for no topics: that wants the credential, too.
      const body = subscriptions[0] && { subscriptions };
      const path = body ? `v1/follow?wait=${waitS}s` : "v1/topics?limit=0";
      const options = { abort, timeoutMs: 1000 * waitS + ANSWER_MS, read };
      let messages = [];
      try {
        messages = await http.send(body ? "POST" : "GET", path, body, options);
      } catch (problem) {
        const tookMs = io.now() - since;
        const isLost = tookMs < CUT_MS || tookMs > 1000 * waitS + CUT_MS;
        if (isLost || !/^(0|502|504)$/.test(problem.status)) {
          throw problem;
        }
        longestS = Math.floor(Math.min(waitS, tookMs / 1000) / 2);
      }
      messages.forEach(on.message);
      on.message({ type: "poll", heartbeat_ms: 1000 * longestS + ANSWER_MS });
      waitS = longestS;
      if (!(waitS && body)) {
        await new Promise((done) => (timer = io.setTimeout(done, POLL_PAUSE_MS)));
      }
    }
  };
  run().catch(on.down);

  return {
    close() {
      io.clearTimeout(timer);
      abort.abort();
    },
  };
}

export const transports = { websocket, sse, poll };
