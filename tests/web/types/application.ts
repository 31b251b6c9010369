// An application as its author would write it. It is checked, and never run.

import { define } from "../../../src/web/client/elements.js";
import { inbox } from "../../../src/web/client/inbox.js";
import { connect, Problem } from "../../../src/web/client/leftoff.js";
import { presence } from "../../../src/web/client/presence.js";
import { hooks } from "../../../src/web/client/react.js";

interface Order {
  total: number;
}

const leftoff = connect({ url: "https://broker.example", token: async () => "token", storage: "indexed" });
leftoff.onstate = ({ state, nextTryAt }) => console.log(state === "polling", (nextTryAt ?? 0) - Date.now());
const orders = leftoff.subscribe<Order>("orders.new", { from: "last:100", filter: { keyPrefixes: ["eu."] } }, {
  event: ({ data, sequence }) => console.log((data?.total ?? 0) + sequence),
  gap: ({ lost, reason }) => console.log(lost, reason),
});
const prices = leftoff.state<number>("prices");
await prices.ready;
prices.map.get("eur")?.data?.toFixed(2);
for await (const { type, event } of leftoff.subscribe<Order>(["a", "b"])) {
  console.log(type, event?.data?.total);
}
try {
  const { sequence } = await leftoff.publish("orders.new", { key: "7", data: { total: 9 } });
  console.log(sequence + 1);
} catch (problem) {
  console.log(problem instanceof Problem && problem.isTemporary);
}
const box = inbox(leftoff, { topic: "users.42.>" });
await box.mark(box.entries, { mark: ["read"] });
console.log(box.counts?.unread, presence(leftoff, "room").members.length);
define(leftoff);
const { useEvents } = hooks({}, { url: "https://broker.example" });
console.log(useEvents("orders", { limit: 10 }).events.length);
orders.close();
