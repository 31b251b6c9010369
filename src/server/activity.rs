//! Whether a connection is used: what it is served at the moment, and since when it is not.
//!
//! ```text
//! accepted ─▶ head ─▶ served ─▶ idle ─▶ head ─▶ served ─▶ …
//!             `header_read_ms`  `idle_ms`
//! ```
//!
//! # Why
//!
//! Hyper has one limit for the time between two requests and for the head of the next, and ends
//! the connection without a word. Here an idle connection may wait for long, as clients keep some
//! for later, while a head that has begun has to come to its end, and is answered if it does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::edge::counters::TimeLimit;

/// Not since any time.
const NEVER: u64 = u64::MAX;

/// A connection's activity: what it is served, and since when it is idle. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Noted>);

/// Times are in milliseconds from `start`.
#[derive(Debug)]
struct Noted {
    start: Instant,
    /// Requests that are served.
    served: AtomicU64,
    /// Whether what comes in between two requests begins a head; with HTTP/2 it need not.
    has_heads: AtomicBool,
    head_since_ms: AtomicU64,
    idle_since_ms: AtomicU64,
}

/// The times that a connection may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// For the head of a request.
    pub(crate) head: Duration,
    /// Without a request.
    pub(crate) idle: Duration,
}

impl Times {
    /// When to look at a connection first.
    pub(crate) fn first_look(self) -> Instant {
        Instant::now() + self.head.min(self.idle)
    }
}

/// The outcome of a look at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// The connection is well; the next look is due then.
    Again(Instant),
    /// A time limit has passed.
    Over(TimeLimit),
}

impl Activity {
    /// The activity of a connection that was accepted just now: its time for a head begins.
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

    /// The connection is one of HTTP/2. A head that does not end holds up its pings there, too.
    pub(crate) fn without_heads(&self) {
        self.0.has_heads.store(false, Ordering::Relaxed);
        self.0.head_since_ms.store(NEVER, Ordering::Relaxed);
    }

    /// Something has come in.
    pub(crate) fn heard(&self) {
        let Noted { served, has_heads, head_since_ms, .. } = &*self.0;
        if has_heads.load(Ordering::Relaxed)
            && served.load(Ordering::Relaxed) == 0
            && head_since_ms.load(Ordering::Relaxed) == NEVER
        {
            head_since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// A request is served, until what this returns is dropped.
    pub(crate) fn serve(&self) -> Served {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.head_since_ms.store(NEVER, Ordering::Relaxed);
        Served(self.clone())
    }

    /// Whether a request of HTTP/1.1 is served.
    pub(crate) fn is_answering(&self) -> bool {
        self.0.has_heads.load(Ordering::Relaxed) && self.0.served.load(Ordering::Relaxed) > 0
    }

    /// Whether the connection is well.
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

/// A request that is served, until this is dropped: with the body of its answer.
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

    /// Looks whenever there is to be a look, until a limit has passed.
    fn over(activity: &Activity) -> (TimeLimit, Duration) {
        let started = Instant::now();
        loop {
            match activity.look(TIMES) {
                Look::Again(at) => std::thread::sleep(at - Instant::now()),
                Look::Over(limit) => return (limit, started.elapsed()),
            }
        }
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_and_an_idle_connection_a_longer_one() {
        let activity = Activity::accepted();
        let (limit, after) = over(&activity);
        assert_eq!(limit, TimeLimit::Head);
        assert!(after >= TIMES.head, "{after:?}");
        let served = activity.serve();
        activity.heard(); // A body.
        std::thread::sleep(2 * TIMES.idle); // Longer than any limit.
        assert!(matches!(activity.look(TIMES), Look::Again(_)), "it is served");
        drop(served);
        let (limit, after) = over(&activity);
        assert_eq!(limit, TimeLimit::Idle);
        assert!(after >= TIMES.idle - Duration::from_millis(1), "{after:?}");
        drop(activity.serve());
        activity.heard();
        assert_eq!(over(&activity).0, TimeLimit::Head);
        let activity = Activity::accepted();
        activity.without_heads();
        activity.heard();
        assert_eq!(over(&activity).0, TimeLimit::Idle);
    }
}
