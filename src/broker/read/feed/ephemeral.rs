//! The ephemeral events of the topics that a feed follows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::ephemeral::Ephemeral;
use crate::broker::read::filter::Filter;
use crate::broker::topic::topics::Topic;
use crate::topic::TopicName;

/// Topics of which it is known what was heard; with more, what was not heard yet is missed.
const MAX_TOPICS: usize = 1_024;

/// What was heard, and where there is more.
#[derive(Debug)]
pub(super) struct Whispers {
    /// The number of the last ephemeral event before the feed, or before it forgot.
    since: u64,
    /// The number of the last one heard in a topic.
    heard: HashMap<TopicName, u64>,
    /// Topics in which there is more, maybe.
    topics: Vec<Arc<Topic>>,
}

impl Whispers {
    /// Of a feed that begins after the ephemeral event with this number.
    pub(super) fn after(since: u64) -> Self {
        Self { since, heard: HashMap::new(), topics: Vec::new() }
    }

    /// Notes a topic with something new.
    pub(super) fn note(&mut self, topic: &Arc<Topic>) {
        let is_noted = self.topics.iter().any(|other| Arc::ptr_eq(other, topic));
        if !is_noted && topic.ephemera.after(self.heard_of(topic)).is_some() {
            self.topics.push(topic.clone());
        }
    }

    fn heard_of(&self, topic: &Topic) -> u64 {
        self.heard.get(&topic.name).copied().unwrap_or(self.since)
    }

    /// The next one that `filter` picks.
    pub(super) fn next(&mut self, filter: Option<&Filter>) -> Option<Arc<Ephemeral>> {
        while let Some(topic) = self.topics.last().cloned() {
            let Some((event, number)) = topic.ephemera.after(self.heard_of(&topic)) else {
                self.topics.pop();
                continue;
            };
            if self.heard.len() >= MAX_TOPICS {
                self.since = self.heard.values().copied().fold(number, u64::max);
                self.heard.clear();
            }
            self.heard.insert(topic.name.clone(), number);
            if filter.is_none_or(|filter| filter.picks_new(&event.event)) {
                return Some(event);
            }
        }
        None
    }
}
