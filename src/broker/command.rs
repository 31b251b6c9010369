//! Commands to the committer, as plain data.
//!
//! A command says what is to be done to one topic, and nothing else. It has no channel, no permit
//! and no handle of a topic in it, so that it could be sent to another node. The caller who waits
//! for the outcome, and the command's share of the queue, stand beside it in the queue
//! (`queue.rs`). The outcomes are in `report.rs`.
//!
//! A command has no time of its own. All commands of a group are decided at one time, which is read
//! once and stands with the group (`order/gathered.rs`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cursor::{Position, Sequence, TrimReason};
use crate::log::{Block, Compacted, NewRecords, StoredBlock};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

use super::report::MaintenanceReport;

/// The events of a publish for one topic, to be stored all or none.
#[derive(Debug)]
pub(super) struct Append {
    /// The events. Those of several topics may be the same, and are in memory once.
    pub(super) records: Arc<NewRecords>,
    /// The last sequence that the topic must have before the events, if the publisher expects one.
    pub(super) expected_sequence: Option<u64>,
}

/// Ids from before the start that the dedup window is to remember, in their blocks.
#[derive(Debug)]
pub(super) struct RecalledIds {
    pub(super) id: TopicId,
    pub(super) blocks: Vec<Block>,
}

/// A change of a topic.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Change {
    /// Create the topic with these settings, unless it exists.
    Create(TopicConfig),
    /// Give the topic these settings, and create it if it does not exist.
    Set(TopicConfig),
    /// Give the topic the named fields of these settings.
    Update(TopicConfig, Vec<String>),
    /// Delete the topic with its events and its settings.
    Delete,
}

/// A step of maintenance.
#[derive(Debug)]
pub(super) enum Work {
    /// Remove some of the trimmed blocks, and trim the blocks that the limits do not keep.
    Retain,
    /// Trim the events below `earliest`.
    Trim {
        earliest: Sequence,
        reason: TrimReason,
        /// The report that the trimmed events are counted in.
        report: MaintenanceReport,
    },
    /// Put merged blocks in the place of the blocks that they were made of.
    Rewrite(Rewrite),
}

impl Work {
    /// Returns the sequence below which the step purges all events, if it does.
    pub(super) fn purge(&self) -> Option<Sequence> {
        match self {
            Self::Trim { earliest, reason: TrimReason::Purged, .. } => Some(*earliest),
            _ => None,
        }
    }
}

/// Merged blocks for the log, with the progress of the pass that has made them.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    pub(super) merged: Vec<Merged>,
    /// The place of the newest deletion of a key (a tombstone, or an expired event) that is
    /// dropped.
    pub(super) buried: Option<(Position, Sequence)>,
    /// The progress of the pass, if the log is to remember it.
    pub(super) passed: Option<PassProgress>,
    /// The progress of compaction once this is written, if the log is to remember it.
    pub(super) compacted: Option<Compacted>,
    /// The counts of the events that go.
    pub(super) report: MaintenanceReport,
    /// The number of changes of the leadership before the pass began. Written is only what was read
    /// since the last one.
    pub(super) leadership_changes: u64,
}

/// One block in the place of neighbouring blocks.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) block: Block,
    /// The blocks that the new one replaces.
    pub(super) replaced: Vec<StoredBlock>,
}

/// The progress of a pass over the blocks of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassProgress {
    /// The sequence below which all blocks were looked at.
    pub(super) rewritten: Sequence,
    /// Whether some event below `tail` may go later because of its age.
    pub(super) may_expire: bool,
    /// The tail of the topic when the pass began.
    pub(super) tail: Sequence,
}

impl Rewrite {
    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.merged.is_empty() && self.passed.is_none() && self.compacted.is_none()
    }
}
