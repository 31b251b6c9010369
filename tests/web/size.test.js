// The size of the client: as it is served, and as an application bundles it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { FOLDER, imported, joined } from "./fakes/core.js";
import { installedPackage } from "./fakes/installed.js";

const MAX_SERVED_BYTES = 14_336;
const MAX_MINIFIED_BYTES = 8_192;

const compressed = (text) => gzipSync(text, { level: 9 }).length;

test("the core is small as it is served, comments and all, and is one module", async (it) => {
  const bytes = compressed(joined());
  it.diagnostic(`${bytes} bytes`);
  assert.ok(bytes <= MAX_SERVED_BYTES, `${bytes} bytes`);
  const core = await imported(joined());
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
