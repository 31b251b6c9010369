// The WebSockets of the fake broker.

/** Returns the class `WebSocket` of a page. */
export function webSockets(broker, page) {
  return class FakeWebSocket {
    kind = "websocket";
    readyState = 0;
    readers = new Map();
    isStalled = false; // Nothing goes through, in either direction, and nobody is told.
    #isTold = false;

    constructor(url) {
      this.url = new URL(url);
      broker.requests.push(`WS ${this.url.pathname}`);
      this.page = page;
      broker.clock.set(() => this.#open(), broker.latencyMs);
    }

    #open() {
      const { isAway, refusesUpgrade, silencesUpgrade, hangsUpgrade } = broker.faults;
      if (hangsUpgrade || page.isGone || this.readyState !== 0) {
        return;
      }
      if (isAway || refusesUpgrade || !page.isOnline) {
        return this.#closed(1006, "");
      }
      const ticket = this.url.searchParams.get("ticket");
      if (broker.token !== null && ticket !== "ticket") {
        return this.#closed(1006, "");
      }
      this.readyState = 1;
      this.isStalled = Boolean(silencesUpgrade);
      broker.connections.add(this);
      this.#leave = broker.onStored(() => this.readers.forEach((reader) => reader.deliver()));
      this.onopen?.({});
      const { expiresAfterMs } = broker.faults;
      expiresAfterMs < Infinity && broker.clock.set(() => this.expire(), expiresAfterMs);
    }

    /** Ends the connection with its credential. */
    expire() {
      if (this.readyState === 1) {
        broker.expired++;
        this.end(4001, "expired");
      }
    }

    #leave = () => {};

    #closed(code, reason) {
      this.readyState = 3;
      broker.connections.delete(this);
      this.#leave();
      if (!this.#isTold) {
        this.#isTold = true;
        page.run(() => this.onclose?.({ code, reason }));
      }
    }

    /** Ends the connection, as the broker or the network does it. */
    end(code = 1006, reason = "") {
      this.#closed(code, reason);
    }

    close(code = 1005) {
      broker.clock.set(() => this.#closed(code, ""), broker.latencyMs);
      this.readyState = 2;
      broker.connections.delete(this);
      this.#leave();
    }

    tell(message) {
      if (this.readyState === 1 && !this.isStalled) {
        const data = JSON.stringify(message);
        broker.clock.set(() => page.run(() => this.onmessage?.({ data })), broker.latencyMs);
      }
    }

    send(text) {
      if (this.readyState !== 1 || this.isStalled) {
        return;
      }
      broker.clock.set(
        () => this.readyState === 1 && this.#hear(JSON.parse(text)),
        broker.latencyMs,
      );
    }

    #hear(message) {
      const { type, ref, subscription } = message;
      if (type === "ping") {
        this.tell({ type: "pong", heartbeat_ms: broker.heartbeatMs, ref });
      } else if (type === "subscribe") {
        broker.subscribe(this, message, (told) => this.tell(told));
      } else if (type === "unsubscribe") {
        this.readers.delete(subscription);
        this.tell({ type: "unsubscribed", subscription });
      } else if (type === "publish") {
        const answer = broker.accept(message);
        this.losesAnswers || this.tell({ type: answer.error ? "error" : "ack", ref, ...answer });
      } else if (type === "refresh") {
        broker.refreshed = message.token;
        this.tell({ type: "refreshed", ref, until: null });
      }
    }
  };
}
