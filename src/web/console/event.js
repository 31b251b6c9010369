// One event: a row of the list, and all about it when the row is opened. Only a part of a large value
// is shown; the whole is a file. And what people write in forms about events.

import { BASE, query, topicPath } from "./api.js";
import { bytes, button, copy, download, h, refusal, terms, timeOf } from "./dom.js";

/** The characters of a value in a row, and of an opened one. */
const PREVIEW = 200;
const SHOWN = 20_000;

/** Whether an event has no payload. As JSON, the text "" is one. */
const isEmpty = ({ data, data_base64, content_type }) =>
  data_base64 === "" || (data === "" && !/json/.test(content_type));

/** What an event without a payload does. */
const nothing = ({ key }) => (key ? "No payload: this event deletes its key." : "No payload.");

/** What a list keeps of an event: never the whole of a large value. */
export function brief(event) {
  const { topic, sequence, time, type, key, data, data_base64, headers, ephemeral } = event;
  const text = typeof data === "string" ? data : (JSON.stringify(data) ?? data_base64 ?? "");
  const preview = isEmpty(event)
    ? nothing(event)
    : text.slice(0, PREVIEW) + (text.length > PREVIEW ? "…" : "");
  const dead = headers?.["leftoff-dead-reason"];
  return { topic, sequence, time, type, key, preview, ephemeral, dead };
}

/** Returns the payload: as a `text`, which is pretty, and to the byte, as `parts` of a file. */
function payloadOf({ data, data_base64, content_type }) {
  const type = content_type ?? "text/plain";
  const isText = typeof data === "string" && !/json/.test(type);
  const text = isText ? data : (JSON.stringify(data, null, 2) ?? data_base64);
  const parts = [isText ? data : JSON.stringify(data)];
  if (data_base64) {
    parts[0] = Uint8Array.from(atob(data_base64), (it) => it.charCodeAt(0));
  }
  return { text, isBytes: data === undefined, parts, size: new Blob(parts).size, type };
}

