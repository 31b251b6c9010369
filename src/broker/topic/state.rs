//! The state of a topic: all of it at one moment, and a packed form that takes little memory.

use crate::log::Extent;
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// The state of a topic at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicState {
    /// The id in the log; `None` until the log has a record of the topic.
    pub(crate) id: Option<TopicId>,
    /// The readable extent. All events below its tail are durable.
    pub(crate) extent: Extent,
    /// The topic's own settings.
    pub(crate) config: TopicConfig,
    /// Whether the topic was deleted. Its sequences are kept, for when it is created again.
    pub(crate) is_deleted: bool,
    /// The number of times that the topic was deleted since the start. With it readers see a
    /// deletion also if the topic is created again before they look.
    pub(crate) deletions: u32,
}

impl TopicState {
    /// Whether the topic exists.
    pub(crate) fn exists(&self) -> bool {
        self.id.is_some() && !self.is_deleted
    }
}

/// A topic's state as it is kept in memory. The topic's own settings, which few topics have, are
/// allocated apart.
#[derive(Debug)]
pub(super) struct PackedState {
    id: Option<TopicId>,
    extent: Extent,
    config: Option<Box<TopicConfig>>,
    is_deleted: bool,
    deletions: u32,
}

impl From<TopicState> for PackedState {
    fn from(state: TopicState) -> Self {
        let TopicState { id, extent, config, is_deleted, deletions } = state;
        let config = (config != TopicConfig::default()).then(|| Box::new(config));
        Self { id, extent, config, is_deleted, deletions }
    }
}

impl PackedState {
    pub(super) fn state(&self) -> TopicState {
        let Self { id, extent, ref config, is_deleted, deletions } = *self;
        let config = config.as_deref().copied().unwrap_or_default();
        TopicState { id, extent, config, is_deleted, deletions }
    }
}
