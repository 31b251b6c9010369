// A form that publishes an event, for a test or once more.

import { choice, field, form, h, topicLink } from "./dom.js";
import { headersOf } from "./event.js";

const KINDS = [
  ["application/json", "JSON"],
  ["text/plain", "Text"],
  ["", "No payload (deletes the key)"],
];

export function show(console, topic) {
  const draft = console.draft ?? {};
  console.draft = null;
  const { type, key, headers, data, content_type } = draft;
  const isText = typeof data === "string" && !/json/.test(content_type ?? "");
  const kept = Object.entries(headers ?? {}).filter(([name]) => !name.startsWith("leftoff-"));
  const text =
    data === undefined ? "" : isText ? data : JSON.stringify(data, null, 2);
  const said = h("p", { role: "status" });
  const payload = field(
    "Payload's text",
    {
      name: "data",
      rows: 8,
      value: text,
      placeholder: '{"hello": "world"}',
      required: true,
      spellcheck: false,
      class: "wide",
    },
    "textarea",
  );
  const oninput = ({ target }) =>
    target.name === "kind" && (payload.lastChild.required = target.value !== "");
  const run = async (values) => {
    said.replaceChildren();
    const kind = values.kind;
    // JSON goes out as it was written, to the digit: it is checked, and not made anew.
    if (kind === "application/json") {
      try {
        JSON.parse(values.data);
      } catch ({ message }) {
        throw new Error(`The payload is no JSON: ${message}`);
      }
    }
    const rest = { type: values.type, key: values.key, ttl_ms: values.ttl_ms, id: values.id };
    const event = {
      ...Object.fromEntries(Object.entries(rest).filter(([, value]) => value)),
      headers: headersOf(values.headers),
    };
    event.ttl_ms &&= Number(event.ttl_ms);
    const json = JSON.stringify({
      topics: [topic],
      event: { ...event, content_type: kind || undefined },
    });
    const sure = kind === "application/json" ? values.data : JSON.stringify(values.data);
    const body = kind
      ? `${json.slice(0, -2)}${json.endsWith("{}}") ? "" : ","}"data":${sure}}}`
      : json;
    const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body };
    const { topics } = await (await console.api.fetch("/v1/publish", sent)).json();
    const { sequence, duplicate } = topics[0];
    const words = duplicate ? " was stored before, under this id." : " is stored.";
    const link = topicLink(topic, `events/${sequence}`);
    link.textContent = `Event ${sequence}`;
    said.replaceChildren("✓ ", link, words);
  };
  return [
    form(
      { class: "stacked", oninput },
      run,
      field("Type", { name: "type", value: type ?? "" }),
      field("Key", { name: "key", value: key ?? "" }),
      choice("Payload", KINDS, { name: "kind", value: isText ? "text/plain" : "application/json" }),
      payload,
      field(
        "Headers, one per line, as name: value",
        {
          name: "headers",
          rows: 2,
          value: kept.map(([name, value]) => `${name}: ${value}`).join("\n"),
          class: "wide",
        },
        "textarea",
      ),
      field("Id (a repeat with it is not stored again)", { name: "id" }),
      field("Expires after (ms)", { name: "ttl_ms", type: "number", min: 1 }),
      h("button", {}, "Publish"),
    ),
    said,
  ];
}
