//! The counters of the edges, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
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

/// All counters, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Clients that did not answer a ping in time.
    pub(super) dead_peers: Counter,
    /// Clients that took too little of the data sent to them.
    pub(super) slow_peers: Counter,
    /// The number of times that each time limit was exceeded, in the order of [`TimeLimit::ALL`].
    time_limits: [Counter; 5],
    /// Checkpoints that clients have set, and requests of theirs for marks, that were acknowledged.
    pub(super) checkpoints: Counter,
    pub(super) marks: Counter,
    /// The number of refusals by each rate, in the order of `Rate::ALL`.
    pub(super) refused_by_rate: [Counter; 5],
}

impl Counters {
    /// Counts that a time limit was exceeded.
    pub(crate) fn time_limit(&self, limit: TimeLimit) {
        self.time_limits[limit as usize].add(1);
    }

    /// Returns how often a time limit was exceeded.
    pub(super) fn time_limits(&self, limit: TimeLimit) -> u64 {
        self.time_limits[limit as usize].get()
    }
}

/// A time limit on clients, named after the part that the limit is for.
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
    /// Taking the data that is sent to the client.
    Write,
}

impl TimeLimit {
    pub(super) const ALL: [Self; 5] = [Self::Head, Self::Body, Self::Idle, Self::Ping, Self::Write];

    /// Returns the name in metrics and in the log.
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
