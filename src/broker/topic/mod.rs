//! Topics: each one with its state, and all of them by their names.
//!
//! `entry.rs` is one topic, as all parts of the broker share it. Its parts are files of their own:
//! `state.rs`, `upkeep.rs` (the notes of maintenance), `signal.rs`, `members.rs`, `ephemeral.rs`.
//! `topics.rs` holds all topics by name, `list.rs` and `matching.rs` search them, `counts.rs`
//! bounds their number, and `defaults.rs` has their settings by patterns. `chunks.rs` holds topics
//! by their ids, and does not know what a topic is. Nothing here imports the committer or the
//! broker.

pub(super) mod chunks;
mod counts;
pub(super) mod defaults;
pub(super) mod entry;
pub(super) mod ephemeral;
pub(super) mod info;
pub(super) mod list;
pub(super) mod matching;
pub(super) mod members;
pub(super) mod signal;
pub(super) mod state;
pub(super) mod topics;
pub(super) mod upkeep;
