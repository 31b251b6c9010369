//! The settings with which a broker is opened.

use crate::broker::maintenance::config::MaintenanceConfig;
use serde::{Deserialize, Serialize};

use crate::broker::dedup::DedupConfig;
use crate::broker::limits::{
    LimitsConfig, MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_BATCH_TOPICS, MAX_PAYLOAD_BYTES,
};
use crate::broker::topic::defaults::TopicDefaults;
use crate::error::{Error, Result};
use crate::lists::MAX_ENTRIES;
use crate::log::{LEAST_FREE_BYTES, LogConfig};

/// The settings of how the broker orders, groups and serves events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// The largest block that is built of several events, in bytes, 1 KiB to 1 MiB. Default: 8 KiB,
    /// so that a block is one entry of the log.
    pub max_block_bytes: u64,
    /// The bytes of events that one sync makes durable. The last publish may exceed the bound.
    /// Default: 4 MiB.
    pub max_group_bytes: u64,
    /// The memory for publishes that wait for their turn, in bytes: at least the size of the
    /// largest batch. Default: 32 MiB.
    pub max_queue_bytes: u64,
    /// The time, in milliseconds, that a publish waits for room in the queue before it is refused.
    /// A `PublishStream` is not read during that time instead. Default: 5,000.
    pub max_queue_wait_ms: u64,
    /// The memory for the newest blocks of all topics, wire forms included, in bytes. Default: 32
    /// MiB.
    pub max_tail_bytes: u64,
    /// The bytes that a reader takes from the log or a tail at a time. Default: 256 KiB.
    pub max_read_bytes: u64,
    /// The number of reads of the log at the same time, for readers who are behind, pages of states
    /// and backups. The others wait for their turn. No read takes longer than a few milliseconds
    /// without another turn. Default: 2.
    pub max_reads: u64,
    /// The memory for blocks that readers who are behind have read, wire forms included, in bytes.
    /// Readers of the same blocks share them. Default: 16 MiB.
    pub max_replay_bytes: u64,
    /// The memory for blocks that such readers have read and not delivered yet, in bytes. The more
    /// such readers there are, the less each reads at a time, down to one block. Default: 16 MiB.
    pub max_behind_bytes: u64,
    /// The memory, in bytes, for blocks that were read from the log together with other blocks, and
    /// that readers of many topics need later; 0 for none. If the blocks of more topics take turns
    /// than fit into this memory, the log is read more often. Nothing is kept while no reader is
    /// behind. Default: 64 MiB.
    pub max_ahead_bytes: u64,
    /// The memory for the keys of the newest events of topics whose state is read, in bytes, 40 for
    /// each event; 0 for none. For a topic with more of these events, each page reads the newest
    /// events once more. Default: 32 MiB.
    pub max_state_bytes: u64,
    /// The memory for the newest ephemeral events of all topics, in bytes. Default: 4 MiB.
    pub max_ephemeral_bytes: u64,
    /// The most members of one topic who can be present at the same time. Default: 10,000.
    pub max_members: u64,
    /// Whether the first publish to a topic creates it. Default: true.
    pub auto_create: bool,
    /// The longest time, in milliseconds, between two signals to the followers of a topic that has
    /// very many of them. Events that arrive in between go out in one write. With a few followers
    /// the time is microseconds. Default: 25.
    pub max_pace_ms: u64,
    /// The largest page of history, in bytes, with the places and the names of its events. A single
    /// event may be larger. Default: 3 MiB, because gRPC clients take messages of up to 4 MiB
    /// unless they are configured otherwise.
    pub max_page_bytes: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            max_block_bytes: 8 << 10,
            max_group_bytes: 4 << 20,
            max_queue_bytes: 32 << 20,
            max_queue_wait_ms: 5_000,
            max_tail_bytes: 32 << 20,
            max_read_bytes: 256 << 10,
            max_reads: 2,
            max_replay_bytes: 16 << 20,
            max_behind_bytes: 16 << 20,
            max_ahead_bytes: 64 << 20,
            max_state_bytes: 32 << 20,
            max_ephemeral_bytes: 4 << 20,
            max_members: 10_000,
            auto_create: true,
            max_pace_ms: 25,
            max_page_bytes: 3 << 20,
        }
    }
}

