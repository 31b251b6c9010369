// Prints the messages of a client to standard output, each as a line of JSON: [kind, cursor, type,
// data]. The kind is `event`, `gap` or `wrong`, whose data is the problem. The process ends with
// its standard input, so that it does not outlive its test.

"use strict";

process.stdin.on("end", () => process.exit()).resume();

function tell(kind, cursor, type, data) {
  process.stdout.write(JSON.stringify([kind, cursor, type, data]) + "\n");
}

// Prints a block of an event stream as a page gets it. All data must be JSON, whatever its type.
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
