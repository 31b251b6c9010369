//! Touches: small reads that make sled evict pages over its memory limit.
//!
//! # Why
//!
//! sled keeps 256 queues of 64 page accesses each, and looks for pages to evict only when a queue
//! is full (src/lru.rs of 0.34.7). So up to 16,384 pages stay in memory besides the configured
//! cache, which is little if pages are small. Ours hold up to 16 blocks: a replay of 4 million
//! events had 1.2 GB of pages resident, with a cache of 32 MiB. So a page is accessed once more for
//! every [`TOUCH_BYTES`] of it that are read or written, and the queues fill up in proportion to
//! the bytes: they hold 16,384 × 4 KiB = 64 MiB at the most.

/// The bytes for which one access is made. A smaller value bounds the memory more tightly, and
/// costs more time.
const TOUCH_BYTES: usize = 4 << 10;

/// The most entries that a page holds.
const PAGE_ENTRIES: usize = 16;

/// A count of the bytes that were read or written. It touches their pages.
#[derive(Debug, Default)]
pub(super) struct Touches {
    /// The bytes for which no touch was made yet.
    rest_bytes: usize,
}

impl Touches {
    /// Notes that `size_bytes` under `key` were read or written, as one of several neighbouring
    /// entries. A touch that fails does no harm: only memory depends on it.
    pub(super) fn passed(&mut self, tree: &sled::Tree, key: &[u8], size_bytes: usize) {
        self.rest_bytes += size_bytes;
        let touches = self.rest_bytes / TOUCH_BYTES;
        self.rest_bytes %= TOUCH_BYTES;
        (0..touches).all(|_| tree.contains_key(key).is_ok());
    }

    /// Notes that the entry under `key` was read or written alone. Its whole page was read for
    /// that, with entries of about the same size.
    pub(super) fn alone(&mut self, tree: &sled::Tree, key: &[u8], size_bytes: usize) {
        self.passed(tree, key, PAGE_ENTRIES * size_bytes);
    }
}
