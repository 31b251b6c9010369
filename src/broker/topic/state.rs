//! The state of a topic: all of it at one moment, and the form in which it takes little memory.

use crate::log::Extent;
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// The state of a topic, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicState {
    /// The id in the log; `None` until the first event is durable.
    pub(crate) id: Option<TopicId>,
    /// The extent that is readable. Everything below its tail is durable.
    pub(crate) extent: Extent,
    /// The topic's own settings.
    pub(crate) config: TopicConfig,
    /// Whether it was deleted; its places are kept, for when it is created again.
    pub(crate) is_deleted: bool,
    /// The number of times that the topic was deleted since the start. Readers end with a deletion,
    /// also where the topic is created again before they see it.
    pub(crate) deletions: u32,
}

impl TopicState {
    /// Returns whether it exists.
    pub(crate) fn exists(&self) -> bool {
        self.id.is_some() && !self.is_deleted
    }
}

/// A topic's state as it is kept: settings of its own, which few topics have, apart.
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
