//! The last sequences of topics at or before a position.

use std::sync::Arc;

use crate::broker::shared::Shared;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::matching::{PatternSet, PatternWalk};
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{Log, Seek};
use crate::topic::{TopicName, TopicPattern};

/// A topic with its last sequence at or before a position; 0 if it had no event there.
pub(crate) type TopicEnd = (TopicName, Sequence);

/// Returns the ends at `position` of these topics, without those that do not exist.
///
/// # Errors
///
/// [`Error::ReadFailed`](crate::Error::ReadFailed), [`Error::Damaged`](crate::Error::Damaged).
///
/// # Cancel safety
///
/// Nothing is left of it.
pub(crate) async fn ends_of(
    shared: &Shared,
    names: impl IntoIterator<Item = TopicName>,
    position: Position,
) -> Result<Vec<TopicEnd>> {
    let names = names.into_iter();
    let topics = names.filter_map(|name| shared.topics.existing(&name).ok()).collect();
    ends(shared, topics, position).await
}

/// The end of a topic whose name fits a pattern, at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PatternEnd {
    pub(crate) topic: TopicName,
    /// The last sequence at or before the position; 0 if there was none. `None` if it is not known,
    /// because events after the position were trimmed.
    pub(crate) end: Option<Sequence>,
}

/// Returns the ends at `position` of the topics whose names fit `pattern`, also of deleted ones;
/// `None` if they are more than `max_topics`.
///
/// An event that compaction has dropped has no position any more. It counts as one at or before
/// `position` if the event before it is one.
///
/// # Errors
///
/// As [`ends_of`].
///
/// # Cancel safety
///
/// Nothing is left of it.
pub(crate) async fn ends_in(
    shared: &Shared,
    pattern: &TopicPattern,
    position: Position,
    max_topics: usize,
) -> Result<Option<Vec<PatternEnd>>> {
    let mut walk = PatternWalk::new(&Arc::new(std::iter::once(pattern).collect::<PatternSet>()));
    let mut topics = Vec::new();
    while let Some(found) = walk.next(&shared.topics).await {
        topics.extend(found);
        if topics.len() > max_topics {
            return Ok(None);
        }
    }
    let mut found = Vec::with_capacity(topics.len());
    for topic in topics {
        let is_known = || topic.state().extent.trimmed_position <= position;
        let end = match is_known() {
            true => Some(end(shared, &topic, position).await),
            false => None,
        };
        // Events may have been trimmed meanwhile.
        let end = end.filter(|_| is_known()).transpose()?;
        found.push(PatternEnd { topic: topic.name.clone(), end });
    }
    Ok(Some(found))
}

async fn ends(
    shared: &Shared,
    topics: Vec<Arc<Topic>>,
    position: Position,
) -> Result<Vec<TopicEnd>> {
    let mut found = Vec::with_capacity(topics.len());
    for topic in topics {
        let end = end(shared, &topic, position).await?;
        found.push((topic.name.clone(), end));
    }
    Ok(found)
}

/// Returns the end of a topic. Most topics have no event after the position, so that nothing is
/// read.
async fn end(shared: &Shared, topic: &Topic, position: Position) -> Result<Sequence> {
    let state = topic.state();
    let (earliest, tail) = (state.extent.earliest, state.extent.tail);
    let is_before = state.extent.last_position <= position;
    match state.id {
        _ if is_before => Ok(tail.previous()),
        _ if state.extent.lowest_position() > position => Ok(earliest.previous()),
        None => Ok(tail.previous()),
        Some(id) => {
            let after = Seek::AfterPosition(position);
            let seek = move |log: &dyn Log| log.seek(id, after, earliest, tail);
            Ok(shared.turns.read(seek).await?.previous())
        }
    }
}
