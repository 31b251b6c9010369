//! The readers that are behind, and the bytes that each of them reads at a time.
//!
//! # Why
//!
//! A reader that is behind holds the blocks that it has read from the log and not delivered yet,
//! for as long as its client takes none of them. One such reader reads much at a time, because that
//! is quick. Ten thousand read a block each, because their memory must have a bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The readers that hold blocks which they have read from the log.
#[derive(Debug)]
pub(crate) struct Behind {
    /// The bytes that all readers together may hold, and the bytes that one reader may read.
    max_bytes: usize,
    max_read_bytes: usize,
    readers: Arc<AtomicUsize>,
}

/// The registration of a reader that holds blocks of the log. Dropped, the reader is not counted
/// any more.
#[derive(Debug)]
pub(crate) struct Holder(Arc<AtomicUsize>);

impl Behind {
    /// Returns the state without any reader.
    pub(crate) fn new(max_bytes: usize, max_read_bytes: usize) -> Self {
        Self { max_bytes, max_read_bytes, readers: Arc::default() }
    }

    /// Counts a reader until the returned registration is dropped.
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
        assert_eq!(behind.read_bytes(), 1, "one block");
        drop(holders);
        assert_eq!(behind.read_bytes(), 400);
    }
}
