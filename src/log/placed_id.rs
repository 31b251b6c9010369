//! A publisher's id with the places of the event that had it.

use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// The id of an event, and where that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedId<'a> {
    /// The publisher's own id.
    pub id: &'a str,
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// Its place in the whole broker.
    pub position: Position,
    /// When it was appended.
    pub time: Timestamp,
    /// What the system clock said then.
    pub clock: Timestamp,
}
