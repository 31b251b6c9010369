//! Beyond one machine: the nodes of a fleet, which order their events through one stream.
//!
//! One node leads: it orders, and appends each group to the stream. All nodes apply the groups in
//! the order of the stream, so they hold the same blocks, byte for byte. The stream is replicated
//! by an engine of its own; nothing here is a consensus.
//!
//! ```text
//! leader     committer ──▶ replicated_log ──▶ writer ──▶ stream ──▶ engine
//!                               └─▶ local log, once the stream has the group
//! follower   engine ──▶ stream ──▶ assembler ──▶ committer ──▶ local log
//! ```
//!
//! `stream.rs` is the contract of the engine, and `nats/` the engine in NATS JetStream. `record.rs` is the form of a record of the stream,
//! `group_form.rs` that of a group, and `chain.rs` says which record may follow which. `writer.rs`
//! is the one task that appends, with `sending.rs`, which finds out whether a record is stored.
//! `replicated_log.rs` is the log that a broker of a fleet has.

mod chain;
mod clock;
mod group_form;
pub mod nats;
mod record;
mod replicated_log;
#[cfg(test)]
mod samples;
mod sending;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod simulation;
pub mod stream;
mod writer;

pub use chain::{Assembler, ChainBreak, StreamPlace, TakenRecord};
pub use clock::{RuntimeClock, SteadyClock};
pub use record::MAX_NODE_NAME_BYTES;
pub use replicated_log::ReplicatedLog;
pub use writer::{Leading, NotDecided, StreamWriter, WriterConfig};
