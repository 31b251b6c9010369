//! The ephemeral events of the topics that a feed follows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::filter::Conditions;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::topic::TopicName;

/// The most topics of which the feed knows the last event that it was given. With more, it forgets
/// them, and may miss ephemeral events.
const MAX_TOPICS: usize = 1_024;

/// The ephemeral events that a feed has delivered, and the topics with more of them.
#[derive(Debug)]
pub(super) struct EphemeralEnds {
    /// The number of the last ephemeral event before the feed began, or before it forgot topics.
    since: u64,
    /// The number of the last ephemeral event that the feed was given of each topic.
    numbers: HashMap<TopicName, u64>,
    /// Topics that may have more ephemeral events.
    topics: Vec<Arc<Topic>>,
}

impl EphemeralEnds {
    /// Returns the state of a feed that begins after the ephemeral event with this number.
    pub(super) fn after(since: u64) -> Self {
        Self { since, numbers: HashMap::new(), topics: Vec::new() }
    }

    /// Adds a topic that may have new ephemeral events.
    pub(super) fn add(&mut self, topic: &Arc<Topic>) {
        let is_known = self.topics.iter().any(|other| Arc::ptr_eq(other, topic));
        if !is_known && topic.ephemeral.after(self.number_in(topic)).is_some() {
            self.topics.push(topic.clone());
        }
    }

    fn number_in(&self, topic: &Topic) -> u64 {
        self.numbers.get(&topic.name).copied().unwrap_or(self.since)
    }

    /// Returns the next ephemeral event that `filter` picks.
    pub(super) fn next(&mut self, filter: Option<&Conditions>) -> Option<Arc<Ephemeral>> {
        while let Some(topic) = self.topics.last().cloned() {
            let Some((event, number)) = topic.ephemeral.after(self.number_in(&topic)) else {
                self.topics.pop();
                continue;
            };
            if self.numbers.len() >= MAX_TOPICS {
                self.since = self.numbers.values().copied().fold(number, u64::max);
                self.numbers.clear();
            }
            self.numbers.insert(topic.name.clone(), number);
            if filter.is_none_or(|filter| filter.picks_new(&event.event)) {
                return Some(event);
            }
        }
        None
    }
}
