//! The log: events in order, on disk. Knows bytes and fsync; knows no tasks and no network.
//! Synchronous on purpose: the caller picks the thread.
//!
//! ```text
//!  one topic
//!  1   2   3 | 4   5   .   7 | 8
//!  trimmed   | ^ earliest    | ^ tail, assigned next      "." was dropped by a rewrite
//! ```
//!
//! A [`Log`] stores what it is given, where it is told to: sequences, positions and times are the
//! broker's decisions. Every implementation passes the one suite in `contract.rs`.

mod age;
pub mod backup;
mod block;
mod block_builder;
mod block_header;
mod contract;
mod extent;
mod failed;
#[cfg(test)]
mod faulty_log;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group;
mod ids;
mod memory_log;
mod meta;
mod new_records;
mod placed_id;
mod read_ahead;
mod record;
mod sled_log;
mod stored_block;
mod stored_topic;
mod way_back;

#[cfg(test)]
pub use faulty_log::{Fault, FaultyLog, Held};

pub use age::Ages;
pub use block::Block;
pub use block_builder::BlockBuilder;
pub use block_header::HEADER_BYTES;
pub use contract::{Log, Seek};
pub use extent::{Ahead, Compacted, Extent};
pub use failed::TellFailure;
pub use group::{Group, MAX_REMOVED_PARTS};
pub use ids::blocks_of_ids;
pub use memory_log::MemoryLog;
pub use new_records::NewRecords;
pub use placed_id::PlacedId;
pub use read_ahead::ReadAhead;
pub use record::{EventRef, Headers};
pub use sled_log::SledLog;
pub use sled_log::check::{CheckReport, Checking, check, repair};
pub use sled_log::config::{LEAST_FREE_BYTES, LogConfig};
pub use sled_log::restore::{RestoreReport, Restoring, restore};
pub use stored_block::{LastEvent, StoredBlock, parts_in};
pub use stored_topic::StoredTopic;
pub use way_back::WayBack;
