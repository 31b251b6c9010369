//! Commands to the committer, as plain data.
//!
//! A command says what is to be done to one topic, and nothing else: no channel, no permit and no
//! handle of a topic is in it, so that it could be handed to another node. The caller who waits for
//! the outcome, and the command's share of the queue, stand beside it in the queue (`queue.rs`).
//! The outcomes are in `report.rs`.

use crate::cursor::{Position, Sequence, TrimReason};
use crate::log::{Block, Compacted, NewRecords, StoredBlock};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

use super::report::MaintenanceReport;

/// Events to store, all or none.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) records: NewRecords,
    /// The last sequence that the topic must have before, if the publisher expects one.
    pub(super) expected_sequence: Option<u64>,
}

/// Ids to take into the window, in blocks from before the start.
#[derive(Debug)]
pub(super) struct RecalledIds {
    pub(super) id: TopicId,
    pub(super) blocks: Vec<Block>,
}

/// A change of a topic.
#[derive(Debug, Clone)]
pub(super) enum Change {
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
    /// Remove some of what was trimmed, and trim what the limits do not keep.
    Retain,
    /// Take events out at the front.
    Trim {
        earliest: Sequence,
        reason: TrimReason,
        /// The report that the trimmed events are counted in.
        report: MaintenanceReport,
    },
    /// Put blocks in the place of those whose sequences they span.
    Rewrite(Rewrite),
}

/// Blocks that take the place of others.
#[derive(Debug, Default)]
pub(super) struct Rewrite {
    pub(super) merged: Vec<Merged>,
    /// The newest tombstone, or expired event of a key, that is dropped by it.
    pub(super) buried: Option<(Position, Sequence)>,
    /// The progress of the pass that has made this rewrite, if the log is to know it.
    pub(super) passed: Option<PassProgress>,
    /// The progress of compaction with this rewrite, if the log is to know it.
    pub(super) compacted: Option<Compacted>,
    /// The report that the dropped events are counted in.
    pub(super) report: MaintenanceReport,
}

/// One block in the place of neighbouring blocks.
#[derive(Debug)]
pub(super) struct Merged {
    pub(super) block: Block,
    /// The blocks whose sequences the new one spans.
    pub(super) replaced: Vec<StoredBlock>,
}

/// The progress of a pass over the blocks of a topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassProgress {
    /// Blocks below were looked at.
    pub(super) rewritten: Sequence,
    /// Whether there may be events below `tail` that are to be dropped once they have an age.
    pub(super) may_expire: bool,
    /// The tail of the topic when the pass began.
    pub(super) tail: Sequence,
}

impl Rewrite {
    /// Returns whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.merged.is_empty() && self.passed.is_none() && self.compacted.is_none()
    }
}
