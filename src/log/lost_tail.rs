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
//! The topic takes no more events. The page that is damaged is also the one that they would have to
//! be written to, for it holds the newest keys. When the topic is deleted, its name goes to another
//! id, whose keys lie elsewhere. Of two records with one name, the one with the higher id is it.

use std::collections::HashMap;

use super::StoredTopic;
use super::meta::LogRecord;
use crate::cursor::{Epoch, Position};
use crate::topic::{TopicId, TopicName};

/// How many sequences, and positions, are left out where it is not known which were given out.
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
        let extent = &mut topics[*index].extent;
        // At least one event was in what cannot be read.
        let lost = if damaged.len() == 1 { missing.max(1) } else { 1 };
        let end = extent.tail.plus(lost);
        extent.dropped_events += LEAP;
        (extent.tail, extent.last_position) = (end.plus(LEAP), position);
        extent.is_damaged = true;
    }
    LogRecord::new(Epoch::new(rand::random()), sequences(topics), position)
}

/// How many sequences `topics` have given out.
pub(super) fn sequences(topics: &[StoredTopic]) -> u64 {
    topics.iter().map(|topic| topic.extent.tail.previous().get()).sum()
}

/// Leaves out the topics whose name another id has by now.
pub(super) fn without_abandoned(topics: Vec<StoredTopic>) -> Vec<StoredTopic> {
    let newest: HashMap<TopicName, TopicId> =
        topics.iter().map(|topic| (topic.name.clone(), topic.id)).collect();
    topics.into_iter().filter(|topic| newest.get(&topic.name) == Some(&topic.id)).collect()
}
