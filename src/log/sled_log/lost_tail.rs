//! Topics whose newest blocks are damaged: where they end nobody knows for sure.
//!
//! # Why
//!
//! A topic's newest block says where the topic ends, and which sequence and which position come
//! next. When the block cannot be read, neither may be given out again: a reader may have seen it.
//! So much is known all the same:
//!
//! - Positions have no holes, but for those that the log's record counts as lost. So the log's last
//!   position, less the events of all other topics, is where the one damaged topic ends. The mark
//!   beside the log says the last position. It may be too low: after a loss of power, and where
//!   topics are content to outlive the process.
//! - The topic goes on after its last block that can be read.
//!
//! Both are lower bounds. [`LEAP`] is added to them: more events than can have been appended
//! between two writes of the mark. What is skipped is never given out, and costs nothing. The
//! result is noted in the topic's record, together with the fact, before anything else happens: the
//! next start finds the same.
//!
//! An epoch begins with it, in the same write, so that every reader is told of a gap. The same
//! damage may have had sled go back to an older state of other topics: the sum of all events, which
//! shows that otherwise, says nothing as long as the end of one topic is unknown.
//!
//! Where the sum shows that events are missing, and not of which topic, the same is done with every
//! topic: each may have had more than can be read. So it is where damage has left nothing to tell
//! by which page it was in (salvage.rs).
//!
//! The topic takes no more events. The page that is damaged is also the one that they would have to
//! be written to, for it holds the newest keys. When the topic is deleted, its name goes to another
//! id, whose keys lie elsewhere. Of two records with one name, the one with the higher id is it.

use std::collections::HashMap;

use crate::cursor::{Epoch, Position};
use crate::log::meta::LogRecord;
use crate::log::stored_topic::{StoredTopic, sequences};
use crate::topic::{TopicId, TopicName};

/// The number of sequences and positions that are skipped where it is unknown which were given out.
const LEAP: u64 = 1 << 32;

/// Notes in those of `topics` whose `index` is in `damaged`, which end with their last block that
/// can be read, that they end somewhere behind. Returns the log's record that says so, with a new
/// epoch: where the end of one topic alone is not known, nothing else in it may change.
pub(super) fn note(
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
        // At least one event was in what cannot be read.
        let lost = if damaged.len() == 1 { missing.max(1) } else { 1 };
        let end = extent.tail.plus(lost);
        extent.dropped_events += LEAP;
        (extent.tail, extent.last_position) = (end.plus(LEAP), position);
        if *is_deleted {
            // Nothing of it is served; created again, it goes on there.
            (extent.earliest, extent.dropped_events) = (extent.tail, extent.tail.previous().get());
        } else {
            extent.is_damaged = true;
        }
    }
    LogRecord::new(Epoch::new(rand::random()), sequences(topics), position)
}

/// Leaves out topics whose name belongs to a newer id.
pub(super) fn without_abandoned(topics: Vec<StoredTopic>) -> Vec<StoredTopic> {
    let newest: HashMap<TopicName, TopicId> =
        topics.iter().map(|topic| (topic.name.clone(), topic.id)).collect();
    topics.into_iter().filter(|topic| newest.get(&topic.name) == Some(&topic.id)).collect()
}

/// Returns the problem of a log that ends before its mark.
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

    /// A topic that has given out so many sequences, the last one at this position.
    fn topic(id: TopicId, name: &str, sequences: u64, last: u64) -> StoredTopic {
        let (tail, last_position) = (Sequence::new(sequences + 1), Position::new(last));
        let extent = Extent { tail, last_position, ..Extent::EMPTY };
        StoredTopic { extent, ..StoredTopic::new(id, name.parse().unwrap()) }
    }

    /// Goal: a topic whose end cannot be read ends behind all that may have been given out of it,
    /// by the mark and by the sum of all events; no other topic changes, and the record fits.
    #[test]
    fn a_topic_without_an_end_ends_behind_all_that_may_have_been_given_out() {
        let (first, second) = (id(1), id(2));
        let record = LogRecord::new(Epoch::new(7), 100, Position::new(100));
        let whole = topic(first, "a", 40, 80);
        // Of the last 20 positions nothing is found: they were given out, as the mark says.
        let mut topics = [whole.clone(), topic(second, "b", 40, 79)];
        let noted = note(&mut topics, &[1], &record, Some(Position::new(100)));
        assert_eq!(topics[0], whole);
        let extent = topics[1].extent;
        assert_eq!(extent.tail, Sequence::new(40 + 20 + LEAP + 1));
        assert_eq!(extent.last_position, Position::new(100 + LEAP));
        assert_eq!(extent.dropped_events, LEAP, "what was left out was never there");
        assert!(extent.is_damaged);
        assert_eq!(noted.check_whole(&topics, Position::new(100 + LEAP)), None);
        // Of two such topics nobody knows how much each has lost: one event at least.
        let mut topics = [whole, topic(second, "b", 40, 79)];
        note(&mut topics, &[0, 1], &record, Some(Position::new(100)));
        let tails = topics.map(|topic| topic.extent.tail);
        assert_eq!(tails, [Sequence::new(40 + 1 + LEAP + 1); 2]);
    }

    /// Goal: of two topics with one name the newer one is served, and the other one is not.
    #[test]
    fn a_topic_whose_name_another_one_has_by_now_is_left_out() {
        let topics = [topic(id(1), "a", 1, 1), topic(id(2), "b", 1, 2)];
        let newer = topic(id(3), "a", 0, 0);
        let left = without_abandoned([&topics[..], std::slice::from_ref(&newer)].concat());
        assert_eq!(left, [topics[1].clone(), newer]);
    }
}
