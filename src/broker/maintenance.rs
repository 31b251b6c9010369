//! Maintenance: drops what the topics' limits no longer keep, and writes again what is worth it.
//!
//! ```text
//! one topic:  retention ──▶ trim, then reclaim in steps
//!             rewriting ──▶ neighbouring blocks become one, without what is over
//! ```
//!
//! # Why
//!
//! A thread of its own decides, reads and merges; what changes the log goes through the committer,
//! a small step at a time, so there is one writer and a publish waits for one step at the most.
//! After each step the thread rests for as long as the step took.
//!
//! Rolling up the small blocks of a quiet topic, compaction and expiry are one act with other
//! predicates, as they are in the log. A block takes part in a roll-up when enough small ones are
//! its neighbours, so an event is written again a few times in its life and not once per pass.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::backup::Horizons;
use super::committer::Command;
use super::topics::{Topic, Topics};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, EventRef, HEADER_BYTES, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// Bytes of blocks read at a time.
const STEP_BYTES: usize = 256 << 10;

/// Most blocks that become one in a step.
const MAX_MERGED_BLOCKS: usize = 64;

/// How many small blocks a topic gets before they are rolled up, and how many make it worth it.
pub(super) const ROLL_UP_BLOCKS: u32 = 64;
pub(super) const MIN_MERGED_BLOCKS: usize = 8;

/// Events that are not compacted yet before a compaction is worth it; there must be half as many of
/// them as of the others, too.
const MIN_DIRTY_EVENTS: u64 = 64;

/// What a key takes besides its bytes in the map of a compaction.
const KEY_BYTES: usize = 96;

/// A topic with events that expire is gone through at most this often, and not more than for a
/// tenth of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How maintenance works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// Pause between two rounds over the topics, in milliseconds. Default: 1,000.
    pub interval_ms: u64,
    /// Memory for the keys of a topic that is compacted, in bytes; a topic with more is compacted
    /// in parts. Default: 64 MiB.
    pub max_key_bytes: u64,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { interval_ms: 1_000, max_key_bytes: 64 << 20 }
    }
}

/// What maintenance did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaintenanceReport {
    /// Topics that were looked at.
    pub topics: u64,
    /// Events that limits on age, events or bytes dropped.
    pub retention_events: u64,
    /// Events that expired.
    pub expired_events: u64,
    /// Events that a later one of the same key superseded, and tombstones past their grace.
    pub compacted_events: u64,
    /// Blocks that were written again as part of a larger one.
    pub merged_blocks: u64,
    /// Space that was given back to the log, in bytes.
    pub reclaimed_bytes: u64,
}

impl MaintenanceReport {
    fn add(&mut self, other: &Self) {
        self.topics += other.topics;
        self.retention_events += other.retention_events;
        self.expired_events += other.expired_events;
        self.compacted_events += other.compacted_events;
        self.merged_blocks += other.merged_blocks;
        self.reclaimed_bytes += other.reclaimed_bytes;
    }

    fn has_done_something(&self) -> bool {
        Self { topics: 0, ..*self } != Self::default()
    }
}

/// What maintenance knows of a topic from one round to the next.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// Whether events were appended since it was looked at.
    is_dirty: AtomicBool,
    /// When it is to be looked at next, whatever happens, in milliseconds since 1970.
    due_ms: AtomicU64,
    /// Small blocks that were appended since the last roll-up.
    small_blocks: AtomicU32,
    /// When events in its middle may be looked for that have expired.
    sweep_ms: AtomicU64,
    /// Below which sequence a key has how many events, at the most, since the start.
    compacted: Mutex<(Sequence, u64)>,
}

impl Upkeep {
    /// Of a topic of which nothing is known: it is looked at in the first round.
    pub(super) fn unknown() -> Self {
        Self {
            is_dirty: AtomicBool::new(true),
            due_ms: AtomicU64::new(u64::MAX),
            small_blocks: AtomicU32::new(ROLL_UP_BLOCKS),
            sweep_ms: AtomicU64::new(0),
            compacted: Mutex::new((Sequence::FIRST, 0)),
        }
    }

