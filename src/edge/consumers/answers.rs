//! Consumers and their state as JSON, for every protocol with JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::counting::PlacedCount;
use super::revision::text as revision;
use super::telling::{MarksNews, News};
use crate::consumers::{
    ChangedEvents, CheckpointAck, ConsumerInfo, ConsumerState, EventMarks, Mark, MarkAck, MarkLine,
    Marks, MarksChange, StateChange,
};
use crate::cursor::Epoch;
use crate::event::Timestamp;

/// Returns a consumer.
pub(in crate::edge) fn consumer(info: &ConsumerInfo, epoch: Epoch) -> Value {
    let exists = info.exists();
    let time = |time: Timestamp| Some(time.to_string()).filter(|_| exists);
    let mut consumer = json!({
        "consumer": info.id.name,
        "topic": info.id.selection,
        "checkpoint": info.checkpoint,
        "revision": revision(info.revision, epoch),
        "created": time(info.created),
        "updated": time(info.updated),
    });
    if !info.id.owner.is_empty() {
        consumer["owner"] = json!(info.id.owner);
    }
    if let (Value::Object(consumer), Ok(Value::Object(settings))) =
        (&mut consumer, serde_json::to_value(&info.settings))
    {
        consumer.extend(settings);
    }
    consumer
}

/// Returns the answer to a checkpoint.
pub(in crate::edge) fn checkpoint(ack: &CheckpointAck, epoch: Epoch) -> Value {
    json!({
        "checkpoint": ack.checkpoint,
        "moved": ack.moved,
        "revision": revision(ack.revision, epoch),
    })
}

/// Returns the answer to a request to change marks.
pub(in crate::edge) fn marked_ack(ack: &MarkAck, epoch: Epoch) -> Value {
    json!({
        "revision": revision(ack.revision, epoch),
        "changed": ack.changed,
        "gone": ack.gone,
    })
}

/// Returns the marks of one event.
pub(in crate::edge) fn event_marks(marks: &EventMarks) -> Value {
    json!({
        "seen": marks.seen,
        "read": marks.read,
        "archived": marks.archived,
        "snoozed_until": marks.snoozed_until,
    })
}

/// Returns all marks of a consumer, with its revision.
pub(in crate::edge) fn whole(state: &ConsumerState, epoch: Epoch) -> Value {
    json!({
        "whole": true,
        "revision": revision(state.info.revision, epoch),
        "marks": all_marks(&state.marks),
    })
}

fn all_marks(marks: &Marks) -> Value {
    let line = |mark| marks.line(mark).map(line);
    let snoozed = marks.snoozed().fold(BTreeMap::new(), |mut all, (topic, sequence, until)| {
        let of_topic: &mut Map<String, Value> = all.entry(topic).or_default();
        of_topic.insert(sequence.to_string(), json!(until));
        all
    });
    json!({
        "seen": line(Mark::Seen),
        "read": line(Mark::Read),
        "archived": line(Mark::Archived),
        "snoozed": snoozed,
    })
}

fn line(line: &MarkLine) -> Value {
    json!({
        "up_to": line.up_to,
        "marked": line.marked_ranges(),
        "unmarked": line.unmarked_ranges(),
    })
}

fn marked(marked: &MarksNews) -> Value {
    match marked {
        MarksNews::Whole(state, epoch) => whole(state, *epoch),
        MarksNews::Change(change, marks, epoch) => {
            let StateChange { revision: at, time, by, .. } = &**change;
            let mut told = json!({
                "revision": revision(*at, *epoch),
                "by": &**by,
                "time": time,
            });
            if let Value::Object(told) = &mut told {
                told.extend(change_of(marks));
            }
            told
        }
    }
}

fn change_of(change: &MarksChange) -> Map<String, Value> {
    let mut told = Map::new();
    let mut add = |name: &str, value: Value| told.insert(name.to_owned(), value);
    add("mark", json!(change.mark));
    add("unmark", json!(change.unmark));
    if let Some(until) = change.snooze_until {
        add("snooze_until", json!(until));
    }
    match &change.events {
        ChangedEvents::Named(events) => add("events", json!(events)),
        ChangedEvents::UpTo(cursor) => add("up_to", json!(cursor)),
        _ => None, // Told as a whole.
    };
    told
}

/// Returns news as a stream tells them: their type, and their JSON.
pub(in crate::edge) fn news(news: &News) -> (&'static str, Value) {
    match news {
        News::Marked(told) => ("marked", marked(told)),
        News::Counts(told, epoch) => ("counts", counts(told, *epoch)),
    }
}

/// Returns counts.
pub(in crate::edge) fn counts(counts: &PlacedCount, epoch: Epoch) -> Value {
    let PlacedCount { count, position, revision: at } = counts;
    json!({
        "total": count.total,
        "unfinished": count.unfinished,
        "lost": count.lost,
        "inbox": count.inbox,
        "unseen": count.unseen,
        "unread": count.unread,
        "archived": count.archived,
        "snoozed": count.snoozed,
        "more_than": count.more_than,
        "lost_more_than": count.lost_more_than,
        "position": position,
        "revision": revision(*at, epoch),
    })
}