/// All settings with which a [`Broker`](crate::broker::Broker) is opened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OpenConfig {
    /// The settings of the log's use of the disk.
    pub log: LogConfig,
    /// The settings of ordering, grouping and serving events.
    pub broker: BrokerConfig,
    /// The limits on events and publishes.
    pub limits: LimitsConfig,
    /// The window in which a repeated publish is recognised.
    pub dedup: DedupConfig,
    /// The settings of the threads that drop expired and superseded events.
    pub maintenance: MaintenanceConfig,
    /// The settings of topics by patterns of their names.
    pub topics: TopicDefaults,
}

impl OpenConfig {
    /// Checks the bounds of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the key, the value and the bounds.
    pub fn validate(&self) -> Result<()> {
        let Self { log, broker, limits, maintenance, topics, .. } = self;
        topics.validate()?;
        all_within(&[
            ("broker.max_block_bytes", broker.max_block_bytes, 1 << 10, 1 << 20),
            ("broker.max_group_bytes", broker.max_group_bytes, 1 << 10, 1 << 30),
            ("broker.max_read_bytes", broker.max_read_bytes, 1 << 10, 1 << 30),
            ("broker.max_page_bytes", broker.max_page_bytes, 1 << 10, 1 << 30),
            ("broker.max_reads", broker.max_reads, 1, 1_024),
            ("broker.max_behind_bytes", broker.max_behind_bytes, 1, 1 << 40),
            ("broker.max_ahead_bytes", broker.max_ahead_bytes, 0, 1 << 40),
            ("broker.max_state_bytes", broker.max_state_bytes, 0, 1 << 40),
            ("broker.max_pace_ms", broker.max_pace_ms, 0, 1_000),
            ("broker.max_queue_bytes", broker.max_queue_bytes, limits.max_batch_bytes, 1 << 31),
            ("broker.max_queue_wait_ms", broker.max_queue_wait_ms, 1, 600_000),
            ("limits.max_payload_bytes", limits.max_payload_bytes, 1, MAX_PAYLOAD_BYTES),
            (
                "limits.max_batch_bytes",
                limits.max_batch_bytes,
                limits.max_payload_bytes,
                MAX_BATCH_BYTES,
            ),
            ("limits.max_batch_events", limits.max_batch_events, 1, MAX_BATCH_EVENTS),
            ("limits.max_batch_topics", limits.max_batch_topics, 1, MAX_BATCH_TOPICS),
            // No message is read with more headers.
            ("limits.max_headers", limits.max_headers, 0, MAX_ENTRIES as u64),
            ("limits.max_topics", limits.max_topics, 1, u64::from(u32::MAX)),
            ("limits.max_deleted_topics", limits.max_deleted_topics, 1, u64::from(u32::MAX)),
            ("limits.max_unborn_topics", limits.max_unborn_topics, 1, u64::from(u32::MAX)),
            ("maintenance.interval_ms", maintenance.interval_ms, 1, 3_600_000),
            ("maintenance.max_key_bytes", maintenance.max_key_bytes, 1 << 10, 1 << 40),
            ("log.cache_bytes", log.cache_bytes, 1 << 20, 1 << 40),
            // With less, removing events runs out of space itself, and the log cannot be opened
            // again.
            ("log.min_free_bytes", log.min_free_bytes, LEAST_FREE_BYTES, 1 << 60),
        ])
    }
}

/// Checks settings. Each has a key, a value, and two bounds, both inclusive.
pub(crate) fn all_within(settings: &[(&str, u64, u64, u64)]) -> Result<()> {
    for (key, value, low, high) in settings {
        if !(low..=high).contains(&value) {
            let problem = format!("{value} is not within {low} and {high}");
            return Err(Error::invalid(*key, problem));
        }
    }
    Ok(())
}
