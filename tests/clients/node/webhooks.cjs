// Receives webhooks, and checks their signatures with the library of the specification from npm,
// `standardwebhooks`:
//
//     webhooks.cjs PORT SECRET    prints each event whose signature is right

"use strict";

const http = require("node:http");
const { Webhook } = require("standardwebhooks");
const { tell } = require("./tell.cjs");

const [port, secret] = process.argv.slice(2);
const webhook = new Webhook(secret);

const server = http.createServer((request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    const body = Buffer.concat(parts).toString();
    try {
      const event = webhook.verify(body, request.headers);
      tell("event", String(event.sequence), event.type, JSON.stringify(event.data));
      response.writeHead(204).end();
    } catch (error) {
      tell("wrong", request.headers["webhook-id"] ?? "", "", String(error));
      response.writeHead(400).end();
    }
  });
});
server.listen(Number(port), "127.0.0.1");
