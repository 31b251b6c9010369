//! Tails: the newest blocks of all topics in memory, shared by every reader.
//!
//! `block.rs` is a block with its wire forms, and the account of their bytes; `form.rs` numbers the
//! slots of these forms; `run.rs` is what a reader gets of a block; `newest.rs` is the tail of one
//! topic, and the order of all blocks. Nothing here knows a topic or a protocol.

pub(super) mod block;
pub(super) mod form;
pub(super) mod newest;
pub(super) mod run;
