// Follows a topic over a WebSocket with a client from npm: web_socket.cjs CLIENT URL TOPIC.

"use strict";

const { tell } = require("./tell.cjs");

const [client, url, topic] = process.argv.slice(2);
const SUBPROTOCOL = "leftoff.v1.json";
const RETRY_MS = 100;

let from = "earliest";

function subscribe(socket) {
  socket.send(JSON.stringify({ type: "subscribe", subscription: "s", topic, from }));
}

function take(text) {
  const message = JSON.parse(text);
  from = message.cursor ?? from;
  if (message.type === "event") {
    tell("event", message.cursor, message.event.type, JSON.stringify(message.event.data));
  } else if (message.type === "gap") {
    tell("gap", message.cursor, "", JSON.stringify(message.gap));
  } else if (!["subscribed", "caught_up", "cursor"].includes(message.type)) {
    tell("wrong", "", message.type, text);
  }
}

function closed(code, reason) {
  // With these codes, a client must not reconnect.
  if (code === 1008 || (code >= 4000 && code < 4100)) {
    tell("wrong", "", "close", `${code} ${reason}`);
  }
}

const clients = {
  // This client does not reconnect by itself.
  ws: function connect() {
    const socket = new (require("ws").WebSocket)(url, SUBPROTOCOL);
    socket.on("open", () => subscribe(socket));
    socket.on("message", (data) => take(data.toString()));
    socket.on("error", (error) => {
      // An error without a code is not of the connection. A proxy answers 502 to 504 while the
      // broker is away.
      const isAway = /^Unexpected server response: 50[234]$/.test(error.message);
      if (error.code === undefined && !isAway) {
        tell("wrong", "", "error", error.message);
      }
    });
    socket.on("close", (code, reason) => {
      closed(code, reason);
      setTimeout(connect, RETRY_MS);
    });
  },
  "reconnecting-websocket": () => {
    const { WebSocket } = require("ws");
    const Reconnecting = require("reconnecting-websocket");
    const delays = { minReconnectionDelay: RETRY_MS, maxReconnectionDelay: 4 * RETRY_MS };
    const socket = new Reconnecting(url, SUBPROTOCOL, { WebSocket, ...delays });
    socket.addEventListener("open", () => subscribe(socket));
    socket.addEventListener("message", ({ data }) => take(data));
    socket.addEventListener("close", ({ code, reason }) => closed(code, reason));
  },
};

clients[client]();
