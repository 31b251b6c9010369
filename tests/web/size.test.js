// The size of the client: as it is served, and as an application bundles it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { installedPackage } from "./fakes/installed.js";

const FOLDER = new URL("../../src/web/client/", import.meta.url);
const PARTS = [
  "transports.js",
  "subscription.js",
  "outbox.js",
  "connection.js",
  "tabs.js",
  "leftoff.js",
];
const MAX_SERVED_BYTES = 14_336;
const MAX_MINIFIED_BYTES = 8_192;

const compressed = (text) => gzipSync(text, { level: 9 }).length;

/** Returns the core as the broker serves it: see `build.rs`. */
function joined() {
  const lines = PARTS.flatMap((part) => {
    const all = readFileSync(new URL(part, FOLDER), "utf8").trimEnd().split("\n");
    const own = all.filter((line) => !line.startsWith("import "));
    return part === "leftoff.js" ? own : own.map((line) => line.replace(/^export /, ""));
  });
  return `${lines.join("\n")}\n`;
}

test("the core is small as it is served, comments and all, and is one module", async (it) => {
  const bytes = compressed(joined());
  it.diagnostic(`${bytes} bytes`);
  assert.ok(bytes <= MAX_SERVED_BYTES, `${bytes} bytes`);
  const core = await import(`data:text/javascript;base64,${Buffer.from(joined()).toString("base64")}`);
  assert.deepEqual(Object.keys(core), ["Problem", "backoff", "connect"]);
});

/** Returns the size of a module with all that it imports, minified and compressed. */
async function minified(esbuild, name) {
  const entryPoints = [fileURLToPath(new URL(name, FOLDER))];
  const options = { bundle: true, minify: true, format: "esm", target: "esnext", write: false };
  const { outputFiles } = await esbuild.build({ entryPoints, ...options });
  return compressed(outputFiles[0].contents);
}

test("the core is small when it is minified", async (t) => {
  const esbuild = installedPackage("esbuild", t);
  if (!esbuild) {
    return;
  }
  const bytes = await minified(esbuild, "leftoff.js");
  t.diagnostic(`${bytes} bytes`);
  for (const name of ["inbox.js", "react.js", "elements.js"]) {
    t.diagnostic(`${await minified(esbuild, name)} bytes of ${name} with all that it imports`);
  }
  assert.ok(bytes <= MAX_MINIFIED_BYTES, `${bytes} bytes`);
});
