//! The pauses between tries: full jitter under a ceiling that doubles.

use std::time::Duration;

use tokio::time::Instant;

/// The pauses between tries. A pause is random, between nothing and a ceiling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackoffConfig {
    /// The ceiling of the first pause. It doubles with each try. Default: 500 ms.
    pub first: Duration,
    /// The highest ceiling, and the longest pause. Default: 30 s.
    pub longest: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30) }
    }
}

impl BackoffConfig {
    /// Returns the pauses between these two ceilings.
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// Returns the ceiling of the pause after so many failures in a row, from 0.
    fn ceiling(&self, failures: u32) -> Duration {
        let factor = 2_u32.checked_pow(failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// The tries of one call, reader or publisher.
#[derive(Debug)]
pub(super) struct Backoff {
    config: BackoffConfig,
    retry_for: Option<Duration>,
    /// The failures since the last progress.
    failures: u32,
    /// The time of the first failure since the broker answered last.
    failing_since: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(config: BackoffConfig, retry_for: Option<Duration>) -> Self {
        Self { config, retry_for, failures: 0, failing_since: None }
    }

    /// Returns the number of failures since the last progress.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes that the broker answered: the time to retry begins anew. Pauses stay as long as they
    /// are, so that a connection that breaks again and again is not tried ever faster.
    pub(super) fn reached(&mut self) {
        self.failing_since = None;
    }

    /// Notes a success: the next pause is a first one.
    pub(super) fn progressed(&mut self) {
        (self.failures, self.failing_since) = (0, None);
    }

    /// Returns the pause before the next try: at least `at_least`, if the broker asked for it, and
    /// never longer than the longest one. `None` if the time to retry is over; a last try comes at
    /// its end. `random` is in `0.0..1.0`.
    pub(super) fn pause(
        &mut self,
        at_least: Option<Duration>,
        now: Instant,
        random: f64,
    ) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let left = self.retry_for.map(|limit| limit.saturating_sub(now.duration_since(since)));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let jittered = self.config.ceiling(self.failures).mul_f64(random);
        self.failures = self.failures.saturating_add(1);
        let asked = at_least.unwrap_or_default().min(self.config.longest);
        let pause = jittered.max(asked);
        Some(left.map_or(pause, |left| pause.min(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_lie_under_a_ceiling_that_doubles_up_to_the_longest() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffConfig::default(), None);
        let halves: Vec<_> =
            (0..9).map(|_| backoff.pause(None, now, 0.5).unwrap().as_millis()).collect();
        assert_eq!(halves, [250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000]);
        assert_eq!(backoff.pause(None, now, 0.0), Some(Duration::ZERO));
        for _ in 0..100 {
            assert!(backoff.pause(None, now, 0.999).unwrap() < 30_000 * MS, "no overflow");
        }
        backoff.reached();
        assert!(backoff.pause(None, now, 0.999).unwrap() > 29_000 * MS, "an answer is no progress");
        backoff.progressed();
        assert_eq!(backoff.pause(None, now, 0.5), Some(250 * MS));
    }

    #[test]
    fn the_brokers_own_pause_is_the_least_and_bounded() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffConfig::default(), None);
        assert_eq!(backoff.pause(Some(3_000 * MS), now, 0.5), Some(3_000 * MS));
        assert_eq!(backoff.pause(Some(1 * MS), now, 0.5), Some(500 * MS));
        assert_eq!(backoff.pause(Some(3_600_000 * MS), now, 0.5), Some(30_000 * MS));
    }

    #[test]
    fn the_time_to_retry_ends_with_a_last_try_and_begins_anew_with_an_answer() {
        let now = Instant::now();
        let mut none = Backoff::new(BackoffConfig::default(), Some(Duration::ZERO));
        assert_eq!(none.pause(None, now, 0.5), None);
        let mut backoff = Backoff::new(BackoffConfig::default(), Some(1_000 * MS));
        assert_eq!(backoff.pause(None, now, 0.5), Some(250 * MS));
        assert_eq!(backoff.pause(None, now + 900 * MS, 0.5), Some(100 * MS));
        assert_eq!(backoff.pause(None, now + 1_000 * MS, 0.5), None);
        backoff.reached();
        assert!(backoff.pause(None, now + 2_000 * MS, 0.5).is_some());
    }
}
