//! The activity of a connection: the requests that are served, and the time since it was idle.
//!
//! ```text
//! accepted ─▶ head ─▶ served ─▶ idle ─▶ head ─▶ served ─▶ …
//!             `header_read_ms`  `idle_ms`
//! ```
//!
//! # Why
//!
//! Hyper has one limit for both the time between two requests and the head of the next, and closes
//! the connection without an answer. Here an idle connection may wait long, because clients keep
//! some for later. A head that has begun must be complete in time, and is answered if it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::edge::counters::TimeLimit;

/// The value of a time that is not set.
const NEVER: u64 = u64::MAX;

/// The activity of a connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Noted>);

/// The state of an [`Activity`]. Times are in milliseconds from `start`.
#[derive(Debug)]
struct Noted {
    start: Instant,
    /// Requests that are served.
    served: AtomicU64,
    /// Whether bytes between two requests begin a head, as in HTTP/1.1. In HTTP/2 they may be other
    /// frames.
    has_heads: AtomicBool,
    head_since_ms: AtomicU64,
    idle_since_ms: AtomicU64,
}

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// The limit for the head of a request.
    pub(crate) head: Duration,
    /// The limit without a request.
    pub(crate) idle: Duration,
}

impl Times {
    /// Returns the time of the first look.
    pub(crate) fn first_look(self) -> Instant {
        Instant::now() + self.head.min(self.idle)
    }
}

/// The outcome of a look at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The connection is within its limits; the time of the next look.
    Again(Instant),
    /// A time limit has passed.
    Over(TimeLimit),
}

impl Activity {
    /// Returns the activity of a new connection, whose time for a head begins now.
    pub(crate) fn accepted() -> Self {
        Self(Arc::new(Noted {
            start: Instant::now(),
            served: AtomicU64::new(0),
            has_heads: AtomicBool::new(true),
            head_since_ms: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(0),
        }))
    }

    fn now_ms(&self) -> u64 {
        self.0.start.elapsed().as_millis() as u64
    }

    /// Marks the connection as HTTP/2. There, an incomplete head delays the pings, so they end it.
    pub(crate) fn without_heads(&self) {
        self.0.has_heads.store(false, Ordering::Relaxed);
        self.0.head_since_ms.store(NEVER, Ordering::Relaxed);
    }

    /// Notes that bytes have arrived.
    pub(crate) fn heard(&self) {
        let Noted { served, has_heads, head_since_ms, .. } = &*self.0;
        if has_heads.load(Ordering::Relaxed)
            && served.load(Ordering::Relaxed) == 0
            && head_since_ms.load(Ordering::Relaxed) == NEVER
        {
            head_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Notes that a request is served, until the returned value is dropped.
    pub(crate) fn serve(&self) -> Served {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.head_since_ms.store(NEVER, Ordering::Relaxed);
        Served(self.clone())
    }

    /// Whether a request of HTTP/1.1 is being served.
    pub(crate) fn is_answering(&self) -> bool {
        self.0.has_heads.load(Ordering::Relaxed) && self.0.served.load(Ordering::Relaxed) > 0
    }

    /// Checks the time limits of the connection.
    pub(crate) fn look(&self, times: Times) -> Look {
        let Noted { start, served, head_since_ms, idle_since_ms, .. } = &*self.0;
        let now = Instant::now();
        if served.load(Ordering::Relaxed) > 0 {
            return Look::Again(now + times.head.min(times.idle));
        }
        let (limit, end) = match head_since_ms.load(Ordering::Relaxed) {
            NEVER => {
                let since = Duration::from_millis(idle_since_ms.load(Ordering::Relaxed));
                (TimeLimit::Idle, *start + since + times.idle)
            }
            since_ms => (TimeLimit::Head, *start + Duration::from_millis(since_ms) + times.head),
        };
        if now >= end {
            return Look::Over(limit);
        }
        // A head may begin meanwhile.
        Look::Again(end.min(now + times.head))
    }
}

/// A request that is being served, up to the end of its answer's body. Dropping it ends the
/// request.
#[derive(Debug)]
pub(crate) struct Served(Activity);

impl Drop for Served {
    fn drop(&mut self) {
        let Noted { served, idle_since_ms, .. } = &*self.0.0;
        idle_since_ms.store(self.0.now_ms(), Ordering::Relaxed);
        served.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times =
        Times { head: Duration::from_millis(40), idle: Duration::from_millis(120) };

    /// Looks at each due time, until a limit has passed.
    fn over(activity: &Activity) -> TimeLimit {
        loop {
            match activity.look(TIMES) {
                Look::Again(at) => std::thread::sleep(at - Instant::now()),
                Look::Over(limit) => return limit,
            }
        }
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_and_an_idle_connection_a_longer_one() {
        let accepted = Instant::now();
        let activity = Activity::accepted();
        assert_eq!(over(&activity), TimeLimit::Head);
        assert!(accepted.elapsed() >= TIMES.head);
        let served = activity.serve();
        activity.heard(); // A body.
        std::thread::sleep(2 * TIMES.idle); // Longer than any limit.
        assert!(matches!(activity.look(TIMES), Look::Again(_)), "a request is served");
        let answered = Instant::now();
        drop(served);
        assert_eq!(over(&activity), TimeLimit::Idle);
        assert!(answered.elapsed() >= TIMES.idle - Duration::from_millis(1));
        drop(activity.serve());
        activity.heard();
        assert_eq!(over(&activity), TimeLimit::Head);
        let activity = Activity::accepted();
        activity.without_heads();
        activity.heard();
        assert_eq!(over(&activity), TimeLimit::Idle);
    }
}
