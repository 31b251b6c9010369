//! Digests of a topic's events, by which two logs are compared without sending the events.
//!
//! ```text
//! sequences   1 … 256      257 … 512     513 … 600
//! digests     of 256       of 256        of 88         [`DIGEST_EVENTS`] sequences each
//!
//! sha256 of   | sequence: 8 | position: 8 | time_ms: 8 | clock_ms: 8 | record_bytes: 8 | record |
//!             of each event, one after another
//! ```
//!
//! `record` is the part of the stored event that does not depend on its place (record.rs): the
//! publisher's time, the time to live, id, type, key, content type, headers and payload. Numbers
//! are big-endian. Where a digest begins depends on the sequences alone, and not on blocks: two
//! logs that cut their blocks differently have the same digests.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::record::EventRef;
use crate::cursor::{Position, Sequence};

/// The sequences of one digest.
pub const DIGEST_EVENTS: u64 = 256;

/// The digest of the events of one topic with neighbouring sequences.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EventsDigest {
    /// The first sequence that an event in it could have.
    pub first: Sequence,
    /// The number of events: fewer than [`DIGEST_EVENTS`] at the ends of a topic, and where events
    /// were dropped.
    pub events: u64,
    /// The SHA-256 of the events.
    pub sha256: [u8; 32],
}

impl EventsDigest {
    /// Returns the hash as 64 hexadecimal digits.
    pub fn hexadecimal(&self) -> String {
        self.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for EventsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}: {}", self.events, self.first, self.hexadecimal())
    }
}

/// Returns the first sequence of the digest that `sequence` is in.
pub fn digest_start(sequence: Sequence) -> Sequence {
    let number = sequence.get().saturating_sub(1) / DIGEST_EVENTS;
    Sequence::new(number * DIGEST_EVENTS + 1)
}

/// A maker of digests, which is given the events of a topic in order.
#[derive(Debug, Clone)]
pub(crate) struct TopicDigester {
    /// Events after this position do not count.
    through: Position,
    /// The next sequence that counts.
    next: Sequence,
    current: Option<(Sequence, u64, Sha256)>,
    done: Vec<EventsDigest>,
}

impl TopicDigester {
    /// Returns a maker of the digests of events from `from` on, up to the position `through`.
    pub(crate) fn new(from: Sequence, through: Position) -> Self {
        Self { through, next: from, current: None, done: Vec::new() }
    }

    /// Takes the next event. One that comes again, or is after the last position, does not count.
    pub(crate) fn take(&mut self, event: &EventRef<'_>) {
        if event.sequence < self.next || event.position > self.through {
            return;
        }
        self.next = event.sequence.next();
        let start = digest_start(event.sequence);
        if self.current.as_ref().is_none_or(|(first, ..)| *first != start) {
            self.end_current();
        }
        let (_, events, hash) = self.current.get_or_insert_with(|| (start, 0, Sha256::new()));
        *events += 1;
        let record = event.placeless();
        for number in [
            event.sequence.get(),
            event.position.get(),
            event.time.as_ms(),
            event.clock.as_ms(),
            record.len() as u64,
        ] {
            hash.update(number.to_be_bytes());
        }
        hash.update(record);
    }

    /// Returns the number of digests that are complete.
    pub(crate) fn done(&self) -> usize {
        self.done.len()
    }

    /// Returns the complete digests and the first sequence that is not in them. With `is_end`, no
    /// event follows, and the last one is complete, too.
    pub(crate) fn finish(mut self, is_end: bool) -> (Vec<EventsDigest>, Sequence) {
        if is_end {
            self.end_current();
        }
        let next = self.current.map_or(self.next, |(first, ..)| first);
        (self.done, next)
    }

    fn end_current(&mut self) {
        if let Some((first, events, hash)) = self.current.take() {
            self.done.push(EventsDigest { first, events, sha256: hash.finalize().into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{NewEvent, Timestamp};
    use crate::log::{Block, BlockBuilder, record};

    fn blocks(sizes: &[usize], change: impl Fn(usize, NewEvent) -> NewEvent) -> Vec<Block> {
        let mut number = 0;
        let block = |size: &usize| {
            let first = number + 1;
            let events: Vec<NewEvent> = (0..*size)
                .map(|_| {
                    number += 1;
                    let event = NewEvent::new(format!("payload {number}")).with_key("k");
                    change(number, event.with_id(format!("id {number}")))
                })
                .collect();
            let mut builder = BlockBuilder::new(Sequence::new(first as u64));
            for event in &events {
                let mut bytes = Vec::new();
                record::encode(event, &mut bytes);
                builder.push(&bytes, true, false);
            }
            builder.finish(Position::new(first as u64), Timestamp::from_ms(5), 0)
        };
        sizes.iter().map(block).collect()
    }

    fn digests(blocks: &[Block], through: u64) -> Vec<EventsDigest> {
        let mut digester = TopicDigester::new(Sequence::FIRST, Position::new(through));
        blocks.iter().flat_map(Block::events).for_each(|event| digester.take(&event));
        digester.finish(true).0
    }

    #[test]
    fn digests_depend_on_the_events_and_not_on_their_blocks() {
        let plain = |_, event| event;
        let whole = digests(&blocks(&[600], plain), 600);
        let cut = digests(&blocks(&[1, 300, 200, 99], plain), 600);
        assert_eq!(whole, cut);
        let shape: Vec<_> = whole.iter().map(|it| (it.first.get(), it.events)).collect();
        assert_eq!(shape, [(1, 256), (257, 256), (513, 88)]);
        assert_eq!(digests(&blocks(&[700], plain), 600), whole, "later events do not count");
        assert_eq!(digests(&blocks(&[300], plain), 600)[..1], whole[..1]);
        for change in [
            |event: NewEvent| event.with_header("a", "b"),
            |event: NewEvent| event.with_key("other"),
            |event: NewEvent| NewEvent { payload: "other".into(), ..event },
        ] {
            let changed = |number, event| if number == 300 { change(event) } else { event };
            let changed = digests(&blocks(&[600], changed), 600);
            let same: Vec<_> = changed.iter().zip(&whole).map(|(a, b)| a == b).collect();
            assert_eq!(same, [true, false, true]);
        }
        assert_eq!(digest_start(Sequence::new(256)).get(), 1);
        assert_eq!(digest_start(Sequence::new(257)).get(), 257);
    }
}
