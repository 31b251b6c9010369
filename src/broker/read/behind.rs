//! The readers who are behind, and what each of them reads at a time.
//!
//! # Why
//!
//! A reader who is behind holds what it has read from the log and not delivered yet, for as long as
//! its client takes none of it. One of them reads much at a time, for that is quick; ten thousand
//! read a block each, or their memory would have no bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The readers that hold blocks which they have read from the log.
#[derive(Debug)]
pub(crate) struct Behind {
    /// The bytes that all readers together may hold, and that one alone may.
    max_bytes: usize,
    max_read_bytes: usize,
    readers: Arc<AtomicUsize>,
}

/// A reader who holds what it has read.
#[derive(Debug)]
pub(crate) struct Holder(Arc<AtomicUsize>);

impl Behind {
    /// Nobody yet.
    pub(crate) fn new(max_bytes: usize, max_read_bytes: usize) -> Self {
        Self { max_bytes, max_read_bytes, readers: Arc::default() }
    }

    /// Counts a reader who holds something, for as long as what this returns is held.
    pub(crate) fn enter(&self) -> Holder {
        self.readers.fetch_add(1, Ordering::Relaxed);
        Holder(self.readers.clone())
    }

    /// Returns the bytes that a reader may read at a time. A single block may be larger.
    pub(crate) fn read_bytes(&self) -> usize {
        let readers = self.readers.load(Ordering::Relaxed).max(1);
        (self.max_bytes / readers).clamp(1, self.max_read_bytes)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_readers_are_behind_the_less_each_reads_at_a_time() {
        let behind = Behind::new(1_000, 400);
        assert_eq!(behind.read_bytes(), 400);
        let mut holders: Vec<Holder> = (0..4).map(|_| behind.enter()).collect();
        assert_eq!(behind.read_bytes(), 250);
        holders.extend((0..2_000).map(|_| behind.enter()));
        assert_eq!(behind.read_bytes(), 1, "which is a block");
        drop(holders);
        assert_eq!(behind.read_bytes(), 400);
    }
}
