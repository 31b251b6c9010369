//! The marks of one consumer's events: which are seen, read, archived or snoozed.
//!
//! ```text
//! events     1  2  3  4  5  6  7  8  9
//! read       ────────────▲     ■
//!               □        │     └ an exception above the watermark: read
//!               │        └ the watermark: all up to it are read
//!               └ an exception below it: unread
//! ```
//!
//! Each mark but `snoozed` has a **watermark**, up to which all events have the mark, and
//! **exceptions** on either side of it. A watermark only rises. Exceptions are sets of sequences,
//! one for each topic. The watermark of a consumer of one topic is a sequence, and that of a
//! consumer of a pattern a position.
//!
//! # Why
//!
//! Where the watermark is a position, only an event's reader knows on which side of the watermark
//! the event is. So an exception may be on the side where it says nothing new: a read event below
//! the watermark of `read` may be an exception, too. The two sets of exceptions have no event in
//! common, and an event that is in one of them has the state that this set says, on whatever side
//! it is.

use std::collections::BTreeMap;

use litemap::LiteMap;
use roaring::RoaringTreemap;
use serde::{Deserialize, Serialize};

use super::ranges::text_of;
use crate::cursor::{Place, Position, Sequence};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// A mark on an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mark {
    /// Somebody saw the event in a list. Taking it away takes `read` away, too.
    Seen,
    /// Somebody read the event. A read event is seen.
    Read,
    /// The event is out of the inbox. It stays in its topic.
    Archived,
    /// The event is out of the inbox until a time, and comes back unseen.
    Snoozed,
}

impl Mark {
    /// Returns the word for the mark on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seen => "seen",
            Self::Read => "read",
            Self::Archived => "archived",
            Self::Snoozed => "snoozed",
        }
    }
}

/// The marks of one event at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct EventMarks {
    /// Whether the event is seen.
    pub seen: bool,
    /// Whether the event is read.
    pub read: bool,
    /// Whether the event is archived.
    pub archived: bool,
    /// The time until which the event is snoozed, if it is snoozed now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snoozed_until: Option<Timestamp>,
}

impl EventMarks {
    /// Whether the event is in the inbox: it is neither archived nor snoozed.
    pub fn in_inbox(&self) -> bool {
        !self.archived && self.snoozed_until.is_none()
    }
}

/// Conditions on marks; an absent condition holds for every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MarkFilter {
    /// Whether the event must be seen, or unseen.
    pub seen: Option<bool>,
    /// Whether the event must be read, or unread.
    pub read: Option<bool>,
    /// Whether the event must be archived, or not archived.
    pub archived: Option<bool>,
    /// Whether the event must be snoozed now, or not snoozed.
    pub snoozed: Option<bool>,
}

impl MarkFilter {
    /// The condition of the inbox: neither archived nor snoozed.
    pub const INBOX: Self =
        Self { seen: None, read: None, archived: Some(false), snoozed: Some(false) };

    /// Whether an event with these marks fulfils all conditions.
    pub fn picks(&self, marks: &EventMarks) -> bool {
        let holds = |wanted: Option<bool>, is: bool| wanted.is_none_or(|wanted| wanted == is);
        holds(self.seen, marks.seen)
            && holds(self.read, marks.read)
            && holds(self.archived, marks.archived)
            && holds(self.snoozed, marks.snoozed_until.is_some())
    }

    /// Whether there is no condition.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The places of an event whose marks are asked for.
#[derive(Debug, Clone, Copy)]
pub struct Marked<'a> {
    /// The event's topic.
    pub topic: &'a TopicName,
    /// The event's place in its topic.
    pub sequence: Sequence,
    /// The event's place in the whole broker.
    pub position: Position,
}

/// Sets of sequences by topic, in the order of the topics' names.
///
/// # Why
///
/// Most consumers that have exceptions have them in one topic, and there may be a million
/// consumers. A `BTreeMap` with one entry takes as much memory as one with eleven: with a `LiteMap`
/// 100,000 inboxes that have one read event each take 61 MB less. A change moves the entries of one
/// consumer at most, and `consumers.max_marks_bytes` bounds these.
pub(crate) type Exceptions = LiteMap<TopicName, RoaringTreemap>;

/// One mark of all events: a watermark, and the exceptions to it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct MarkLine {
    /// The number of the watermark's place: a sequence or a position, as the consumer's places are.
    /// 0 is before all.
    pub(crate) up_to: u64,
    /// Events that have the mark, wherever the watermark is.
    pub(crate) marked: Exceptions,
    /// Events that do not have the mark, wherever the watermark is.
    pub(crate) unmarked: Exceptions,
}

