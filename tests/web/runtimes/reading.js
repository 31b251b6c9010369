// What every runtime can do with the client: publish, read it by each transport, and keep a map.

import { connect } from "../../../src/web/client/leftoff.js";

const EVENTS = 20;

/** The transports that this runtime has. */
export const TRANSPORTS = [...(globalThis.WebSocket ? ["websocket"] : []), "sse", "poll"];

/** Publishes to a topic and reads it, and returns what was read. Nothing is left behind. */
export async function read(url, topic, transport) {
  const leftoff = connect({ url, transports: [transport] });
  const data = [];
  const done = new Promise((resolve, reject) => {
    leftoff.subscribe(
      topic,
      { from: "earliest" },
      {
        event: (event) => data.push(event.data) === EVENTS && resolve(),
        gap: (gap) => reject(new Error(`a gap: ${JSON.stringify(gap)}`)),
        ended: reject,
      },
    );
  });
  const published = [];
  for (let number = 0; number < EVENTS; number++) {
    published.push(leftoff.publish(topic, { key: `${number % 3}`, data: number }));
  }
  const receipts = await Promise.all(published);
  await done;
  const map = leftoff.state(topic);
  const keys = [...(await map.ready).keys()].sort();
  const { state } = leftoff.connection;
  leftoff.close();
  return { transport, state, data, sequences: receipts.map(({ sequence }) => sequence), keys };
}
