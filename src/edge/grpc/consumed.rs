//! Consumers and their state as messages.

use std::collections::{BTreeMap, BTreeSet};

use super::work_settings;
use crate::consumers::{
    ChangedEvents, CheckpointAck, ConsumerInfo, ConsumerState, EventMarks, Mark, MarkAck,
    MarkFilter, MarkLine, Marks, MarksChange, StateChange,
};
use crate::cursor::Epoch;
use crate::edge::consumers::asking::{Named, ReadAs};
use crate::edge::consumers::counting::PlacedCount;
use crate::edge::consumers::revision;
use crate::edge::consumers::telling::{MarksNews, News};
use crate::edge::proto::{self, subscribe_response::Message};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// Returns the consumer as which a stream reads.
///
/// # Errors
///
/// [`Error::Invalid`]: the name is invalid, or is missing beside what is about it.
pub(super) fn read_as(request: &proto::SubscribeRequest) -> Result<Option<Box<ReadAs>>> {
    let proto::SubscribeRequest { consumer, owner, counts, marks_after, .. } = request;
    if consumer.is_empty() {
        return match owner.is_empty() && !counts && marks_after.is_empty() {
            true => Ok(None),
            false => Err(Error::invalid("consumer", "is empty, and other fields are about it")),
        };
    }
    let named = Named::of_own(consumer, given(owner))?;
    // Whatever is no cursor, the client does not have: it is told all marks.
    let marks_after = marks_after.parse().ok();
    Ok(Some(Box::new(ReadAs { named, counts: *counts, marks_after })))
}

/// Returns the consumer as which a page is read, if it is read as one.
///
/// # Errors
///
/// [`Error::Invalid`]: an owner without a consumer; as [`Named::of_own`].
pub(super) fn page_of(request: &proto::ReadRequest) -> Result<Option<Named>> {
    let proto::ReadRequest { consumer, owner, .. } = request;
    match (consumer.is_empty(), owner.is_empty()) {
        (false, _) => Named::of_own(consumer, given(owner)).map(Some),
        (true, true) => Ok(None),
        (true, false) => Err(Error::invalid("consumer", "is empty, and an owner is given")),
    }
}

