// The dead letters in a topic, which are put back where they were, or dropped.

import { query, topicPath } from "./api.js";
import { button, fail, h, notice, say } from "./dom.js";
import { brief, row } from "./event.js";

/**
 * The consumer whose marks say which dead letters were dealt with. It is common to all callers
 * (`owner=`): the overview counts by it, and whoever operates the broker sees what others did.
 */
const OPERATOR = "console";
const COMMON = "&owner=";

/** The dead letters in a topic that nobody has dealt with. */
export class Letters {
  #next;

  constructor(console, topic) {
    Object.assign(this, { console, topic });
    this.list = h("ol", { class: "events", "aria-label": `Dead letters in ${topic}` });
    this.note = notice();
    this.more = button("Show older", () => this.load(this.#next), { hidden: true });
  }

  /** Returns whether the topic has dead letters. */
  async load(before) {
    const values = { consumer: OPERATOR, order: "newest", archived: "false", limit: 20, before };
    const { events, next } = await this.console.api.get(
      topicPath(this.topic, `/events${query(values)}${COMMON}`),
    );
    const dead = events.filter(({ headers }) => headers?.["leftoff-dead-topic"]);
    for (const event of dead) {
      const item = row(this.console, brief(event), { more: (read) => this.#actions(read, item) });
      this.list.append(item);
    }
    this.#next = next;
    this.more.hidden = next === null;
    return this.list.hasChildNodes();
  }

  #actions(event, item) {
    const { headers } = event;
    const from = headers["leftoff-dead-topic"];
    const told = async (press, run, text) => {
      press.disabled = true;
      try {
        await run();
        await this.#finish(event.sequence);
        item.remove();
        say(this.note, text, "good");
        this.note.focus();
      } catch (problem) {
        press.disabled = false;
        fail(this.note, problem);
      }
    };
    const back = (click) =>
      told(
        click.target,
        () => this.#putBack(event, from),
        `${event.sequence} is in ${from} again.`,
      );
    const drop = (click) => told(click.target, async () => {}, `${event.sequence} is dealt with.`);
    this.note.tabIndex = -1;
    return h(
      "div",
      { class: "tools" },
      button(`Put back into ${from}`, back),
      button("Drop", drop, { class: "danger" }),
    );
  }

  /** Publishes the event to the topic that it was in. Its id holds off a second copy. */
  #putBack({ sequence, type, key, content_type, data, data_base64, headers }, topic) {
    const own = Object.entries(headers).filter(([name]) => !name.startsWith("leftoff-"));
    const payload = data_base64 === undefined ? { data } : { data_base64 };
    const rest = {
      type: type ?? undefined,
      key: key ?? undefined,
      content_type: content_type ?? undefined,
    };
    const event = {
      id: `put-back-${this.topic}-${sequence}`,
      headers: Object.fromEntries(own),
      ...rest,
      ...payload,
    };
    return this.console.api.send("POST", "/v1/publish", { topics: [topic], event });
  }

  #finish(sequence) {
    const body = { mark: ["archived"], events: [sequence] };
    return this.console.api.send(
      "POST",
      `/v1/consumers/${OPERATOR}/marks${query({ topic: this.topic })}${COMMON}`,
      body,
    );
  }
}
