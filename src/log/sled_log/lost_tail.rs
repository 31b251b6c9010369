//! Topics whose newest blocks are damaged, and whose ends are therefore not known for sure.
//!
//! # Why
//!
//! A topic's newest block says where the topic ends, and which sequence and position come next. If
//! that block cannot be read, no sequence or position may be given out a second time, because a
//! reader may have seen it. Two lower bounds of the end are known:
//!
//! 1. Positions have no holes, except those that the log's record counts as lost. So if only one
//!    topic is damaged, it has had at least as many events as the log's last position says, less
//!    the events of all other topics. The mark beside the log has the last position, or a lower one
//!    after a loss of power, and for topics with the durability `process`.
//! 2. The topic has had at least one event after its last block that can be read.
//!
//! [`LEAP`] is added to the higher one: more events than can have been appended between two writes
//! of the mark. The skipped numbers are never given out, and cost nothing. The result is written to
//! the topic's record, with the note that its end is damaged, before anything else happens. So the
//! next start finds the same.
//!
//! The same write begins an epoch, so that every reader is told of a gap. The same damage may have
//! made sled go back to an older state of other topics. The sum of all events cannot show that as
//! long as the end of one topic is unknown.
//!
//! If the sum shows that events are missing, but not of which topic, all topics count as damaged:
//! each may have had more events than can be read. The same is done if nobody can tell which page
//! was damaged (salvage.rs).
//!
//! A topic with a damaged end takes no more events: they would have to be written to the damaged
//! page, which holds the newest keys. When the topic is deleted, its name goes to another id, whose
//! keys lie elsewhere. Of two records with one name, the one with the higher id counts.

use std::collections::HashMap;

use crate::cursor::{Epoch, Position};
use crate::log::meta::LogRecord;
use crate::log::stored_topic::{StoredTopic, sequences};
use crate::topic::{TopicId, TopicName};

/// The number of sequences and positions that are skipped if it is unknown which of them were given
/// out.
const LEAP: u64 = 1 << 32;

/// Moves the ends of those `topics` whose index is in `damaged` behind all that they may have had,
/// and marks these topics as damaged. On entry each of them ends with its last readable block.
/// Returns the log's record that fits, with a new epoch.
pub(super) fn record_damage(
    topics: &mut [StoredTopic],
    damaged: &[usize],
    record: &LogRecord,
    marked: Option<Position>,
) -> LogRecord {
    let last = topics.iter().map(|topic| topic.extent.last_position).max().unwrap_or_default();
    let last = last.max(marked.unwrap_or_default());
    let missing = record.missing(topics, last);
    let position = last.plus(LEAP);
    for index in damaged {
        let StoredTopic { extent, is_deleted, .. } = &mut topics[*index];
        // The unreadable part held at least one event.
        let lost = if damaged.len() == 1 { missing.max(1) } else { 1 };
        let end = extent.tail.plus(lost);
        extent.dropped_events += LEAP;
        (extent.tail, extent.last_position) = (end.plus(LEAP), position);
        if *is_deleted {
            // A deleted topic serves nothing. Created again, it goes on at this end.
            (extent.earliest, extent.dropped_events) = (extent.tail, extent.tail.previous().get());
        } else {
            extent.is_damaged = true;
        }
    }
    LogRecord::new(Epoch::new(rand::random()), sequences(topics), position)
}

/// Returns `topics` without those whose name belongs to a newer id.
pub(super) fn without_abandoned(topics: Vec<StoredTopic>) -> Vec<StoredTopic> {
    let newest: HashMap<TopicName, TopicId> =
        topics.iter().map(|topic| (topic.name.clone(), topic.id)).collect();
    topics.into_iter().filter(|topic| newest.get(&topic.name) == Some(&topic.id)).collect()
}

/// Returns the message for a log that ends before its mark.
pub(super) fn lost_end(last: Position, marked: Position) -> String {
    format!(
        "it ends at position {last}, but was durable up to position {marked}: positions {} to \
         {marked} are damaged or missing",
        last.next()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Sequence;
    use crate::log::Extent;

    fn id(id: u32) -> TopicId {
        TopicId::from_stored(id).unwrap()
    }

    /// Returns a topic that has given out this many sequences, the last one at the position `last`.
    fn topic(id: TopicId, name: &str, sequences: u64, last: u64) -> StoredTopic {
        let (tail, last_position) = (Sequence::new(sequences + 1), Position::new(last));
        let extent = Extent { tail, last_position, ..Extent::EMPTY };
        StoredTopic { extent, ..StoredTopic::new(id, name.parse().unwrap()) }
    }

    /// Goal: a topic whose end cannot be read ends behind all numbers that it may have given out,
    /// by the mark and by the sum of all events. No other topic changes, and the log's record fits.
    #[test]
    fn a_topic_without_an_end_ends_behind_all_that_may_have_been_given_out() {
        let (first, second) = (id(1), id(2));
        let record = LogRecord::new(Epoch::new(7), 100, Position::new(100));
        let whole = topic(first, "a", 40, 80);
        // The last 20 positions are missing, though they were given out, as the mark says.
        let mut topics = [whole.clone(), topic(second, "b", 40, 79)];
        let noted = record_damage(&mut topics, &[1], &record, Some(Position::new(100)));
        assert_eq!(topics[0], whole);
        let extent = topics[1].extent;
        assert_eq!(extent.tail, Sequence::new(40 + 20 + LEAP + 1));
        assert_eq!(extent.last_position, Position::new(100 + LEAP));
        assert_eq!(extent.dropped_events, LEAP, "the skipped sequences never had events");
        assert!(extent.is_damaged);
        assert_eq!(noted.check_whole(&topics, Position::new(100 + LEAP)), None);
        // Nobody knows how many events each of two such topics has lost: at least one.
        let mut topics = [whole, topic(second, "b", 40, 79)];
        record_damage(&mut topics, &[0, 1], &record, Some(Position::new(100)));
        let tails = topics.map(|topic| topic.extent.tail);
        assert_eq!(tails, [Sequence::new(40 + 1 + LEAP + 1); 2]);
    }

    /// Goal: of two topics with one name, only the newer one is served.
    #[test]
    fn a_topic_whose_name_another_one_has_by_now_is_left_out() {
        let topics = [topic(id(1), "a", 1, 1), topic(id(2), "b", 1, 2)];
        let newer = topic(id(3), "a", 0, 0);
        let left = without_abandoned([&topics[..], std::slice::from_ref(&newer)].concat());
        assert_eq!(left, [topics[1].clone(), newer]);
    }
}
