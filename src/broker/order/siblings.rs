//! How long the leader of a fleet waits for publishers that it has just answered, before it begins
//! the next group.
//!
//! ```text
//! without    │ group of one half │ group of the other half │ group of one half │ …
//! with       │ group of all      │ a moment │ group of all      │ a moment │ …
//! ```
//!
//! # Why
//!
//! A group of a fleet takes some milliseconds, whether it has one event or a hundred. Publishers
//! that wait for each acknowledgement publish again at once when they are answered; if the next
//! group has begun by then, they wait for two groups. So the leader waits until as many commands
//! are there as were answered with the last group and came during it, but never longer than a
//! quarter of that group's time, and never longer than 2 ms. A publisher that is alone is not
//! waited for. Publishers that do not wait for acknowledgements are waited for, too, which costs
//! them up to a quarter of a group's time.

use std::time::{Duration, Instant};

/// The part of the last group's time, and the longest time, for which the leader waits.
const SHARE: u32 = 4;
const MAX_WAIT: Duration = Duration::from_millis(2);

/// The time between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// The commands that are expected for the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Siblings {
    expected: usize,
    patience: Duration,
}

impl Siblings {
    /// Returns what is expected after a group that took so long: its commands were answered, and
    /// others came meanwhile.
    pub(super) fn after(answered: usize, came: usize, took: Duration) -> Self {
        Self { expected: answered + came, patience: (took / SHARE).min(MAX_WAIT) }
    }

    /// Waits until as many commands are there as are expected, or the time is over.
    pub(super) fn wait(self, mut there: impl FnMut() -> usize) {
        let began = Instant::now();
        while there() < self.expected && began.elapsed() < self.patience {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_were_answered_and_came_are_waited_for_but_never_long() {
        let ms = Duration::from_millis;
        let siblings = Siblings::after(3, 2, ms(8));
        assert_eq!(siblings, Siblings { expected: 5, patience: ms(2) });
        let mut looks = 0;
        siblings.wait(|| {
            looks += 1;
            looks + 2
        });
        assert_eq!(looks, 3, "five are there at the third look");
        assert_eq!(Siblings::after(9, 0, ms(60_000)).patience, MAX_WAIT);
        let began = Instant::now();
        Siblings::after(9, 0, ms(4)).wait(|| 1);
        assert!(began.elapsed() >= ms(1));
        Siblings::after(1, 0, ms(60_000)).wait(|| {
            looks += 1;
            1
        });
        assert_eq!(looks, 4, "one that is there is not waited for");
    }
}
