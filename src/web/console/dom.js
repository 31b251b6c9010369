// Elements, and numbers and times as people read them. Text is set as text alone: nothing that the
// broker stores becomes markup.

/**
 * Returns an element. `on…` of `props` are listeners, `class` and names with a dash are attributes,
 * the rest are properties; children that are null or false are left out.
 */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value == null) {
      continue;
    }
    if (key.startsWith("on")) {
      element.addEventListener(key.slice(2), value);
    } else if (key === "class" || key === "role" || key === "for" || key.includes("-")) {
      element.setAttribute(key, value);
    } else {
      element[key] = value;
    }
  }
  element.append(
    ...children.flat(9).filter((it) => it != null && it !== false),
  );
  return element;
}

/** A text field with its label above. */
export function field(label, props = {}, kind = "input") {
  return h("label", { class: props.class }, label, h(kind, { ...props, class: undefined }));
}

/** The field of a form for a key or a token, which nobody sees and no browser keeps. */
export function credentialField() {
  return field("Key or token", {
    name: "credential",
    type: "password",
    required: true,
    autocomplete: "off",
    class: "wide",
  });
}

/** A choice of `[value, text]`, with its label above. */
export function choice(label, options, props = {}) {
  const of = options.map(([value, text]) => h("option", { value }, text));
  const select = h("select", {}, of);
  Object.assign(select, props);
  return h("label", {}, label, select);
}

export function button(text, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, text);
}

/** A form whose `run` gets its values. While `run` goes on, the form cannot be sent again. */
export function form(props, run, ...children) {
  const note = notice();
  const onsubmit = async (submitted) => {
    submitted.preventDefault();
    const sent = submitted.submitter;
    const values = Object.fromEntries(new FormData(self));
    say(note, "");
    sent && (sent.disabled = true);
    try {
      const told = await run(values, sent?.value, note);
      told && say(note, told, "good");
    } catch (problem) {
      fail(note, problem);
    }
    sent && (sent.disabled = false);
  };
  const self = h("form", { onsubmit, ...props }, children);
  return h("div", {}, self, note);
}

/** A form that does something that cannot be taken back, once a name was typed. */
export function confirmed(wanted, text, run, ...fields) {
  const name = field(`Type ${wanted} to confirm`, {
    name: "confirmed",
    required: true,
    autocomplete: "off",
    spellcheck: false,
  });
  const press = h("button", { class: "danger", disabled: true }, text);
  const oninput = () => (press.disabled = name.lastChild.value !== wanted);
  const checked = async (values) => (values.confirmed === wanted ? run(values) : undefined);
  return form({ class: "stacked", oninput }, checked, fields, name, press);
}

const SIGNS = { error: "✕ ", warning: "! ", good: "✓ " };

/** A place for what is said; without words it is not seen. */
export const notice = () => h("p", { class: "note", role: "status" });

/** Says something in a note; the kind is also told by a sign, and not by colour alone. */
export function say(note, text, kind = "") {
  note.className = `note ${kind}`;
  note.replaceChildren(...(text ? [h("strong", {}, SIGNS[kind] ?? ""), text] : []));
}

/** Says why something failed: it was refused only if the broker has answered. */
export const fail = (note, { status, message }) =>
  say(note, (status ? "Refused: " : "") + message, "error");

/** Fills a place anew. What has the focus in it and is there again, keeps the focus. */
export function refill(place, ...children) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const name = focused && ["id", "href", "aria-label"].find((it) => focused.getAttribute(it));
  const mark = name && `[${name}="${CSS.escape(focused.getAttribute(name))}"]`;
  place.replaceChildren(...children);
  mark && place.querySelector(mark)?.focus({ preventScroll: true });
}

/** A note that says why something cannot be shown. */
export function refusal(problem) {
  const note = h("p", { role: "alert" });
  fail(note, problem);
  return note;
}

/** A list of terms and values; those without a value are left out. */
export function terms(entries) {
  const some = entries.filter(([, value]) => value != null && value !== "");
  return h(
    "dl",
    {},
    some.map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]),
  );
}

/**
 * A table. Columns are `[name, isNumber]`; cells are texts or elements. One with `isStack` shows its
 * cells below each other on a narrow screen; the roles say that it is a table there, too.
 */
