//! The place in a fleet's stream up to which a log has applied it.

use crate::cursor::Epoch;

/// A record of a fleet's stream: the last one that a log has applied. All records before it are
/// applied, too, and none after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Applied {
    /// The sequence of the record in the stream, from 1.
    pub stream: u64,
    /// The term of the leader that appended the record.
    pub term: u64,
    /// The number of the record within its term, from 0.
    pub number: u64,
    /// The checksum of the record, which the next record of the stream names.
    pub chain: u32,
    /// The epoch of the fleet. The log's own may be another one: it begins a new one when it has
    /// lost events that were not synced, and these come again from the stream.
    pub epoch: Epoch,
}
