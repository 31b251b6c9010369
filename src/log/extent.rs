//! The extent of a topic at one moment: its earliest event, its tail, its sizes, and the places of
//! what was dropped from it.

use super::block::Block;
use super::stored_block::StoredBlock;
use crate::cursor::{Position, Sequence, TrimReason};
use crate::event::Timestamp;

/// The extent of a topic at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Extent {
    /// The first sequence that can be read.
    pub earliest: Sequence,
    /// The sequence that the next event gets.
    pub tail: Sequence,
    /// The position of the newest event; 0 if the topic never had an event.
    pub last_position: Position,
    /// The time at which the newest event was appended.
    pub last_time: Timestamp,
    /// The reading of the system clock when the newest event was appended: `last_time`, or less if
    /// the clock had been set back.
    pub last_clock: Timestamp,
    /// The events whose times were found to be ahead of the system clock.
    pub ahead: Ahead,
    /// The size of all blocks that were ever appended, in bytes.
    pub appended_bytes: u64,
    /// The size of the blocks that were dropped, in bytes.
    pub dropped_bytes: u64,
    /// The number of events in the blocks that were dropped.
    pub dropped_events: u64,
    /// The position of the last trimmed event; 0 if no event was trimmed.
    pub trimmed_position: Position,
    /// The time at which that event was appended.
    pub trimmed_time: Timestamp,
    /// The number of the drop in which that event was trimmed. Drops are counted over the whole
    /// log; 0 if no event was trimmed.
    pub trimmed_drop: u64,
    /// The position of the newest dropped deletion: a tombstone, or an expired event with a key. 0
    /// if none was dropped. An earlier backup may still hold the events that it superseded.
    pub buried_position: Position,
    /// The sequence of that deletion.
    pub buried_sequence: Sequence,
    /// The number of the last drop in which a deletion went; 0 if none did.
    pub buried_drop: u64,
    /// The position of the first event after the topic was last empty. The readable events begin
    /// there or later. 0 if it is not known.
    pub first_position: Position,
    /// Events below this sequence were purged or deleted, and their ids are forgotten.
    pub purged: Sequence,
    /// The reason of the last trim.
    pub trim_reason: TrimReason,
    /// Blocks below this sequence were rolled up as far as possible, and need no other look.
    pub rewritten: Sequence,
    /// Whether the topic may hold events that expire.
    pub may_expire: bool,
    /// Whether the newest events are damaged, so that the topic takes no more events. The tail is
    /// then above every sequence that can have been given out.
    pub is_damaged: bool,
    /// The progress of compaction.
    pub compacted: Compacted,
}

/// The progress of compaction in a topic, and the time of its next work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// The number of events of each key that are kept; 0 keeps all.
    pub kept: u64,
    /// Below this sequence no key has more than `kept` events.
    pub below: Sequence,
    /// Below this sequence all events were looked at. A key may have more than `kept` events there
    /// only so that the ids of these stay known.
    pub seen: Sequence,
    /// The time at which the next of the events that were looked at must be dropped, because of its
    /// age or because its id is forgotten.
    pub due: Timestamp,
}

impl Compacted {
    /// The progress before the first look.
    pub const NOTHING: Compacted =
        Compacted { kept: 0, below: Sequence::FIRST, seen: Sequence::FIRST, due: Timestamp::MAX };
}

impl Default for Extent {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Extent {
    /// The extent of a topic before its first event.
    pub const EMPTY: Extent = Extent {
        earliest: Sequence::FIRST,
        tail: Sequence::FIRST,
        last_position: Position::new(0),
        last_time: Timestamp::from_ms(0),
        last_clock: Timestamp::from_ms(0),
        ahead: Ahead { position: Position::BEFORE_ALL, clock: Timestamp::from_ms(0) },
        appended_bytes: 0,
        dropped_bytes: 0,
        dropped_events: 0,
        trimmed_position: Position::new(0),
        trimmed_time: Timestamp::from_ms(0),
        trimmed_drop: 0,
        buried_position: Position::new(0),
        buried_sequence: Sequence::new(0),
        buried_drop: 0,
        first_position: Position::new(0),
        purged: Sequence::new(0),
        trim_reason: TrimReason::Retention,
        rewritten: Sequence::FIRST,
        may_expire: false,
        is_damaged: false,
        compacted: Compacted::NOTHING,
    };

    /// Returns how many of the events come after the sequence `after`. Where compaction has dropped
    /// some of these, it may be too many, and is never more than there are.
    pub(crate) fn behind(&self, after: u64) -> u64 {
        let gone = self.earliest.previous().get();
        self.tail.previous().get().saturating_sub(after.max(gone)).min(self.events())
    }

    /// Returns all sequences, positions and numbers of drops in the extent.
    pub(super) fn places(&self) -> [u64; 12] {
        [
            self.earliest.get(),
            self.tail.get(),
            self.last_position.get(),
            self.ahead.position.get(),
            self.trimmed_position.get(),
            self.trimmed_drop,
            self.buried_position.get(),
            self.buried_sequence.get(),
            self.buried_drop,
            self.first_position.get(),
            self.purged.get(),
            self.rewritten.get(),
        ]
    }