/** Returns what publishes an event once more, to the byte. */
export function again({ type, key, headers, content_type, data, data_base64 }) {
  const own = Object.entries(headers ?? {}).filter(([name]) => !name.startsWith("leftoff-"));
  let payload = data_base64 === undefined ? { data } : { data_base64 };
  // Without a content type `data` is a text in an event, and JSON in a publish.
  if (!content_type && data !== undefined) {
    const bytes = Array.from(new TextEncoder().encode(data), (it) => String.fromCharCode(it));
    payload = data ? { data_base64: btoa(bytes.join("")) } : {};
  }
  return {
    type: type || undefined,
    key: key || undefined,
    content_type: content_type || undefined,
    headers: own.length ? Object.fromEntries(own) : undefined,
    ...payload,
  };
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Commands that read this event, and that publish the same once more. */
function commands(console, event) {
  const { topic, sequence } = event;
  const secret = console.api.hasCredential ? ` -H "Authorization: Bearer $LEFTOFF_KEY"` : "";
  const at = topicPath(topic, `/events${query({ after: sequence - 1, limit: 1 })}`);
  const body = { topics: [topic], event: again(event) };
  return {
    read: `curl -H 'Accept: application/json'${secret} ${quoted(BASE + at.slice(1))}`,
    publish: `curl -H 'Content-Type: application/json'${secret} -d ${quoted(JSON.stringify(body))} ${quoted(`${BASE}v1/publish`)}`,
  };
}

function payload(event) {
  if (isEmpty(event)) {
    return h("p", {}, nothing(event));
  }
  const { text, size, parts, type, isBytes } = payloadOf(event);
  const isCut = text.length > SHOWN;
  const keep = () =>
    download(`${event.topic}-${event.sequence}${/json/.test(type) ? ".json" : ""}`, parts, type);
  return [
    h(
      "pre",
      { tabIndex: 0, role: "region", "aria-label": `Payload of ${event.sequence}` },
      text.slice(0, SHOWN),
      isCut && "…",
    ),
    isCut &&
      h("p", { class: "quiet" }, `The first ${SHOWN.toLocaleString("en")} characters are shown.`),
    isBytes && h("p", { class: "quiet" }, "The payload is not text; it is shown in base64."),
    h("p", {}, button(`Download ${bytes(size)}`, keep)),
  ];
}

/** All about an event that was read anew. */
export function whole(console, event) {
  const { read, publish } = commands(console, event);
  const headers = Object.entries(event.headers ?? {});
  return [
    terms([
      ["Sequence", String(event.sequence)],
      ["Position", String(event.position)],
      ["Time", timeOf(event.time)],
      ["Type", event.type],
      ["Key", event.key],
      ["Id", event.id],
      ["Content type", event.content_type],
    ]),
    headers.length > 0 && [h("h2", {}, "Headers"), terms(headers)],
    h("h2", {}, "Payload"),
    payload(event),
    h(
      "div",
      { class: "tools" },
      button("Copy as curl: read it", (click) => copy(read, click.target)),
      button("Copy as curl: publish it again", (click) => copy(publish, click.target)),
      // Nobody edits base64.
      (event.data !== undefined || isEmpty(event)) &&
        button("Edit and publish again", () => {
          console.draft = event;
          location.hash = `#/topic/${encodeURIComponent(event.topic)}/publish`;
        }),
    ),
  ].flat(3);
}

/** Reads one event, with all digits of its numbers. */
export async function readOne(api, topic, sequence) {
  const path = topicPath(
    topic,
    `/events${query({ after: sequence - 1, limit: 1, on_gap: "resume" })}`,
  );
  const event = (await api.exact(path)).events[0];
  if (event?.sequence !== sequence) {
    throw new Error(`Event ${sequence} is gone: it was dropped, or has expired.`);
  }
  return event;
}

/** Returns the row of an event, which loads the rest when it is opened. */
export function row(console, event, { isNew, isSought, more } = {}) {
  const body = h("div", { class: "body" });
  const load = async () => {
    if (!details.open || body.hasChildNodes()) {
      return;
    }
    if (event.ephemeral) {
      body.append(
        h("p", {}, "This event is not stored: nothing but what is seen here is left of it."),
      );
      return;
    }
    body.append("…");
    try {
      const read = await readOne(console.api, event.topic, event.sequence);
      const all = [more?.(read), ...whole(console, read)];
      body.replaceChildren(...all.filter(Boolean));
    } catch (problem) {
      body.replaceChildren(refusal(problem));
    }
  };
  const details = h(
    "details",
    { ontoggle: load },
    h(
      "summary",
      {},
      h("span", { class: "mono" }, event.ephemeral ? "not stored" : String(event.sequence)),
      event.time ? timeOf(event.time) : h("span", {}, ""),
      h("span", { title: event.type ?? "" }, event.type ?? ""),
      h("span", { title: event.key ?? "" }, event.key ?? ""),
      h("span", { class: "mono" }, event.dead ? `${event.dead}: ${event.preview}` : event.preview),
    ),
    body,
  );
  return h("li", { class: isNew ? "new" : "", "aria-current": isSought ? "true" : null }, details);
}

/** Returns the headers in a text with one on each line. */
export function headersOf(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  const pairs = lines.map((line) => {
    const at = line.indexOf(":");
    if (at < 1) {
      throw new Error(`"${line}" is no header: write name: value.`);
    }
    return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
  });
  return Object.fromEntries(pairs);
}

const words = (text) =>
  text
    .split(",")
    .map((it) => it.trim())
    .filter(Boolean);

/** Returns the filter of a form: `asked` as a query has it, and `own` as a subscription has it. */
export function filterOf({ type = "", key = "", key_prefix = "", header = "" }) {
  const [types, keys, keyPrefixes] = [type, key, key_prefix].map(words);
  const headers = headersOf(header);
  const pairs = Object.entries(headers).map(([name, value]) => `${name}:${value}`);
  const isEmpty = [types, keys, keyPrefixes, pairs].every((list) => !list.length);
  return {
    asked: { type: types, key: keys, key_prefix: keyPrefixes, header: pairs },
    own: isEmpty ? undefined : { types, keys, keyPrefixes, headers },
  };
}
