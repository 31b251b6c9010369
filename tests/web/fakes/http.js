// The HTTP of the fake broker: tickets, publishes, the state of topics, streams and polls.

import { problem } from "./broker.js";

const JSON_TYPE = { "Content-Type": "application/json" };
const answer = (body, status = 200, headers = {}) =>
  new Response(JSON.stringify(body), { status, headers: { ...JSON_TYPE, ...headers } });

/** Returns `fetch` of a page. */
export function fetches(broker, page) {
  return async (url, { method = "GET", headers = {}, body, signal } = {}) => {
    const { pathname, searchParams } = new URL(url);
    broker.requests.push(
      `${method} ${pathname}${searchParams.has("wait") ? `?wait=${searchParams.get("wait")}` : ""}`,
    );
    await broker.clock.wait(broker.latencyMs);
    if (broker.faults.hangs && !signal.aborted) {
      await new Promise((done) => signal.addEventListener("abort", done));
    }
    if (signal?.aborted) {
      throw new DOMException("aborted", "AbortError");
    }
    if (broker.faults.isAway || page.isGone || !page.isOnline) {
      throw new TypeError("fetch failed");
    }
    const own = broker.faults.answer?.({ method, pathname, headers, body });
    if (own) {
      return own instanceof Response ? own : answer(problem(own, "refused"), own);
    }
    if (broker.token !== null && headers.Authorization !== `Bearer ${broker.token}`) {
      return answer(problem(401, "the token has expired"), 401);
    }
    const asked = body === undefined ? undefined : JSON.parse(body);
    const served = await serve(broker, page, {
      method,
      pathname,
      searchParams,
      headers,
      asked,
      signal,
    });
    await page.thawed();
    return served;
  };
}

function serve(broker, page, request) {
  const { pathname, searchParams, headers, asked } = request;
  if (pathname === "/v1/topics") {
    return answer({ topics: [] });
  }
  if (pathname === "/v1/tickets") {
    return broker.token === null
      ? answer(problem(404, "not found"), 404)
      : answer({ ticket: "ticket", kind: "once" });
  }
  if (pathname === "/v1/publish") {
    const accepted = broker.accept(asked);
    return accepted.error ? answer(accepted.error, accepted.error.status) : answer(accepted);
  }
  const [, topic, what] = /^\/v1\/topics\/([^/]+)\/(\w+)$/.exec(pathname) ?? [];
  if (what === "events" && searchParams.get("ephemeral")) {
    const event = { type: searchParams.get("type"), data: asked };
    return answer(broker.accept({ topic, event, ephemeral: true }));
  }
  if (what === "state") {
    return state(broker, decodeURIComponent(topic), searchParams);
  }
  if (pathname === "/v1/follow") {
    const wrong = asked.subscriptions.find(({ topic }) => topic?.includes(" "));
    if (wrong) {
      const { subscription } = wrong;
      return answer(problem(400, "topic: holds ' '", { field: "topic", subscription }), 400);
    }
    return headers.Accept === "text/event-stream"
      ? stream(broker, page, request)
      : poll(broker, page, request);
  }
  return answer(problem(404, "not found"), 404);
}

/** A page of the latest event of each key; pages have two events, so that there are several. */
function state(broker, topic, query) {
  const events = broker.events.filter((event) => event.topic === topic);
  if (broker.last(topic) === 0) {
    return answer(problem(404, "no such topic"), 404);
  }
  const [after, at] = (query.get("page_token") || `-${broker.last(topic)}`).split("-");
  const latest = new Map(
    events.filter(({ sequence }) => sequence <= Number(at)).map((event) => [event.key, event]),
  );
  const isNext = ({ key, content_type: type }) => key !== undefined && key > after && type !== null;
  const kept = [...latest.values()].filter(isNext).sort((a, b) => (a.key < b.key ? -1 : 1));
  const next = kept.length > 2 ? `${kept[1].key}-${at}` : "";
  return answer({
    events: kept.slice(0, 2),
    cursor: `${at}-${broker.epoch}`,
    next_page_token: next,
  });
}

function stream(broker, page, { asked, signal }) {
  const connection = { kind: "stream", readers: new Map(), isStalled: false, page };
  const encoder = new TextEncoder();
  let isOver = false;
  let held = "";
  const { buffersStreams, cutsAfterMs, expiresAfterMs } = broker.faults;
  const body = new ReadableStream({
    start(controller) {
      const write = (text) => {
        if (isOver || connection.isStalled) {
          return;
        }
        if (buffersStreams) {
          held += text;
        } else {
          controller.enqueue(encoder.encode(text));
        }
      };
      const send = (message) => write(`data: ${JSON.stringify(message)}\n\n`);
      const leave = broker.onStored(
        () => page.isFrozen || connection.readers.forEach((reader) => reader.deliver()),
      );
      const beat = () => {
        write(": heartbeat\n");
        timer = broker.clock.set(beat, broker.heartbeatMs);
      };
      let timer = broker.clock.set(beat, broker.heartbeatMs);
      const over = (finish) => {
        if (!isOver) {
          isOver = true;
          leave();
          broker.clock.clear(timer);
          broker.connections.delete(connection);
          finish();
        }
      };
      connection.tell = send;
      connection.end = () => over(() => controller.error(new TypeError("cut")));
      connection.finish = () => over(() => controller.close());
      connection.expire = () => {
        broker.expired += isOver ? 0 : 1;
        send({ type: "expired" });
      };
      signal?.addEventListener("abort", () =>
        over(() => controller.error(new DOMException("aborted", "AbortError"))),
      );
      if (cutsAfterMs < Infinity) {
        broker.clock.set(connection.end, cutsAfterMs);
      }
      if (expiresAfterMs < Infinity) {
        broker.clock.set(connection.expire, expiresAfterMs);
      }
      broker.connections.add(connection);
      send({ type: "hello", heartbeat_ms: broker.heartbeatMs, retry_ms: 2000 });
      asked.subscriptions.forEach((fields) => broker.subscribe(connection, fields, send));
      connection.readers.size || connection.finish(); // All of them were refused.
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

/** Answers when there is something, or when the wait is over. */
async function poll(broker, page, { asked, searchParams, signal }) {
  const waitMs = 1000 * parseFloat(searchParams.get("wait") ?? "0");
  const connection = { kind: "poll", readers: new Map(), page };
  const messages = [];
  broker.connections.add(connection);
  asked.subscriptions.forEach((fields) =>
    broker.subscribe(connection, fields, (told) => messages.push(told)),
  );
  const isNews = () => messages.some(({ type }) => !["subscribed", "caught_up"].includes(type));
  let finish;
  const end = new Promise((resolve, reject) => (finish = { resolve, reject }));
  const leave = broker.onStored(() => {
    connection.readers.forEach((reader) => reader.deliver());
    isNews() && finish.resolve();
  });
  connection.end = () => finish.reject(new TypeError("cut"));
  signal?.addEventListener("abort", () => finish.reject(new DOMException("aborted", "AbortError")));
  if (isNews() || waitMs === 0) {
    finish.resolve();
  }
  const { cutsAfterMs } = broker.faults;
  broker.clock.set(
    cutsAfterMs < waitMs ? connection.end : finish.resolve,
    Math.min(waitMs, cutsAfterMs),
  );
  try {
    await end;
  } finally {
    leave();
    broker.connections.delete(connection);
  }
  return answer({ messages });
}