    /// Below which sequence there are `kept` events of a key at the most.
    fn compacted(&self, kept: u64) -> Sequence {
        let (below, known) = *self.compacted.lock().unwrap_or_else(PoisonError::into_inner);
        if known == kept { below } else { Sequence::FIRST }
    }

    fn set_compacted(&self, kept: u64, below: Sequence) {
        *self.compacted.lock().unwrap_or_else(PoisonError::into_inner) = (below, kept);
    }

    /// Notes a block that was appended.
    pub(super) fn appended(&self, block: &Block, max_block_bytes: usize) {
        if block.bytes().len() < max_block_bytes / 2 {
            self.small_blocks.fetch_add(1, Ordering::Relaxed);
        }
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Asks for a look in the next round.
    pub(super) fn touch(&self) {
        self.is_dirty.store(true, Ordering::Release);
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.is_dirty.load(Ordering::Acquire) || self.due_ms.load(Ordering::Relaxed) <= now.as_ms()
    }
}

/// What the thread is asked for.
pub(super) enum Ask {
    /// Do what there is to do, also what would not be worth it yet; for one topic or for all.
    Now { topic: Option<Arc<Topic>>, answer: oneshot::Sender<Result<MaintenanceReport>> },
    /// End.
    Stop,
}

/// The thread.
pub(super) struct Maintenance {
    pub(super) log: Arc<dyn Log>,
    pub(super) topics: Arc<Topics>,
    /// Weak, so that the committer ends when nobody publishes any more.
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) asks: Receiver<Ask>,
    pub(super) config: MaintenanceConfig,
    pub(super) max_block_bytes: usize,
    pub(super) now: fn() -> Timestamp,
    /// All that was ever done, for metrics.
    pub(super) totals: Arc<Mutex<MaintenanceReport>>,
    /// Where backups are, which compaction must not look beyond.
    pub(super) horizons: Horizons,
}

impl Maintenance {
    /// Runs until it is told to stop, or every handle is gone.
    pub(super) fn run(self) {
        let interval = Duration::from_millis(self.config.interval_ms);
        loop {
            match self.asks.recv_timeout(interval) {
                Ok(Ask::Now { topic, answer }) => {
                    let _nobody_waits = answer.send(self.round(topic, true));
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.round(None, false)
                        && !matches!(error, Error::ShuttingDown)
                    {
                        warn!(%error, "maintenance cannot go on for now");
                    }
                }
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Looks at the topics that need it, or, if that is `forced`, at those that are named.
    fn round(&self, topic: Option<Arc<Topic>>, forced: bool) -> Result<MaintenanceReport> {
        let mut report = MaintenanceReport::default();
        let now = (self.now)();
        let topics = match topic {
            Some(topic) => vec![topic],
            None => self.topics.filtered(|topic| forced || topic.upkeep.is_due(now)),
        };
        let mut outcome = Ok(());
        for topic in topics {
            let Some(mut visit) = Visit::new(self, &topic, forced) else { continue };
            let looked = visit.look();
            report.add(&visit.report);
            match looked {
                Err(error @ (Error::ShuttingDown | Error::ReadOnly(_))) => return Err(error),
                Err(error) => {
                    warn!(%error, topic = %topic.name, "cannot maintain a topic");
                    outcome = outcome.and(Err(error));
                }
                Ok(()) => {}
            }
        }
        if report.has_done_something() {
            info!(
                topics = report.topics,
                retention_events = report.retention_events,
                expired_events = report.expired_events,
                compacted_events = report.compacted_events,
                merged_blocks = report.merged_blocks,
                reclaimed_bytes = report.reclaimed_bytes,
                "maintained the log"
            );
        }
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).add(&report);
        outcome.map(|()| report)
    }

    /// Has the committer do a step, and rests for as long as it took.
    fn step<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let started = Instant::now();
        let (answer, answered) = oneshot::channel();
        let commands = self.commands.upgrade().ok_or(Error::ShuttingDown)?;
        commands.blocking_send(command(answer)).map_err(|_ended| Error::ShuttingDown)?;
        drop(commands);
        let outcome = answered.blocking_recv().unwrap_or(Err(Error::ShuttingDown));
        std::thread::sleep(started.elapsed());
        outcome
    }
}

/// One look at one topic.
struct Visit<'a> {
    maintenance: &'a Maintenance,
    topic: &'a Arc<Topic>,
    id: TopicId,
    config: TopicConfig,
    now: Timestamp,
    forced: bool,
    report: MaintenanceReport,
}

