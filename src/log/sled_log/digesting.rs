//! Digests of all topics of a log that no process has open.

use std::path::Path;

use super::check::{CheckReport, Checking, check_each};
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::block::Block;
use crate::log::digest::{EventsDigest, TopicDigester};
use crate::log::stored_topic::StoredTopic;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// A topic of a log, with the digests of its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestedTopic {
    /// The name of the topic.
    pub name: TopicName,
    /// The first readable sequence.
    pub earliest: Sequence,
    /// The topic's own settings.
    pub config: TopicConfig,
    /// The digests of its events, in order.
    pub digests: Vec<EventsDigest>,
}

/// Verifies a log as [`check`](super::check::check) does, and returns the digests of the events of
/// all topics that exist, up to the position `through`.
///
/// # Errors
///
/// Those of [`check`](super::check::check).
pub fn digest(
    directory: &Path,
    scratch: &Path,
    through: Position,
    progress: impl FnMut(Checking),
) -> Result<(CheckReport, Vec<DigestedTopic>)> {
    let mut topics: Vec<DigestedTopic> = Vec::new();
    let mut current: Option<(StoredTopic, TopicDigester)> = None;
    let mut end = |current: Option<(StoredTopic, TopicDigester)>| {
        let Some((StoredTopic { name, extent, config, .. }, digester)) = current else { return };
        let (digests, _) = digester.finish(true);
        topics.push(DigestedTopic { name, earliest: extent.earliest, config, digests });
    };
    let mut look = |topic: &StoredTopic, block: Option<&Block>| {
        if topic.is_deleted {
            return;
        }
        match (block, &mut current) {
            (None, _) => {
                let digester = TopicDigester::new(topic.extent.earliest, through);
                end(current.replace((topic.clone(), digester)));
            }
            (Some(block), Some((_, digester))) => {
                block.events().for_each(|event| digester.take(&event));
            }
            (Some(_), None) => {}
        }
    };
    let report = check_each(directory, scratch, progress, &mut look)?;
    end(current);
    topics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((report, topics))
}
