// A page with the client, for the tests that drive a real browser. This is the body of a function
// with two arguments: the URL of the client's module, and the options of `connect`, where `token`
// is a URL that returns tokens. It follows a topic, and keeps all that it is told in `page`.

const [module, { token, ...options }] = arguments;
const TOPIC = "pages";

const page = {
  /** The events in the order in which they came: sequence, data, time. */
  shown: [],
  gaps: [],
  /** The states of the connection, with their times. */
  states: [],
  /** What the page has published: the sequence and the data of each event, in their order. */
  receipts: [],
  refusals: [],
  /** The number of publishes that are neither acknowledged nor refused. */
  unsettled: 0,
  /** The number of tokens that were asked for. */
  tokens: 0,
  sockets: [],
  /** Whether the page came from the cache of pages, each time that it was seen again. */
  returns: [],

  publish(all) {
    for (const data of all) {
      page.unsettled++;
      page.leftoff
        .publish(TOPIC, { type: "told", data })
        .then(
          ({ sequence }) => page.receipts.push([sequence, data]),
          (problem) => page.refusals.push(`${data}: ${problem.message}`),
        )
        .finally(() => page.unsettled--);
    }
  },

  /** Has the tab with the connection do nothing else for so long, while this one is in front. */
  hangLeader: (ms) => localStorage.setItem("hang", ms),

  /** Whether this page has the connection, for itself or for other tabs. */
  isLeader: () => page.sockets.some(({ readyState }) => readyState === WebSocket.OPEN),
};

class KnownSocket extends WebSocket {
  constructor(...how) {
    super(...how);
    page.sockets.push(this);
  }
}

async function askToken() {
  page.tokens++;
  return (await fetch(token, { cache: "no-store" })).text();
}

window.page = page;
addEventListener("storage", ({ key, newValue }) => {
  const end = Date.now() + Number(newValue);
  if (key === "hang" && page.isLeader()) {
    while (Date.now() < end);
  }
});
addEventListener("pageshow", ({ persisted }) => page.returns.push(persisted));
return import(module).then(({ connect }) => {
  const io = { WebSocket: KnownSocket };
  page.leftoff = connect({ ...options, token: token && askToken, io });
  page.leftoff.onstate = (connection) => page.states.push({ ...connection, at: Date.now() });
  page.leftoff.subscribe(
    TOPIC,
    { from: "earliest" },
    {
      event: ({ sequence, data }) => page.shown.push([sequence, data, Date.now()]),
      gap: (gap) => page.gaps.push(gap),
    },
  );
});
