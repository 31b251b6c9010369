//! A topic as the log has it: its name, what it holds, its settings.

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
    /// The events and bytes that the topic holds.
    pub extent: Extent,
    /// The topic's own settings; the broker's defaults are not among them.
    pub config: TopicConfig,
    /// Whether the topic was deleted. Its name and places stay: a topic that is created again goes
    /// on at the next sequence.
    pub is_deleted: bool,
}

impl StoredTopic {
    /// A topic before its first event.
    pub fn new(id: TopicId, name: TopicName) -> Self {
        let (extent, config) = (Extent::EMPTY, TopicConfig::default());
        Self { id, name, extent, config, is_deleted: false }
    }
}

/// Returns how many sequences `topics` have given out together.
pub(super) fn sequences(topics: &[StoredTopic]) -> u64 {
    topics.iter().map(|topic| topic.extent.tail.previous().get()).sum()
}
