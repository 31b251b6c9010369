//! The one writer: groups, orders, appends, syncs, answers, wakes.
//!
//! ```text
//! requests ──▶ draft: who gets which sequence ──▶ log.append: one batch, one sync
//!                                                      │ durable
//!                            tails, watches, window ◀──┴──▶ answers
//! ```
//!
//! # Why
//!
//! A thread, not a task: appending blocks. Grouping needs no timer: while one group is being
//! synced, the next one queues up. All that a group changes is drafted first and taken over only
//! when the log has it, so a group that is refused leaves no trace.

mod changes;
mod draft;
mod gathered;
mod step;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod watched;
pub(super) mod window;

pub(super) use changes::{Asked, Change};
pub(super) use step::{Done, Merged, Passed, Rewrite, Step, Work};

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::error;

use self::draft::Draft;
use crate::broker::announced::Announced;
use crate::broker::clock::Now;
use crate::broker::failure::{Failure, PanicGuard};
use crate::broker::maintenance::MaintenanceReport;
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::retention::Quiet;
use crate::broker::order::window::DedupWindow;
use crate::broker::publish::{Ack, Turn};
use crate::broker::read::replay::Replays;
use crate::broker::tail::newest::Tails;
use crate::broker::topic::topics::{Topic, TopicRef, TopicState};
use crate::broker::wake::waker::Waker;
use crate::cursor::Position;
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, Group, Log, NewRecords, StoredBlock, StoredTopic, blocks_of_ids};
use crate::topic::TopicId;

/// When maintenance removes what a publish has trimmed, in milliseconds.
const RECLAIM_MS: u64 = 5_000;

/// Topics of which it is known that nothing needs to be dropped; about 3 MiB.
const MAX_QUIET: usize = 65_536;

/// Blocks of ids that a group may remove, besides two for each that it writes.
const MIN_FORGOTTEN: usize = 32;

/// What the committer is asked for, in order.
#[derive(Debug)]
pub(super) enum Command {
    /// Store events.
    Publish(Request),
    /// Create a topic, change its settings, or delete it.
    Configure(Asked),
    /// Drop or rewrite some of what a topic holds.
    Step(Step),
    /// Take the ids of blocks from before the start into the window.
    Recall { topic: Arc<Topic>, id: TopicId, blocks: Vec<Block>, answer: oneshot::Sender<()> },
    /// Answer, when all before it is done.
    Barrier { answer: oneshot::Sender<()> },
    /// Answer what is queued already, then end.
    Stop,
}

/// A publish on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) topic: TopicRef,
    pub(super) records: NewRecords,
    pub(super) expected_sequence: Option<u64>,
    /// Its place among the publishes of its publisher.
    pub(super) turn: Turn,
    pub(super) answer: oneshot::Sender<Result<Ack>>,
    /// Its share of the queue; given back when it is answered.
    pub(super) _space: OwnedSemaphorePermit,
}

/// The committer's own state.
pub(super) struct Committer {
    pub(super) log: Arc<dyn Log>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) tails: Tails,
    pub(super) window: DedupWindow,
    pub(super) failure: Failure,
    /// The position of the newest durable event, for readers.
    pub(super) announced: Arc<Announced>,
    /// The number of the newest drop that readers can know of: all up to it are shown.
    pub(super) drops: Arc<AtomicU64>,
    /// The id of the next new topic; `None` when all are used.
    pub(super) next_id: Option<TopicId>,
    /// What the clock said last.
    pub(super) last_clock: Timestamp,
    pub(super) max_block_bytes: usize,
    pub(super) max_group_bytes: usize,
    /// Steps that are to be taken, between two groups of publishes.
    pub(super) steps: VecDeque<Step>,
    /// Whether a topic comes to exist by a publish.
    pub(super) auto_create: bool,
    /// Topics that need not be looked at for what their limits do not keep, and until when: a
    /// cache of [`MAX_QUIET`] of them.
    pub(super) quiet: HashMap<TopicId, Quiet>,
    /// Tells those who follow a topic.
    pub(super) waker: Waker,
    /// Remembers blocks that were read.
    pub(super) replays: Arc<Replays>,
    /// Where backups are.
    pub(super) horizons: Horizons,
    /// All that was ever dropped or rewritten.
    pub(super) totals: Arc<Mutex<MaintenanceReport>>,
    /// The clock: a new event is never older than the one before it in its topic, whatever it says.
    pub(super) now: Now,
}

impl Committer {
    /// Runs until it is told to stop, or every handle is gone. Each accepted request is answered.
    pub(super) fn run(self) {
        let _guard = PanicGuard::new(&self.failure, "committer");
        let mut committer = self; // Dropped before the guard: who is told can rely on it.
        committer.obey_all();
    }

    fn obey_all(&mut self) {
        let mut next = None;
        loop {
            if next.is_none() && self.steps.is_empty() {
                next = self.commands.blocking_recv();
                if next.is_none() {
                    return; // Every handle is gone.
                }
            }
            let gathered = self.gather(next.take());
            self.change_all(gathered.changes);
            let appended_blocks = match gathered.requests.is_empty() {
                true => 0,
                false => self.publish(gathered.requests),
            };
            self.take_steps(appended_blocks);
            for answer in gathered.barriers {
                let _nobody_waits = answer.send(());
            }
            match gathered.next {
                // Whoever was let into the queue before it closed is still answered.
                Some(Command::Stop) => self.commands.close(),
                other => next = other,
            }
        }
    }

