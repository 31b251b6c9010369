//! The places of events in the records of work sharing.

use crate::cursor::Sequence;
use crate::topic::TopicId;

/// The neighbouring events of one record.
pub(super) const BUCKET_EVENTS: u64 = 64;

/// The letter that the keys of these records begin with.
pub(super) const KEY_PREFIX: char = 'w';

/// The place of an event in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WorkPlace {
    pub(super) topic: TopicId,
    pub(super) sequence: Sequence,
}

impl WorkPlace {
    /// Returns the bucket that the event is in.
    pub(super) fn bucket(&self) -> Bucket {
        Bucket { topic: self.topic, number: self.sequence.get() / BUCKET_EVENTS }
    }
}

/// Neighbouring events of one topic that share a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub(super) topic: TopicId,
    pub(super) number: u64,
}

impl Bucket {
    /// Returns the first place in the bucket, and the last one.
    pub(super) fn places(&self) -> (WorkPlace, WorkPlace) {
        let first = self.number * BUCKET_EVENTS;
        let place = |sequence| WorkPlace { topic: self.topic, sequence: Sequence::new(sequence) };
        (place(first), place(first + (BUCKET_EVENTS - 1)))
    }

    /// Returns the key of the bucket's record.
    pub(super) fn key(&self, consumer: u64) -> String {
        format!("{KEY_PREFIX}{}.{}.{}", base36(consumer), self.topic.get(), self.number)
    }
}

/// Returns a number in base 36, in small letters.
pub(super) fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}
