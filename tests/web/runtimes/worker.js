// The same in a worker: of the web, as browsers and Deno have it, or of Node.

import { read } from "./reading.js";

const node = globalThis.postMessage ? undefined : await import("node:worker_threads");
const hear = async ({ data: { url, topic, transport } }) => {
  const answer = await read(url, topic, transport).catch((error) => ({ error: error.stack }));
  (node?.parentPort ?? globalThis).postMessage(answer);
};
node ? node.parentPort.on("message", (data) => hear({ data })) : (globalThis.onmessage = hear);
