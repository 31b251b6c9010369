//! The description of a topic for callers.

use super::entry::Topic;
use super::state::TopicState;
use crate::log::Extent;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The description of a topic at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// The name.
    pub name: TopicName,
    /// The extent: earliest, tail and sizes.
    pub extent: Extent,
    /// The topic's own settings.
    pub config: TopicConfig,
    /// The settings that hold: the topic's own, then those of the configuration's patterns.
    pub effective_config: TopicConfig,
}

impl TopicInfo {
    /// Describes `topic` as it is now.
    pub(crate) fn of(topic: &Topic) -> Self {
        let TopicState { extent, config, .. } = topic.state();
        let (name, effective_config) = (topic.name.clone(), topic.effective_config());
        Self { name, extent, config, effective_config }
    }
}
