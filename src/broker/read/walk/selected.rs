//! The topics of a selection, as they are at one moment.

use std::sync::Arc;

use crate::broker::shared::Shared;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::matching::{PatternSet, PatternWalk};
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::event::Timestamp;
use crate::log::{Ages, EventRef, Extent, Log, Seek};
use crate::topic::{TopicId, TopicName, TopicPattern};

/// A topic as it is at one moment, with what decides which of its events a reader gets.
#[derive(Debug, Clone)]
pub(crate) struct SelectedTopic {
    pub(super) topic: Arc<Topic>,
    pub(super) id: TopicId,
    pub(crate) extent: Extent,
    /// The ages of the topic's events at that moment.
    pub(super) ages: Ages,
    /// Whether an event with a key deletes the key when it expires: the topic is compacted.
    pub(crate) deletes_keys: bool,
}

/// The topics of a selection that have an event to read, as they are at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Selected {
    /// The topics, in the order of their names.
    pub(crate) topics: Vec<SelectedTopic>,
    /// The position at which all is true: the selection has every event up to here, and none after.
    pub(crate) position: Position,
    /// The moment.
    pub(crate) now: Timestamp,
}

impl SelectedTopic {
    /// Returns the name of the topic.
    pub(crate) fn name(&self) -> &TopicName {
        &self.topic.name
    }

    /// Returns the id of the topic in the log.
    pub(crate) fn id(&self) -> TopicId {
        self.id
    }

    /// Returns the time at which an event expires, or becomes a deletion of its key; `None` if it
    /// never does, or did.
    pub(super) fn expires(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        self.ages.expires(event).filter(|time| *time > self.ages.now)
    }

    /// Returns the first sequence after `position`, within the topic's extent. `None` if it must be
    /// read from the log, and no log is given.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    pub(super) fn after_position(
        &self,
        log: Option<&dyn Log>,
        position: Position,
    ) -> Result<Option<Sequence>> {
        let Extent { earliest, tail, last_position, .. } = self.extent;
        if position >= last_position {
            return Ok(Some(tail));
        }
        if position < self.extent.lowest_position() {
            return Ok(Some(earliest));
        }
        if let Some(found) = self.topic.tail.seek_after(position) {
            return Ok(Some(found.clamp(earliest, tail)));
        }
        let Some(log) = log else { return Ok(None) };
        log.seek(self.id, Seek::AfterPosition(position), earliest, tail).map(Some)
    }

    /// Returns the topic as it is now; `None` if it has no event.
    pub(super) fn of(topic: Arc<Topic>, now: Timestamp) -> Option<Self> {
        let state = topic.state();
        let extent = state.extent;
        let id = state.id.filter(|_| !state.is_deleted && !extent.is_empty())?;
        let deletes_keys = topic.effective_config().key_limit().is_some();
        Some(Self { topic, id, extent, ages: Ages::of(&extent, now), deletes_keys })
    }
}

impl Selected {
    /// Selects one topic. A topic that does not exist has no events.
    pub(crate) fn one(shared: &Shared, name: &TopicName) -> Self {
        let (position, now) = (Position::new(shared.last_position()), (shared.now)());
        let topic = shared.topics.existing(name).ok();
        let topic = topic.and_then(|topic| SelectedTopic::of(topic, now));
        // The topic may have an event by now that was not announced when the position was read.
        let last = topic.as_ref().map_or(position, |topic| topic.extent.last_position);
        Self { topics: topic.into_iter().collect(), position: position.max(last), now }
    }

    /// Selects all topics whose names fit any of the patterns.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left of it.
    pub(crate) async fn many(shared: &Shared, patterns: &[TopicPattern]) -> Self {
        // The position is read before the topics are looked at, which show all events up to it.
        let (position, now) = (Position::new(shared.last_position()), (shared.now)());
        let mut walk = PatternWalk::new(&Arc::new(patterns.iter().collect::<PatternSet>()));
        let mut topics = Vec::new();
        while let Some(found) = walk.next(&shared.topics).await {
            topics.extend(found.into_iter().filter_map(|topic| SelectedTopic::of(topic, now)));
        }
        Self { topics, position, now }
    }

    /// Selects the topic that `selection` names, or all topics whose names fit it.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::many`].
    pub(crate) async fn of(shared: &Shared, selection: &TopicPattern) -> Self {
        match TopicName::new(selection.as_str()) {
            Ok(name) => Self::one(shared, &name),
            Err(_it_has_wildcards) => Self::many(shared, std::slice::from_ref(selection)).await,
        }
    }
}
