// The settings of a topic, with what they would drop before they are saved; purging and deleting it.

import { topicPath } from "./api.js";
import {
  button,
  bytes,
  choice,
  confirmed,
  field,
  form,
  h,
  many,
  notice,
  refusal,
  say,
  span,
} from "./dom.js";

/** Settings that are numbers, with their words. */
const NUMBERS = [
  ["max_age_ms", "Kept for, in milliseconds"],
  ["max_events", "Newest events that are kept"],
  ["max_bytes", "Newest bytes that are kept"],
  ["max_events_per_key", "Newest events of each key"],
  ["tombstone_grace_ms", "Tombstones are kept for, in milliseconds"],
];
const SWITCHES = [
  ["compact", "Compact: the latest event of each key"],
  ["stamp_publisher", "The publisher's id in a header"],
];
const INHERITED = "";
const YES_NO = [
  [INHERITED, "not set here"],
  ["true", "yes"],
  ["false", "no"],
];
const DURABILITIES = [
  [INHERITED, "not set here"],
  ["fsync", "fsync: survives a loss of power"],
  ["process", "process: survives a crash"],
];

const places = (effective, own, name) => {
  const value = effective[name];
  if (value === undefined || value === 0) {
    return "no limit";
  }
  const told = name.endsWith("_ms")
    ? span(value)
    : name === "max_bytes"
      ? bytes(value)
      : String(value);
  return own[name] === undefined ? `${told}, from the broker's settings` : told;
};

/** Returns the change from the settings `own` to the values of the form; null unsets. */
function changeOf(own, values) {
  const change = {};
  for (const [name] of [...NUMBERS, ...SWITCHES, ["durability"]]) {
    const text = values[name].trim();
    const isNumber = NUMBERS.some(([it]) => it === name);
    const value =
      text === "" ? null : isNumber ? Number(text) : name === "durability" ? text : text === "true";
    if (value !== (own[name] ?? null)) {
      change[name] = value;
    }
  }
  return change;
}

function settings(console, topic, { config: own, effective_config: effective }, again) {
  const told = notice();
  let checked = null;
  const save = h("button", { value: "save", disabled: true }, "Save");
  const path = topicPath(topic);
  const run = async (values, what) => {
    const change = changeOf(own, values);
    if (what !== "save") {
      const tried = await console.api.send("PATCH", `${path}?dry_run=true`, change);
      const { would_drop: drop, compacts } = tried;
      checked = JSON.stringify(change);
      const isLoss = drop.events > 0;
      const lost = isLoss
        ? `These settings drop ${many(drop.events, "event")} (${bytes(drop.bytes)}) for good.`
        : "No limit of these settings drops what is there now.";
      const older = compacts ? " Older events of each key go by and by, too." : "";
      say(told, lost + older, isLoss || compacts ? "warning" : "good");
      save.disabled = false;
      save.textContent = isLoss ? `Save, and drop ${many(drop.events, "event")}` : "Save";
      save.className = isLoss ? "danger" : "";
      return undefined;
    }
    if (JSON.stringify(change) === checked) {
      await console.api.send("PATCH", path, change);
      again("The settings are saved.");
    }
    return undefined;
  };
  const hint = (name) => h("small", {}, places(effective, own, name));
  const numbers = NUMBERS.map(([name, label]) =>
    h(
      "label",
      {},
      label,
      h("input", {
        name,
        type: "number",
        min: 0,
        value: own[name] ?? "",
        placeholder: "not set here",
      }),
      hint(name),
    ),
  );
  const switches = SWITCHES.map(([name, label]) =>
    choice(label, YES_NO, { name, value: String(own[name] ?? INHERITED) }),
  );
  const durability = choice("Durability", DURABILITIES, {
    name: "durability",
    value: own.durability ?? INHERITED,
  });
  const onchange = () => {
    save.disabled = true;
    save.textContent = "Save";
    save.className = "";
    say(told, "");
  };
  const check = h("button", { value: "check" }, "Check what would be dropped");
  return [
    form(
      { class: "stacked", oninput: onchange },
      run,
      numbers,
      switches,
      durability,
      h("div", { class: "tools wide" }, check, save),
    ),
    told,
  ];
}

function drops(console, topic, { earliest, tail, events }, again) {
  const { api } = console;
  const before = field("Drop all events before sequence", {
    name: "before",
    type: "number",
    min: 1,
    placeholder: `${tail} drops all`,
    required: true,
  });
  const what = h("p", { role: "status" });
  const tell = () => {
    const most = Math.max(0, Math.min(tail, before.lastChild.value) - earliest);
    what.textContent = `This drops ${most < events ? "up to " : "all "}${many(Math.min(most, events), "event")} for good.`;
  };
  before.addEventListener("input", tell);
  const purge = async (values) => {
    await api.send("DELETE", topicPath(topic, `/events?before=${Number(values.before)}`));
    again("The events are dropped.");
  };
  const remove = async () => {
    await api.send("DELETE", topicPath(topic));
    location.hash = "#/topics";
  };
  return [
    h("h2", {}, "Purge"),
    events
      ? [what, confirmed(topic, "Purge", purge, before)]
      : h("p", {}, "There is nothing to drop."),
    h("h2", {}, "Delete"),
    h(
      "p",
      {},
      `This drops the topic with its ${many(events, "event")} and its settings for good. Readers are told a gap.`,
    ),
    confirmed(topic, "Delete the topic", remove),
  ].flat();
}

export function show(console, topic, signal, rest, changed) {
  const place = h("div", {}, "…");
  const load = async (told) => {
    try {
      const read = await console.api.get(topicPath(topic));
      const note = notice();
      place.replaceChildren(
        note,
        ...settings(console, topic, read, load),
        ...drops(console, topic, read, load),
      );
      if (told) {
        say(note, told, "good");
        changed(); // The numbers above.
      }
    } catch (problem) {
      place.replaceChildren(
        refusal(problem),
        button("Try again", () => load()),
      );
    }
  };
  load();
  return [place];
}
