//! The committer: its state, and the functions that publishes, changes of topics and steps of
//! maintenance share.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::siblings::Siblings;
use super::window::DedupWindow;
use crate::broker::announced::Announced;
use crate::broker::arriving::ArrivingGroups;
use crate::broker::clock::Now;
use crate::broker::failure::BrokerFailure;
use crate::broker::forward_queue::{ForwardQueue, Forwarded};
use crate::broker::leadership::SharedLeadership;
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::retention::Quiet;
use crate::broker::queue::{CommandReceiver, QueuedStep};
use crate::broker::read::replay::replays::Replays;
use crate::broker::report::MaintenanceReport;
use crate::broker::tail::newest::Tails;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::broker::topic::topics::Topics;
use crate::broker::wake::waker::Waker;
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, Group, Log, StoredBlock, StoredTopic, blocks_of_ids};
use crate::topic::TopicId;

/// The most topics of which the committer remembers that nothing needs to be dropped; about 3 MiB.
const MAX_QUIET: usize = 65_536;

/// The number of blocks of ids that a group may remove, besides two for each block of ids that it
/// writes.
const MIN_FORGOTTEN: usize = 32;

/// Topics by their ids: those of a group, or all.
pub(in crate::broker) type GroupTopics = HashMap<TopicId, Arc<Topic>>;

/// The committer: the one writer. It runs on a thread of its own.
pub(crate) struct Committer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Arc<Topics>,
    /// Whether this node decides what is written, or another one of its fleet.
    pub(crate) leadership: SharedLeadership,
    /// What the node that leads is to decide; `None` if this broker is in no fleet.
    pub(crate) elsewhere: Option<ForwardQueue>,
    /// Told of each group that is shown.
    pub(crate) arriving: ArrivingGroups,
    /// The publishes that the next group waits for, in a fleet.
    pub(crate) siblings: Siblings,
    /// What was left to another node, and is decided here after all, before anything else.
    pub(crate) returned: VecDeque<Forwarded>,
    /// All topics that have an id, while another node leads; otherwise empty.
    pub(crate) followed: GroupTopics,
    pub(crate) commands: CommandReceiver,
    pub(crate) tails: Tails,
    pub(crate) window: DedupWindow,
    pub(crate) failure: BrokerFailure,
    /// The position of the newest durable event, as readers see it.
    pub(crate) announced: Arc<Announced>,
    /// The number of the newest drop that readers can see. All drops up to it are visible.
    pub(crate) drops: Arc<AtomicU64>,
    /// The id of the next new topic; `None` if all ids are used.
    pub(crate) next_id: Option<TopicId>,
    /// The last reading of the clock.
    pub(crate) last_clock: Timestamp,
    pub(crate) max_block_bytes: usize,
    pub(crate) max_group_bytes: usize,
    /// The steps of maintenance that wait; some are taken after each group of publishes.
    pub(crate) steps: VecDeque<QueuedStep>,
    /// Whether a publish creates a topic that does not exist.
    pub(crate) auto_create: bool,
    /// Topics from which nothing needs to be dropped, and the conditions for that: a cache of up to
    /// [`MAX_QUIET`] topics.
    pub(crate) quiet: HashMap<TopicId, Quiet>,
    /// Tells the followers of topics that there is something new.
    pub(crate) waker: Waker,
    /// The cache of blocks that readers have read from the log.
    pub(crate) replays: Arc<Replays>,
    /// The positions that backups and reads of states hold.
    pub(crate) horizons: Horizons,
    /// The counts of all that was dropped or rewritten since the start.
    pub(crate) totals: Arc<Mutex<MaintenanceReport>>,
    /// The clock. An event never gets an earlier time than the one before it in its topic, whatever
    /// the clock says.
    pub(crate) now: Now,
}

impl Committer {
    /// Reads the clock. If it has gone back, forgets until when nothing needs to be dropped: these
    /// times are wrong by now.
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
        self.log.durability(topic.effective_config().durability.unwrap_or_default())
    }

    pub(super) fn new_id(&mut self) -> Result<TopicId> {
        let id = next_id(self.next_id)?;
        self.next_id = id.next();
        Ok(id)
    }

    /// Returns the ids of `removed` blocks that must still be recognised, as blocks of ids. Ids
    /// from before the start that were not recalled yet are read from the log now.
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
            // A damaged block has no ids that can be read.
            for block in self.log.read(id, block.first, block.end, 1).unwrap_or_default() {
                self.window.remember_stored(id, &block, extent.purged, self.last_clock);
            }
        }
        let Some((first, last)) = removed.first().zip(removed.last()) else { return Vec::new() };
        let ids = self.window.ids(id, first.first..last.end);
        blocks_of_ids(ids).into_iter().map(|block| (id, block)).collect()
    }

    /// Writes `group` to the log. The same batch removes blocks of ids that the window has
    /// forgotten. It may remove more of them than the group adds, so that they do not pile up.
    pub(super) fn commit(&mut self, group: &mut Group) -> Result<()> {
        group.forgotten = self.window.forgotten(MIN_FORGOTTEN + 2 * group.ids.len());
        if group.is_empty() {
            return Ok(());
        }
        self.store(group)
    }

    /// Writes `group` to the log, and notes which blocks of ids the log has then.
    pub(super) fn store(&mut self, group: &Group) -> Result<()> {
        self.log.commit(group)?;
        self.window.were_removed(&group.forgotten);
        group.ids.iter().for_each(|(topic, block)| self.window.were_stored(*topic, block));
        Ok(())
    }

    /// Notes the error of a commit: nothing more is stored if the log takes no more groups.
    pub(super) fn note_failure(&self, error: &Error) {
        if !self.log.goes_on_after(error) {
            self.failure.stop_writes_after(error);
        }
    }

    /// Returns the number of the next drop. All that one group drops has the same number.
    pub(super) fn next_drop(&self) -> u64 {
        self.drops.load(Ordering::Relaxed) + 1
    }

    /// Remembers under which conditions nothing needs to be dropped from a topic.
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

/// Returns a topic's record for the log.
pub(super) fn stored(topic: &Topic) -> Result<StoredTopic> {
    let TopicState { id, extent, config, is_deleted, deletions: _ } = topic.state();
    let id = id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
    Ok(StoredTopic { id, name: topic.name.clone(), extent, config, is_deleted })
}

pub(super) fn next_id(next: Option<TopicId>) -> Result<TopicId> {
    let limit = u32::MAX as usize;
    next.ok_or_else(|| Error::over("topics ever", limit + 1, limit))
}
