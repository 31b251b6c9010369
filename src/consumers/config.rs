//! The settings of consumers.

use serde::{Deserialize, Serialize};

use super::work::WorkConfig;
use crate::broker::all_within;
use crate::error::Result;
use crate::section;

/// The settings of consumers: how many there may be, and what each may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsumersConfig {
    /// Whose a consumer is. Default: `caller`.
    pub scope: ConsumerScope,
    /// Whether a consumer that does not exist is read as one with nothing finished and nothing
    /// marked, and is created by its first checkpoint or mark. Default: true.
    pub auto_create: bool,
    /// The most consumers. 1 or more. Default: 1,000,000.
    pub max_consumers: u64,
    /// The most consumers of one owner. The consumers without an owner are bounded by
    /// `max_consumers` alone. 1 or more. Default: 1,000.
    pub max_consumers_per_owner: u64,
    /// The most bytes of the marks of one consumer, as they are stored. 1,024 to 8 MiB.
    /// Default: 128 KiB.
    pub max_marks_bytes: usize,
    /// The most events that one request may name to mark them. 1 to 1,000,000. Default:
    /// 1,000.
    pub max_marked_events: usize,
    /// The most events that one request may look at, to find the events of ids or of a filter. 1 or
    /// more. Default: 100,000.
    pub max_searched_events: u64,
    /// The most events that a count looks at one by one. Beyond it, the count is a lower bound, and
    /// says so. Without a filter most events are counted without a look. 1 or more. Default:
    /// 100,000.
    pub max_counted: u64,
    /// The most selections of which the time of the next expiry is kept, about 64 bytes each. Of
    /// others it is looked for again when a stamp of counts is asked for. 2 or more. Default:
    /// 65,536.
    pub max_kept_expiries: usize,
    /// The most bytes of commands that wait to be stored. 64 KiB to 1 GiB. Default: 16 MiB.
    pub max_queue_bytes: usize,
    /// The most commands that wait to be stored. 1 to 1,000,000. Default: 8,192.
    pub max_queue_commands: usize,
    /// The longest wait for room in that queue, in milliseconds. 1 to 600,000. Default: 1,000.
    pub max_queue_wait_ms: u64,
    /// The newest changes of each followed consumer that are kept for followers who are behind. 1
    /// to 1,000,000. Default: 256.
    pub max_kept_changes: usize,
    /// How much the consumers that share their events may take.
    #[serde(deserialize_with = "section::one")]
    pub work: WorkConfig,
}

/// Whose the consumers are that callers name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ConsumerScope {
    /// Each caller's own: two callers that name the same consumer have one each.
    #[default]
    Caller,
    /// Common to all callers.
    Common,
}

impl Default for ConsumersConfig {
    fn default() -> Self {
        Self {
            scope: ConsumerScope::default(),
            auto_create: true,
            max_consumers: 1_000_000,
            max_consumers_per_owner: 1_000,
            max_marks_bytes: 128 << 10,
            max_marked_events: 1_000,
            max_searched_events: 100_000,
            max_counted: 100_000,
            max_kept_expiries: 65_536,
            max_queue_bytes: 16 << 20,
            max_queue_commands: 8_192,
            max_queue_wait_ms: 1_000,
            max_kept_changes: 256,
            work: WorkConfig::default(),
        }
    }
}

impl ConsumersConfig {
    /// Checks the bounds of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with the key, the value and the bound.
    pub fn validate(&self) -> Result<()> {
        all_within(&[
            ("consumers.max_consumers", self.max_consumers, 1, 1 << 40),
            ("consumers.max_consumers_per_owner", self.max_consumers_per_owner, 1, 1 << 40),
            ("consumers.max_marks_bytes", self.max_marks_bytes as u64, 1_024, 8 << 20),
            ("consumers.max_marked_events", self.max_marked_events as u64, 1, 1_000_000),
            ("consumers.max_searched_events", self.max_searched_events, 1, 1 << 40),
            ("consumers.max_counted", self.max_counted, 1, 1 << 40),
            ("consumers.max_kept_expiries", self.max_kept_expiries as u64, 2, 1 << 30),
            ("consumers.max_queue_bytes", self.max_queue_bytes as u64, 65_536, 1 << 30),
            ("consumers.max_queue_commands", self.max_queue_commands as u64, 1, 1_000_000),
            ("consumers.max_queue_wait_ms", self.max_queue_wait_ms, 1, 600_000),
            ("consumers.max_kept_changes", self.max_kept_changes as u64, 1, 1_000_000),
        ])?;
        self.work.validate()
    }
}
