//! Rewriting: neighbouring blocks become one, without what is superseded or has expired.
//!
//! # Why
//!
//! Rolling up the small blocks of a quiet topic, compaction and expiry are one act with other
//! predicates, as they are in the log. A block takes part in a roll-up when enough small ones are
//! its neighbours, so an event is written again a few times in its life and not once per pass.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::committer::{Passed, Work};
use super::super::topics::Topic;
use super::superseded::Superseded;
use super::{Maintenance, MaintenanceReport};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, EventRef, HEADER_BYTES, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// Bytes of blocks read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// Most blocks that become one, and about as many as are taken out in a step.
const MAX_MERGED_BLOCKS: usize = 64;

/// Bytes of merged blocks that are written in a step: about what takes as long as a small group of
/// publishes does.
const MAX_READY_BYTES: usize = 64 << 10;

/// How many small blocks a topic gets before they are rolled up, and how many make it worth it.
pub(in super::super) const ROLL_UP_BLOCKS: u32 = 64;
pub(in super::super) const MIN_MERGED_BLOCKS: usize = 8;

/// Events that are not compacted yet before a compaction is worth it; there must be half as many of
/// them as of the others, too.
const MIN_DIRTY_EVENTS: u64 = 64;

/// A topic with events that expire is gone through at most this often, and not more than for a
/// tenth of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// One look at one topic.
pub(super) struct Visit<'a> {
    pub(super) maintenance: &'a Maintenance,
    pub(super) topic: &'a Arc<Topic>,
    pub(super) id: TopicId,
    config: TopicConfig,
    now: Timestamp,
    forced: bool,
    pub(super) report: MaintenanceReport,
}

impl<'a> Visit<'a> {
    /// `None` for a topic that does not exist.
    pub(super) fn new(
        maintenance: &'a Maintenance,
        topic: &'a Arc<Topic>,
        forced: bool,
    ) -> Option<Self> {
        topic.upkeep.rewriting.reset();
        let id = topic.state().id?;
        let report = MaintenanceReport { topics: 1, ..MaintenanceReport::default() };
        let (config, now) = (topic.effective_config(), (maintenance.now)());
        Some(Self { maintenance, topic, id, config, now, forced, report })
    }

    /// Does what is worth it.
    pub(super) fn look(&mut self) -> Result<()> {
        self.expire_front()?;
        if self.is_worth_compacting() {
            self.compact()?;
        }
        if self.is_worth_a_sweep() {
            let from = self.topic.state().extent.earliest;
            self.rewrite(from, &Superseded::none())?;
        } else if self.topic.upkeep.has_small_blocks() {
            let extent = self.topic.state().extent;
            self.rewrite(extent.rewritten.max(extent.earliest), &Superseded::none())?;
        }
        Ok(())
    }

    pub(super) fn log(&self) -> &dyn Log {
        &*self.maintenance.log
    }

    /// Takes out whole blocks at the front, of which every event has expired.
    fn expire_front(&mut self) -> Result<()> {
        let extent = self.topic.state().extent;
        let mut report = MaintenanceReport::default();
        let (mut at, mut earliest) = (extent.earliest, extent.earliest);
        while extent.may_expire && at < extent.tail {
            let blocks = match self.log().read(self.id, at, extent.tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                // What it holds it does not say: it goes with the first that follows it.
                Err(Error::Damaged { last: Some(last), .. }) => {
                    at = last.next();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let expired = blocks.iter().take_while(|block| self.has_expired(block));
            let expired = expired.inspect(|block| report.expired_events += block.count() as u64);
            let Some(last) = expired.last() else { break };
            earliest = last.last_sequence().next();
            let is_all = blocks.last().is_some_and(|b| b.last_sequence() < earliest);
            at = earliest;
            if !is_all {
                break;
            }
        }
        if earliest > extent.earliest {
            let reason = TrimReason::Expired;
            let done =
                self.maintenance.step(self.topic, Work::Trim { earliest, reason, report })?;
            self.report.add(&done.report);
            self.maintenance.retain(std::slice::from_ref(self.topic), &mut self.report)?;
        }
        Ok(())
    }

    /// Whether it holds events, and all of them have expired; or when they will have.
    fn has_expired(&self, block: &Block) -> bool {
        let mut last = Timestamp::default();
        for event in block.events() {
            match event.expires() {
                Some(time) => last = last.max(time),
                None => return false,
            }
        }
        if last > self.now {
            self.topic.upkeep.rewriting.set(last);
        }
        block.count() > 0 && last <= self.now
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
        let may_expire = self.topic.state().extent.may_expire;
        self.forced || (may_expire && self.topic.upkeep.may_sweep(self.now))
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
        self.topic.upkeep.begin_pass();
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
        self.finish(from, rewritten, pass)?;
        let pause = SWEEP_INTERVAL.max(10 * started.elapsed()).as_millis() as u64;
        let next = self.now.plus_ms(pause);
        self.topic.upkeep.set_sweep(next);
        if self.topic.state().extent.may_expire {
            self.topic.upkeep.rewriting.set(next);
        }
        Ok(end)
    }

    /// Has the rest of a pass written, and notes how far it has come.
    fn finish(&mut self, from: Sequence, rewritten: Sequence, pass: Pass) -> Result<()> {
        let extent = self.topic.state().extent;
        let is_further =
            from <= extent.rewritten.max(extent.earliest) && rewritten > extent.rewritten;
        let rewritten = if is_further { rewritten } else { extent.rewritten };
        let may_expire = pass.may_expire || (extent.may_expire && from > extent.earliest);
        let passed = Passed { rewritten, may_expire };
        let is_news = is_further || may_expire != extent.may_expire;
        self.write(pass.ready, is_news.then_some(passed))
    }

    /// Has blocks written in the place of those whose sequences they span.
    fn write(&mut self, ready: Ready, passed: Option<Passed>) -> Result<()> {
        let Ready { blocks, report, .. } = ready;
        if blocks.is_empty() && passed.is_none() {
            return Ok(());
        }
        let done = self.maintenance.step(self.topic, Work::Rewrite { blocks, passed, report })?;
        self.report.add(&done.report);
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
        let ready = &mut pass.ready;
        let block = Block::merge(&run, |event| match self.why_dropped(event, superseded) {
            None => true,
            Some(Dropped::Expired) => {
                ready.report.expired_events += 1;
                false
            }
            Some(Dropped::Compacted) => {
                ready.report.compacted_events += 1;
                false
            }
        });
        ready.report.merged_blocks += run.len() as u64;
        ready.size_bytes += block.bytes().len();
        ready.blocks.push(block);
        let merged = ready.report.merged_blocks as usize;
        if ready.size_bytes >= MAX_READY_BYTES || merged >= MAX_MERGED_BLOCKS / 2 {
            self.write(std::mem::take(&mut pass.ready), None)?;
        }
        Ok(true)
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
    ready: Ready,
}

/// Merged blocks that wait for being written together.
#[derive(Default)]
struct Ready {
    blocks: Vec<Block>,
    size_bytes: usize,
    report: MaintenanceReport,
}

enum Dropped {
    Expired,
    Compacted,
}
