//! Groups that another node of the fleet has decided: the committer of a node that follows writes
//! each of them to its log, and makes it visible as the leader did.
//!
//! ```text
//! leader:    commands ──▶ decided ──▶ group ──▶ log ──▶ take_over (visible.rs)
//!                                       │ the fleet's stream
//! follower:                           group ──▶ log ──▶ take_over
//! ```
//!
//! # Why
//!
//! A group says all that a follower needs. So the state of a follower is that of the leader, and
//! that of a broker which is opened on the follower's log. Three things are not in a group, because
//! they are no state of the log. The counts of what maintenance has dropped are those of the node
//! that has dropped it, so that a fleet's sum is right. The memory of topics from which nothing
//! needs to be dropped is empty after each change of the leadership. And a follower does not know
//! how far compaction has looked: it takes the topic's tail, which is at least as far.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tracing::info;

use super::committer::{Committer, GroupTopics};
use super::gathered::Gathered;
use super::siblings::Siblings;
use super::visible::foretell;
use crate::broker::command::Work;
use crate::broker::forward_queue::{Forwarded, ForwardedChange, ForwardedPublish, ForwardedPurge};
use crate::broker::leadership::Leadership;
use crate::broker::queue::{AskedBy, Queued, QueuedStep};
use crate::broker::report::MaintenanceReport;
use crate::broker::topic::topics::{TopicRef, Topics};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::log::Group;
use crate::topic::TopicId;

/// Returns all topics that have an id, by their ids.
pub(in crate::broker) fn topics_by_id(topics: &Topics) -> GroupTopics {
    let with_id = topics.filtered(|topic| topic.state().id.is_some());
    with_id.into_iter().filter_map(|topic| Some((topic.state().id?, topic))).collect()
}

impl Committer {
    /// Writes a group that another node has decided, and makes it visible.
    ///
    /// # Errors
    ///
    /// As [`Log::commit`](crate::log::Log::commit). [`Error::NotWritten`] if this node leads, and
    /// [`Error::DamagedLog`] if the group does not follow what the log has: nothing was written.
    pub(super) fn apply(&mut self, group: Group) -> Result<()> {
        if !self.leadership.follows() {
            let leads = std::io::Error::other("this node leads, and takes no groups of another");
            return Err(Error::NotWritten(leads.into()));
        }
        let now = self.read_clock();
        self.window.expire(now);
        let (topics, new) = self.topics_of(&group)?;
        // Readers must know before the log drops anything what it may drop.
        for (id, _) in &group.rewritten {
            topics[id].upkeep.raise_looked_at(topics[id].state().extent.tail);
        }
        let foretold = foretell(&group, &topics);
        for (id, block) in &group.ids {
            let Some(topic) = self.followed.get(id) else { continue };
            // The leader may have recalled them, and this node not.
            self.window.remember_stored(*id, block, topic.state().extent.purged, now);
        }
        if let Err(error) = self.store(&group) {
            self.note_failure(&error);
            foretold.into_iter().for_each(|(topic, state)| topic.set_state(state));
            return Err(error);
        }
        self.followed.extend(new.iter().map(|(id, topic)| (*id, Arc::clone(topic))));
        self.take_over(group, &topics);
        Ok(())
    }

    /// Returns the topics of a group, and, apart, those that are new here.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedLog`] if the group does not follow what the log has.
    fn topics_of(&self, group: &Group) -> Result<(GroupTopics, Vec<(TopicId, TopicRef)>)> {
        let (mut topics, mut new) = (GroupTopics::new(), Vec::new());
        let mut tails: HashMap<TopicId, Sequence> = HashMap::new();
        for stored in &group.topics {
            let topic = self.followed.get(&stored.id).cloned().unwrap_or_else(|| {
                let opened = self.topics.of_log(&stored.name);
                let topic = Arc::clone(&opened);
                new.push((stored.id, opened));
                topic
            });
            let (tail, noted) = (topic.state().extent.tail, stored.extent.tail);
            if noted < tail {
                let name = &stored.name;
                return Err(unfit(format!("topic {name:?} ends at {tail}, not at {noted}")));
            }
            topics.insert(stored.id, topic);
            tails.insert(stored.id, noted);
        }
        let removed = group.removed.iter().map(|(id, _)| *id);
        let written = group.rewritten.iter().chain(&group.appended).map(|(id, _)| *id);
        for id in removed.chain(written) {
            if let Entry::Vacant(entry) = topics.entry(id) {
                let known = self.followed.get(&id).cloned();
                entry.insert(known.ok_or_else(|| unfit(format!("topic {} is unknown", id.get())))?);
            }
        }
        for (id, block) in &group.appended {
            let tail = tails.entry(*id).or_insert_with(|| topics[id].state().extent.tail);
            if block.first_sequence() != *tail {
                let (name, first) = (&topics[id].name, block.first_sequence());
                return Err(unfit(format!("topic {name:?} ends at {tail}, not at {first}")));
            }
            *tail = block.last_sequence().next();
        }
        Ok((topics, new))
    }

