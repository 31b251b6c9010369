//! The events that a shared consumer has finished although its floor is before them.

use std::collections::HashMap;

use bytes::Bytes;

use super::places::Bucket;
use super::records::BucketRecord;
use crate::topic::TopicId;

/// The finished events above the floor, by topic, as ranges of sequences. Both ends of a range are
/// inclusive; the ranges rise.
#[derive(Debug, Clone, Default)]
pub(crate) struct FinishedWork(HashMap<TopicId, Vec<(u64, u64)>>);

impl FinishedWork {
    /// Adds what a record says. The buckets of a topic are added in their order.
    pub(super) fn add(&mut self, bucket: Bucket, record: &Bytes) {
        // One that cannot be read was told when it was read first.
        let Ok(record) = serde_json::from_slice::<BucketRecord>(record) else { return };
        let ranges = self.0.entry(bucket.topic).or_default();
        for sequence in record.finished_sequences() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == sequence => *last = sequence,
                _ => ranges.push((sequence, sequence)),
            }
        }
    }

    /// Returns the ranges of a topic.
    pub(crate) fn of(&self, topic: TopicId) -> &[(u64, u64)] {
        self.0.get(&topic).map_or(&[], Vec::as_slice)
    }

    /// Returns how many events of a topic with sequences below `end` are finished.
    pub(crate) fn below(&self, topic: TopicId, end: u64) -> u64 {
        let part = |(first, last): &(u64, u64)| (last + 1).min(end).saturating_sub(*first);
        self.of(topic).iter().map(part).sum()
    }
}

/// Returns whether a sequence is in one of these ranges.
pub(crate) fn is_in(ranges: &[(u64, u64)], sequence: u64) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= sequence);
    let range = after.checked_sub(1).and_then(|index| ranges.get(index));
    range.is_some_and(|(_, last)| sequence <= *last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_events_are_ranges_over_the_bounds_of_records() {
        let topic = TopicId::FIRST;
        let mut finished = FinishedWork::default();
        for (number, ranges) in [(0, "3,60-63"), (1, "64-65,70")] {
            let record = format!(r#"{{"finished":"{ranges}"}}"#);
            finished.add(Bucket { topic, number }, &Bytes::from(record));
        }
        finished.add(Bucket { topic, number: 2 }, &Bytes::from_static(b"damaged"));
        assert_eq!(finished.of(topic), [(3, 3), (60, 65), (70, 70)]);
        let below = [0, 3, 4, 61, 66, 70, 1_000].map(|end| finished.below(topic, end));
        assert_eq!(below, [0, 0, 1, 2, 7, 7, 8]);
        let is_in = [2, 3, 4, 60, 65, 66, 70, 71].map(|at| is_in(finished.of(topic), at));
        assert_eq!(is_in, [false, true, false, true, true, false, true, false]);
    }
}
