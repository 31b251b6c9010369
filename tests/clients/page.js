// Follows an event stream in a page of a real browser, as node/event_stream.cjs does in Node. This
// is the body of a function with three arguments: the names of clients, a URL, and the sources of
// the clients' modules, by the names with which they import each other. The messages of each client
// are in its list in `told`.

const [names, url, sources] = arguments;
window.told = Object.fromEntries(names.map((name) => [name, []]));

function require(name) {
  const module = { exports: {} };
  new Function("module", "exports", "require", sources[name])(module, module.exports, require);
  return module.exports;
}

function take(client, type, cursor, data) {
  const tell = (kind, data) => told[client].push([kind, cursor, type, data]);
  try {
    JSON.parse(data);
  } catch (error) {
    tell("wrong", `${error}: ${JSON.stringify(data)}`);
    return;
  }
  if (type === "leftoff.gap") {
    tell("gap", data);
  } else if (type === "leftoff.error") {
    tell("wrong", data);
  } else if (!type.startsWith("leftoff.")) {
    tell("event", data);
  }
}

function follow(client, source) {
  for (const type of [
    "message",
    "quake.automatic",
    "quake.reviewed",
    "leftoff.caught-up",
    "leftoff.gap",
    "leftoff.error",
  ]) {
    source.addEventListener(type, (event) => {
      take(client, event.type, event.lastEventId, event.data);
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === 2) {
      told[client].push(["wrong", "", "error", "the client has given up"]);
    }
  });
}

const clients = {
  EventSource: (name) => follow(name, new EventSource(url)),
  "event-source-polyfill": (name) => {
    follow(name, new (require("event-source-polyfill").EventSourcePolyfill)(url));
  },
  "reconnecting-eventsource": (name) => {
    follow(name, new (require("reconnecting-eventsource").default)(url));
  },
  "fetch-event-source": (name) => {
    require("fetch-event-source").fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ event, id, data }) => take(name, event || "message", id, data),
      onclose: () => {
        throw new Error("the stream has ended");
      },
    });
  },
};

for (const name of names) {
  clients[name](name);
}
