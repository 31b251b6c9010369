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
//! contract.rs                       the promises of every log
//! memory_log.rs  sled_log/          the logs: in memory, on disk
//! group.rs                          the changes that are written in one go
//! applied.rs                        how far a log has applied the stream of a fleet
//! extent.rs  stored_topic.rs        a topic as the log has it; meta.rs is its stored form
//! block.rs  block_header.rs  record.rs              the stored form of events
//! new_records.rs  block_builder.rs  stored_block.rs events before a block, and a block unread
//! ids.rs  placed_id.rs              the ids of dropped events, for as long as they are known
//! age.rs  read_ahead.rs  way_back.rs                ages, and ways to read
//! backup.rs  backup_file.rs         the form of a backup, and its file
//! ```
//!
//! # Stored formats
//!
//! In the layouts in these files, `name: 4` is a field of 4 bytes. So `format: 1` is a field of one
//! byte; the number that it holds is the constant `FORMAT` of that file:
//!
//! ```text
//!                                writes   reads     where
//! a block                        1        1         block_header.rs
//! a record: a topic, the log     4        3, 4      meta.rs
//! a record: a place in a stream  4        4         meta.rs
//! a backup                       2        2         backup.rs
//! the mark                       41 bytes 41, 32    sled_log/mark.rs; it has no format number
//! the database                   that of sled 0.34.7 (sled_log/engine.rs)
//! ```
//!
//! Any other number is refused, and the message names it. A mark of any other length counts as
//! missing.

mod age;
mod applied;
pub(crate) mod backup;
mod backup_file;
mod block;
mod block_builder;
mod block_header;
pub mod contract;
#[cfg(feature = "http")]
mod digest;
mod extent;
mod failed;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod faulty_log;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group;
mod ids;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod log_around;
mod log_space;
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
pub(crate) use faulty_log::{Fault, FaultyLog, HeldGate};
#[cfg(test)]
pub(crate) use log_around::LogAround;
#[cfg(test)]
pub(crate) use sled_log::tests::damage_stored;

pub(crate) use age::Ages;
pub(crate) use block::Block;
pub(crate) use block_builder::BlockBuilder;
pub(crate) use block_header::HEADER_BYTES;
pub(crate) use contract::Seek;
pub(crate) use extent::{Ahead, Compacted};
pub(crate) use group::{Group, MAX_REMOVED_PARTS};
pub(crate) use ids::blocks_of_ids;
#[cfg(feature = "fleet")]
pub(crate) use meta::{DecodeProblem, decode_foreign_topic, encode_topic};
pub(crate) use new_records::NewRecords;
pub(crate) use placed_id::PlacedId;
pub(crate) use read_ahead::ReadAhead;
pub(crate) use record::RecordStart;
pub(crate) use stored_block::{LastEvent, StoredBlock, parts_in};
pub(crate) use stored_topic::StoredTopic;
pub(crate) use way_back::WayBack;

pub use applied::Applied;
pub use backup::{BackupHeader, BackupReader, Frame};
pub use backup_file::{BackupFile, backup_header, sync_and_verify};
pub use contract::Log;
#[cfg(feature = "http")]
pub(crate) use digest::TopicDigester;
#[cfg(feature = "http")]
pub use digest::{DIGEST_EVENTS, EventsDigest, digest_start};
pub use extent::Extent;
pub use log_space::LogSpace;
pub use memory_log::MemoryLog;
pub use record::{EventRef, Headers};
pub use sled_log::SledLog;
pub use sled_log::check::{CheckReport, Checking, check, repair};
pub use sled_log::config::{LEAST_FREE_BYTES, LogConfig};
#[cfg(feature = "http")]
pub use sled_log::digesting::{DigestedTopic, digest};
#[cfg(feature = "fleet")]
pub(crate) use sled_log::replacing::{
    Replacement, finish_replacing, forget_joined_number, joined_number, note_fleet, noted_fleet,
};
#[cfg(any(test, feature = "fleet"))]
pub(crate) use sled_log::restore::load_peer;
pub use sled_log::restore::{RestoreReport, Restoring, restore};
#[cfg(feature = "fleet")]
pub(crate) use sled_log::setting_aside::{
    AsideLog, AsideNote, NotedEnd, note_damage, note_end, noted_damage, noted_end, set_aside,
};
