//! What the edges count, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counts, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients that did not answer any more.
    pub(super) dead_peers: Counter,
    /// Clients that took nothing of what was sent to them.
    pub(super) slow_peers: Counter,
    /// How often each time limit has struck, in the order of [`TimeLimit::ALL`].
    time_limits: [Counter; 5],
    /// What was refused by each rate, in the order of `Rate::ALL`.
    pub(super) refused_by_rate: [Counter; 5],
}

impl Counters {
    /// Notes that a time limit has struck.
    pub(crate) fn time_limit(&self, limit: TimeLimit) {
        self.time_limits[limit as usize].add(1);
    }

    /// How often it has.
    pub(super) fn time_limits(&self, limit: TimeLimit) -> u64 {
        self.time_limits[limit as usize].get()
    }
}

/// What a client may take too long for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeLimit {
    /// The head of a request, or the first bytes of a connection.
    Head,
    /// A body, or a message of a stream.
    Body,
    /// The next request of a connection.
    Idle,
    /// The answer to a ping.
    Ping,
    /// Taking what is sent to it.
    Write,
}

impl TimeLimit {
    pub(super) const ALL: [Self; 5] = [Self::Head, Self::Body, Self::Idle, Self::Ping, Self::Write];

    /// Its name in metrics and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Body => "body",
            Self::Idle => "idle",
            Self::Ping => "ping",
            Self::Write => "write",
        }
    }
}
