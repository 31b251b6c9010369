//! The newest durable position, and how many feeds are to be told of newer ones.
//!
//! ```text
//! committer:  position = 7,   then: is there a feed?   yes: it is told
//! feed:       feeds = 1,      then: which position?    7: it knows
//! ```
//!
//! # Why
//!
//! Each side writes one of the two and reads the other. Without a fence between, a processor may
//! let the read go first on both sides: the committer sees no feed, the feed sees no position 7,
//! and that is never told. The fences rule it out, and a test tries all orders that a processor
//! may choose, on this very file.

use super::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// Shared by the committer, the feeds, and whoever asks for the position.
#[derive(Debug)]
pub(super) struct Announced {
    position: AtomicU64,
    feeds: AtomicUsize,
}

impl Announced {
    /// Begins with a log that ends at this position, and without feeds.
    pub(super) fn new(position: u64) -> Self {
        Self { position: AtomicU64::new(position), feeds: AtomicUsize::new(0) }
    }

    /// Returns the position of the newest durable event. All up to it is there for whoever reads it
    /// here.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Tells readers that all events up to `position` can be read.
    pub(super) fn announce(&self, position: u64) {
        self.position.fetch_max(position, Ordering::Release);
    }

    /// Returns whether a feed has to be told of what was announced: one that is not counted here
    /// yet reads the position later than this.
    pub(super) fn has_feeds(&self) -> bool {
        fence(Ordering::SeqCst);
        self.feeds.load(Ordering::Relaxed) > 0
    }

    /// Counts a feed; from here on it is told of what the position does not show it.
    pub(super) fn join(&self) {
        self.feeds.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Counts a feed no more.
    pub(super) fn leave(&self) {
        self.feeds.fetch_sub(1, Ordering::Relaxed);
    }
}
