//! The broker's own topics that have records which this version cannot read, and what is wrong with
//! them: told to those who operate the broker.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::topic::TopicName;

/// The topics, each with its last problem. There are few of the broker's own.
#[derive(Debug, Default)]
pub(super) struct UnreadTopics(Mutex<BTreeMap<TopicName, String>>);

impl UnreadTopics {
    fn topics(&self) -> MutexGuard<'_, BTreeMap<TopicName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is wrong with a topic; `None` if nothing is, or is any more.
    pub(super) fn note(&self, topic: &TopicName, problem: Option<String>) {
        match problem {
            Some(problem) => drop(self.topics().insert(topic.clone(), problem)),
            None => drop(self.topics().remove(topic)),
        }
    }

    /// Returns the topics, in the order of their names.
    pub(super) fn list(&self) -> Vec<(TopicName, String)> {
        self.topics().iter().map(|(topic, problem)| (topic.clone(), problem.clone())).collect()
    }
}
