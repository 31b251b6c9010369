// Follows a topic over gRPC with @grpc/grpc-js from npm: grpc.cjs ADDRESS TOPIC PROTO
// [CERTIFICATE]. PROTO is the folder of the protos. With CERTIFICATE, the connection uses TLS.

"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { tell } = require("./tell.cjs");

const [address, topic, proto, certificate] = process.argv.slice(2);
const RETRY_MS = 100;

const options = { includeDirs: [proto], longs: String, oneofs: true };
const loaded = loader.loadSync("leftoff/v1/leftoff.proto", options);
const { v1 } = grpc.loadPackageDefinition(loaded).leftoff;
const Service = Object.values(v1).find(({ service }) => service?.Subscribe);
const credentials = certificate
  ? grpc.credentials.createSsl(fs.readFileSync(certificate))
  : grpc.credentials.createInsecure();
const client = new Service(address, credentials, {
  "grpc.initial_reconnect_backoff_ms": RETRY_MS,
  "grpc.max_reconnect_backoff_ms": 4 * RETRY_MS,
});

let from = "earliest";

function follow() {
  const call = client.Subscribe({ topic, from });
  call.on("data", (message) => {
    const told = message[message.message];
    if (message.message === "events") {
      for (const { sequence, type, payload } of told.events) {
        tell("event", sequence, type, payload.toString());
      }
    } else if (message.message === "gap") {
      const { requested, earliest, lost, reason } = told;
      const numbers = { requested: +requested, earliest: +earliest, lost: +lost };
      tell("gap", told.cursor, "", JSON.stringify({ ...numbers, reason }));
    }
    from = told.cursor ?? from;
  });
  call.on("error", ({ code, message }) => {
    // Statuses of a broker that is gone or was cut off: the client must reconnect. A proxy resets a
    // call that it has begun to answer, which the client reports as INTERNAL.
    const isLost = [grpc.status.UNAVAILABLE, grpc.status.CANCELLED].includes(code);
    const isReset = code === grpc.status.INTERNAL && message.includes("RST_STREAM");
    if (!isLost && !(certificate && isReset)) {
      tell("wrong", "", "status", message);
    }
    setTimeout(follow, RETRY_MS);
  });
  call.on("end", () => {}); // The status follows the end.
}

follow();