/// Returns a text that is given, and `None` for an empty one.
pub(super) fn given(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Returns news of a stream's consumer.
pub(super) fn news(news: &News) -> Message {
    match news {
        News::Marked(told) => Message::Marked(marked(told)),
        News::Counts(told, epoch) => Message::Counts(counts(told, *epoch)),
    }
}

/// Returns counts.
pub(super) fn counts(counts: &PlacedCount, epoch: Epoch) -> proto::Counts {
    let PlacedCount { count, position, revision: at } = counts;
    proto::Counts {
        total: count.total,
        unfinished: count.unfinished,
        lost: count.lost,
        inbox: count.inbox,
        unseen: count.unseen,
        unread: count.unread,
        archived: count.archived,
        snoozed: count.snoozed,
        more_than: count.more_than,
        lost_more_than: count.lost_more_than,
        position: position.get(),
        revision: revision(*at, epoch),
    }
}

fn marked(marked: &MarksNews) -> proto::Marked {
    match marked {
        MarksNews::Whole(state, epoch) => {
            let ConsumerState { info, marks, .. } = &**state;
            proto::Marked {
                revision: revision(info.revision, *epoch),
                whole: Some(all_marks(marks)),
                ..proto::Marked::default()
            }
        }
        MarksNews::Change(change, marks, epoch) => {
            let StateChange { revision: at, time, by, .. } = &**change;
            let told = change_of(marks);
            let revision = revision(*at, *epoch);
            proto::Marked { revision, by: by.to_string(), time_ms: time.as_ms(), ..told }
        }
    }
}

fn change_of(change: &MarksChange) -> proto::Marked {
    let words =
        |marks: &BTreeSet<Mark>| marks.iter().map(|mark| mark.as_str().to_owned()).collect();
    let (mut up_to, mut events) = (String::new(), Default::default());
    match &change.events {
        ChangedEvents::Named(named) => {
            let texts = named.iter().map(|(topic, ranges)| (topic.to_string(), ranges.clone()));
            events = texts.collect();
        }
        ChangedEvents::UpTo(cursor) => up_to = cursor.to_string(),
        ChangedEvents::Whole => {} // Told as a whole.
    }
    proto::Marked {
        mark: words(&change.mark),
        unmark: words(&change.unmark),
        snooze_until_ms: change.snooze_until.map(Timestamp::as_ms),
        up_to,
        events,
        ..proto::Marked::default()
    }
}

/// Returns all marks of a consumer.
pub(super) fn all_marks(marks: &Marks) -> proto::Marks {
    let line = |mark| marks.line(mark).map(line);
    let snoozed = marks.snoozed().map(|(topic, sequence, until)| proto::Snoozed {
        topic: topic.to_string(),
        sequence: sequence.get(),
        until_ms: until.as_ms(),
    });
    proto::Marks {
        seen: line(Mark::Seen),
        read: line(Mark::Read),
        archived: line(Mark::Archived),
        snoozed: snoozed.collect(),
    }
}

fn line(line: &MarkLine) -> proto::MarkLine {
    let ranges = |all: BTreeMap<TopicName, String>| {
        all.into_iter().map(|(topic, ranges)| (topic.to_string(), ranges)).collect()
    };
    proto::MarkLine {
        up_to: line.up_to,
        marked: ranges(line.marked_ranges()),
        unmarked: ranges(line.unmarked_ranges()),
    }
}

/// Returns the revision of a consumer's state.
pub(super) fn revision_of(state: &ConsumerState, epoch: Epoch) -> String {
    revision(state.info.revision, epoch)
}

/// Returns the marks of one event.
pub(super) fn event_marks(marks: &EventMarks) -> proto::EventMarks {
    proto::EventMarks {
        seen: marks.seen,
        read: marks.read,
        archived: marks.archived,
        snoozed_until_ms: marks.snoozed_until.map(Timestamp::as_ms),
    }
}

/// Converts conditions on marks.
pub(super) fn mark_filter(filter: proto::MarkFilter) -> MarkFilter {
    let proto::MarkFilter { seen, read, archived, snoozed } = filter;
    let mut converted = MarkFilter::default();
    (converted.seen, converted.read) = (seen, read);
    (converted.archived, converted.snoozed) = (archived, snoozed);
    converted
}

/// Returns a consumer.
pub(super) fn consumer(info: &ConsumerInfo, epoch: Epoch) -> proto::Consumer {
    let filter = info.settings.filter.clone();
    proto::Consumer {
        topic: info.id.selection.to_string(),
        consumer: info.id.name.to_string(),
        owner: info.id.owner.clone(),
        filter: Some(proto::Filter {
            types: filter.types.into_iter().collect(),
            keys: filter.keys.into_iter().collect(),
            key_prefixes: filter.key_prefixes.into_iter().collect(),
            headers: filter.headers.into_iter().collect(),
        }),
        checkpoint: info.checkpoint.map(|cursor| cursor.to_string()).unwrap_or_default(),
        revision: revision(info.revision, epoch),
        created_ms: info.created.as_ms(),
        updated_ms: info.updated.as_ms(),
        shared: info.settings.shared.as_ref().map(work_settings::message),
    }
}

/// Returns the answer to a checkpoint.
pub(super) fn checkpoint(ack: &CheckpointAck, epoch: Epoch) -> proto::SetCheckpointResponse {
    proto::SetCheckpointResponse {
        checkpoint: ack.checkpoint.map(|cursor| cursor.to_string()).unwrap_or_default(),
        moved: ack.moved,
        revision: revision(ack.revision, epoch),
    }
}

/// Returns the answer to a request to change marks.
pub(super) fn mark_ack(ack: &MarkAck, epoch: Epoch) -> proto::MarkEventsResponse {
    proto::MarkEventsResponse {
        revision: revision(ack.revision, epoch),
        changed: ack.changed,
        gone: ack.gone,
    }
}
