// A real broker for tests: the program that the variable LEFTOFF_BIN names.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

const program = process.env.LEFTOFF_BIN;
export const skip = program ? false : "LEFTOFF_BIN does not say where the broker is";

/** Returns a port that is free. */
const freePort = () =>
  new Promise((done) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => done(port));
    });
  });

/** Waits until something is true, at most ten seconds. */
export async function until(isTrue, what) {
  for (let tries = 0; tries < 1_000; tries++) {
    if (await isTrue()) {
      return;
    }
    await new Promise((done) => setTimeout(done, 10));
  }
  assert.fail(`this did not come: ${what}`);
}

/** A broker in a folder of its own, which can be killed and started again. */
export class RealBroker {
  #folder = mkdtempSync(join(tmpdir(), "leftoff-web-"));
  #process;

  async start() {
    this.port ??= await freePort();
    this.url = `http://127.0.0.1:${this.port}/`;
    const listen = ["--listen", `127.0.0.1:${this.port}`, "--data-dir", this.#folder];
    this.#process = spawn(program, ["serve", ...listen], { stdio: "ignore" });
    await until(
      () =>
        fetch(`${this.url}healthz`).then(
          ({ ok }) => ok,
          () => false,
        ),
      "the broker",
    );
    return this;
  }

  async kill(signal = "SIGKILL") {
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill(signal);
    await ended;
  }

  async remove() {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
