//! The extent: what a topic holds at one moment, from its earliest event to its tail.

use super::block::Block;
use super::stored_block::StoredBlock;
use crate::cursor::{Position, Sequence, TrimReason};
use crate::event::Timestamp;

/// What a topic holds, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first sequence that can be read.
    pub earliest: Sequence,
    /// The sequence that the next event gets.
    pub tail: Sequence,
    /// The position of the newest event; 0 if it never had one.
    pub last_position: Position,
    /// When the newest event was appended.
    pub last_time: Timestamp,
    /// What the system clock said then: the same, or less where it had been set back.
    pub last_clock: Timestamp,
    /// The events that were found to be ahead of the system clock.
    pub ahead: Ahead,
    /// All blocks that were ever appended, in bytes.
    pub appended_bytes: u64,
    /// The blocks of these that were dropped again, in bytes.
    pub dropped_bytes: u64,
    /// How many events were dropped with them.
    pub dropped_events: u64,
    /// The position of the last event that was trimmed; 0 if none was.
    pub trimmed_position: Position,
    /// When that was appended.
    pub trimmed_time: Timestamp,
    /// The number of the drop in which it was trimmed, of all drops of the log; 0 if none was.
    pub trimmed_drop: u64,
    /// The position of the newest tombstone, or event of a key that had expired, that was dropped;
    /// 0 if none was. A backup from before may still hold what it had superseded.
    pub buried_position: Position,
    /// Its sequence.
    pub buried_sequence: Sequence,
    /// The number of the drop in which it went, of all drops of the log; 0 if none did.
    pub buried_drop: u64,
    /// The position of the first event that came when it was empty; what is there to read begins
    /// there or later. 0 if that is not known.
    pub first_position: Position,
    /// Events below were purged, or deleted: their ids are not recognised any more.
    pub purged: Sequence,
    /// Why events were trimmed last.
    pub trim_reason: TrimReason,
    /// Blocks below were looked at for rolling up, and need not be again.
    pub rewritten: Sequence,
    /// Whether there may be events that are to be dropped once they have an age.
    pub may_expire: bool,
    /// Whether its newest events are damaged, so that it takes no more. Its tail is behind any
    /// sequence that it can have given out.
    pub is_damaged: bool,
    /// How far compaction has come.
    pub compacted: Compacted,
}

/// How far compaction of a topic has come, and when there is something to drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// How many events of a key are kept; 0: all.
    pub kept: u64,
    /// Below it a key has no more than these.
    pub below: Sequence,
    /// Below it they were looked at; what is over is left for its id.
    pub seen: Sequence,
    /// When the first of those that were looked at is to be dropped, for its age or its id's.
    pub due: Timestamp,
}

impl Compacted {
    /// Nothing was looked at yet, and there is nothing to drop.
    pub const NOTHING: Compacted =
        Compacted { kept: 0, below: Sequence::FIRST, seen: Sequence::FIRST, due: Timestamp::MAX };
}

impl Default for Extent {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Extent {
    /// What a topic holds before its first event.
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

    /// All that it says of places, and of drops, which are numbered like these.
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

    /// The number of the newest drop of the log that took something from the topic.
    pub(crate) fn newest_drop(&self) -> u64 {
        self.trimmed_drop.max(self.buried_drop)
    }

    /// The last position of what was dropped: a reader behind it may miss something.
    pub(crate) fn dropped_position(&self) -> Position {
        self.trimmed_position.max(self.buried_position)
    }

    /// Numbers the drop by which it begins later than `before`, if it does.
    pub(crate) fn number_trim(&mut self, before: &Self, number: u64) {
        if self.earliest != before.earliest {
            self.trimmed_drop = number;
        }
    }

    /// The blocks that are stored, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.appended_bytes.saturating_sub(self.dropped_bytes)
    }

    /// Whether there is nothing in it to read.
    pub fn is_empty(&self) -> bool {
        self.earliest == self.tail
    }

    /// A position that no event there is to read is before: that of the first one, as far as it is
    /// known without reading.
    pub fn lowest_position(&self) -> Position {
        let known = self.first_position.max(self.trimmed_position.next());
        let is_last_alone = self.earliest.next() == self.tail;
        if is_last_alone { known.max(self.last_position) } else { known }
    }

    /// Whether there may ever have been an event before this position. Until something is trimmed
    /// it is known where the very first one is.
    pub(crate) fn had_some_before(&self, position: Position) -> bool {
        let was_trimmed = self.earliest > Sequence::FIRST;
        position > Position::FIRST && (was_trimmed || self.first_position < position)
    }

    /// The events that are stored; those of the first block that were trimmed count, too.
    pub fn events(&self) -> u64 {
        self.tail.previous().get().saturating_sub(self.dropped_events)
    }

    /// Counts `block` as dropped.
    pub(crate) fn drop_block(&mut self, block: &StoredBlock) {
        self.dropped_bytes += block.size_bytes;
        self.dropped_events += block.events;
    }

    /// Takes `block` for what is left of blocks that were counted as dropped.
    pub(crate) fn keep_block(&mut self, block: &Block) {
        self.dropped_bytes = self.dropped_bytes.saturating_sub(block.bytes().len() as u64);
        self.dropped_events = self.dropped_events.saturating_sub(block.count() as u64);
    }

    /// As it is once `block` is appended.
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

    /// Notes, once, that the newest event is ahead of the system clock, which says `now`.
    pub fn note_ahead(&mut self, now: Timestamp) {
        if self.is_ahead(now) {
            self.ahead = Ahead { position: self.last_position, clock: now };
        }
    }

    /// Whether the newest event is ahead of the system clock, and that is not noted.
    pub fn is_ahead(&self, now: Timestamp) -> bool {
        self.last_clock > now && self.ahead.position < self.last_position
    }
}

/// The events of a topic whose times were found to be ahead of the system clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ahead {
    /// The newest event that was there then; 0 if that never happened.
    pub position: Position,
    /// What the system clock said.
    pub clock: Timestamp,
}

impl Ahead {
    /// When an event was appended, as far as that can be told at `now`.
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
        assert_eq!(appended(&extent, 7, 9_000, 100), 100, "it is as young as can be");
        extent.note_ahead(at(9_000));
        assert_eq!(extent.ahead, Ahead::default(), "it is not ahead of a clock that is there");
        extent.note_ahead(at(100));
        extent.note_ahead(at(200));
        assert_eq!(extent.ahead, Ahead { position: newest, clock: at(100) }, "noted once");
        assert_eq!(appended(&extent, 7, 9_000, 300), 100);
        assert_eq!(appended(&extent, 7, 9_000, 50), 50, "the clock went back again");
        assert_eq!(appended(&extent, 8, 9_000, 300), 300, "a later one was not there then");
        assert_eq!(appended(&extent, 7, 9_000, 9_001), 9_000, "the clock was wrong, and not it");
    }
}
