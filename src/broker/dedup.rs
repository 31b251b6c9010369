//! The dedup window: recognises an event that was published before, by the id that its publisher
//! gave it. This file has the settings, and the recall of ids after a restart; the window itself is
//! in `order/window.rs`.
//!
//! An id is in the window while its event is among the last `max_events` of its topic and not older
//! than `max_age_ms`. The event itself may be gone: a publisher may still retry an event that a
//! limit of the topic has dropped. A purge and a deletion drop the ids, too: somebody asked for
//! them, and their events may be published anew. All ids of all topics together take `max_bytes` at
//! the most; `order/window.rs` says which go first.
//!
//! # Why
//!
//! The window is derived from the log: as long as an event is stored, its id is stored only in its
//! block. After a restart, a topic's ids are recalled from its newest blocks when the first event
//! with an id arrives for it. So the window cannot disagree with the log, and opening costs nothing
//! for topics that nobody publishes to. The publisher of that event waits for the recall; the
//! committer, and so everybody else, does not. Ids are kept whole, not as hashes: two ids with one
//! hash would be a lost event.
//!
//! When a limit drops a block, the same batch writes those of its ids that the window holds into a
//! block of ids (`log/ids.rs`). When the window has forgotten the last of these ids, a later batch
//! removes the block of ids. Blocks of ids therefore take no more space than the window takes
//! memory, and all of them are read when the broker is opened. A backup does not hold them.
//!
//! **Clocks of a fleet.** The times in the log are those of the nodes that led then, whose clocks
//! may be an hour wrong, and this node's as well. So a node of a fleet takes ids from the log that
//! may be [`FLEET_CLOCKS_MS`] older than they may be, and remembers them as if their events were
//! stored when it reads them. After a restart, or when another node leads, an id may be known
//! longer than it should be, and never for a shorter time.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::broker::turns::Turns;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, Extent, Log, Seek};
use crate::topic::TopicId;

/// The most that the clocks of two nodes of a fleet may differ for ids to be remembered long
/// enough, in milliseconds: an hour each.
pub(super) const FLEET_CLOCKS_MS: u64 = 2 * 60 * 60 * 1_000;

/// The bytes of blocks that are read at a time while a topic's ids are recalled.
const STEP_BYTES: usize = 1 << 20;

/// The settings of the window in which an id is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DedupConfig {
    /// The number of a topic's last events whose ids are remembered. Default: 100,000.
    pub max_events: u64,
    /// The age of an event, in milliseconds, up to which its id is remembered. Default: 600,000.
    pub max_age_ms: u64,
    /// The memory for all ids of all topics, in bytes. When it is short, the topic that takes most
    /// gives up its oldest ids. Default: 64 MiB.
    pub max_bytes: u64,
}

impl Default for DedupConfig {
    fn default() -> Self {
        Self { max_events: 100_000, max_age_ms: 600_000, max_bytes: 64 << 20 }
    }
}

/// The progress of recalling the ids of a topic's events from before the start.
#[derive(Debug)]
pub(crate) struct Recall {
    /// Set when all ids are recalled.
    done: OnceCell<()>,
    /// The first sequence whose id is not in the window yet.
    next: AtomicU64,
    /// The topic's tail at the start. From there on, ids are remembered when their events are
    /// stored.
    below: Sequence,
}

impl Recall {
    /// Returns the progress for a topic whose extent is `extent` when the broker is opened.
    pub(super) fn of(extent: &Extent) -> Self {
        // Events that a limit has trimmed still have their ids in their blocks, until these are
        // removed.
        let has_none = extent.size_bytes() == 0 || extent.purged >= extent.tail;
        let next = AtomicU64::new(extent.purged.max(Sequence::FIRST).get());
        let done = OnceCell::new_with(has_none.then_some(()));
        Self { done, next, below: extent.tail }
    }

    /// Whether the ids of a block that begins at `first` may still have to be recalled.
    pub(super) fn misses(&self, first: Sequence) -> bool {
        let is_old = first < self.below && first.get() >= self.next.load(Ordering::Relaxed);
        is_old && !self.is_done()
    }

    /// Whether nothing is left to recall.
    pub(super) fn is_done(&self) -> bool {
        self.done.initialized()
    }

    /// Reads the ids that the window can hold at `now`, step by step, and hands each step to
    /// `remember`. Times in the log may be off by `clocks_ms`. Other callers wait for the one that
    /// reads. Damaged blocks have no ids.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], and those of `remember`; the next call goes on where this one ended.
    ///
    /// # Cancel safety
    ///
    /// As after an error.
    pub(super) async fn finish<N: Future<Output = Result<()>>>(
        &self,
        (turns, id): (&Turns, TopicId),
        (config, clocks_ms): (&DedupConfig, u64),
        now: Timestamp,
        remember: impl Fn(Vec<Block>) -> N,
    ) -> Result<()> {
        let read = || async {
            let oldest = self.below.get().saturating_sub(config.max_events);
            let first = Sequence::new(oldest.max(self.next.load(Ordering::Relaxed)));
            let below = self.below;
            let front = move |log: &dyn Log| log.stored_blocks(id, Sequence::FIRST..below, 1);
            let first = match turns.read(front).await {
                Err(Error::Damaged { .. }) => first,
                front => front?.first().map_or(below, |front| first.max(front.first)),
            };
            let max_age_ms = config.max_age_ms.saturating_add(clocks_ms);
            let fresh = now.minus_ms(max_age_ms);
            let seek = move |log: &dyn Log| log.seek(id, Seek::Time(fresh), first, below);
            let mut next = match turns.read(seek).await {
                Err(Error::Damaged { .. }) => first, // Read all blocks that can be read instead.
                found => found?,
            };
            while next < below {
                let read = move |log: &dyn Log| log.read(id, next, below, STEP_BYTES);
                next = match turns.read(read).await {
                    Ok(mut blocks) => {
                        let last = blocks.last().map_or(below, |b| b.last_sequence().next());
                        blocks.retain(Block::has_ids);
                        remember(blocks).await?;
                        last
                    }
                    Err(Error::Damaged { last, .. }) => last.map_or(below, Sequence::next),
                    Err(error) => return Err(error),
                };
                self.next.store(next.get(), Ordering::Relaxed);
            }
            Ok(())
        };
        self.done.get_or_try_init(read).await.copied()
    }
}