impl<'a> Visit<'a> {
    /// `None` for a topic that does not exist.
    fn new(maintenance: &'a Maintenance, topic: &'a Arc<Topic>, forced: bool) -> Option<Self> {
        topic.upkeep.is_dirty.store(false, Ordering::Release);
        let id = topic.state().id?;
        let report = MaintenanceReport { topics: 1, ..MaintenanceReport::default() };
        let (config, now) = (topic.effective_config(), (maintenance.now)());
        Some(Self { maintenance, topic, id, config, now, forced, report })
    }

    fn look(&mut self) -> Result<()> {
        self.topic.upkeep.due_ms.store(u64::MAX, Ordering::Relaxed);
        self.reclaim()?; // What an interrupted trim has left.
        self.retain()?;
        if self.is_worth_compacting() {
            self.compact()?;
        }
        if self.is_worth_a_sweep() {
            let from = self.topic.state().extent.earliest;
            self.rewrite(from, &Superseded::none())?;
        } else if self.is_worth_rolling_up() {
            let extent = self.topic.state().extent;
            self.rewrite(extent.rewritten.max(extent.earliest), &Superseded::none())?;
        }
        Ok(())
    }

    /// Looks at the topic again at this time, at the latest.
    fn due(&self, time: Timestamp) {
        self.topic.upkeep.due_ms.fetch_min(time.as_ms(), Ordering::Relaxed);
    }

    fn log(&self) -> &dyn Log {
        &*self.maintenance.log
    }

    /// Drops whole blocks from the front, as long as what is left is not below a limit.
    fn retain(&mut self) -> Result<()> {
        while let Some((earliest, reason)) = self.next_trim()? {
            let topic = self.topic.clone();
            self.maintenance.step(|answer| Command::Trim { topic, earliest, reason, answer })?;
            self.reclaim()?;
        }
        Ok(())
    }

    /// Where the front is to be trimmed, as far as one read shows it.
    fn next_trim(&mut self) -> Result<Option<(Sequence, TrimReason)>> {
        let extent = self.topic.state().extent;
        let mut left = Left { bytes: extent.size_bytes(), events: extent.events() };
        let mut trim = None;
        let mut at = extent.earliest;
        while trim.is_none() && at < extent.tail {
            let blocks = match self.log().read(self.id, at, extent.tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                // How old it is it does not say: it goes with the first that follows it.
                Err(Error::Damaged { last: Some(last), .. }) => {
                    at = last.next();
                    continue;
                }
                Err(error) => return Err(error),
            };
            for block in blocks {
                let Some(reason) = self.reason_to_drop(&block, &left) else { return Ok(trim) };
                trim = Some((block.last_sequence().next(), reason));
                left.drop(&block);
                match reason {
                    TrimReason::Expired => self.report.expired_events += block.count() as u64,
                    _ => self.report.retention_events += block.count() as u64,
                }
            }
        }
        Ok(trim)
    }

    fn reason_to_drop(&self, block: &Block, left: &Left) -> Option<TrimReason> {
        let over = |limit: Option<u64>, left: u64, dropped: usize| {
            limit.is_some_and(|limit| left >= limit.saturating_add(dropped as u64))
        };
        let age = self.config.age_limit_ms();
        if over(self.config.byte_limit(), left.bytes, block.bytes().len())
            || over(self.config.event_limit(), left.events, block.count())
            || age.is_some_and(|limit| block.last_time().plus_ms(limit) < self.now)
        {
            return Some(TrimReason::Retention);
        }
        if let Some(limit) = age {
            self.due(block.last_time().plus_ms(limit).plus_ms(1));
        }
        // A block that rewriting has emptied goes the same way, at the front.
        let mut last = Timestamp::default();
        for event in block.events() {
            last = last.max(event.expires()?);
        }
        if last > self.now {
            self.due(last);
            return None;
        }
        Some(TrimReason::Expired)
    }

