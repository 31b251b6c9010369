//! A topic as the log has it: its name, its extent and its settings.

use super::extent::Extent;
use crate::topic::{TopicId, TopicName};
use crate::topic_config::TopicConfig;

/// A topic as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTopic {
    /// The id of the topic in the keys.
    pub id: TopicId,
    /// The name of the topic.
    pub name: TopicName,
    /// The extent of the topic.
    pub extent: Extent,
    /// The topic's own settings, without the broker's defaults.
    pub config: TopicConfig,
    /// Whether the topic was deleted. Its name and places stay: a topic that is created again goes
    /// on at the next sequence.
    pub is_deleted: bool,
}

impl StoredTopic {
    /// Returns a topic before its first event, without settings.
    pub fn new(id: TopicId, name: TopicName) -> Self {
        let (extent, config) = (Extent::EMPTY, TopicConfig::default());
        Self { id, name, extent, config, is_deleted: false }
    }
}

/// Returns the number of sequences that `topics` have given out together.
pub(super) fn sequences(topics: &[StoredTopic]) -> u64 {
    topics.iter().map(|topic| topic.extent.tail.previous().get()).sum()
}
