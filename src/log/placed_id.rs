//! An id that a publisher gave, with the places of its event.

use crate::cursor::{Position, Sequence};
use crate::event::Timestamp;

/// The id of an event, with the places and times of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlacedId<'a> {
    /// The publisher's own id.
    pub(crate) id: &'a str,
    /// The event's place in its topic.
    pub(crate) sequence: Sequence,
    /// The event's place in the whole broker.
    pub(crate) position: Position,
    /// The time at which the event was appended.
    pub(crate) time: Timestamp,
    /// The reading of the system clock at that moment.
    pub(crate) clock: Timestamp,
}
