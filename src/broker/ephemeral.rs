//! Ephemeral events of all topics: delivered to the followers that are there, never stored, without
//! places, and dropped first.
//!
//! # Why
//!
//! Each topic keeps its newest ephemeral events for its followers. A follower keeps none: it knows
//! the number of the last one that it was given, and takes the next ones when it has nothing else
//! to deliver. A follower that is behind with stored events misses ephemeral ones, and nobody waits
//! for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::topic::entry::Topic;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::error::Result;
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

/// Hands ephemeral events that are published here on to the other nodes of a fleet.
pub(crate) trait EphemeralRelay: fmt::Debug + Send + Sync {
    /// Hands on an event, without waiting. It may be lost.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`](crate::Error::OverLimit): the event is too large to be handed on.
    fn hand_on(&self, topic: &TopicName, time: Timestamp, event: &NewEvent) -> Result<()>;
}

/// The newest ephemeral events of all topics, in their order, within one bound.
#[derive(Debug)]
pub(super) struct EphemeralEvents {
    max_bytes: usize,
    order: Mutex<EphemeralOrder>,
    /// The number of the newest event.
    last: AtomicU64,
}

#[derive(Debug, Default)]
struct EphemeralOrder {
    topics: VecDeque<Arc<Topic>>,
    used_bytes: usize,
}

impl EphemeralEvents {
    /// Returns an empty store, whose events may take `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, order: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// Returns the number of the newest event; 0 if there was none.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Adds an event as the newest. If there is no room, the oldest events of all topics go.
    pub(super) fn push(&self, topic: &Arc<Topic>, time: Timestamp, event: NewEvent) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.last() + 1;
        let event = Ephemeral::new(number, topic.name.clone(), time, event);
        order.used_bytes += event.size_bytes();
        order.topics.push_back(topic.clone());
        topic.ephemeral.events().push_back(Arc::new(event));
        self.last.store(number, Ordering::SeqCst);
        while order.used_bytes > self.max_bytes {
            let Some(oldest) = order.topics.pop_front() else { break };
            let mut events = oldest.ephemeral.events();
            order.used_bytes -= events.pop_front().map_or(0, |event| event.size_bytes());
            if events.is_empty() {
                events.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topic::defaults::TopicDefaults;
    use crate::broker::topic::topics::Topics;

    #[test]
    fn the_newest_of_all_topics_are_kept_within_one_bound() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let [a, b] = ["a", "b"].map(|name| topics.open(&name.parse().unwrap()).unwrap());
        let ephemeral = EphemeralEvents::new(8 << 10);
        let push = |topic: &Arc<Topic>, size_bytes: usize| {
            ephemeral.push(topic, Timestamp::default(), NewEvent::new(vec![0; size_bytes]));
        };
        let heard = |topic: &Arc<Topic>, after: u64| -> Vec<u64> {
            let next = |number: u64| topic.ephemeral.after(number).map(|(_, number)| number);
            std::iter::successors(next(after), |number| next(*number)).collect()
        };
        assert_eq!(heard(&a, 0), [0; 0]);
        (0..3).for_each(|_| [&a, &b].into_iter().for_each(|topic| push(topic, 10)));
        assert_eq!((heard(&a, 0), heard(&b, 2)), (vec![1, 3, 5], vec![4, 6]));
        push(&a, 7 << 10);
        assert_eq!((heard(&a, 0), heard(&b, 0)), (vec![7], vec![]), "the others are gone");
        push(&b, 100 << 10);
        assert_eq!((heard(&a, 0), heard(&b, 0)), (vec![], vec![]), "a too large one is gone, too");
        assert_eq!(ephemeral.last(), 8);
    }
}
