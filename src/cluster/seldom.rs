//! What is said at the most once a minute, however often it happens.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The time between two warnings.
const EVERY: Duration = Duration::from_secs(60);

/// Something that is said seldom.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is said at `now`.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute() {
        let (seldom, now) = (Seldom::default(), Instant::now());
        let said = (0..=120).filter(|second| seldom.is_due(now + Duration::from_secs(*second)));
        assert_eq!(said.collect::<Vec<_>>(), [0, 60, 120]);
    }
}
