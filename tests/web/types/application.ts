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
for await (const { type, error } of leftoff.subscribe("a", { storage: { get() {}, set() {} } })) {
  console.log(type === "ended" && error?.detail?.length);
}
const orders = leftoff.subscribe<Order>("orders.new", { from: "last:100", filter: { keyPrefixes: ["eu."] } }, {
  event: ({ data, sequence }) => console.log((data?.total ?? 0) + sequence),
  gap: ({ lost, reason }) => console.log(lost, reason),
});
const prices = leftoff.state<number>("prices", { keyPrefix: "eur." }, { changed() { console.log(prices.map); } });
await prices.ready;
prices.map.get("eur")?.data?.toFixed(2);
for await (const { type, event } of leftoff.subscribe<Order>(["a", "b"])) {
  console.log(type, event?.data?.total);
}
const path = "v1/consumers/mailer/checkpoint?topic=orders";
const storage = {
  get: () => null,
  set: (name: string, cursor: string) => leftoff.request("POST", path, { cursor }),
};
leftoff.subscribe("orders", { consumer: "mailer", storage }, { event: ({ data }) => console.log(data) });
try {
  const { sequence } = await leftoff.publish("orders.new", { key: "7", data: { total: 9 } });
  console.log(sequence + 1);
} catch (problem) {
  console.log(problem instanceof Problem && problem.isTemporary);
}
const notes = inbox(leftoff, { topic: "users.42.>", consumer: "inbox" });
notes.addEventListener("change", () => console.log(notes.entries, notes.counts?.lost_more_than));
notes.addEventListener("arrived", ({ detail }) => console.log(detail.sequence));
await notes.ready;
await notes.mark(notes.entries[0], { mark: ["read"] });
await notes.mark(notes.entries, { unmark: ["read"] });
const refused = ({ detail }: CustomEvent<Problem>) => console.log(detail.status, detail.details.title);
const room = presence(leftoff, "room.7", { member: { id: "ann" } });
notes.addEventListener("refused", refused, { once: true });
notes.removeEventListener("refused", refused);
room.addEventListener("refused", refused);
room.removeEventListener("refused", refused, { capture: true });
room.addEventListener("change", { handleEvent: ({ type }: Event) => console.log(type, room.members.length) });
define(leftoff);
hooks({}, { url: "https://broker.example" }).useConnectionState().state.toUpperCase();
const { useEvents, useSubscription } = hooks({}, leftoff);

export function totals() {
  useSubscription<Order>("orders.new", {}, { event: ({ data }) => console.log(data?.total) });
  const { events, problem } = useEvents<Order>("orders.new", { from: "last:20", limit: 10 });
  return problem?.message ?? events.map(({ sequence, data }) => [sequence, data?.total.toFixed(2)]);
}

orders.close();