    /// Leads from now on, or follows. What was asked for before was decided, or is for whoever
    /// leads from now on.
    pub(super) fn set_leadership(&mut self, leadership: Leadership) {
        if !self.leadership.set(leadership) {
            return;
        }
        self.quiet.clear();
        self.siblings = Siblings::default();
        self.followed = match leadership {
            Leadership::Leads => GroupTopics::new(),
            Leadership::Follows => topics_by_id(&self.topics),
        };
        info!(?leadership, "another node decides what is written, or this one does, from now on");
        self.leave_to_leader(&mut Gathered::default());
        let Some(elsewhere) = &self.elsewhere else { return };
        match leadership {
            Leadership::Leads => self.returned = elsewhere.take_back(),
            Leadership::Follows => elsewhere.open(),
        }
    }

    /// Leaves the commands that only a leader decides to the node that leads, if that is another
    /// one.
    pub(super) fn leave_to_leader(&mut self, gathered: &mut Gathered) {
        if !self.leadership.follows() {
            return;
        }
        let requests = gathered.requests.drain(..).map(|it| (it.asked_by, it.into()));
        let changes = gathered.changes.drain(..).map(|it| (it.asked_by, it.into()));
        // As where they are decided: the changes of a group come first.
        for (asked_by, command) in changes.chain(requests) {
            self.leave(asked_by, command);
        }
        for step in std::mem::take(&mut self.steps) {
            let QueuedStep { topic, work, asked_by, reply } = step;
            match work.purge() {
                Some(earliest) => {
                    let topic = topic.name.clone();
                    let purge = ForwardedPurge::new(topic, earliest, reply);
                    self.leave(asked_by, Forwarded::Purge(purge));
                }
                // Maintenance is the leader's own.
                None => drop(reply.send(Err(Error::NotLeading))),
            }
        }
    }

    /// Leaves one command to the node that leads.
    pub(super) fn leave(&self, asked_by: AskedBy, command: Forwarded) {
        match &self.elsewhere {
            Some(elsewhere) if asked_by == AskedBy::Caller => elsewhere.push(command),
            _ => {
                command.refuse(Error::NotLeading);
            }
        }
    }

    /// Returns the next command without waiting for one. What was left to another node comes first,
    /// once this node leads.
    pub(super) fn try_next(&mut self) -> Option<Queued> {
        self.next_returned().or_else(|| self.commands.try_recv().ok())
    }

    /// Returns the next command that was left to another node, and is decided here after all.
    pub(super) fn next_returned(&mut self) -> Option<Queued> {
        loop {
            let command = self.returned.pop_front()?;
            let queued = self.queued_again(command);
            if queued.is_some() {
                return queued;
            }
        }
    }

    fn queued_again(&self, command: Forwarded) -> Option<Queued> {
        Some(match command {
            Forwarded::Publish(ForwardedPublish(publish)) => Queued::Publish(publish),
            Forwarded::Change(ForwardedChange { change, .. }) => Queued::Change(change),
            Forwarded::Purge(ForwardedPurge { topic, earliest, reply, .. }) => {
                let Ok(topic) = self.topics.existing(&topic) else {
                    let _nobody_waits = reply.send(Err(Error::UnknownTopic(topic)));
                    return None;
                };
                let (reason, report) = (TrimReason::Purged, MaintenanceReport::default());
                let (work, asked_by) = (Work::Trim { earliest, reason, report }, AskedBy::Caller);
                Queued::Step(QueuedStep { topic, work, asked_by, reply })
            }
        })
    }
}

/// Returns the error for a group that does not follow what the log has.
fn unfit(problem: String) -> Error {
    let problem = format!("a group of the fleet does not follow what the log has: {problem}");
    Error::DamagedLog { problem }
}
