// A program for Node and for Deno: it reads and publishes by each transport, in itself and in a worker,
// prints what came of it as one line of JSON, and ends by itself, since nothing is left that waits.

import { read, TRANSPORTS } from "./reading.js";

const [url, runtime] = (globalThis.Deno?.args ?? process.argv.slice(2)).slice(0, 2);
const NodeWorker = globalThis.Worker ? undefined : (await import("node:worker_threads")).Worker;

/** Returns what a worker has read. */
function inWorker(asked) {
  const file = new URL("worker.js", import.meta.url);
  const worker = NodeWorker ? new NodeWorker(file) : new Worker(file, { type: "module" });
  return new Promise((resolve, reject) => {
    const hear = (answer) => {
      worker.terminate();
      answer.error ? reject(new Error(answer.error)) : resolve(answer);
    };
    if (NodeWorker) {
      worker.on("message", hear).on("error", reject);
    } else {
      worker.onmessage = ({ data }) => hear(data);
      worker.onerror = ({ message }) => reject(new Error(message));
    }
    worker.postMessage(asked);
  });
}

const all = [];
for (const transport of TRANSPORTS) {
  all.push(await read(url, `${runtime}-${transport}`, transport));
  all.push(await inWorker({ url, topic: `${runtime}-worker-${transport}`, transport }));
}
console.log(JSON.stringify(all));
