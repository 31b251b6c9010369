//! The clock of a broker in a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::event::Timestamp;

/// A clock in the hand of a test. Cheap to clone; all clones are the same clock.
///
/// ```
/// use std::time::Duration;
/// use leftoff::event::Timestamp;
/// use leftoff::testing::Clock;
///
/// let clock = Clock::new(Timestamp::from_ms(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.now(), Timestamp::from_ms(3_000));
/// ```
#[derive(Debug, Clone)]
pub struct Clock {
    /// The time at which the clock it follows began, in milliseconds since 1970; the time itself if
    /// it follows none.
    offset_ms: Arc<AtomicU64>,
    followed: Option<Followed>,
}

/// A clock of tokio, and its time at the beginning.
#[derive(Debug, Clone)]
struct Followed {
    /// The runtime that has the clock; `None` for the real clock.
    runtime: Option<Handle>,
    start: Instant,
}

impl Clock {
    /// Returns a clock that stands still at `start` until the test moves it.
    pub fn new(start: Timestamp) -> Self {
        Self { offset_ms: Arc::new(AtomicU64::new(start.as_ms())), followed: None }
    }

    /// Returns a clock that says `start` now, and goes on as the clock of the runtime that this is
    /// called in: with `start_paused`, only while the test sleeps or advances it. Outside of a
    /// runtime, the clock goes on by itself. The test can move it as well.
    pub fn following(start: Timestamp) -> Self {
        let runtime = Handle::try_current().ok();
        let followed = Followed { runtime, start: Instant::now() };
        Self { followed: Some(followed), ..Self::new(start) }
    }

    /// Returns the time of the clock.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_ms(self.offset_ms.load(Ordering::SeqCst)).plus_ms(self.followed_ms())
    }

    /// Moves the clock on. Events that become too old by that are dropped by the next publish to
    /// their topic or the next [`Broker::maintain`](crate::Broker::maintain).
    pub fn advance(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.change(|offset_ms| offset_ms.saturating_add(ms));
    }

    /// Sets the clock, also back. A broker never gives an event an earlier time than the event
    /// before it in its topic.
    pub fn set(&self, time: Timestamp) {
        let followed_ms = self.followed_ms();
        self.change(|_| time.as_ms().saturating_sub(followed_ms));
    }

    fn change(&self, next: impl Fn(u64) -> u64) {
        let next = |offset_ms| Some(next(offset_ms));
        let _always_changed = self.offset_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
    }

    /// Returns the time that has passed on the clock that is followed, in milliseconds.
    fn followed_ms(&self) -> u64 {
        let Some(Followed { runtime, start }) = &self.followed else { return 0 };
        let _in_its_time = runtime.as_ref().map(Handle::enter);
        u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
