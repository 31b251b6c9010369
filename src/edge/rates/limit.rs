//! One rate of one caller: an amount per second, and a larger amount at once after a pause.

use std::num::NonZeroU32;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// The largest number of steps per second. A higher rate is counted in larger steps. The limiter
/// knows the time of a step in whole nanoseconds; with a step of a few nanoseconds, rounding would
/// make the rate wrong.
const STEPS_PER_SECOND: u64 = 1_000_000;

/// The moment at which [`Monotonic`] starts.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The system's clock, with instants of the same type as those of the clock in tests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Monotonic;

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        START.elapsed().into()
    }
}

/// The allowance of one rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// The amount per second, in the long run.
    pub(super) per_second: u64,
    /// The amount at once, for a caller that has been idle.
    pub(super) burst: u64,
}

/// The reason for a refusal: not enough is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// The amount that could be taken now.
    pub(super) left: u64,
    /// The time until the requested amount can be taken, if nothing else is taken meanwhile.
    pub(super) wait: Duration,
}

impl Allowed {
    /// Returns the amount that one step counts.
    fn step(self) -> u64 {
        self.per_second.div_ceil(STEPS_PER_SECOND).max(1)
    }

    fn steps(self, amount: u64) -> NonZeroU32 {
        let steps = u32::try_from(amount.div_ceil(self.step())).unwrap_or(u32::MAX);
        NonZeroU32::new(steps).unwrap_or(NonZeroU32::MIN)
    }

    /// Returns the time of one step.
    fn interval(self) -> Duration {
        let nanos = 1_000_000_000 * self.step() / self.per_second.max(1);
        Duration::from_nanos(nanos.max(1))
    }

    /// Returns the time after which an empty allowance is full again.
    pub(super) fn window(self) -> Duration {
        self.interval() * self.steps(self.burst).get()
    }

    fn quota(self) -> Quota {
        let quota = Quota::with_period(self.interval()).expect("an interval is no less than 1 ns");
        quota.allow_burst(self.steps(self.burst))
    }
}

/// The remaining allowance of one caller for one rate: a few words of memory, and no lock.
#[derive(Debug)]
pub(super) struct Limit<C: Clock<Instant = Nanos> = Monotonic> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<Nanos>>,
    clock: C,
}

impl<C: Clock<Instant = Nanos> + Clone> Limit<C> {
    /// Returns a full allowance.
    pub(super) fn new(allowed: Allowed, clock: C) -> Self {
        let limiter = RateLimiter::direct_with_clock(allowed.quota(), clock.clone());
        Self { limiter, clock }
    }

    /// Takes `amount`, or nothing. An amount above the burst takes a full burst.
    pub(super) fn take(&self, allowed: Allowed, amount: u64) -> Result<(), Exhausted> {
        let steps = allowed.steps(amount).min(allowed.steps(allowed.burst));
        let Ok(Err(not_until)) = self.limiter.check_n(steps) else { return Ok(()) };
        let wait = not_until.wait_time_from(self.clock.now());
        let missing = wait.as_nanos().div_ceil(allowed.interval().as_nanos());
        let left = u128::from(steps.get()).saturating_sub(missing) as u64 * allowed.step();
        Err(Exhausted { left, wait })
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(allowed: Allowed) -> (Limit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        clock.advance(Duration::from_secs(1));
        (Limit::new(allowed, clock.clone()), clock)
    }

    #[test]
    fn as_much_as_may_be_is_taken_and_the_time_that_is_told_is_true() {
        let allowed = Allowed { per_second: 10, burst: 30 };
        let (limit, clock) = limit(allowed);
        assert_eq!(limit.take(allowed, 25), Ok(()));
        let exhausted = limit.take(allowed, 7).unwrap_err();
        assert_eq!(exhausted, Exhausted { left: 5, wait: Duration::from_millis(200) });
        assert_eq!(limit.take(allowed, 5), Ok(()), "a refusal takes nothing");
        let Exhausted { left, wait } = limit.take(allowed, 7).unwrap_err();
        assert_eq!((left, wait), (0, Duration::from_millis(700)));
        clock.advance(wait - Duration::from_nanos(1));
        assert!(limit.take(allowed, 7).is_err(), "not before its time");
        clock.advance(Duration::from_nanos(1));
        assert_eq!(limit.take(allowed, 7), Ok(()));
        assert_eq!(allowed.window(), Duration::from_secs(3));
        clock.advance(allowed.window());
        assert_eq!(limit.take(allowed, 30), Ok(()), "a full burst, and no more");
        assert!(limit.take(allowed, 1).is_err());
    }

    #[test]
    fn a_rate_is_what_it_says_however_large_it_is() {
        for per_second in [1, 3, 999, 1_000_000, 67_108_864, 3_000_000_001, 1 << 40] {
            let allowed = Allowed { per_second, burst: per_second * 2 };
            let (limit, clock) = limit(allowed);
            let piece = (per_second / 100).max(1);
            let mut taken = 0;
            let mut passed = Duration::ZERO;
            while passed < Duration::from_secs(100) {
                while limit.take(allowed, piece).is_ok() {
                    taken += piece;
                }
                clock.advance(Duration::from_millis(500));
                passed += Duration::from_millis(500);
            }
            let rate = (taken - allowed.burst) as f64 / 100.0 / per_second as f64;
            assert!((0.95..1.03).contains(&rate), "{per_second}: {rate}");
        }
    }

    #[test]
    fn what_is_more_than_there_can_ever_be_takes_all_of_it() {
        let allowed = Allowed { per_second: 1, burst: 5 };
        let (limit, clock) = limit(allowed);
        assert_eq!(limit.take(allowed, 1_000), Ok(()));
        let Exhausted { wait, .. } = limit.take(allowed, 1_000).unwrap_err();
        assert_eq!(wait, Duration::from_secs(5));
        clock.advance(wait);
        assert_eq!(limit.take(allowed, 1_000), Ok(()));
    }
}
