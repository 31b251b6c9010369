//! Topics.

pub(super) mod chunks;
pub(super) mod list;
pub(super) mod matching;
pub(super) mod topics;
