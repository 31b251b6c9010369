//! Makes a stored group visible: gives its blocks to the tails and its ids to the dedup window,
//! sets the states of its topics, and has their followers told.
//!
//! # Why
//!
//! All that is shown comes from the group alone, whether this node has decided it or the leader of
//! its fleet. So a node that follows shows the same as the leader.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::committer::{Committer, GroupTopics};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::Position;
use crate::event::Timestamp;
use crate::log::{Block, Extent, Group, StoredTopic};
use crate::topic::TopicId;

/// A topic with what a group changes in it.
struct ShownTopic {
    id: TopicId,
    topic: Arc<Topic>,
    before: TopicState,
    state: TopicState,
    /// The first expiry among the appended events.
    expires: Option<Timestamp>,
    has_appended: bool,
    /// Whether the first appended event is the only one that can be read.
    was_empty: bool,
}

impl ShownTopic {
    fn new(id: TopicId, topic: &Arc<Topic>) -> Self {
        let (before, topic) = (topic.state(), topic.clone());
        let state = TopicState { id: Some(id), is_deleted: false, ..before };
        let (expires, has_appended, was_empty) = (None, false, false);
        Self { id, topic, before, state, expires, has_appended, was_empty }
    }

    fn note(&mut self, stored: &StoredTopic) {
        let StoredTopic { extent, config, is_deleted, .. } = *stored;
        // No group both deletes a topic and creates it again.
        let deletions = self.before.deletions + u32::from(is_deleted && self.before.exists());
        self.state = TopicState { extent, config, is_deleted, deletions, ..self.state };
    }

    fn append(&mut self, block: &Block) {
        let extent = &mut self.state.extent;
        if extent.is_empty() {
            // The log's record may be older, and then does not tell it.
            extent.first_position = block.first_position();
            self.was_empty = true;
        }
        self.was_empty |= !self.before.exists();
        self.has_appended = true;
        *extent = extent.with(block);
        self.expires = block.first_expiry().into_iter().chain(self.expires).min();
    }
}

/// The topics that a group changes.
struct ShownGroup<'a> {
    topics: &'a GroupTopics,
    shown: Vec<ShownTopic>,
    places: HashMap<TopicId, usize>,
}

impl ShownGroup<'_> {
    fn of(&mut self, id: TopicId) -> &mut ShownTopic {
        let place = *self.places.entry(id).or_insert_with(|| {
            self.shown.push(ShownTopic::new(id, &self.topics[&id]));
            self.shown.len() - 1
        });
        &mut self.shown[place]
    }
}

impl Committer {
    /// Makes a stored group visible. Readers see its changes from now on. `topics` has all topics
    /// whose records or blocks the group writes.
    pub(super) fn take_over(&mut self, group: Group, topics: &GroupTopics) {
        self.forget_rewritten(&group, topics);
        let mut group_shown = ShownGroup { topics, shown: Vec::new(), places: HashMap::new() };
        for stored in &group.topics {
            group_shown.of(stored.id).note(stored);
            if self.next_id.is_some_and(|next| stored.id >= next) {
                self.next_id = stored.id.next();
            }
        }
        for (id, block) in group.appended {
            let shown = group_shown.of(id);
            shown.append(&block);
            shown.topic.upkeep.appended(&block, self.max_block_bytes);
            if block.has_ids() {
                let purged = shown.state.extent.purged;
                let (follows, now) = (self.leadership.follows(), self.last_clock);
                // The clock of another node, which has stored the block, may differ from this one.
                let stored_at =
                    |clock: Timestamp| if follows { now } else { clock.min(block.last_clock()) };
                self.window.remember_block(id, &block, purged, stored_at);
            }
            self.tails.push(&shown.topic.tail, block);
        }
        let (mut last_position, mut newest_drop): (Option<Position>, _) = (None, 0);
        for shown in &group_shown.shown {
            self.show(shown);
            let extent = &shown.state.extent;
            newest_drop = newest_drop.max(extent.newest_drop());
            last_position = last_position.max(shown.has_appended.then_some(extent.last_position));
        }
        // The numbers are raised last: a reader that knows of a position, or of a drop, sees all up
        // to it.
        self.drops.fetch_max(newest_drop, Ordering::Release);
        if let Some(position) = last_position {
            self.announced.announce(position.get());
        }
        let topics = group_shown.shown.iter().map(|shown| &shown.topic);
        self.waker.wake_all(topics, last_position);
        self.arriving.give();
    }

    /// Takes the blocks that `group` has rewritten out of memory.
    fn forget_rewritten(&self, group: &Group, topics: &GroupTopics) {
        for of_topic in group.rewritten.chunk_by(|(id, _), (next, _)| id == next) {
            let Some((id, last)) = of_topic.last() else { continue };
            // Nobody may read the dropped events from memory.
            topics[id].tail.forget_through(last.last_sequence());
            self.replays.forget(&topics[id], *id);
        }
    }

    /// Shows a topic's new state to readers, and to maintenance.
    fn show(&mut self, shown: &ShownTopic) {
        let ShownTopic { id, topic, before, state, .. } = shown;
        if before.extent.purged < state.extent.purged {
            // The ids of purged or deleted events: these may be published anew.
            self.window.forget_below(*id, state.extent.purged);
        }
        if shown.has_appended {
            self.window.advance(*id, state.extent.tail);
        }
        topic.set_state(*state);
        // The alarm is set after the state: a visit that takes the alarm sees the event.
        shown.expires.into_iter().for_each(|time| topic.upkeep.expires(time));
        if shown.was_empty {
            topic.upkeep.has_front(); // When it gets too old is not known yet.
        }
    }
}

/// Shows readers which deletions of keys are going to be dropped, before the log drops them. A
/// reader of the log checks this after it has read, and so knows that events may be missing.
/// Returns the states that the topics had before.
pub(super) fn foretell(group: &Group, topics: &GroupTopics) -> Vec<(Arc<Topic>, TopicState)> {
    let foretell = |stored: &StoredTopic| {
        let Extent { buried_position, buried_sequence, buried_drop, .. } = stored.extent;
        let topic = topics.get(&stored.id)?;
        let state = topic.state();
        if state.id.is_none() || state.extent.buried_drop == buried_drop {
            return None;
        }
        let extent = Extent { buried_position, buried_sequence, buried_drop, ..state.extent };
        topic.set_state(TopicState { extent, ..state });
        Some((topic.clone(), state))
    };
    group.topics.iter().filter_map(foretell).collect()
}
