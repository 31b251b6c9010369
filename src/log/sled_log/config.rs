//! The settings of the log.

use serde::{Deserialize, Serialize};

use super::engine::SEGMENT_BYTES;

/// The length of the reserve file: the space that opening a log needs, and the first removals.
pub(super) const RESERVE_BYTES: u64 = 4 * SEGMENT_BYTES as u64;

/// The least value of `min_free_bytes`: the reserve file, and two segments for the writes of
/// removals.
pub const LEAST_FREE_BYTES: u64 = RESERVE_BYTES + 2 * SEGMENT_BYTES as u64;

/// The settings of how the log uses the disk and the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LogConfig {
    /// The memory for sled's page cache, in bytes, 1 MiB or more. Default: 32 MiB.
    pub cache_bytes: u64,
    /// The space, in bytes, below which no events are appended and no topic is created. The free
    /// space of the disk counts, the file `reserve` (32 MiB), and the free segments of the log's
    /// own file. Reading goes on, and so does appending once there is room again: removing events
    /// makes room. The least value is [`LEAST_FREE_BYTES`], because removing writes first.
    /// Default: 64 MiB.
    pub min_free_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, min_free_bytes: 64 << 20 }
    }
}
