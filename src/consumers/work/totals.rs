//! The totals of a shared consumer.

use serde::{Deserialize, Serialize};

/// How many events came to an end, and how, since the consumer was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkTotals {
    /// The events that a worker finished.
    pub finished: u64,
    /// The events that became dead letters.
    pub dead: u64,
    /// The events that were gone before a worker finished them, from the first pull on. Of a
    /// pattern of topics, and with a filter, the number is about right only.
    pub lost: u64,
}
