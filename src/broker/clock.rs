//! The broker's clock: the system's wall clock, without its jumps.
//!
//! ```text
//! wall clock      ──────────┐        ┌──── a wrong reading: logged, and not followed
//!                           └────────┘
//! broker's clock  ────────────────────────
//! ```
//!
//! The system's steady clock says how much time has passed. When the wall clock differs from that
//! by more than a second, a log line says so, and the broker's clock goes on steadily. When the
//! wall clock has differed by the same time for a minute, the broker's clock follows it, and a log
//! line says that, too.
//!
//! # Why
//!
//! Retention and expiry drop events for ever: a clock that is ahead for a moment could drop all of
//! them. And events that got a time in the future would be kept for longer than their limit.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use crate::event::Timestamp;

/// The largest difference between the wall clock and the steady one that is followed at once, in
/// milliseconds. Time services correct a larger difference by a step, and a smaller one by slewing.
const TOLERANCE_MS: u64 = 1_000;

/// The time, in milliseconds, for which the wall clock must keep the difference of a jump before it
/// is followed.
const PATIENCE_MS: i64 = 60_000;

/// A function that tells the time. Cheap to clone.
pub(super) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Returns the clock of a broker.
pub(super) fn system_clock() -> Now {
    let started = Instant::now();
    let steady_ms = move || i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let clock = Clock::new(Timestamp::now(), steady_ms());
    Arc::new(move || clock.tell(Timestamp::now(), steady_ms()))
}

/// The state of the broker's clock: the expected wall clock, and a jump that is not followed yet.
#[derive(Debug)]
struct Clock {
    /// The time at which the steady clock said 0, in milliseconds since 1970.
    offset_ms: AtomicI64,
    /// Whether the wall clock has jumped and is not followed.
    is_doubted: AtomicBool,
    doubt: Mutex<Option<Doubt>>,
}

/// A jump of the wall clock that is not followed yet.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// The offset that the clock would have if the jump were followed, in milliseconds.
    offset_ms: i64,
    /// The time at which the doubt began, by the steady clock.
    since_ms: i64,
}

impl Clock {
    fn new(wall: Timestamp, steady_ms: i64) -> Self {
        let (offset_ms, is_doubted) = (offset(wall, steady_ms).into(), AtomicBool::new(false));
        Self { offset_ms, is_doubted, doubt: Mutex::new(None) }
    }

    /// Returns the broker's time, for these readings of the wall clock and of the steady clock.
    fn tell(&self, wall: Timestamp, steady_ms: i64) -> Timestamp {
        let (found_ms, held_ms) = (offset(wall, steady_ms), self.offset_ms.load(Ordering::Relaxed));
        if found_ms.abs_diff(held_ms) <= TOLERANCE_MS {
            if found_ms != held_ms {
                self.offset_ms.store(found_ms, Ordering::Relaxed); // Drift, or a slewed clock.
            }
            if self.is_doubted.swap(false, Ordering::Relaxed) {
                *self.doubt() = None;
                warn!(time = %wall, "the system clock is back where it was");
            }
            return wall;
        }
        self.tell_in_doubt(wall, found_ms, held_ms, steady_ms)
    }

    fn tell_in_doubt(
        &self,
        wall: Timestamp,
        found_ms: i64,
        held_ms: i64,
        steady_ms: i64,
    ) -> Timestamp {
        let steady = Timestamp::from_ms(steady_ms.saturating_add(held_ms).max(0).unsigned_abs());
        let mut doubt = self.doubt();
        self.is_doubted.store(true, Ordering::Relaxed);
        match *doubt {
            Some(Doubt { offset_ms, since_ms }) if offset_ms.abs_diff(found_ms) <= TOLERANCE_MS => {
                if steady_ms.saturating_sub(since_ms) < PATIENCE_MS {
                    return steady;
                }
                *doubt = None;
                self.is_doubted.store(false, Ordering::Relaxed);
                self.offset_ms.store(found_ms, Ordering::Relaxed);
                warn!(time = %wall, before = %steady, "the system clock is followed from now on");
                wall
            }
            _ => {
                *doubt = Some(Doubt { offset_ms: found_ms, since_ms: steady_ms });
                let jump_ms = found_ms.saturating_sub(held_ms);
                warn!(
                    said = %wall,
                    time = %steady,
                    jump_ms,
                    patience_ms = PATIENCE_MS,
                    "the system clock jumped: it is followed only if it stays there"
                );
                steady
            }
        }
    }

