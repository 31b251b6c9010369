// What a client was told goes to standard output, a line of JSON each: [kind, cursor, type, data].
// Kinds are `event`, `gap`, and `wrong`, whose data is what is wrong. The process ends with its
// standard input, so that none outlives its test.

"use strict";

process.stdin.on("end", () => process.exit()).resume();

function tell(kind, cursor, type, data) {
  process.stdout.write(JSON.stringify([kind, cursor, type, data]) + "\n");
}

// A block of an event stream as a page takes it: all data is JSON, whatever it is about.
function tellBlock(type, cursor, data) {
  try {
    JSON.parse(data);
  } catch (error) {
    tell("wrong", cursor, type, `${error}: ${JSON.stringify(data)}`);
    return;
  }
  if (type === "leftoff.gap") {
    tell("gap", cursor, type, data);
  } else if (type === "leftoff.error") {
    tell("wrong", cursor, type, data);
  } else if (!type.startsWith("leftoff.")) {
    tell("event", cursor, type, data);
  }
}

process.on("uncaughtException", (error) => {
  tell("wrong", "", "", error.stack);
  process.exit(1);
});

module.exports = { tell, tellBlock };
