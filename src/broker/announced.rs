//! The newest durable position, and the number of feeds that must be told of newer ones.
//!
//! ```text
//! committer:  position = 7,   then: is there a feed?   yes: it is told
//! feed:       feeds = 1,      then: which position?    7: it knows
//! ```
//!
//! # Why
//!
//! Each side writes one of the two numbers and reads the other. Without a fence in between, a
//! processor may do the read first on both sides: the committer sees no feed, the feed does not see
//! position 7, and nobody tells the feed. The fences prevent this. A test tries all orders that a
//! processor may choose, with this file.

use super::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// The newest position and the number of feeds, shared by the committer, the feeds, and all callers
/// that ask for the position.
#[derive(Debug)]
pub(super) struct Announced {
    position: AtomicU64,
    feeds: AtomicUsize,
}

impl Announced {
    /// Returns the value for a log that ends at this position, without feeds.
    pub(super) fn new(position: u64) -> Self {
        Self { position: AtomicU64::new(position), feeds: AtomicUsize::new(0) }
    }

    /// Returns the position of the newest durable event. A caller that got it here can read all
    /// events up to it.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Tells readers that all events up to `position` can be read.
    pub(super) fn announce(&self, position: u64) {
        self.position.fetch_max(position, Ordering::Release);
    }

    /// Whether any feed must be told of the last announcement. A feed that is not counted yet reads
    /// the position later than this.
    pub(super) fn has_feeds(&self) -> bool {
        fence(Ordering::SeqCst);
        self.feeds.load(Ordering::Relaxed) > 0
    }

    /// Counts a feed. From here on the feed is told of all that is newer than the position it
    /// reads.
    pub(super) fn join(&self) {
        self.feeds.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Counts a feed no more.
    pub(super) fn leave(&self) {
        self.feeds.fetch_sub(1, Ordering::Relaxed);
    }
}
