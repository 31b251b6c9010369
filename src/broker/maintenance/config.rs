//! The settings of maintenance.

use serde::{Deserialize, Serialize};

/// The settings of maintenance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MaintenanceConfig {
    /// The pause between two rounds over the topics, in milliseconds. Default: 1,000.
    pub interval_ms: u64,
    /// The memory for the keys of a topic while it is compacted, in bytes. A topic with more keys
    /// is compacted in parts. Default: 64 MiB.
    pub max_key_bytes: u64,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { interval_ms: 1_000, max_key_bytes: 64 << 20 }
    }
}
