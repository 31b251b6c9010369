//! Deciding what a command does to a consumer. Nothing here waits, and nothing is written.

use std::sync::Arc;

use super::changes::{Changed, ChangedEvents, MarksChange};
use super::entry::ConsumerEntry;
use super::id::{ConsumerChange, ConsumerSettings};
use super::marking::{MarkedPlaces, Marking};
use super::requests::{Checkpoint, Reach};
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// What a command asks for. All places in it were checked.
#[derive(Debug)]
pub(super) enum Act {
    /// Create the consumer with this checkpoint, or give the one that exists these settings.
    Put { settings: ConsumerSettings, from: Option<Cursor>, reach: Reach },
    /// Change settings.
    Update(ConsumerChange),
    /// Delete the consumer.
    Delete,
    /// Set the checkpoint.
    Checkpoint { to: Checkpoint, reach: Reach },
    /// Change marks.
    Mark(Box<Marking>),
}

/// The consumers that whoever gives a command may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changeable {
    /// All but those of webhooks.
    All,
    /// All, also those of webhooks.
    OfWebhooks,
    /// Those that do not share their events, and that the command does not make share them.
    Unshared,
}

/// What a command does.
pub(super) enum Decided {
    /// Nothing: all is so already.
    Nothing,
    /// The consumer is this now.
    Now {
        entry: ConsumerEntry,
        /// Whether the record of identity, settings and checkpoint changed; otherwise, that of the
        /// marks did.
        is_consumer: bool,
        by: Arc<str>,
        what: Changed,
    },
    /// The consumer is deleted.
    Deleted,
}

/// What decisions depend on besides the consumer.
pub(super) struct Circumstances<'a> {
    pub(super) now: Timestamp,
    /// Returns the first sequence of a topic that can be read; `None` if there is no such topic.
    pub(super) earliest: &'a dyn Fn(&TopicName) -> Option<u64>,
    pub(super) auto_create: bool,
    pub(super) changeable: Changeable,
}

/// Decides on a command for `current`, which is `None` if the consumer does not exist. `create`
/// makes it then.
///
/// # Errors
///
/// [`Error::UnknownConsumer`], [`Error::UnexpectedCheckpoint`], and those of `create`;
/// [`Error::Denied`] for what is not changeable.
pub(super) fn decide(
    act: &Act,
    current: Option<&ConsumerEntry>,
    create: impl Fn() -> Result<ConsumerEntry>,
    around: &Circumstances<'_>,
    shown: impl Fn() -> String,
) -> Result<Decided> {
    let existing = || current.cloned().ok_or_else(|| Error::UnknownConsumer(shown()));
    let created = || match current {
        Some(entry) => Ok(entry.clone()),
        None if around.auto_create => create(),
        None => Err(Error::UnknownConsumer(shown())),
    };
    let shares = current.is_some_and(|entry| entry.settings().shared.is_some());
    if around.changeable == Changeable::Unshared && act.is_of_shared(shares) {
        return Err(spared(shown));
    }
    match act {
        Act::Put { settings, from, reach } => {
            put(current, settings, (*from, reach), &create, around)
        }
        Act::Update(change) => {
            let entry = existing()?;
            let settings = change.clone().applied(entry.settings());
            settled(entry, settings, around)
        }
        Act::Delete => existing().map(|_entry| Decided::Deleted),
        Act::Checkpoint { to, reach } => {
            if current.is_some_and(|entry| entry.settings().shared.is_some()) {
                let problem = "shares its events: its checkpoint moves as workers finish them";
                return Err(Error::invalid("consumer", problem));
            }
            let present = current.and_then(ConsumerEntry::checkpoint);
            check_expected(to, present, &shown)?;
            if !moves(to, present) {
                return current.map_or_else(|| created().map(|_| Decided::Nothing), nothing);
            }
            let next = Cursor { epoch: None, ..to.to };
            let next = (next.after.number() > 0 || next.since.is_some()).then_some(next);
            let entry = touched(created()?, around.now).with_checkpoint(next, reach.clone());
            let what = Changed::Checkpoint(next.map(|_| to.to));
            Ok(Decided::Now { entry, is_consumer: true, by: Arc::default(), what })
        }
        Act::Mark(marking) => mark(created()?, current.is_none(), marking, around),
    }
}

impl Act {
    /// Whether this changes a consumer that shares its events, or makes it share them. Marks are no
    /// change of it.
    fn is_of_shared(&self, shares: bool) -> bool {
        match self {
            Self::Put { settings, .. } => shares || settings.shared.is_some(),
            Self::Update(change) => shares || change.shared.is_some(),
            Self::Delete | Self::Checkpoint { .. } => shares,
            Self::Mark(_) => false,
        }
    }
}

