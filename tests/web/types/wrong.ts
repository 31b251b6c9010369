// Mistakes that the types find, one in each line from the sixth on.

import { connect } from "../../../src/web/client/leftoff.js";

const leftoff = connect();
connect({ transports: ["carrier pigeon"] });
leftoff.subscribe("orders", { fromm: "earliest" });
leftoff.publish("orders", { data: 1, ttl: 5 });
leftoff.connection = { ...leftoff.connection, state: "connected" };