    /// Returns the number of the newest drop of the log that took events from the topic.
    pub(crate) fn newest_drop(&self) -> u64 {
        self.trimmed_drop.max(self.buried_drop)
    }

    /// Returns the last position of all dropped events. A reader behind this position may miss
    /// events.
    pub(crate) fn dropped_position(&self) -> Position {
        self.trimmed_position.max(self.buried_position)
    }

    /// Notes `number` as the drop in which events were trimmed, if `earliest` has moved since
    /// `before`.
    pub(crate) fn number_trim(&mut self, before: &Self, number: u64) {
        if self.earliest != before.earliest {
            self.trimmed_drop = number;
        }
    }

    /// Returns the size of the stored blocks, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.appended_bytes.saturating_sub(self.dropped_bytes)
    }

    /// Whether the topic has no event to read.
    pub fn is_empty(&self) -> bool {
        self.earliest == self.tail
    }

    /// Returns a position that is not above the position of the first readable event: the highest
    /// that is known without reading the log.
    pub fn lowest_position(&self) -> Position {
        let known = self.first_position.max(self.trimmed_position.next());
        let is_last_alone = self.earliest.next() == self.tail;
        if is_last_alone { known.max(self.last_position) } else { known }
    }

    /// Whether the topic may ever have had an event before this position. The position of the very
    /// first event is known until something is trimmed.
    pub(crate) fn had_some_before(&self, position: Position) -> bool {
        let was_trimmed = self.earliest > Sequence::FIRST;
        position > Position::FIRST && (was_trimmed || self.first_position < position)
    }

    /// Returns the number of stored events. Trimmed events whose blocks are not removed yet count,
    /// too.
    pub fn events(&self) -> u64 {
        self.tail.previous().get().saturating_sub(self.dropped_events)
    }

    /// Counts `block` as dropped.
    pub(crate) fn drop_block(&mut self, block: &StoredBlock) {
        self.dropped_bytes += block.size_bytes;
        self.dropped_events += block.events;
    }

    /// Counts `block` as not dropped: it holds the events that are left of blocks that were counted
    /// as dropped.
    pub(crate) fn keep_block(&mut self, block: &Block) {
        self.dropped_bytes = self.dropped_bytes.saturating_sub(block.bytes().len() as u64);
        self.dropped_events = self.dropped_events.saturating_sub(block.count() as u64);
    }

    /// Returns the extent after `block` is appended.
    pub(crate) fn with(self, block: &Block) -> Self {
        Self {
            tail: block.last_sequence().next(),
            last_position: block.last_position(),
            last_time: block.last_time(),
            last_clock: block.last_clock(),
            appended_bytes: block.end_bytes(),
            may_expire: self.may_expire || block.has_ttl(),
            ..self
        }
    }

    /// Notes that the newest event is ahead of the system clock, which shows `now`. An event is
    /// noted once.
    pub fn remember_ahead(&mut self, now: Timestamp) {
        if self.is_ahead(now) {
            self.ahead = Ahead { position: self.last_position, clock: now };
        }
    }

    /// Whether the newest event is ahead of the system clock, and that is not noted yet.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.last_clock > now && self.ahead.position < self.last_position
    }
}

/// The events of a topic whose times were found to be ahead of the system clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ahead {
    /// The position of the newest event at that moment; 0 if no event was ever ahead.
    pub position: Position,
    /// The reading of the system clock at that moment.
    pub clock: Timestamp,
}

impl Ahead {
    /// Returns the best known time at which an event was appended, as seen at `now`.
    pub fn appended(self, position: Position, clock: Timestamp, now: Timestamp) -> Timestamp {
        match clock {
            clock if clock <= now => clock,
            _ if position <= self.position => self.clock.min(now),
            _ => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    #[test]
    fn an_event_that_the_clock_has_not_reached_ages_from_when_that_was_noticed() {
        let newest = Position::new(7);
        let mut extent = Extent { last_position: newest, last_clock: at(9_000), ..Extent::EMPTY };
        let appended = |extent: &Extent, position, clock, now| {
            extent.ahead.appended(Position::new(position), at(clock), at(now)).as_ms()
        };
        assert_eq!(appended(&extent, 7, 9_000, 9_500), 9_000, "the clock has reached it");
        assert_eq!(appended(&extent, 7, 9_000, 100), 100, "the event is as young as possible");
        extent.remember_ahead(at(9_000));
        assert_eq!(extent.ahead, Ahead::default(), "the clock has reached the event");
        extent.remember_ahead(at(100));
        extent.remember_ahead(at(200));
        assert_eq!(extent.ahead, Ahead { position: newest, clock: at(100) }, "noted once");
        assert_eq!(appended(&extent, 7, 9_000, 300), 100);
        assert_eq!(appended(&extent, 7, 9_000, 50), 50, "the clock went back again");
        assert_eq!(appended(&extent, 8, 9_000, 300), 300, "a later event was not noted then");
        assert_eq!(appended(&extent, 7, 9_000, 9_001), 9_000, "the clock was wrong, not the event");
    }
}
