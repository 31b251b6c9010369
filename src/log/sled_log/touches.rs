//! Touches: small reads that make sled let go of the pages it should have let go of.
//!
//! # Why
//!
//! sled keeps 256 queues of 64 page accesses each, and looks what to evict only when one of them is
//! full (src/lru.rs of 0.34.7): up to 16,384 pages stay in memory besides the configured cache.
//! This is little where pages are small. Ours hold up to 16 blocks, and who replayed 4 million
//! events had 1.2 GB of them resident, under a cache of 32 MiB. So a page is accessed once more for
//! every [`TOUCH_BYTES`] of it that are read or written, and the queues fill up with its size: they
//! hold 16,384 × 2 KiB = 32 MiB at the most.

/// The bytes for which one access is made. A smaller value bounds the memory closer and costs more
/// time.
const TOUCH_BYTES: usize = 4 << 10;

/// The most entries that a page holds.
const PAGE_ENTRIES: usize = 16;

/// A count of bytes that were read or written, which touches their pages.
#[derive(Debug, Default)]
pub(super) struct Touches {
    /// Bytes that no touch was made for yet.
    rest_bytes: usize,
}

impl Touches {
    /// Notes that `size_bytes` under `key` were read or written, with their neighbours before and
    /// after. A touch that fails is no loss: nothing but memory depends on it.
    pub(super) fn passed(&mut self, tree: &sled::Tree, key: &[u8], size_bytes: usize) {
        self.rest_bytes += size_bytes;
        let touches = self.rest_bytes / TOUCH_BYTES;
        self.rest_bytes %= TOUCH_BYTES;
        (0..touches).all(|_| tree.contains_key(key).is_ok());
    }

    /// Notes that the entry under `key` was read or written alone: for that, its whole page was
    /// read, of entries that take about as much.
    pub(super) fn alone(&mut self, tree: &sled::Tree, key: &[u8], size_bytes: usize) {
        self.passed(tree, key, PAGE_ENTRIES * size_bytes);
    }
}