/// The marks of one consumer's events.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Marks {
    /// Whether watermarks are positions.
    pub(super) has_positions: bool,
    pub(super) seen: MarkLine,
    pub(super) read: MarkLine,
    pub(super) archived: MarkLine,
    /// The times, in milliseconds since 1970, until which events are snoozed.
    pub(super) snoozed: BTreeMap<TopicName, BTreeMap<u64, u64>>,
}

impl MarkLine {
    /// Whether an event has the mark. `place` is the number of its place, as the watermark's.
    pub(crate) fn holds(&self, topic: &TopicName, sequence: u64, place: u64) -> bool {
        let is_in = |set: &Exceptions| set.get(topic).is_some_and(|set| set.contains(sequence));
        is_in(&self.marked) || place <= self.up_to && !is_in(&self.unmarked)
    }

    /// Returns the events that have the mark wherever the watermark is, as ranges: `1-5,9`.
    pub(crate) fn marked_ranges(&self) -> BTreeMap<TopicName, String> {
        texts(&self.marked)
    }

    /// Returns the events that do not have the mark wherever the watermark is, as ranges.
    pub(crate) fn unmarked_ranges(&self) -> BTreeMap<TopicName, String> {
        texts(&self.unmarked)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.up_to == 0 && self.marked.is_empty() && self.unmarked.is_empty()
    }
}

fn texts(sets: &Exceptions) -> BTreeMap<TopicName, String> {
    sets.iter().map(|(topic, set)| (topic.clone(), text_of(set))).collect()
}

impl Marks {
    /// Returns the marks of a consumer that has marked nothing.
    pub(super) fn none(has_positions: bool) -> Self {
        Self { has_positions, ..Self::default() }
    }

    /// Returns the marks that an event has at `now`.
    pub fn of(&self, event: &Marked<'_>, now: Timestamp) -> EventMarks {
        let Marked { topic, sequence, position } = *event;
        let (sequence, place) = (sequence.get(), self.number(sequence, position));
        let holds = |line: &MarkLine| line.holds(topic, sequence, place);
        let until = self.snoozed.get(topic).and_then(|times| times.get(&sequence)).copied();
        let snoozed_until = until.map(Timestamp::from_ms).filter(|until| *until > now);
        let (seen, read) = (holds(&self.seen), holds(&self.read));
        EventMarks { seen, read, archived: holds(&self.archived), snoozed_until }
    }

    /// Whether nothing is marked.
    pub fn is_empty(&self) -> bool {
        let lines = [&self.seen, &self.read, &self.archived];
        lines.into_iter().all(MarkLine::is_empty) && self.snoozed.is_empty()
    }

    /// Returns the watermark of a mark: all events up to it have the mark, but for exceptions.
    /// `None` for `snoozed`, and where it is before all events.
    pub fn watermark(&self, mark: Mark) -> Option<Place> {
        let up_to = self.line(mark)?.up_to;
        (up_to > 0).then(|| match self.has_positions {
            true => Place::Position(Position::new(up_to)),
            false => Place::Sequence(Sequence::new(up_to)),
        })
    }

    /// Returns the line of a mark; `None` for `snoozed`, which has none.
    pub(crate) fn line(&self, mark: Mark) -> Option<&MarkLine> {
        match mark {
            Mark::Seen => Some(&self.seen),
            Mark::Read => Some(&self.read),
            Mark::Archived => Some(&self.archived),
            Mark::Snoozed => None,
        }
    }

    /// Returns the events of `topic` that are snoozed at `now`, with the ends of that.
    pub(crate) fn snoozed_in(
        &self,
        topic: &TopicName,
        now: Timestamp,
    ) -> impl Iterator<Item = (Sequence, Timestamp)> + '_ {
        let times = self.snoozed.get(topic).into_iter().flatten();
        let times =
            times.map(|(sequence, until)| (Sequence::new(*sequence), Timestamp::from_ms(*until)));
        times.filter(move |(_, until)| *until > now)
    }

    /// Returns all snoozes, with the times at which they end; some may be over.
    pub(crate) fn snoozed(&self) -> impl Iterator<Item = (&TopicName, Sequence, Timestamp)> {
        self.snoozed.iter().flat_map(|(topic, times)| {
            let of_topic = move |(sequence, until): (&u64, &u64)| {
                (topic, Sequence::new(*sequence), Timestamp::from_ms(*until))
            };
            times.iter().map(of_topic)
        })
    }

    /// Returns the time of the first snooze that ends after `now`: until then the marks of no event
    /// change by themselves.
    pub(crate) fn next_return(&self, now: Timestamp) -> Option<Timestamp> {
        let times = self.snoozed.values().flat_map(BTreeMap::values);
        times.copied().map(Timestamp::from_ms).filter(|until| *until > now).min()
    }

    fn number(&self, sequence: Sequence, position: Position) -> u64 {
        if self.has_positions { position.get() } else { sequence.get() }
    }
}