    fn doubt(&self) -> std::sync::MutexGuard<'_, Option<Doubt>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time at which the steady clock said 0, in milliseconds since 1970, by these readings
/// of both clocks.
fn offset(wall: Timestamp, steady_ms: i64) -> i64 {
    i64::try_from(wall.as_ms()).unwrap_or(i64::MAX).saturating_sub(steady_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_800_000_000_000;
    const YEARS_75_MS: i64 = 75 * 365 * 86_400_000;

    /// Starts a clock at [`START_MS`], and returns a function of two times: by how much the wall
    /// clock is off, and how long after the start. It returns by how much the broker's clock is off
    /// then.
    fn clock() -> impl Fn(i64, i64) -> i64 {
        let wall = |ms: i64| Timestamp::from_ms(ms.unsigned_abs());
        let clock = Clock::new(wall(START_MS), 0);
        move |off_ms, after_ms| {
            let told = clock.tell(wall(START_MS + after_ms + off_ms), after_ms);
            told.as_ms() as i64 - START_MS - after_ms
        }
    }

    #[test]
    fn a_wrong_reading_of_the_clock_is_not_followed_and_leaves_nothing_behind() {
        for off_ms in [YEARS_75_MS, 120_000, -120_000, -START_MS, 1_001] {
            let off = clock();
            assert_eq!(off(0, 1), 0);
            assert_eq!(off(off_ms, 2), 0, "{off_ms}");
            assert_eq!(off(0, 3), 0);
            assert_eq!(off(off_ms, 70_000), 0, "a second wrong reading is not the first one");
            assert_eq!(off(off_ms, 70_000 + PATIENCE_MS - 1), 0);
            assert_eq!(off(0, 70_000 + PATIENCE_MS), 0);
        }
    }

    #[test]
    fn a_clock_that_was_set_is_followed_after_a_while() {
        for off_ms in [YEARS_75_MS, 120_000, -120_000] {
            let off = clock();
            assert_eq!(off(off_ms, 10), 0);
            assert_eq!(off(off_ms + 10, 9 + PATIENCE_MS), 0);
            assert_eq!(off(off_ms + 10, 10 + PATIENCE_MS), off_ms + 10);
            assert_eq!(off(off_ms, 11 + PATIENCE_MS), off_ms, "this is the time from then on");
            assert_eq!(off(0, 12 + PATIENCE_MS), off_ms, "and the old time is a jump");
        }
    }

    #[test]
    fn a_clock_that_drifts_or_is_slewed_is_followed_at_once() {
        let off = clock();
        for step in 0..100_000 {
            assert_eq!(off(step / 2, step * 1_000), step / 2);
        }
        assert_eq!(off(50_000 - 999, 100_000_000), 50_000 - 999);
    }

    #[test]
    fn a_clock_that_jumps_on_and_on_is_followed_where_it_stays_alone() {
        let off = clock();
        for (jump, off_ms) in [YEARS_75_MS, 120_000, -120_000, YEARS_75_MS].into_iter().enumerate()
        {
            let at = jump as i64 * (PATIENCE_MS - 1);
            assert_eq!(off(off_ms, at + 1), 0, "jump {jump}");
            assert_eq!(off(off_ms, at + PATIENCE_MS - 1), 0, "jump {jump}");
        }
    }
}
