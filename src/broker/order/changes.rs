//! Changes of topics: they are created, get other settings, or are deleted.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Committer, next_id};
use crate::broker::topic::topics::{Topic, TopicRef, TopicState};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::log::{Extent, Group, StoredTopic};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// A change that somebody waits for.
#[derive(Debug)]
pub(in crate::broker) struct Asked {
    pub(in crate::broker) topic: TopicRef,
    pub(in crate::broker) change: Change,
    pub(in crate::broker) answer: oneshot::Sender<Result<()>>,
}

/// What becomes of a topic.
#[derive(Debug, Clone)]
pub(in crate::broker) enum Change {
    /// It is created with these settings, unless it exists.
    Create(TopicConfig),
    /// It has these settings, and is created if it does not exist.
    Set(TopicConfig),
    /// It has the fields of these settings that are named.
    Update(TopicConfig, Vec<String>),
    /// It is deleted, with its events and its settings.
    Delete,
}

/// Topics as they are once a commit has changed them.
#[derive(Default)]
struct Changed {
    topics: Vec<(Arc<Topic>, TopicState)>,
    by_topic: HashMap<*const Topic, usize>,
    /// How many more topics exist then, and how many more are deleted.
    existing: isize,
    deleted: isize,
}

impl Changed {
    /// Refuses a change that makes one more topic of a kind than there may be.
    fn check(&self, topic: &Topic, from: &TopicState, to: TopicState) -> Result<TopicState> {
        if to.exists() && !from.exists() {
            topic.check_existing(self.existing)?;
        }
        if to.is_deleted && !from.is_deleted {
            topic.check_deleted(self.deleted)?;
        }
        Ok(to)
    }

    /// The place of a topic that one of the changes was about already.
    fn place(&self, topic: &Arc<Topic>) -> Option<usize> {
        self.by_topic.get(&Arc::as_ptr(topic)).copied()
    }

    fn set(&mut self, topic: &Arc<Topic>, from: &TopicState, state: TopicState) {
        self.existing += isize::from(state.exists()) - isize::from(from.exists());
        self.deleted += isize::from(state.is_deleted) - isize::from(from.is_deleted);
        match self.place(topic) {
            Some(place) => self.topics[place].1 = state,
            None => {
                self.by_topic.insert(Arc::as_ptr(topic), self.topics.len());
                self.topics.push((topic.clone(), state));
            }
        }
    }
}

impl Committer {
    /// Makes all changes in one commit, in their order, and answers everyone. One that is refused
    /// changes nothing, and keeps no other from being made.
    pub(super) fn change_all(&mut self, asked: Vec<Asked>) {
        let mut changed = Changed::default();
        let mut answers = Vec::with_capacity(asked.len());
        for Asked { topic, change, answer } in asked {
            let before = changed.place(&topic).map(|place| changed.topics[place].1);
            let from = before.unwrap_or_else(|| topic.state());
            let after = self.changed(&topic, from, change);
            let after = after.and_then(|to| changed.check(&topic, &from, to));
            // Also a refusal means nothing if the changes that it refers to are not made.
            let depends_on_commit = before.is_some() || after.is_ok();
            let outcome = after.map(|state| changed.set(&topic, &from, state));
            answers.push((topic, answer, outcome, depends_on_commit));
        }
        let committed = self.note_all(changed);
        for (_topic, answer, outcome, depends_on_commit) in answers {
            let committed = if depends_on_commit { committed.clone() } else { Ok(()) };
            let _nobody_waits = answer.send(committed.and(outcome));
        }
    }

    /// What a topic that is as `state` says becomes by a change.
    fn changed(&mut self, topic: &Topic, state: TopicState, change: Change) -> Result<TopicState> {
        let unknown = || Error::UnknownTopic(topic.name.clone());
        let config = match change {
            Change::Create(_) if state.exists() => {
                return Err(Error::TopicExists(topic.name.clone()));
            }
            Change::Create(config) | Change::Set(config) => config,
            Change::Update(..) | Change::Delete if !state.exists() => return Err(unknown()),
            Change::Update(config, fields) => state.config.with_fields(&config, &fields)?,
            Change::Delete if state.extent.is_damaged => return self.deleted_damaged(state),
            Change::Delete => return Ok(deleted(state, self.next_drop())),
        };
        config.validate()?;
        let id = state.id.map_or_else(|| self.new_id(), Ok)?;
        Ok(TopicState { id: Some(id), config, is_deleted: false, ..state })
    }

    /// A topic whose newest events are damaged, deleted: its name goes to another id, for nothing
    /// can be written where they are. What is there of the former id stays.
    fn deleted_damaged(&mut self, state: TopicState) -> Result<TopicState> {
        let state = deleted(state, self.next_drop());
        let extent = Extent {
            dropped_bytes: state.extent.appended_bytes,
            dropped_events: state.extent.tail.previous().get(),
            rewritten: Sequence::FIRST,
            is_damaged: false,
            ..state.extent
        };
        Ok(TopicState { id: Some(self.new_id()?), extent, ..state })
    }

    fn new_id(&mut self) -> Result<TopicId> {
        let id = next_id(self.next_id)?;
        self.next_id = id.next();
        Ok(id)
    }

    /// Gives up the ids of events that somebody asked to be dropped: they may be published anew.
    pub(super) fn forget_purged_ids(&mut self, before: &Extent, id: TopicId, extent: &Extent) {
        if before.purged < extent.purged {
            self.window.forget_below(id, extent.purged);
        }
    }

    /// Has the log note what topics are, then everybody else.
    fn note_all(&mut self, changed: Changed) -> Result<()> {
        let stored = |(topic, state): &(Arc<Topic>, TopicState)| {
            let TopicState { id, extent, config, is_deleted, deletions: _ } = *state;
            Some(StoredTopic { id: id?, name: topic.name.clone(), extent, config, is_deleted })
        };
        let topics: Vec<StoredTopic> = changed.topics.iter().filter_map(stored).collect();
        if topics.is_empty() {
            return Ok(());
        }
        let group = Group { topics, ..Group::default() };
        self.log.commit(&group).inspect_err(|error| self.failure.note(error))?;
        let newest_drop = changed.topics.iter().map(|(_, state)| state.extent.newest_drop()).max();
        for (topic, state) in changed.topics {
            let before = topic.state().extent;
            self.show(&topic, state);
            if let Some(id) = state.id {
                self.quiet.remove(&id);
                self.forget_purged_ids(&before, id, &state.extent);
            }
            topic.upkeep.touch(); // What limits no longer keep, or what is deleted, goes by and by.
        }
        // In this order: whoever knows of a drop sees all that went with it.
        self.drops.fetch_max(newest_drop.unwrap_or(0), Ordering::Release);
        Ok(())
    }
}

/// A topic without its events and its settings, which go with the drop of this number. Its places
/// are kept, for when it is created again.
fn deleted(state: TopicState, drop: u64) -> TopicState {
    let mut extent = Extent {
        earliest: state.extent.tail,
        trimmed_position: state.extent.last_position,
        trimmed_time: state.extent.last_time,
        trim_reason: TrimReason::Deleted,
        purged: state.extent.tail,
        ..state.extent
    };
    extent.number_trim(&state.extent, drop);
    let (config, deletions) = (TopicConfig::default(), state.deletions + 1);
    TopicState { extent, config, is_deleted: true, deletions, ..state }
}
