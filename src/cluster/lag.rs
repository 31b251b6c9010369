//! How far a node is behind the stream: since when the oldest record that it has not reached is
//! there, as far as the node knows.
//!
//! ```text
//! reached            mark            mark       tail
//!    │  ◀─ missing ─▶ │ since 12:00:01 │ 12:00:02 │
//! ```
//!
//! The node learns of the tail by reading, and by asking the engine now and then. Each time that it
//! is behind the tail, the tail is marked with the time. Once the node reaches a mark, the mark
//! goes. So the lag is the age of the oldest mark: the records before it are at least as old.

use std::collections::VecDeque;
use std::time::Duration;

use super::stream::StreamSequence;

/// The least time between two marks.
const MARK_EVERY: Duration = Duration::from_millis(100);

/// The most marks. Of more, each second one goes, and the oldest one stays.
const MAX_MARKS: usize = 64;

/// How far a node is behind the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct FleetLag {
    /// Tails that the node has not reached, each with the time at which it was learned.
    marks: VecDeque<(StreamSequence, Duration)>,
    /// The record up to which the node has applied all groups, and the time of the last progress.
    reached: StreamSequence,
    moved: Duration,
}

impl FleetLag {
    /// Notes at the time `now` how far the node is, and the tail that it knows.
    pub(super) fn note(&mut self, reached: StreamSequence, tail: StreamSequence, now: Duration) {
        if reached != self.reached {
            (self.reached, self.moved) = (reached, now);
        }
        while self.marks.front().is_some_and(|(mark, _)| *mark <= reached) {
            self.marks.pop_front();
        }
        let is_new = match self.marks.back() {
            Some((mark, since)) => tail > *mark && now >= *since + MARK_EVERY,
            None => tail > reached,
        };
        if !is_new {
            return;
        }
        self.marks.push_back((tail, now));
        if self.marks.len() > MAX_MARKS {
            let mut number = 0;
            self.marks.retain(|_| {
                number += 1;
                number % 2 == 1
            });
        }
    }

    /// Returns for how long the node has been behind, at the time `now`.
    pub(super) fn behind(&self, now: Duration) -> Duration {
        self.marks.front().map_or(Duration::ZERO, |(_, since)| now.saturating_sub(*since))
    }

    /// Returns for how long the node has made no progress, at the time `now`.
    pub(super) fn still(&self, now: Duration) -> Duration {
        now.saturating_sub(self.moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(number: u64) -> StreamSequence {
        StreamSequence::new(number)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_record_that_is_missing() {
        let mut lag = FleetLag::default();
        lag.note(seq(5), seq(5), ms(0));
        assert_eq!(lag.behind(ms(9_000)), ms(0), "all is there");
        lag.note(seq(5), seq(7), ms(1_000));
        lag.note(seq(5), seq(9), ms(2_000));
        assert_eq!(lag.behind(ms(3_000)), ms(2_000));
        lag.note(seq(6), seq(9), ms(3_000));
        assert_eq!(lag.behind(ms(3_000)), ms(2_000), "record 7 is missing still");
        lag.note(seq(8), seq(9), ms(3_000));
        assert_eq!((lag.behind(ms(3_500)), lag.still(ms(3_500))), (ms(1_500), ms(500)));
        lag.note(seq(9), seq(9), ms(4_000));
        assert_eq!((lag.behind(ms(9_000)), lag.still(ms(9_000))), (ms(0), ms(5_000)));
    }

    /// Goal: a node that stays behind for a day holds a bounded number of marks, and its lag is
    /// told to within some of them.
    #[test]
    fn marks_are_bounded_and_the_oldest_one_stays() {
        let mut lag = FleetLag::default();
        let day_s = 86_400;
        for second in 1..=day_s {
            lag.note(seq(0), seq(second), ms(second * 1_000));
            assert!(lag.marks.len() <= MAX_MARKS);
        }
        assert_eq!(lag.behind(ms(day_s * 1_000)), ms((day_s - 1) * 1_000));
        lag.note(seq(day_s / 2), seq(day_s), ms(day_s * 1_000));
        assert!(lag.behind(ms(day_s * 1_000)) <= ms(day_s * 500));
        lag.note(seq(day_s), seq(day_s), ms(day_s * 1_000));
        assert_eq!(lag.behind(ms(day_s * 1_000)), ms(0));
    }

    #[test]
    fn many_tails_in_one_moment_are_one_mark() {
        let mut lag = FleetLag::default();
        for record in 1..1_000 {
            lag.note(seq(0), seq(record), ms(record / 100));
        }
        assert_eq!(lag.marks.len(), 1);
        lag.note(seq(1), seq(1_000), ms(50));
        assert_eq!(lag.behind(ms(60)), ms(10), "what came after the mark is marked then");
    }
}
