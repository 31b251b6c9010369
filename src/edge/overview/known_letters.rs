//! The dead letters that nobody has handled, as they were found last.

use std::time::Instant;

use crate::event::Timestamp;
use crate::topic::TopicName;

/// The dead letters that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WaitingLetters {
    pub(super) count: u64,
    /// Whether the count is a lower bound.
    pub(super) more_than: bool,
    pub(super) topics: u64,
    /// The topic with the oldest of them, and the time of that one.
    pub(super) topic: TopicName,
    pub(super) oldest: Option<Timestamp>,
}

/// The dead letters as they were found last.
#[derive(Debug, Default)]
pub(super) struct KnownLetters {
    pub(super) waiting: Option<WaitingLetters>,
    /// The time until which they are told so.
    pub(super) fresh_until: Option<Instant>,
}
