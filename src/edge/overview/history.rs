//! The newest minutes of a server: a few numbers every five seconds, and since when something is
//! wrong.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::known_letters::KnownLetters;
use crate::event::Timestamp;

/// The time between two samples.
pub(super) const STEP: Duration = Duration::from_secs(5);

/// The samples that are kept: 15 minutes of steps, and the sample at their beginning.
const MAX_SAMPLES: usize = 181;

/// The counters whose rise is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Gaps that readers were told.
    Gaps,
    /// Clients that took nothing of the data sent to them.
    SlowReaders,
    /// Clients that answered no ping.
    DeadPeers,
    /// Requests, messages and connections that a rate refused.
    Refused,
    /// Polls that held a worker for long.
    LongPolls,
    /// Publishes that storage refused, or for which there was no room.
    Writes,
}

impl Trouble {
    pub(super) const ALL: [Self; 6] = [
        Self::Gaps,
        Self::SlowReaders,
        Self::DeadPeers,
        Self::Refused,
        Self::LongPolls,
        Self::Writes,
    ];
}

/// The numbers of one moment. All but the connections are totals since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) at: Timestamp,
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) connections: u64,
    /// The counters of troubles, in the order of [`Trouble::ALL`].
    pub(super) troubles: [u64; Trouble::ALL.len()],
}

/// What happened in each step of the history, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) published: Vec<u64>,
    pub(super) delivered: Vec<u64>,
    pub(super) connections: Vec<u64>,
}

/// The rise of a counter within the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rise {
    pub(super) count: u64,
    /// When the rise was seen first, and when it was seen last.
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// The samples of the newest 15 minutes, and the problems that last.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: Mutex<VecDeque<Sample>>,
    /// The dead letters that were found last.
    pub(super) letters: tokio::sync::Mutex<KnownLetters>,
    /// The times since when problems last, by kind.
    since: Mutex<BTreeMap<&'static str, Timestamp>>,
}

impl History {
    fn samples(&self) -> MutexGuard<'_, VecDeque<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample, and forgets the oldest one if there are too many.
    pub(super) fn add(&self, sample: Sample) {
        let mut samples = self.samples();
        if samples.len() == MAX_SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// Returns what happened in each step.
    pub(super) fn steps(&self) -> Steps {
        let samples = self.samples();
        let mut steps = Steps::default();
        for (before, after) in samples.iter().zip(samples.iter().skip(1)) {
            steps.published.push(after.published.saturating_sub(before.published));
            steps.delivered.push(after.delivered.saturating_sub(before.delivered));
            steps.connections.push(after.connections);
        }
        steps
    }

    /// Returns by how much a counter, which has this value now, has risen within the history;
    /// `None` if it has not risen.
    pub(super) fn rise(&self, of: Trouble, value: u64, now: Timestamp) -> Option<Rise> {
        let samples = self.samples();
        let (oldest, newest) = (samples.front()?, samples.back()?);
        let [before, known] = [oldest, newest].map(|sample| sample.troubles[of as usize]);
        let count = value.saturating_sub(before);
        let first = samples.iter().find(|sample| sample.troubles[of as usize] > before);
        let first = first.map_or(now, |sample| sample.at);
        // The newest value came with the first sample that has it, or with none yet.
        let last = samples.partition_point(|sample| sample.troubles[of as usize] < known);
        let last = samples.get(last).filter(|_| value <= known).map_or(now, |sample| sample.at);
        (count > 0).then_some(Rise { count, first, last })
    }

    /// Returns since when each of the problems lasts, which are all that there are now.
    pub(super) fn since(&self, kinds: &[&'static str], now: Timestamp) -> Vec<Timestamp> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|kind, _| kinds.contains(kind));
        kinds.iter().map(|kind| *since.entry(kind).or_insert(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Sample {
        let mut sample = Sample {
            at: Timestamp::from_ms(5_000 * number),
            published: 10 * number,
            delivered: 20 * number,
            connections: number,
            ..Sample::default()
        };
        sample.troubles[Trouble::Gaps as usize] = number / 100;
        sample
    }

    #[test]
    fn a_history_has_the_newest_steps_and_what_rose_within_them() {
        let (history, now) = (History::default(), Timestamp::from_ms(7_000_000));
        assert_eq!(history.rise(Trouble::Gaps, 5, now), None, "nothing is known before a sample");
        (0..150).for_each(|number| history.add(sample(number)));
        let rise = |count, first, last| Some(Rise { count, first, last });
        let at = Timestamp::from_ms(500_000);
        assert_eq!(history.rise(Trouble::Gaps, 1, now), rise(1, at, at));
        assert_eq!(history.rise(Trouble::Gaps, 2, now), rise(2, at, now), "since the sample");
        assert_eq!(history.rise(Trouble::SlowReaders, 0, now), None);
        assert_eq!(history.rise(Trouble::SlowReaders, 2, now), rise(2, now, now));
        (150..250).for_each(|number| history.add(sample(number)));
        let later = Timestamp::from_ms(1_000_000);
        assert_eq!(history.rise(Trouble::Gaps, 2, now), rise(2, at, later));
        (250..1_000).for_each(|number| history.add(sample(number)));
        let steps = history.steps();
        assert_eq!(steps.published, vec![10; MAX_SAMPLES - 1]);
        assert_eq!(steps.delivered, vec![20; MAX_SAMPLES - 1]);
        assert_eq!(steps.connections.last(), Some(&999));
        assert_eq!(history.rise(Trouble::Gaps, 9, now).map(|rise| rise.count), Some(1));
    }

    #[test]
    fn a_problem_lasts_since_it_was_found_first_and_begins_anew_after_its_end() {
        let (history, at) = (History::default(), Timestamp::from_ms);
        assert_eq!(history.since(&["a"], at(1)), [at(1)]);
        assert_eq!(history.since(&["b", "a"], at(2)), [at(2), at(1)]);
        assert_eq!(history.since(&["b"], at(3)), [at(2)]);
        assert_eq!(history.since(&["a"], at(4)), [at(4)]);
    }
}
