// The core of the client as one module, as the broker serves it.

import { readFileSync } from "node:fs";

/** The folder of the client. */
export const FOLDER = new URL("../../../src/web/client/", import.meta.url);
const PARTS = [
  "limits.js",
  "transports.js",
  "subscription.js",
  "outbox.js",
  "connection.js",
  "tabs.js",
  "leftoff.js",
];

/** Returns the core's text: see `build.rs`. */
export function joined() {
  const lines = PARTS.flatMap((part) => {
    const all = readFileSync(new URL(part, FOLDER), "utf8").trimEnd().split("\n");
    const own = all.filter((line) => !line.startsWith("import "));
    return part === "leftoff.js" ? own : own.map((line) => line.replace(/^export /, ""));
  });
  return `${lines.join("\n")}\n`;
}

/** Imports the text of a module. */
export const imported = (text) =>
  import(`data:text/javascript;base64,${Buffer.from(text).toString("base64")}`);