    /// Commits `requests` as one group, and answers them. Returns how many blocks it appended.
    fn publish(&mut self, requests: Vec<Request>) -> usize {
        let now = self.read_clock();
        self.window.expire(now);
        let mut draft = Draft::new(self.next_id);
        for request in requests {
            draft.place(self, request, now);
        }
        if draft.is_empty() {
            draft.answer(Ok(()), None, now); // Nothing new: nothing to sync.
            return 0;
        }
        draft.number(Position::new(self.announced.position()).next());
        draft.build(self.max_block_bytes);
        draft.retain(self, now);
        let mut group = draft.finish(now);
        let durability = if self.log.is_durable() { group.durability } else { Durability::Memory };
        let outcome = self.commit(&mut group);
        let appended = group.appended.len();
        match &outcome {
            Ok(()) => self.take_over(&mut draft, group, now),
            Err(error) => {
                error!(%error, "cannot commit a group");
                self.failure.note(error);
            }
        }
        draft.answer(outcome, Some(durability), now);
        appended
    }

    /// What the clock says. Where that is less than it was, nothing that was to be done at a time
    /// is known any more to be early enough.
    fn read_clock(&mut self) -> Timestamp {
        let now = (self.now)();
        if now < self.last_clock {
            self.quiet.clear();
        }
        self.last_clock = now;
        now
    }

    /// What an acknowledgement of a publish to `topic` means.
    fn durability(&self, topic: &Topic) -> Durability {
        match self.log.is_durable() {
            true => topic.effective_config().durability.unwrap_or_default(),
            false => Durability::Memory,
        }
    }

    /// Makes a durable group visible: readers see it only now.
    fn take_over(&mut self, draft: &mut Draft, group: Group, now: Timestamp) {
        draft.each_new_id(now, |topic, id, receipt| self.window.note(topic, id, receipt, now));
        let mut blocks = group.appended.into_iter().peekable();
        let (mut last_position, mut newest_drop) = (Position::BEFORE_ALL, 0);
        for topic in draft.topics() {
            let mut extent = topic.state.extent;
            let mut expires = None;
            while let Some((_, block)) = blocks.next_if(|(id, _)| *id == topic.id) {
                extent = extent.with(&block);
                expires = block.first_expiry().into_iter().chain(expires).min();
                topic.topic.upkeep.appended(&block, self.max_block_bytes);
                self.tails.push(&topic.topic.tail, block);
            }
            self.window.advance(topic.id, extent.tail);
            last_position = last_position.max(extent.last_position);
            newest_drop = newest_drop.max(extent.newest_drop());
            let was_empty = !topic.state.exists() || topic.state.extent.is_empty();
            let (id, is_deleted) = (Some(topic.id), false);
            topic.topic.set_state(TopicState { id, extent, is_deleted, ..topic.state });
            // In this order: whoever has looked at all there was has not missed it.
            expires.into_iter().for_each(|time| topic.topic.upkeep.expires(time));
            if was_empty {
                topic.topic.upkeep.has_front(); // How old it may get nobody has looked at.
            }
            if let Some(retained) = topic.retained.take() {
                // What was trimmed goes with the next publish to the topic, or after a while.
                let more = retained.has_more.then(|| now.plus_ms(RECLAIM_MS));
                let due = more.into_iter().chain(retained.quiet.due());
                due.for_each(|due| topic.topic.upkeep.retained(due));
                self.note_quiet(topic.id, retained.quiet);
                self.count(&retained.report);
            }
        }
        self.next_id = draft.next_id();
        // In this order: whoever knows of a position, or of a drop, sees all up to it.
        self.drops.fetch_max(newest_drop, Ordering::Release);
        self.announced.announce(last_position.get());
        let topics = draft.topics().iter().map(|topic| &topic.topic);
        self.waker.wake_all(topics, Some(last_position));
    }

    /// The ids of blocks that are removed, as far as they are still to be recognised: as blocks of
    /// ids. Those from before the start that were not recalled yet are read now.
    fn ids_of(
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
                self.window.note_block(id, &block, extent.purged, self.last_clock);
            }
        }
        let Some((first, last)) = removed.first().zip(removed.last()) else { return Vec::new() };
        let ids = self.window.ids(id, first.first..last.end);
        blocks_of_ids(ids).into_iter().map(|block| (id, block)).collect()
    }

    /// Has the log write `group`, and remove some of the blocks of ids that the window has
    /// forgotten with it: more of them than it writes. The window knows then which there are.
    fn commit(&mut self, group: &mut Group) -> Result<()> {
        group.forgotten = self.window.forgotten(MIN_FORGOTTEN + 2 * group.ids.len());
        if group.is_empty() {
            return Ok(());
        }
        self.log.commit(group)?;
        self.window.were_removed(group.forgotten.len());
        group.ids.iter().for_each(|(topic, block)| self.window.were_stored(*topic, block));
        Ok(())
    }

    /// The number of the next drop. All that go in one group have one.
    fn next_drop(&self) -> u64 {
        self.drops.load(Ordering::Relaxed) + 1
    }

    /// Lets readers see what a topic is now.
    fn show(&self, topic: &Arc<Topic>, state: TopicState) {
        topic.set_state(state);
        self.waker.wake(topic);
    }

    /// Notes until when nothing needs to be dropped.
    fn note_quiet(&mut self, id: TopicId, quiet: Quiet) {
        if self.quiet.len() >= MAX_QUIET {
            self.quiet.clear();
        }
        self.quiet.insert(id, quiet);
    }

    fn count(&self, report: &MaintenanceReport) {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(report);
    }
}

/// A topic as the log knows it.
fn stored(topic: &Topic) -> Result<StoredTopic> {
    let TopicState { id, extent, config, is_deleted, deletions: _ } = topic.state();
    let id = id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
    Ok(StoredTopic { id, name: topic.name.clone(), extent, config, is_deleted })
}

fn next_id(next: Option<TopicId>) -> Result<TopicId> {
    let limit = u32::MAX as usize;
    next.ok_or_else(|| Error::over("topics ever", limit + 1, limit))
}
