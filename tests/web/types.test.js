// The types: the declarations hold together, and a program that uses them is checked by them.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { installedFile } from "./fakes/installed.js";

const OPTIONS = ["--noEmit", "--strict", "--lib", "es2022,dom,dom.iterable", "--module", "nodenext"];

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Returns what the compiler says of these files; nothing if they are right. */
function problems(compiler, files) {
  const run = (done) => execFile(process.execPath, [compiler, ...OPTIONS, ...files], (_, out) => done(out));
  return new Promise(run);
}

test("the declarations hold together, and say what an application may do", async (t) => {
  const compiler = installedFile("typescript/bin/tsc", t);
  if (!compiler) {
    return;
  }
  const folder = here("../../src/web/client/");
  const files = readdirSync(folder).filter((name) => name.endsWith(".d.ts"));
  const declarations = files.map((name) => `${folder}${name}`);
  assert.equal(await problems(compiler, [...declarations, here("types/application.ts")]), "");
  const wrong = await problems(compiler, [here("types/wrong.ts")]);
  const lines = [...wrong.matchAll(/^\S+\((\d+),/gm)].map(([, line]) => Number(line));
  assert.deepEqual(lines, [6, 7, 8, 9], wrong);
});