    /// Gives back the space of what was trimmed.
    fn reclaim(&mut self) -> Result<()> {
        loop {
            let before = self.topic.state().extent;
            if before.earliest == Sequence::FIRST {
                return Ok(());
            }
            let topic = self.topic.clone();
            let more = self.maintenance.step(|answer| Command::Reclaim { topic, answer })?;
            let after = self.topic.state().extent;
            self.report.reclaimed_bytes += after.dropped_bytes.saturating_sub(before.dropped_bytes);
            if !more {
                return Ok(());
            }
        }
    }

    fn is_worth_compacting(&self) -> bool {
        let Some(kept) = self.config.key_limit() else { return false };
        let extent = self.topic.state().extent;
        let clean_below = self.topic.upkeep.compacted(kept).max(extent.earliest);
        let dirty = extent.tail.get() - clean_below.get();
        let clean = extent.events().saturating_sub(dirty);
        self.forced || (dirty >= MIN_DIRTY_EVENTS && 2 * dirty >= clean)
    }

    fn is_worth_a_sweep(&self) -> bool {
        let sweep_ms = self.topic.upkeep.sweep_ms.load(Ordering::Relaxed);
        let may_expire = self.topic.state().extent.may_expire;
        self.forced || (may_expire && sweep_ms <= self.now.as_ms())
    }

    fn is_worth_rolling_up(&self) -> bool {
        self.topic.upkeep.small_blocks.load(Ordering::Relaxed) >= ROLL_UP_BLOCKS
    }

    /// Drops events that later ones of the same key supersede, part by part where the keys are more
    /// than memory is for.
    fn compact(&mut self) -> Result<()> {
        let Some(kept) = self.config.key_limit() else { return Ok(()) };
        loop {
            let earliest = self.topic.state().extent.earliest;
            let compacted = self.topic.upkeep.compacted(kept);
            // What was compacted before holds each key once: only later events can supersede it.
            let from = if kept == 1 { compacted.max(earliest) } else { earliest };
            let superseded = Superseded::find(self, from, kept)?;
            let end = self.rewrite(earliest, &superseded)?;
            self.topic.upkeep.set_compacted(kept, end);
            if superseded.is_whole || end <= compacted {
                return Ok(());
            }
        }
    }

    /// Goes through the blocks from `from` on, but for the newest, and merges what is worth it.
    /// Returns where it ended.
    fn rewrite(&mut self, from: Sequence, superseded: &Superseded) -> Result<Sequence> {
        let started = Instant::now();
        self.topic.upkeep.small_blocks.store(0, Ordering::Relaxed);
        let mut pass = Pass { next: from, ..Pass::default() };
        // The newest block tells where the topic ends, and stays as it is.
        let end = superseded.below.min(self.newest_block()?);
        while pass.next < end {
            let blocks = match self.log().read(self.id, pass.next, end, STEP_BYTES) {
                Ok(blocks) => blocks,
                Err(Error::Damaged { last: Some(last), .. }) => {
                    self.merge(&mut pass, superseded)?;
                    pass.next = last.next();
                    continue;
                }
                Err(Error::Damaged { last: None, .. }) => break,
                Err(error) => return Err(error),
            };
            for block in blocks {
                self.take(&mut pass, block, superseded)?;
            }
        }
        let rest = pass.run.first().map_or(pass.next, Block::first_sequence);
        let rewritten = if self.merge(&mut pass, superseded)? { pass.next } else { rest };
        self.finish(from, rewritten, pass.may_expire, started)?;
        Ok(end)
    }

    /// Notes how far a pass has come, and when the next one may be.
    fn finish(
        &self,
        from: Sequence,
        rewritten: Sequence,
        may_expire: bool,
        started: Instant,
    ) -> Result<()> {
        let extent = self.topic.state().extent;
        let is_further =
            from <= extent.rewritten.max(extent.earliest) && rewritten > extent.rewritten;
        if is_further || may_expire != extent.may_expire {
            let rewritten = if is_further { rewritten } else { extent.rewritten };
            let topic = self.topic.clone();
            self.maintenance.step(|answer| {
                let may_expire = may_expire || (extent.may_expire && from > extent.earliest);
                Command::Passed { topic, rewritten, may_expire, answer }
            })?;
        }
        let pause = SWEEP_INTERVAL.max(10 * started.elapsed()).as_millis() as u64;
        let next = self.now.plus_ms(pause);
        self.topic.upkeep.sweep_ms.store(next.as_ms(), Ordering::Relaxed);
        if may_expire {
            self.due(next);
        }
        Ok(())
    }

