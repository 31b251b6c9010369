// One event: a row of the list, and all about it when the row is opened. Only a part of a large value
// is shown; the whole is a file.

import { BASE, query, topicPath } from "./api.js";
import { bytes, button, copy, download, h, refusal, terms, timeOf } from "./dom.js";

/** The characters of a value in a row, and of an opened one. */
const PREVIEW = 200;
const SHOWN = 20_000;

/** What a list keeps of an event: never the whole of a large value. */
export function brief(event) {
  const { topic, sequence, time, type, key, data, data_base64, headers, ephemeral } = event;
  const text =
    data === undefined
      ? (data_base64 ?? "")
      : typeof data === "string"
        ? data
        : JSON.stringify(data);
  const isTombstone = data === undefined && !data_base64;
  const preview = isTombstone
    ? "(no payload)"
    : text.slice(0, PREVIEW) + (text.length > PREVIEW ? "…" : "");
  return {
    topic,
    sequence,
    time,
    type,
    key,
    preview,
    ephemeral,
    dead: headers?.["leftoff-dead-reason"],
  };
}

/** Returns the payload as `{ text, isJson, blob }`: pretty, and to the byte. */
function payloadOf(event) {
  const { data, data_base64, content_type } = event;
  const type = content_type ?? "text/plain";
  if (data_base64) {
    const whole = Uint8Array.from(atob(data_base64), (it) => it.charCodeAt(0));
    const text = data === undefined ? data_base64 : JSON.stringify(data, null, 2);
    return { text, isBytes: data === undefined, parts: [whole], size: whole.length, type };
  }
  if (data === undefined) {
    return null;
  }
  const isText = typeof data === "string" && !/json/.test(type);
  const parts = [isText ? data : JSON.stringify(data)];
  const text = isText ? data : JSON.stringify(data, null, 2);
  return { text, parts, size: new Blob(parts).size, type };
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Commands that read this event, and that publish the same once more. */
function commands(console, event) {
  const { topic, sequence, type, key, headers, content_type, data, data_base64 } = event;
  const secret = console.api.hasCredential ? ` -H "Authorization: Bearer $LEFTOFF_KEY"` : "";
  const at =
    BASE.replace(/\/$/, "") +
    topicPath(topic, `/events${query({ after: sequence - 1, limit: 1 })}`);
  const kept = Object.entries(headers ?? {}).filter(([name]) => !name.startsWith("leftoff-"));
  const own = {
    type: type || undefined,
    key: key ?? undefined,
    content_type: content_type ?? undefined,
  };
  const payload = data === undefined ? { data_base64 } : { data };
  const body = {
    topics: [topic],
    event: { ...own, headers: kept.length ? Object.fromEntries(kept) : undefined, ...payload },
  };
  return {
    read: `curl -H 'Accept: application/json'${secret} ${quoted(at)}`,
    publish: `curl -H 'Content-Type: application/json'${secret} -d ${quoted(JSON.stringify(body))} ${quoted(`${BASE}v1/publish`)}`,
  };
}

function payload(event) {
  const value = payloadOf(event);
  if (!value) {
    return [h("p", {}, event.key ? "No payload: this event deletes its key." : "No payload.")];
  }
  const { text, size, parts, type, isBytes } = value;
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
