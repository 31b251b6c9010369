// The marks of events: seen, read, archived, and snoozed until a time. The broker decides them; this
// file says what a change that the broker tells means for an event that the page shows.

/** The marks of an event that nobody has marked. */
export const UNMARKED = Object.freeze({
  seen: false,
  read: false,
  archived: false,
  snoozed_until: null,
});

/** Whether two events are marked alike. */
export function areSame(one, other) {
  return Object.keys(UNMARKED).every((name) => one[name] === other[name]);
}

/** Whether a selection is a pattern of topics, whose places are positions and not sequences. */
export function isPattern(selection) {
  return selection.split(".").some((token) => token === "*" || token === ">");
}

/** Whether ranges such as "1-5,9" hold a sequence. */
export function inRanges(ranges, sequence) {
  return (ranges ?? "").split(",").some((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return range !== "" && first <= sequence && sequence <= last;
  });
}

/** Returns the place in a cursor: 42 of "42-9f3c2a1b", and 1042 of "@1042~17-9f3c2a1b". */
export function placeOf(cursor) {
  return Number(/^@?(\d+)/.exec(cursor ?? "")?.[1] ?? 0);
}

/** Returns the epoch in a cursor. A place is after another one only within an epoch. */
export function epochOf(cursor) {
  return /^@?\d+(?:~\d+)?-(.+)$/.exec(cursor ?? "")?.[1] ?? "";
}

/** Returns the place of an event, as cursors of the selection count it. */
export function placeOfEvent(event, selection) {
  return isPattern(selection) ? event.position : event.sequence;
}

/** Whether the marks say that an event is snoozed at this time, in milliseconds. */
export function isSnoozed(marks, now) {
  return marks.snoozed_until !== null && Date.parse(marks.snoozed_until) > now;
}

/** Returns what an object has for a topic. A topic may have the name of what all objects have. */
function ofTopic(object, topic) {
  return Object.hasOwn(object, topic) ? object[topic] : undefined;
}

/** Returns the marks of an event, of all marks of a consumer. */
export function ofAll(all, event, selection) {
  const { topic, sequence } = event;
  const has = ({ up_to: upTo, marked, unmarked }) =>
    inRanges(ofTopic(marked, topic), sequence) ||
    (placeOfEvent(event, selection) <= upTo && !inRanges(ofTopic(unmarked, topic), sequence));
  return {
    seen: has(all.seen),
    read: has(all.read),
    archived: has(all.archived),
    snoozed_until: ofTopic(all.snoozed, topic)?.[sequence] ?? null,
  };
}

/** Whether a change made at a time concerns an event. One "up to" a place leaves snoozed events. */
export function concerns(change, entry, selection, at) {
  const { event, marks } = entry;
  if (change.events) {
    return inRanges(ofTopic(change.events, event.topic), event.sequence);
  }
  return placeOfEvent(event, selection) <= placeOf(change.up_to) && !isSnoozed(marks, at);
}

/** Returns the marks after a change of them. */
export function changed(marks, { mark = [], unmark = [], snooze_until: until }) {
  const after = { ...marks };
  for (const name of unmark) {
    Object.assign(after, {
      seen: { seen: false, read: false },
      read: { read: false },
      archived: { archived: false },
      snoozed: { snoozed_until: null },
    }[name]);
  }
  for (const name of mark) {
    Object.assign(after, {
      seen: { seen: true },
      read: { seen: true, read: true },
      archived: { archived: true, snoozed_until: null },
      snoozed: { ...UNMARKED, snoozed_until: until },
    }[name]);
  }
  return after;
}

/** Whether a revision is after another one. Each is, after one of another epoch. */
export function isAfter(revision, other) {
  return epochOf(revision) !== epochOf(other) || placeOf(revision) > placeOf(other);
}

/** Returns named events as the broker tells them: ranges of sequences by their topics. */
export function rangesOf(events) {
  const ranges = Object.create(null); // A topic may be called __proto__.
  for (const { topic, sequence } of events) {
    ranges[topic] = ranges[topic] ? `${ranges[topic]},${sequence}` : `${sequence}`;
  }
  return ranges;
}
