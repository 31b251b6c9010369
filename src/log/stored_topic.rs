//! A topic as the log has it: its name, what it holds, its settings.

use super::extent::Extent;
use crate::topic::{TopicId, TopicName};
use crate::topic_config::TopicConfig;

/// A topic as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTopic {
    /// Its id in the keys.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// What it holds.
    pub extent: Extent,
    /// Its settings, as far as they are its own.
    pub config: TopicConfig,
    /// Whether it was deleted. Its name and its places are kept: created again, it goes on there.
    pub is_deleted: bool,
}

impl StoredTopic {
    /// A topic before its first event.
    pub fn new(id: TopicId, name: TopicName) -> Self {
        let (extent, config) = (Extent::EMPTY, TopicConfig::default());
        Self { id, name, extent, config, is_deleted: false }
    }
}

/// How many sequences `topics` have given out.
pub(super) fn sequences(topics: &[StoredTopic]) -> u64 {
    topics.iter().map(|topic| topic.extent.tail.previous().get()).sum()
}
