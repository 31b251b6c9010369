//! Changes of topics: creates them, gives them other settings, or deletes them.

use std::collections::HashMap;
use std::sync::Arc;

use super::committer::Committer;
use crate::broker::command::Change;
use crate::broker::queue::QueuedChange;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::log::{Extent, Group, StoredTopic};
use crate::topic_config::TopicConfig;

/// The topics of a commit of changes, with the states that they have after it.
#[derive(Default)]
struct ChangedTopic {
    topics: Vec<(Arc<Topic>, TopicState)>,
    by_topic: HashMap<*const Topic, usize>,
    /// The number of existing topics, and of deleted ones, that the changes add.
    existing: isize,
    deleted: isize,
}

impl ChangedTopic {
    /// Refuses a change that makes more topics exist, or more deleted ones, than the limits allow.
    fn check(&self, topic: &Topic, from: &TopicState, to: TopicState) -> Result<TopicState> {
        if to.exists() && !from.exists() {
            topic.check_existing(self.existing)?;
        }
        if to.is_deleted && !from.is_deleted {
            topic.check_deleted(self.deleted)?;
        }
        Ok(to)
    }

    /// Returns the index of a topic that an earlier change of this commit has changed.
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
    /// Makes all changes in one commit, in their order, and answers every caller. A refused change
    /// has no effect, and does not stop the others.
    pub(super) fn change_all(&mut self, asked: Vec<QueuedChange>) {
        let mut changed = ChangedTopic::default();
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            let QueuedChange { topic, change, .. } = &asked;
            let before = changed.place(topic).map(|place| changed.topics[place].1);
            let from = before.unwrap_or_else(|| topic.state());
            let after = self.changed(topic, from, change.clone());
            let after = after.and_then(|to| changed.check(topic, &from, to));
            // A refusal may be due to an earlier change of this commit: then it holds only if that
            // is committed.
            let depends_on_commit = before.is_some() || after.is_ok();
            let outcome = after.map(|state| changed.set(topic, &from, state));
            answers.push((asked, outcome, depends_on_commit));
        }
        let committed = self.commit_changes(changed);
        for (asked, outcome, depends_on_commit) in answers {
            match &committed {
                Err(Error::NotLeading) if depends_on_commit => {
                    self.leave(asked.asked_by, asked.into()); // It is surely not stored.
                }
                Err(error) if depends_on_commit => {
                    let _nobody_waits = asked.reply.send(Err(error.clone()));
                }
                _ => drop(asked.reply.send(outcome)),
            }
        }
    }

    /// Returns the state that a topic has after a change.
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

    /// Deletes a topic whose newest events are damaged: its name gets a new id, because nothing can
    /// be written after damaged events. The blocks of the former id stay.
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

    /// Commits the changed topics to the log, then shows them to everybody else.
    fn commit_changes(&mut self, changed: ChangedTopic) -> Result<()> {
        let stored = |(topic, state): &(Arc<Topic>, TopicState)| {
            let TopicState { id, extent, config, is_deleted, deletions: _ } = *state;
            Some(StoredTopic { id: id?, name: topic.name.clone(), extent, config, is_deleted })
        };
        let topics: Vec<StoredTopic> = changed.topics.iter().filter_map(stored).collect();
        if topics.is_empty() {
            return Ok(());
        }
        let group = Group { topics, ..Group::default() };
        self.log.commit(&group).inspect_err(|error| self.note_failure(error))?;
        let with_id = |(topic, state): &(Arc<Topic>, TopicState)| Some((state.id?, topic.clone()));
        let topics = changed.topics.iter().filter_map(with_id).collect();
        self.take_over(group, &topics);
        for (id, topic) in topics {
            self.quiet.remove(&id);
            topic.upkeep.touch(); // Events over a new limit go soon.
        }
        Ok(())
    }
}

/// Returns the state of a deleted topic: without events and settings. The events go with the drop
/// of this number. The sequences stay, for when the topic is created again.
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
    TopicState { extent, config: TopicConfig::default(), is_deleted: true, ..state }
}
