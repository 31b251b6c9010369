//! Tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! `block.rs` is a block with its wire forms, and the account of their bytes. `form.rs` numbers the
//! slots of these forms. `run.rs` is the part of a block that a reader gets. `newest.rs` is the
//! tail of one topic, and the order of the blocks of all topics. Nothing here knows the state of a
//! topic, or a protocol.

pub(super) mod block;
pub(super) mod form;
pub(super) mod newest;
pub(super) mod run;
