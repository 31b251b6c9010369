// Follows an event stream with a client from npm: event_stream.cjs CLIENT URL.

"use strict";

const { tell, tellBlock } = require("./tell.cjs");

const [client, url] = process.argv.slice(2);

// Whoever has the interface of a browser's EventSource. It comes back by itself.
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
      tell("wrong", "", "error", "it has given up");
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
  // This one makes a new EventSource where the one that it was given has given up, so that a
  // state of 2 is none of its own.
  "reconnecting-eventsource": () => {
    const { EventSource } = require("eventsource-5");
    const { default: Reconnecting } = require("reconnecting-eventsource");
    follow(new Reconnecting(url, { eventSourceClass: EventSource, max_retry_time: 500 }));
  },
  // Made for pages: these two are all that it wants of one.
  "fetch-event-source": () => {
    globalThis.window = globalThis;
    globalThis.document = { removeEventListener() {} };
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ event, id, data }) => tellBlock(event || "message", id, data),
      // An end in order is one for good, unless it is said to be none.
      onclose: () => {
        throw new Error("the stream has ended");
      },
    });
  },
};

clients[client]();