    /// Where the newest block begins.
    fn newest_block(&self) -> Result<Sequence> {
        let tail = self.topic.state().extent.tail;
        if tail <= self.topic.state().extent.earliest {
            return Ok(tail);
        }
        let newest = self.log().read(self.id, tail.previous(), tail, 1)?;
        Ok(newest.first().map_or(tail, Block::first_sequence))
    }

    /// Adds a block to the run, after what there is no room for any more is merged.
    fn take(&mut self, pass: &mut Pass, block: Block, superseded: &Superseded) -> Result<()> {
        let (mut kept, mut dropped) = (HEADER_BYTES, 0);
        let is_compacted = self.config.key_limit().is_some();
        if block.has_ttl() || is_compacted {
            for event in block.events() {
                match self.why_dropped(&event, superseded) {
                    Some(_) => dropped += event.size_bytes() + 1,
                    None => {
                        kept += event.size_bytes();
                        pass.may_expire |=
                            event.ttl_ms.is_some() || (is_compacted && event.is_tombstone());
                    }
                }
            }
        } else {
            kept = block.bytes().len();
        }
        let is_full = pass.kept_bytes + kept > self.maintenance.max_block_bytes
            || pass.run.len() >= MAX_MERGED_BLOCKS;
        if is_full {
            self.merge(pass, superseded)?;
        }
        pass.next = block.last_sequence().next();
        pass.kept_bytes += kept;
        pass.dropped_bytes += dropped;
        pass.run.push(block);
        Ok(())
    }

    fn why_dropped(&self, event: &EventRef<'_>, superseded: &Superseded) -> Option<Dropped> {
        let Some(kept) = self.config.key_limit() else {
            return event.is_expired(self.now).then_some(Dropped::Expired);
        };
        // What goes must not bring back what it has superseded: that has to be gone before.
        let is_alone = match kept {
            1 => event.sequence < self.topic.upkeep.compacted(kept),
            _ => superseded.leaves_first(event),
        };
        let may_go = event.key.is_empty() || is_alone;
        if may_go && event.is_expired(self.now) {
            return Some(Dropped::Expired);
        }
        let grace_ms = self.config.tombstone_grace_ms();
        let is_over = event.is_tombstone() && event.time.plus_ms(grace_ms) <= self.now;
        ((may_go && is_over) || superseded.holds(event)).then_some(Dropped::Compacted)
    }

    /// Makes one block of the run, if that is worth it; the run is empty then. Returns whether it
    /// was.
    fn merge(&mut self, pass: &mut Pass, superseded: &Superseded) -> Result<bool> {
        let run = std::mem::take(&mut pass.run);
        let (kept, dropped) = (pass.kept_bytes, pass.dropped_bytes);
        (pass.kept_bytes, pass.dropped_bytes) = (0, 0);
        let rolls_up = run.len() >= MIN_MERGED_BLOCKS
            || (run.len() > 1 && kept >= self.maintenance.max_block_bytes / 2);
        let drops = dropped > 0 && (4 * dropped >= kept || !superseded.is_empty() || self.forced);
        if !rolls_up && !drops {
            return Ok(false);
        }
        let mut report = self.report;
        let block = Block::merge(&run, |event| match self.why_dropped(event, superseded) {
            None => true,
            Some(Dropped::Expired) => {
                report.expired_events += 1;
                false
            }
            Some(Dropped::Compacted) => {
                report.compacted_events += 1;
                false
            }
        });
        report.merged_blocks += run.len() as u64;
        let before = self.topic.state().extent.dropped_bytes;
        let topic = self.topic.clone();
        self.maintenance.step(|answer| Command::Rewrite { topic, block, answer })?;
        self.report = report;
        let after = self.topic.state().extent.dropped_bytes;
        self.report.reclaimed_bytes += after.saturating_sub(before);
        Ok(true)
    }
}

