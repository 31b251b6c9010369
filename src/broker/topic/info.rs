//! The description of a topic for callers.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::entry::Topic;
use super::state::TopicState;
use crate::log::Extent;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The description of a topic at one moment. Serialized as the answer of the HTTP interface, which
/// has some of the extent.
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

impl Serialize for TopicInfo {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { name, extent, config, effective_config } = self;
        let mut fields = serializer.serialize_struct("TopicInfo", 9)?;
        fields.serialize_field("name", name)?;
        fields.serialize_field("earliest", &extent.earliest)?;
        fields.serialize_field("tail", &extent.tail)?;
        fields.serialize_field("events", &extent.events())?;
        fields.serialize_field("last_position", &extent.last_position)?;
        fields.serialize_field("last_time", &extent.last_time)?;
        fields.serialize_field("size_bytes", &extent.size_bytes())?;
        fields.serialize_field("config", config)?;
        fields.serialize_field("effective_config", effective_config)?;
        fields.end()
    }
}
