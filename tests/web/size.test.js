// The size of the client: everything that `leftoff.js` imports, and what stands beside it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { installedPackage } from "./fakes/installed.js";

/** The most bytes of the client: minified and compressed, and as it is served, compressed. */
const MOST_MINIFIED = 8 << 10;
const MOST_SERVED = 14 << 10;

const path = (name) => fileURLToPath(new URL(`../../src/web/client/${name}`, import.meta.url));
const compressed = (content) => gzipSync(content, { level: 9 }).length;

/** Returns the files of a module with all that it imports, and its size when it is minified. */
async function bundled(esbuild, name) {
  const options = { entryPoints: [path(name)], bundle: true, minify: true, format: "esm", write: false, metafile: true };
  const { outputFiles, metafile } = await esbuild.build({ ...options, target: "esnext" });
  return { files: Object.keys(metafile.inputs), minified: compressed(outputFiles[0].contents) };
}

test("the client is at most 8 KiB, and at most 14 KiB as it is served", async (t) => {
  const esbuild = installedPackage("esbuild", t);
  if (!esbuild) {
    return;
  }
  const { files, minified } = await bundled(esbuild, "leftoff.js");
  const served = files.reduce((sum, file) => sum + compressed(readFileSync(file)), 0);
  t.diagnostic(`${minified} bytes minified and compressed, ${served} as ${files.length} files are served`);
  for (const name of ["inbox.js", "react.js", "elements.js"]) {
    const { minified: more } = await bundled(esbuild, name);
    t.diagnostic(`${name} with all that it imports: ${more} bytes`);
  }
  assert.ok(minified <= MOST_MINIFIED, `${minified} bytes of ${MOST_MINIFIED}`);
  assert.ok(served <= MOST_SERVED, `${served} bytes of ${MOST_SERVED}`);
});