/// What is left of a topic when what was looked at is dropped.
struct Left {
    bytes: u64,
    events: u64,
}

impl Left {
    fn drop(&mut self, block: &Block) {
        self.bytes = self.bytes.saturating_sub(block.bytes().len() as u64);
        self.events = self.events.saturating_sub(block.count() as u64);
    }
}

/// A way through neighbouring blocks, of which a run may become one.
#[derive(Default)]
struct Pass {
    next: Sequence,
    run: Vec<Block>,
    /// What the run would take, and what it would lose, in bytes.
    kept_bytes: usize,
    dropped_bytes: usize,
    /// Whether anything on the way may be dropped later, by its age alone.
    may_expire: bool,
}

enum Dropped {
    Expired,
    Compacted,
}

/// Which events later ones of their keys supersede.
struct Superseded {
    /// The latest events of each key, as many as are kept, and none before a tombstone.
    keys: HashMap<Box<str>, Latest>,
    kept: usize,
    /// Where the events end that were looked at.
    below: Sequence,
    /// Whether that was all there is.
    is_whole: bool,
}

#[derive(Default)]
struct Latest {
    sequences: VecDeque<Sequence>,
    /// Whether the first of them supersedes all before it, however few there are.
    is_deleted: bool,
}

impl Superseded {
    fn none() -> Self {
        Self { keys: HashMap::new(), kept: 1, below: Sequence::new(u64::MAX), is_whole: true }
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Reads the keys of the events from `from` on, as many as memory is for.
    fn find(visit: &Visit<'_>, from: Sequence, kept: u64) -> Result<Self> {
        let tail = visit.topic.state().extent.tail;
        // In this order: a backup that begins now is at the tail, or beyond it.
        let horizon = visit.maintenance.horizons.first();
        let mut found = Self { kept: kept as usize, below: tail, ..Self::none() };
        let max_bytes = visit.maintenance.config.max_key_bytes as usize;
        let (mut at, mut size_bytes) = (from, 0);
        while at < tail {
            let blocks = match visit.log().read(visit.id, at, tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                Err(Error::Damaged { last: Some(last), .. }) => {
                    at = last.next();
                    continue;
                }
                Err(Error::Damaged { last: None, .. }) => break,
                Err(error) => return Err(error),
            };
            for block in blocks {
                if horizon.is_some_and(|horizon| block.last_position() > horizon) {
                    found.below = block.first_sequence();
                    return Ok(found);
                }
                at = block.last_sequence().next();
                for event in block.events().filter(|event| !event.key.is_empty()) {
                    size_bytes += found.note(&event);
                }
                if size_bytes > max_bytes && at < tail {
                    (found.below, found.is_whole) = (at, false);
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// Notes an event of a key; what that takes more, in bytes.
    fn note(&mut self, event: &EventRef<'_>) -> usize {
        let mut taken = 0;
        if !self.keys.contains_key(event.key) {
            self.keys.insert(event.key.into(), Latest::default());
            taken += KEY_BYTES + event.key.len();
        }
        let Some(latest) = self.keys.get_mut(event.key) else { return taken };
        if event.is_tombstone() {
            latest.sequences.clear();
            latest.is_deleted = true;
        }
        latest.sequences.push_back(event.sequence);
        if latest.sequences.len() > self.kept {
            latest.sequences.pop_front();
        }
        taken + size_of::<Sequence>()
    }

    /// Whether it is the first of its key that is left.
    fn leaves_first(&self, event: &EventRef<'_>) -> bool {
        let first = self.keys.get(event.key).and_then(|latest| latest.sequences.front());
        first.is_some_and(|first| event.sequence <= *first)
    }

    fn holds(&self, event: &EventRef<'_>) -> bool {
        let Some(latest) = self.keys.get(event.key) else { return false };
        let is_complete = latest.is_deleted || latest.sequences.len() >= self.kept;
        is_complete && latest.sequences.front().is_some_and(|oldest| event.sequence < *oldest)
    }
}
