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
    /// What was refused by each rate, in the order of `Rate::ALL`.
    pub(super) refused_by_rate: [Counter; 5],
}
