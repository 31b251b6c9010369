//! The log: events in order, on disk. Knows bytes and fsync; knows no tasks and no network.
//! Synchronous on purpose: the caller picks the thread.
//!
//! ```text
//!  one topic
//!  1   2   3 | 4   5   .   7 | 8
//!  trimmed   | ^ earliest    | ^ tail, assigned next      "." was dropped by a rewrite
//! ```
//!
//! A [`Log`] stores what the broker gives it: sequences, positions and times are the broker's
//! decisions. Every implementation passes the tests of `contract.rs`.
//!
//! ```text
//! contract.rs                       what every log promises
//! memory_log.rs  sled_log/          the logs: in memory, on disk
//! group.rs                          what is written in one go
//! extent.rs  stored_topic.rs        a topic as the log has it; meta.rs is its stored form
//! block.rs  block_header.rs  record.rs              the stored form of events
//! new_records.rs  block_builder.rs  stored_block.rs before and after they are in a block
//! ids.rs  placed_id.rs              what is left of dropped events while their ids count
//! age.rs  read_ahead.rs  way_back.rs                ages, and ways to read
//! backup.rs                         the form of a backup file
//! ```

mod age;
pub(crate) mod backup;
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
pub(crate) use faulty_log::{Fault, FaultyLog, Held};

pub(crate) use age::Ages;
pub(crate) use block_header::HEADER_BYTES;
pub(crate) use ids::blocks_of_ids;
pub(crate) use placed_id::PlacedId;
pub(crate) use stored_block::parts_in;
pub(crate) use way_back::WayBack;

pub use backup::{BackupHeader, BackupReader, Frame};
pub use block::Block;
pub use block_builder::BlockBuilder;
pub use contract::{Log, Seek};
pub use extent::{Ahead, Compacted, Extent};
pub use failed::TellFailure;
pub use group::{Group, MAX_REMOVED_PARTS};
pub use memory_log::MemoryLog;
pub use new_records::NewRecords;
pub use read_ahead::ReadAhead;
pub use record::{EventRef, Headers};
pub use sled_log::SledLog;
pub use sled_log::check::{CheckReport, Checking, check, repair};
pub use sled_log::config::{LEAST_FREE_BYTES, LogConfig};
pub use sled_log::restore::{RestoreReport, Restoring, restore};
pub use stored_block::{LastEvent, StoredBlock};
pub use stored_topic::StoredTopic;
