//! The settings of the log.

use serde::{Deserialize, Serialize};

use super::engine::SEGMENT_BYTES;

/// The length of the reserve file: what opening needs, and the first removals.
pub(super) const RESERVE_BYTES: u64 = 4 * SEGMENT_BYTES as u64;

/// The least that can be kept free: the reserve file, and two segments to go on with.
pub const LEAST_FREE_BYTES: u64 = RESERVE_BYTES + 2 * SEGMENT_BYTES as u64;

/// The settings of how the log uses the disk and the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// Memory for sled's page cache, in bytes, 1 MiB or more. Default: 32 MiB.
    pub cache_bytes: u64,
    /// Free space, in bytes, below which nothing more is appended and no topic is created. Space
    /// in the log's own file that was given back counts as free. Reading goes on, and so does
    /// appending once there is room again: what is removed makes room. At least
    /// [`LEAST_FREE_BYTES`], for removing writes first; with so much, 32
    /// MiB of it are kept in the file `reserve`. Default: 64 MiB.
    pub min_free_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, min_free_bytes: 64 << 20 }
    }
}
