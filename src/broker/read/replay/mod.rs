//! Replay: blocks that were read from the log, kept for a while and shared by readers.
//!
//! `replays.rs` keeps the blocks that were read last, `ahead.rs` reads many topics in one go, and
//! `stash.rs` keeps blocks that were read along with others.

pub(crate) mod ahead;
pub(crate) mod replays;
pub(crate) mod stash;
