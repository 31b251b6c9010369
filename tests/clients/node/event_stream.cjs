// Follows an event stream with a client from npm: event_stream.cjs CLIENT URL.

"use strict";

const { tell, tellBlock } = require("./tell.cjs");

const [client, url] = process.argv.slice(2);

// Follows with a client that has the interface of a browser's EventSource, and reconnects by
// itself.
function follow(source) {
  for (const type of [
    "message",
    "quake.automatic",
    "quake.reviewed",
    "leftoff.caught-up",
    "leftoff.gap",
    "leftoff.error",
  ]) {
    source.addEventListener(type, (event) => {
      tellBlock(event.type, event.lastEventId, event.data);
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === 2) {
      tell("wrong", "", "error", "the client has given up");
    }
  });
}

const clients = {
  "eventsource-2": () => follow(new (require("eventsource-2"))(url)),
  "eventsource-3": () => follow(new (require("eventsource-3").EventSource)(url)),
  "eventsource-4": () => follow(new (require("eventsource-4").EventSource)(url)),
  "eventsource-5": () => follow(new (require("eventsource-5").EventSource)(url)),
  "event-source-polyfill": () => {
    follow(new (require("event-source-polyfill").EventSourcePolyfill)(url));
  },
  // This client makes a new EventSource when its current one has given up, so that a state of 2 is
  // not its own.
  "reconnecting-eventsource": () => {
    const { EventSource } = require("eventsource-5");
    const { default: Reconnecting } = require("reconnecting-eventsource");
    follow(new Reconnecting(url, { eventSourceClass: EventSource, max_retry_time: 500 }));
  },
  // This client is made for pages: it needs only these two objects of a page.
  "fetch-event-source": () => {
    globalThis.window = globalThis;
    globalThis.document = { removeEventListener() {} };
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ event, id, data }) => tellBlock(event || "message", id, data),
      // The client takes an orderly end for a final one, unless this function throws.
      onclose: () => {
        throw new Error("the stream has ended");
      },
    });
  },
};

clients[client]();
