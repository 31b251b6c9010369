//! The committer's own state, and the parts of its work that publishes, changes and steps share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::window::DedupWindow;
use crate::broker::announced::Announced;
use crate::broker::clock::Now;
use crate::broker::failure::BrokerFailure;
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::retention::Quiet;
use crate::broker::queue::{Queued, QueuedStep};
use crate::broker::read::replay::replays::Replays;
use crate::broker::report::MaintenanceReport;
use crate::broker::tail::newest::Tails;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::broker::wake::waker::Waker;
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, Extent, Group, Log, StoredBlock, StoredTopic, blocks_of_ids};
use crate::topic::TopicId;

/// Topics of which it is known that nothing needs to be dropped; about 3 MiB.
const MAX_QUIET: usize = 65_536;

/// Blocks of ids that a group may remove, besides two for each that it writes.
const MIN_FORGOTTEN: usize = 32;

/// The committer's own state.
pub(crate) struct Committer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) commands: mpsc::Receiver<Queued>,
    pub(crate) tails: Tails,
    pub(crate) window: DedupWindow,
    pub(crate) failure: BrokerFailure,
    /// The position of the newest durable event, for readers.
    pub(crate) announced: Arc<Announced>,
    /// The number of the newest drop that readers can know of: all up to it are shown.
    pub(crate) drops: Arc<AtomicU64>,
    /// The id of the next new topic; `None` when all are used.
    pub(crate) next_id: Option<TopicId>,
    /// The last time that the clock told.
    pub(crate) last_clock: Timestamp,
    pub(crate) max_block_bytes: usize,
    pub(crate) max_group_bytes: usize,
    /// Steps that are to be taken, between two groups of publishes.
    pub(crate) steps: VecDeque<QueuedStep>,
    /// Whether a topic comes to exist by a publish.
    pub(crate) auto_create: bool,
    /// Topics that need not be looked at for what their limits do not keep, and until when: a
    /// cache of [`MAX_QUIET`] of them.
    pub(crate) quiet: HashMap<TopicId, Quiet>,
    /// Tells those who follow a topic.
    pub(crate) waker: Waker,
    /// Remembers blocks that were read.
    pub(crate) replays: Arc<Replays>,
    /// The positions that backups and reads of states hold.
    pub(crate) horizons: Horizons,
    /// All that was ever dropped or rewritten.
    pub(crate) totals: Arc<Mutex<MaintenanceReport>>,
    /// The clock: a new event is never older than the one before it in its topic, whatever it says.
    pub(crate) now: Now,
}

impl Committer {
    /// Reads the clock. When the clock has gone back, no known time for a later look can be trusted
    /// any more.
    pub(super) fn read_clock(&mut self) -> Timestamp {
        let now = (self.now)();
        if now < self.last_clock {
            self.quiet.clear();
        }
        self.last_clock = now;
        now
    }

    /// Returns the durability that an acknowledgement of a publish to `topic` promises.
    pub(super) fn durability(&self, topic: &Topic) -> Durability {
        match self.log.is_durable() {
            true => topic.effective_config().durability.unwrap_or_default(),
            false => Durability::Memory,
        }
    }

    pub(super) fn new_id(&mut self) -> Result<TopicId> {
        let id = next_id(self.next_id)?;
        self.next_id = id.next();
        Ok(id)
    }

    /// Gives up the ids of events that somebody asked to be dropped: they may be published anew.
    pub(super) fn forget_purged_ids(&mut self, before: &Extent, id: TopicId, extent: &Extent) {
        if before.purged < extent.purged {
            self.window.forget_below(id, extent.purged);
        }
    }

    /// Returns the ids in blocks that are removed, as far as they must still be recognised, as
    /// blocks of ids. Ids from before the start that were not recalled yet are read now.
    pub(super) fn ids_of(
        &mut self,
        topic: &Topic,
        stored: &StoredTopic,
        removed: &[StoredBlock],
    ) -> Vec<(TopicId, Block)> {
        let (id, extent) = (stored.id, &stored.extent);
        for block in removed.iter().filter(|b| b.has_ids && topic.recall.misses(b.first)) {
            if !self.window.reaches(block, extent.tail, self.last_clock) {
                continue;
            }
            // A block that is damaged has no ids.
            for block in self.log.read(id, block.first, block.end, 1).unwrap_or_default() {
                self.window.remember_block(id, &block, extent.purged, self.last_clock);
            }
        }
        let Some((first, last)) = removed.first().zip(removed.last()) else { return Vec::new() };
        let ids = self.window.ids(id, first.first..last.end);
        blocks_of_ids(ids).into_iter().map(|block| (id, block)).collect()
    }

    /// Writes `group` to the log. The same batch removes some of the blocks of ids that the window
    /// has forgotten: more than the group writes.
    pub(super) fn commit(&mut self, group: &mut Group) -> Result<()> {
        group.forgotten = self.window.forgotten(MIN_FORGOTTEN + 2 * group.ids.len());
        if group.is_empty() {
            return Ok(());
        }
        self.log.commit(group)?;
        self.window.were_removed(group.forgotten.len());
        group.ids.iter().for_each(|(topic, block)| self.window.were_stored(*topic, block));
        Ok(())
    }

    /// Returns the number of the next drop. All that go in one group have one.
    pub(super) fn next_drop(&self) -> u64 {
        self.drops.load(Ordering::Relaxed) + 1
    }

    /// Lets readers see what a topic is now.
    pub(super) fn show(&self, topic: &Arc<Topic>, state: TopicState) {
        topic.set_state(state);
        self.waker.wake(topic);
    }

    /// Notes until when nothing needs to be dropped.
    pub(super) fn remember_quiet(&mut self, id: TopicId, quiet: Quiet) {
        if self.quiet.len() >= MAX_QUIET {
            self.quiet.clear();
        }
        self.quiet.insert(id, quiet);
    }

    pub(super) fn count(&self, report: &MaintenanceReport) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(report);
    }
}

/// Returns a topic as the log knows it.
pub(super) fn stored(topic: &Topic) -> Result<StoredTopic> {
    let TopicState { id, extent, config, is_deleted, deletions: _ } = topic.state();
    let id = id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
    Ok(StoredTopic { id, name: topic.name.clone(), extent, config, is_deleted })
}

pub(super) fn next_id(next: Option<TopicId>) -> Result<TopicId> {
    let limit = u32::MAX as usize;
    next.ok_or_else(|| Error::over("topics ever", limit + 1, limit))
}
