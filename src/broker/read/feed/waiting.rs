//! A topic with events for a feed, of which no block is held.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::broker::read::gaps::WantedPlace;
use crate::broker::topic::entry::Topic;
use crate::cursor::{Position, Sequence};
use crate::topic::TopicId;

/// A topic of which no block is held. It waits for its turn.
#[derive(Debug, Clone)]
pub(super) struct WaitingTopic {
    /// A lower bound on the positions of the topic's events after the feed's place.
    pub(super) at: Position,
    pub(super) id: TopicId,
    pub(super) topic: Arc<Topic>,
    /// The sequence that comes next in the topic; `None` while it is not looked up.
    pub(super) next: Option<Sequence>,
    /// Whether the reader holds no key of the topic: it came before all the topic's events, and has
    /// read none of them.
    pub(super) is_unread: bool,
}

impl WaitingTopic {
    /// Returns the event of the topic that a reader at `after` wants next.
    pub(super) fn wanted(&self, after: Position) -> WantedPlace {
        match self.next {
            Some(next) if self.is_unread => WantedPlace::First(next),
            Some(next) => WantedPlace::Sequence(next),
            None => WantedPlace::Position(after.next()),
        }
    }
}

impl PartialEq for WaitingTopic {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for WaitingTopic {}

impl PartialOrd for WaitingTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WaitingTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.id).cmp(&(other.at, other.id))
    }
}
