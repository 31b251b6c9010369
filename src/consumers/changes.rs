//! What changed in a consumer's state, as its followers are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::marks::{Exceptions, Mark};
use super::ranges::text_of;
use crate::cursor::{Cursor, Position};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// The longest list of events in one change, in bytes. Whoever is told of a larger change reads the
/// whole state.
pub(super) const MAX_CHANGE_BYTES: usize = 4 << 10;

/// One change of a consumer's state.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StateChange {
    /// The revision of the consumer after the change. Changes that were stored together have the
    /// same one; one of them at the most is a change of marks.
    pub revision: Position,
    /// The time of the change.
    pub time: Timestamp,
    /// The caller who changed it; empty if the broker knows none.
    pub by: Arc<str>,
    /// What changed.
    pub what: Changed,
}

/// What changed in a consumer's state.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Changed {
    /// The checkpoint is this now.
    Checkpoint(Option<Cursor>),
    /// The settings changed, or the consumer was created.
    Settings,
    /// Marks changed.
    Marks(MarksChange),
    /// The consumer was deleted, with its checkpoint and its marks.
    Deleted,
}

/// A change of marks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MarksChange {
    /// The marks that the events got.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub mark: BTreeSet<Mark>,
    /// The marks that the events lost.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unmark: BTreeSet<Mark>,
    /// The time until which the events are snoozed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snooze_until: Option<Timestamp>,
    /// The events.
    pub events: ChangedEvents,
}

/// The events whose marks changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ChangedEvents {
    /// These, as ranges of sequences by topic: `1-5,9`.
    Named(BTreeMap<TopicName, String>),
    /// All up to this place that are not snoozed.
    UpTo(Cursor),
    /// More than a change names: read the whole state.
    Whole,
}

/// Puts one change of marks in the place of all that were stored together. A follower that has told
/// one of two changes to its client could not tell it the other one: their revision is the same.
pub(super) fn with_one_of_marks(changes: &mut Vec<(Arc<str>, Changed)>) {
    let is_of_marks = |(_, what): &(Arc<str>, Changed)| matches!(what, Changed::Marks(_));
    let mut callers = changes.iter().filter(|it| is_of_marks(it)).map(|(by, _)| by);
    let Some(first) = callers.next().cloned() else { return };
    let (mut is_one, mut by) = (true, first);
    for caller in callers {
        is_one = false;
        if *caller != by {
            by = Arc::default();
        }
    }
    if !is_one {
        changes.retain(|it| !is_of_marks(it));
        changes.push((by, Changed::Marks(MarksChange::of_many())));
    }
}

impl MarksChange {
    /// Returns the change that stands for several.
    pub(super) fn of_many() -> Self {
        let (mark, unmark, snooze_until) = Default::default();
        Self { mark, unmark, snooze_until, events: ChangedEvents::Whole }
    }
}

impl ChangedEvents {
    /// Returns the form of a set of events.
    pub(super) fn of(events: &Exceptions) -> Self {
        let (mut named, mut bytes) = (BTreeMap::new(), 0);
        for (topic, set) in events {
            // A range takes up to 41 bytes, so that a long text is not even made.
            let text = (set.len() as usize <= MAX_CHANGE_BYTES).then(|| text_of(set));
            bytes += topic.as_str().len() + text.as_ref().map_or(MAX_CHANGE_BYTES, String::len);
            match text {
                Some(text) if bytes <= MAX_CHANGE_BYTES => named.insert(topic.clone(), text),
                _ => return Self::Whole,
            };
        }
        Self::Named(named)
    }
}
