//! A publisher's id with the places of the event that had it.

use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// The id of an event, with the places and times of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacedId<'a> {
    /// The publisher's own id.
    pub id: &'a str,
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
    /// The time at which the event was appended.
    pub time: Timestamp,
    /// The reading of the system clock at that moment.
    pub clock: Timestamp,
}