export function table(caption, columns, rows, isStack = false) {
  const kind = (at, role) => ({
    class: columns[at][1] ? "number" : "",
    role,
    "data-name": columns[at][0],
  });
  const head = columns.map(([name], at) =>
    h("th", { scope: "col", ...kind(at, "columnheader") }, name),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      { role: "row" },
      row.map((cell, at) => h("td", kind(at, "cell"), cell)),
    ),
  );
  const [over, under] = [h("tr", { role: "row" }, head), h("tbody", { role: "rowgroup" }, body)];
  const props = { role: "table", "aria-label": caption, class: isStack ? "stack" : "" };
  return h(
    "div",
    { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    h("table", props, h("thead", { role: "rowgroup" }, over), under),
  );
}

const EXACT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (value) => (value == null ? "–" : EXACT.format(value));

/** A number of things, as in "1 event" and "2 events". */
export const many = (value, thing) => `${count(value)} ${thing}${value === 1 ? "" : "s"}`;

export const short = (value) => (value == null ? "–" : SHORT.format(value));

export function bytes(value) {
  if (value == null) {
    return "–";
  }
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = value < 1024 ? 0 : Math.min(5, Math.floor(Math.log2(value) / 10));
  const digits = power && value / 1024 ** power < 100 ? 1 : 0;
  return `${(value / 1024 ** power).toFixed(digits)} ${units[power]}`;
}

/** Events in a second; null while that is not known. */
export function rate(value) {
  if (value == null) {
    return "–";
  }
  return `${value === 0 ? "0" : value < 0.1 ? "< 0.1" : value < 10 ? value.toFixed(1) : short(value)}/s`;
}

/** What the lag of a topic is. */
export const LAG =
  "Lag: the events that the slowest reader of the topic has not read, be it connected or a consumer with a checkpoint.";

/** A length of time, in its largest units. */
export function span(ms, most = 2) {
  const units = [
    ["d", 864e5],
    ["h", 36e5],
    ["min", 6e4],
    ["s", 1e3],
  ];
  const at = units.findIndex(([, unit]) => ms >= unit);
  if (at < 0) {
    return `${Math.max(0, Math.round(ms))} ms`;
  }
  const [name, unit] = units[at];
  const rest = units[at + 1] && most > 1 ? Math.floor((ms % unit) / units[at + 1][1]) : 0;
  return `${Math.floor(ms / unit)} ${name}${rest ? ` ${rest} ${units[at + 1][0]}` : ""}`;
}

/** How long ago a time was, in its largest unit. */
export function ago(time) {
  const at = time ? Date.parse(time) : 0; // A topic without an event has the time 0.
  const past = Math.max(0, Date.now() - at);
  return at === 0 ? "–" : past < 1000 ? "now" : `${span(past, 1)} ago`;
}

/** A time to the millisecond, as the reader's clock has it. */
export function clock(time) {
  const of = new Date(time);
  const two = (value, digits = 2) => String(value).padStart(digits, "0");
  const day = `${of.getFullYear()}-${two(of.getMonth() + 1)}-${two(of.getDate())}`;
  const hour = [of.getHours(), of.getMinutes(), of.getSeconds()].map((it) => two(it)).join(":");
  return `${day} ${hour}.${two(of.getMilliseconds(), 3)}`;
}

export const timeOf = (time) => h("time", { dateTime: time, title: time }, clock(time));

export const topicLink = (name, tab = "events") =>
  h("a", { href: `#/topic/${encodeURIComponent(name)}/${tab}` }, name);

/** Copies a text, also where the page is not secure and has no clipboard; says so on the button. */
export async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { value: text });
    from.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    from.focus();
  }
  const was = from.textContent;
  from.textContent = "✓ Copied";
  setTimeout(() => (from.textContent = was), 1500);
}

/** Has the browser keep bytes as a file. */
export function download(name, parts, type) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Runs `step` now and again, `ms` after it has ended, while the page is shown, until `signal`. */
export function repeat(ms, signal, step) {
  let timer;
  const run = async () => {
    clearTimeout(timer);
    if (signal.aborted || document.hidden) {
      return;
    }
    await step();
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };
  document.addEventListener("visibilitychange", run, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  return run();
}
