// Publishes and reads CloudEvents with their SDK from npm, `cloudevents`:
//
//     cloudevents.cjs publish URL REPORTS    publishes the reports in a file, and prints each that
//                                            is acknowledged
//     cloudevents.cjs read URL               follows an event stream of CloudEvents

"use strict";

const fs = require("node:fs");
const { CloudEvent, HTTP, Mode, emitterFor } = require("cloudevents");
const { tell } = require("./tell.cjs");

const SOURCE = "/node";
const RETRY_MS = 50;

const [task, url, reports] = process.argv.slice(2);

// Prints an event in a common form, whichever program published or read it.
function tellEvent(sequence, { id, source, type, subject, data }) {
  tell("event", sequence, type, JSON.stringify({ id, source, subject, data }));
}

// Sends a message of the SDK until it is acknowledged, and returns the sequence of its event.
async function send({ headers, body }) {
  for (;;) {
    try {
      const answer = await fetch(url, { method: "POST", headers, body });
      if (answer.ok) {
        return String((await answer.json()).sequence);
      }
      if (answer.status < 500) {
        throw new Error(await answer.text());
      }
    } catch (error) {
      if (!(error instanceof TypeError)) {
        throw error; // Not a lost connection, for which `fetch` throws a TypeError.
      }
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function publish() {
  const emit = [Mode.BINARY, Mode.STRUCTURED].map((mode) => {
    return emitterFor(send, { binding: HTTP, mode });
  });
  const lines = fs.readFileSync(reports, "utf8").trim().split("\n");
  for (const [index, line] of lines.entries()) {
    const { type, key, data } = JSON.parse(line);
    const datacontenttype = "application/json";
    const event = { id: `${index}`, source: SOURCE, type, subject: key, datacontenttype, data };
    const sequence = await emit[index % emit.length](new CloudEvent(event));
    tellEvent(sequence, event);
  }
}

function read() {
  const { EventSource } = require("eventsource-5");
  const source = new EventSource(url);
  source.onmessage = ({ lastEventId, data }) => {
    const headers = { "content-type": "application/cloudevents+json" };
    const event = HTTP.toEvent({ headers, body: data });
    event.validate();
    tellEvent(lastEventId, event);
  };
}

({ publish, read })[task]();