/// Returns the refusal to change a consumer that shares its events.
pub(super) fn spared(shown: impl Fn() -> String) -> Error {
    let reason = format!("{} shares its events, and is for who may manage its topics", shown());
    Error::Denied { reason }
}

fn nothing(_entry: &ConsumerEntry) -> Result<Decided> {
    Ok(Decided::Nothing)
}

fn put(
    current: Option<&ConsumerEntry>,
    settings: &ConsumerSettings,
    (from, reach): (Option<Cursor>, &Reach),
    create: impl Fn() -> Result<ConsumerEntry>,
    around: &Circumstances<'_>,
) -> Result<Decided> {
    if let Some(entry) = current {
        return settled(entry.clone(), settings.clone(), around);
    }
    let from = from.map(|cursor| Cursor { epoch: None, ..cursor });
    let from = from.filter(|cursor| cursor.after.number() > 0 || cursor.since.is_some());
    let entry = touched(create()?, around.now).with_settings(settings.clone());
    let entry = entry.with_checkpoint(from, reach.clone().filter(|_| from.is_some()));
    Ok(Decided::Now { entry, is_consumer: true, by: Arc::default(), what: Changed::Settings })
}

fn settled(
    entry: ConsumerEntry,
    settings: ConsumerSettings,
    around: &Circumstances<'_>,
) -> Result<Decided> {
    if **entry.settings() == settings {
        return Ok(Decided::Nothing);
    }
    if entry.settings().shared.is_some() && settings.shared.is_none() {
        let problem = "cannot be switched off; delete the consumer to begin anew";
        return Err(Error::invalid("shared", problem));
    }
    let entry = touched(entry, around.now).with_settings(settings);
    Ok(Decided::Now { entry, is_consumer: true, by: Arc::default(), what: Changed::Settings })
}

/// Refuses a checkpoint that is conditional on another one than the present one.
fn check_expected(
    to: &Checkpoint,
    present: Option<Cursor>,
    shown: impl Fn() -> String,
) -> Result<()> {
    let place = |cursor: Option<Cursor>| cursor.map_or(0, |cursor| cursor.after.number());
    match to.expected {
        Some(expected) if place(expected) != place(present) => {
            let actual = present.map(|cursor| Cursor { epoch: to.to.epoch, ..cursor }.to_string());
            let expected = expected.map(|cursor| cursor.to_string());
            let [expected, actual] = [expected, actual].map(|it| it.map(String::into));
            Err(Error::UnexpectedCheckpoint { consumer: shown().into(), expected, actual })
        }
        _ => Ok(()),
    }
}

/// Whether the checkpoint moves.
fn moves(to: &Checkpoint, present: Option<Cursor>) -> bool {
    let number = |cursor: &Cursor| cursor.after.number();
    let (next, now) = (number(&to.to), present.as_ref().map_or(0, number));
    let since = present.and_then(|cursor| cursor.since);
    next > now || to.force && (next != now || to.to.since != since)
}

fn mark(
    entry: ConsumerEntry,
    is_new: bool,
    marking: &Marking,
    around: &Circumstances<'_>,
) -> Result<Decided> {
    let before = entry.marks();
    let mut marks = (*before).clone();
    marks.apply(marking, around.now);
    if marks == *before {
        return Ok(Decided::Nothing); // Pruning alone is no reason to write.
    }
    marks.prune(around.now, around.earliest);
    let Marking { mark, unmark, snooze_until, by, events, .. } = marking;
    let (mark, unmark, snooze_until) = (mark.clone(), unmark.clone(), *snooze_until);
    let events = match events {
        MarkedPlaces::These(events) => ChangedEvents::of(events),
        MarkedPlaces::UpTo { cursor, .. } => ChangedEvents::UpTo(*cursor),
    };
    let what = Changed::Marks(MarksChange { mark, unmark, snooze_until, events });
    let entry = touched(entry, around.now).with_marks(Arc::new(marks));
    Ok(Decided::Now { entry, is_consumer: is_new, by: by.clone(), what })
}

/// Returns the entry with its last change at `now`, and its creation, too, if it is new.
fn touched(entry: ConsumerEntry, now: Timestamp) -> ConsumerEntry {
    let created = if entry.created() == Timestamp::default() { now } else { entry.created() };
    entry.with_times(created, now)
}
