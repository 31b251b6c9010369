//! Ephemeral events: for who is there, and gone. Never stored, without places, first to be dropped.
//!
//! # Why
//!
//! Topics keep the newest of them for their followers, and no follower keeps any: it knows the
//! number of the last it has heard, and gets the rest when it has nothing else to do. So whoever is
//! behind with what is stored misses them, and nobody waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use crate::broker::tail::newest::{FORMS, Form};
use crate::broker::topic::topics::Topic;
use crate::event::{NewEvent, Timestamp};
use crate::topic::TopicName;

/// An ephemeral event on its way.
#[derive(Debug)]
pub struct Ephemeral {
    /// Which one it is, of all since the start.
    pub number: u64,
    /// The topic.
    pub topic: TopicName,
    /// When it was published.
    pub time: Timestamp,
    /// What was published.
    pub event: NewEvent,
    forms: [OnceLock<Bytes>; FORMS],
}

impl Ephemeral {
    /// It in a wire form, which is written once for all.
    pub fn encoded(&self, form: Form, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.forms[form as usize].get_or_init(|| encode(self)).clone()
    }

    fn size_bytes(&self) -> usize {
        size_of::<Self>() + self.event.content_bytes()
    }
}

/// The newest ephemeral events of one topic. Made for the first of them.
#[derive(Debug, Default)]
pub(super) struct Ring(OnceLock<Box<Mutex<VecDeque<Arc<Ephemeral>>>>>);

impl Ring {
    fn events(&self) -> MutexGuard<'_, VecDeque<Arc<Ephemeral>>> {
        let events = self.0.get_or_init(Box::default);
        events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event after the one with this number, and its number.
    pub(super) fn after(&self, number: u64) -> Option<(Arc<Ephemeral>, u64)> {
        self.0.get()?; // Most topics never have any.
        let events = self.events();
        let index = events.partition_point(|event| event.number <= number);
        events.get(index).map(|event| (event.clone(), event.number))
    }
}

/// The ephemeral events of all topics, in their order, within one bound.
#[derive(Debug)]
pub(super) struct Ephemera {
    max_bytes: usize,
    order: Mutex<Order>,
    /// The number of the last one.
    last: AtomicU64,
}

#[derive(Debug, Default)]
struct Order {
    topics: VecDeque<Arc<Topic>>,
    used_bytes: usize,
}

impl Ephemera {
    /// None yet; they may take so much.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, order: Mutex::default(), last: AtomicU64::new(0) }
    }

    /// The number of the last one.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Adds an event as the newest; where there is no room, the oldest of all go.
    pub(super) fn push(&self, topic: &Arc<Topic>, time: Timestamp, event: NewEvent) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.last() + 1;
        let (name, forms) = (topic.name.clone(), Default::default());
        let event = Ephemeral { number, topic: name, time, event, forms };
        order.used_bytes += event.size_bytes();
        order.topics.push_back(topic.clone());
        topic.ephemera.events().push_back(Arc::new(event));
        self.last.store(number, Ordering::SeqCst);
        while order.used_bytes > self.max_bytes {
            let Some(oldest) = order.topics.pop_front() else { break };
            let mut events = oldest.ephemera.events();
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
    use crate::broker::topic::topics::{TopicDefaults, Topics};

    #[test]
    fn the_newest_of_all_topics_are_kept_within_one_bound() {
        let topics = Topics::new(&[], &Default::default(), TopicDefaults::default());
        let [a, b] = ["a", "b"].map(|name| topics.open(&name.parse().unwrap()).unwrap());
        let ephemera = Ephemera::new(8 << 10);
        let push = |topic: &Arc<Topic>, size_bytes: usize| {
            ephemera.push(topic, Timestamp::default(), NewEvent::new(vec![0; size_bytes]));
        };
        let heard = |topic: &Arc<Topic>, after: u64| -> Vec<u64> {
            let next = |number: u64| topic.ephemera.after(number).map(|(_, number)| number);
            std::iter::successors(next(after), |number| next(*number)).collect()
        };
        assert_eq!(heard(&a, 0), [0; 0]);
        (0..3).for_each(|_| [&a, &b].into_iter().for_each(|topic| push(topic, 10)));
        assert_eq!((heard(&a, 0), heard(&b, 2)), (vec![1, 3, 5], vec![4, 6]));
        push(&a, 7 << 10);
        assert_eq!((heard(&a, 0), heard(&b, 0)), (vec![7], vec![]), "the others are gone");
        push(&b, 100 << 10);
        assert_eq!((heard(&a, 0), heard(&b, 0)), (vec![], vec![]), "one that is too large is, too");
        assert_eq!(ephemera.last(), 8);
    }
}
