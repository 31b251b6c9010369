//! The broker's clock: the system's wall clock, unless that jumps.
//!
//! ```text
//! wall clock      ──────────┐        ┌──── a wrong reading: said in the log, and not followed
//!                           └────────┘
//! broker's clock  ────────────────────────
//! ```
//!
//! The system's steady clock says how much time has passed. When the wall clock differs from that
//! by more than a second, the log says so, and the broker's clock goes on steadily; when the wall
//! clock has differed by the same for a minute, the broker's clock follows it, and the log says
//! that, too.
//!
//! # Why
//!
//! Retention and expiry drop events for good: a clock that is ahead for a moment would drop all of
//! them. And events that were stamped with a time to come would have to wait for it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tracing::warn;

use crate::event::Timestamp;

/// The distance of the wall clock from the steady one that is not doubted yet, in milliseconds.
/// Time services set clocks that are further off by a step, and slew them otherwise.
const TOLERANCE_MS: u64 = 1_000;

/// The time for which the wall clock must stay where it jumped to, before it is followed, in
/// milliseconds.
const PATIENCE_MS: i64 = 60_000;

/// Tells the time. Cheap to clone.
pub(super) type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Returns the clock of a broker.
pub(super) fn system_clock() -> Now {
    let started = Instant::now();
    let steady_ms = move || i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let clock = Clock::new(Timestamp::now(), steady_ms());
    Arc::new(move || clock.tell(Timestamp::now(), steady_ms()))
}

/// The wall clock as it is expected, and a jump of it that is not followed yet.
#[derive(Debug)]
struct Clock {
    /// The time at which the steady clock said 0, in milliseconds since 1970.
    offset_ms: AtomicI64,
    /// Whether the wall clock is doubted.
    is_doubted: AtomicBool,
    doubt: Mutex<Option<Doubt>>,
}

/// A jump of the wall clock.
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

    /// Returns the time, when the two clocks say this.
    fn tell(&self, wall: Timestamp, steady_ms: i64) -> Timestamp {
        let (found_ms, held_ms) = (offset(wall, steady_ms), self.offset_ms.load(Ordering::Relaxed));
        if found_ms.abs_diff(held_ms) <= TOLERANCE_MS {
            if found_ms != held_ms {
                self.offset_ms.store(found_ms, Ordering::Relaxed); // It is slewed, or drifts.
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
                warn!(time = %wall, before = %steady, "the system clock stays: it is followed");
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
                    "the system clock jumped: it is not followed unless it stays"
                );
                steady
            }
        }
    }

    fn doubt(&self) -> std::sync::MutexGuard<'_, Option<Doubt>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time at which the steady clock said 0, by this reading of both clocks.
fn offset(wall: Timestamp, steady_ms: i64) -> i64 {
    i64::try_from(wall.as_ms()).unwrap_or(i64::MAX).saturating_sub(steady_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_800_000_000_000;
    const YEARS_75_MS: i64 = 75 * 365 * 86_400_000;

    /// Returns a clock that was started at [`START_MS`], with what it tells when the wall clock is
    /// so far off after so long, as how far that is off.
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
            assert_eq!(off(off_ms, 11 + PATIENCE_MS), off_ms, "from then on it is the clock");
            assert_eq!(off(0, 12 + PATIENCE_MS), off_ms, "and the other one is a jump");
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
