// The client in other runtimes than a page: Node, Deno, and a worker in each of them, against a real
// broker. Deno is not among the packages that are installed for the tests, since it is 92 MB: where
// `deno` is in PATH it is tried, and elsewhere the test says that it was not.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { RealBroker, skip } from "./runtimes/broker.js";

const FOLDER = fileURLToPath(new URL("../../", import.meta.url));
const PROGRAM = fileURLToPath(new URL("runtimes/program.js", import.meta.url));
const LIMIT_MS = 30_000;
const RIGHTS = ["--no-config", "--no-prompt", "--allow-net=127.0.0.1", `--allow-read=${FOLDER}`];

/** Runs a program that has to end by itself, and returns its output; null if there is no such one. */
const output = (command, ...words) =>
  new Promise((done, fail) => {
    execFile(command, words, { timeout: LIMIT_MS }, (error, text, said) => {
      if (error && error.code !== "ENOENT") {
        return fail(new Error(`${command}: ${error.message}\n${said}`));
      }
      done(error ? null : text);
    });
  });

/** Checks what the program has read in itself and in a worker. */
function check(text, transports) {
  const all = JSON.parse(text);
  const numbers = Array.from({ length: 20 }, (_, at) => at);
  assert.deepEqual(
    all,
    transports.flatMap((transport) =>
      Array(2).fill({
        transport,
        state: transport === "poll" ? "polling" : "connected",
        data: numbers,
        sequences: numbers.map((number) => number + 1),
        keys: ["0", "1", "2"],
      }),
    ),
  );
}

test("the client works in Node and in a worker of Node", { skip }, async (it) => {
  const broker = await new RealBroker().start();
  it.after(() => broker.remove());
  const transports = [...(globalThis.WebSocket ? ["websocket"] : []), "sse", "poll"];
  check(await output(process.execPath, PROGRAM, broker.url, "node"), transports);
});

test("the client works in Deno and in a worker of Deno", { skip }, async (it) => {
  const version = await output("deno", "--version");
  if (version === null) {
    return it.diagnostic("not tried: deno is not in PATH");
  }
  it.diagnostic(version.split("\n")[0]);
  const broker = await new RealBroker().start();
  it.after(() => broker.remove());
  const text = await output("deno", "run", ...RIGHTS, PROGRAM, broker.url, "deno");
  check(text, ["websocket", "sse", "poll"]);
});
