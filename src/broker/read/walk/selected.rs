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

/// The topics of a selection, as they are at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Selected {
    /// The topics that exist, in the order of their names.
    pub(crate) topics: Vec<SelectedTopic>,
    /// The topics that were deleted, with what they had.
    pub(crate) deleted: Vec<(TopicName, Extent)>,
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

    /// Returns the topic as it is now; `None` if it does not exist.
    pub(super) fn of(topic: Arc<Topic>, now: Timestamp) -> Option<Self> {
        let state = topic.state();
        let (id, extent) = (state.id.filter(|_| !state.is_deleted)?, state.extent);
        let deletes_keys = topic.effective_config().key_limit().is_some();
        Some(Self { topic, id, extent, ages: Ages::of(&extent, now), deletes_keys })
    }
}

impl Selected {
    /// Selects one topic. A topic that does not exist has no events.
    pub(crate) fn one(shared: &Shared, name: &TopicName) -> Self {
        let mut selected = Self::none(shared);
        let topic = shared.topics.with_names(|names| names.get(name).cloned());
        topic.into_iter().for_each(|topic| selected.add(topic));
        // The topic may have an event by now that was not announced when the position was read.
        let last = selected.topics.iter().map(|topic| topic.extent.last_position).max();
        selected.position = selected.position.max(last.unwrap_or_default());
        selected
    }

    /// Selects all topics whose names fit any of the patterns.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left of it.
    pub(crate) async fn many(shared: &Shared, patterns: &[TopicPattern]) -> Self {
        let mut selected = Self::none(shared);
        let mut walk = PatternWalk::new(&Arc::new(patterns.iter().collect::<PatternSet>()));
        while let Some(found) = walk.next(&shared.topics).await {
            found.into_iter().for_each(|topic| selected.add(topic));
        }
        selected
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

    /// Begins a selection. The position is read before the topics are looked at, which show all
    /// events up to it.
    fn none(shared: &Shared) -> Self {
        let (position, now) = (Position::new(shared.last_position()), (shared.now)());
        Self { topics: Vec::new(), deleted: Vec::new(), position, now }
    }

    fn add(&mut self, topic: Arc<Topic>) {
        let state = topic.state();
        if state.is_deleted {
            self.deleted.push((topic.name.clone(), state.extent));
        }
        self.topics.extend(SelectedTopic::of(topic, self.now));
    }
}
