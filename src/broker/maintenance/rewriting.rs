//! One look at one topic: what of it is worth writing again, and why.
//!
//! # Why
//!
//! Rolling up the small blocks of a quiet topic, compaction and expiry are one act with other
//! predicates (`merging.rs`). A block takes part in a roll-up when enough small ones are its
//! neighbours, so an event is written again a few times in its life and not once per pass.
//!
//! A tombstone must outlast what it supersedes: it goes only when that was gone before the pass
//! began, and never while a backup or a read of its topic's state is on its way, which may have read what
//! was there before. An event with an id stays for as long as the window remembers ids: recalled
//! from the log after a restart, the window would otherwise not know it, and a late repeat of an
//! old value would become the newest of its key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::committer::{Done, Rewrite, Work};
use super::super::topics::{Topic, TopicState};
use super::superseded::{Share, Superseded};
use super::upkeep::Compacted;
use super::{Answer, Maintenance, MaintenanceReport, check_caller};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Ages, Block, EventRef, Extent, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// Bytes of blocks read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// How many small blocks a topic gets before they are rolled up, and how many blocks have to fit
/// one to make it worth it; small is what as many of fit one.
pub(in super::super) const ROLL_UP_BLOCKS: u32 = 64;
pub(in super::super) const MIN_MERGED_BLOCKS: usize = 8;

/// Steps of one visit that are on their way; meanwhile the next is read and merged.
const MAX_WRITING: usize = 8;

/// Events that are not compacted yet before a compaction is worth it; there must be half as many of
/// them as of the others, too.
const MIN_DIRTY_EVENTS: u64 = 64;

/// After how long without an event a topic is quiet: what is left of it then is compacted, too.
const QUIET: Duration = Duration::from_secs(60);

/// A topic with events that expire is gone through at most this often, and not more than for a
/// tenth of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// One look at one topic.
pub(super) struct Visit<'a> {
    pub(super) maintenance: &'a Maintenance,
    pub(super) topic: &'a Arc<Topic>,
    pub(super) id: TopicId,
    pub(super) config: TopicConfig,
    now: Timestamp,
    /// How old its events are then.
    ages: Ages,
    /// Who has asked for it, also where it would not be worth it yet.
    asked: Option<&'a Answer>,
    /// Whether tombstones may go: nobody is reading what was there before them.
    may_bury: bool,
    /// The steps that are on their way.
    writing: VecDeque<oneshot::Receiver<Result<Done>>>,
    /// Whether a step did less than it was asked for.
    is_partial: bool,
    /// How far compaction has come, once it is written.
    compacted: Option<Compacted>,
    pub(super) report: MaintenanceReport,
}

/// Why an event is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It has expired.
    Expired,
    /// A later event of its key superseded it.
    Superseded,
    /// It is a tombstone past its grace.
    Buried,
}

impl<'a> Visit<'a> {
    /// `None` for a topic that does not exist.
    pub(super) fn new(
        maintenance: &'a Maintenance,
        topic: &'a Arc<Topic>,
        asked: Option<&'a Answer>,
    ) -> Option<Self> {
        topic.upkeep.rewriting.reset();
        let TopicState { id, extent, .. } = topic.state();
        let (id, now) = (id?, (maintenance.now)());
        Some(Self {
            maintenance,
            topic,
            id,
            config: topic.effective_config(),
            now,
            ages: Ages::of(&extent, now),
            asked,
            may_bury: false,
            writing: VecDeque::new(),
            is_partial: false,
            compacted: None,
            report: MaintenanceReport { topics: 1, ..MaintenanceReport::default() },
        })
    }

    /// Does what is worth it. The last step may be on its way when this returns: the topic is not
    /// looked at again before [`Self::end`] returns.
    pub(super) fn look(&mut self) -> Result<()> {
        let looked = self.try_look();
        while looked.is_err() && !self.writing.is_empty() {
            drop(self.settle_oldest());
        }
        looked
    }

    fn try_look(&mut self) -> Result<()> {
        self.expire_front()?;
        if self.is_worth_compacting() {
            self.compact()?;
        }
        if self.is_worth_a_sweep() {
            let from = self.topic.state().extent.earliest;
            match self.config.key_limit() {
                // Which events of a key are the only ones that are left, a compaction finds out.
                Some(kept) if kept > 1 => self.compact()?,
                _ => drop(self.rewrite(from, &Superseded::none())?),
            }
        } else if self.topic.upkeep.has_small_blocks() {
            let extent = self.topic.state().extent;
            self.rewrite(extent.rewritten.max(extent.earliest), &Superseded::none())?;
        }
        Ok(())
    }

    pub(super) fn log(&self) -> &dyn Log {
        &*self.maintenance.log
    }

    /// Whether somebody has asked for it, also where it would not be worth it yet.
    pub(super) fn is_forced(&self) -> bool {
        self.asked.is_some()
    }

    /// Refuses to go on when the broker is stopping, or when nobody waits for it any more.
    pub(super) fn check_stop(&self) -> Result<()> {
        check_caller(self.asked)?;
        if self.maintenance.stopping.is_cancelled() { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    /// Takes out whole blocks at the front, of which every event has expired.
    fn expire_front(&mut self) -> Result<()> {
        let extent = self.topic.state().extent;
        let mut report = MaintenanceReport::default();
        let (mut at, mut earliest) = (extent.earliest, extent.earliest);
        while extent.may_expire && at < extent.tail {
            self.check_stop()?;
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
            let expired = expired.inspect(|block| {
                report.expired.add(block.count() as u64, block.bytes().len() as u64);
            });
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
            let topic = std::slice::from_ref(self.topic);
            self.maintenance.retain(topic, self.asked, &mut self.report)?;
        }
        Ok(())
    }

    /// Whether it holds events, and all of them have expired and may go; or when they will have.
    fn has_expired(&self, block: &Block) -> bool {
        let mut last = Timestamp::default();
        for event in block.events() {
            match self.ages.expires(&event) {
                // What it has superseded goes with it, for that lies before it.
                Some(time) => last = last.max(time).max(self.remembered_until(&event)),
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
        let compacted = self.topic.upkeep.compacted(kept);
        let dirty = extent.tail.get() - compacted.seen.max(extent.earliest).get();
        let clean = extent.events().saturating_sub(dirty);
        // Each compaction reads all there is: that is paid by what was added, or it is little.
        let is_much = 2 * dirty >= clean;
        let is_little = extent.size_bytes() <= STEP_BYTES as u64;
        let is_left = dirty > 0 && (is_much || is_little) && self.quiet_from() <= self.now;
        self.is_forced()
            || (dirty >= MIN_DIRTY_EVENTS && is_much)
            || is_left
            || (compacted.due <= self.now && self.may_sweep())
    }

    /// When the topic is quiet, if nothing more is published to it.
    fn quiet_from(&self) -> Timestamp {
        let extent = self.topic.state().extent;
        let Extent { last_position, last_clock, .. } = extent;
        let appended = extent.ahead.appended(last_position, last_clock, self.now);
        appended.plus_ms(QUIET.as_millis() as u64)
    }

    /// Whether a pass takes in the newest block.
    pub(super) fn takes_newest(&self) -> bool {
        self.is_forced() || self.quiet_from() <= self.now
    }

    fn is_worth_a_sweep(&self) -> bool {
        self.is_forced() || (self.topic.state().extent.may_expire && self.may_sweep())
    }

    fn may_sweep(&self) -> bool {
        self.topic.upkeep.next_sweep() <= self.now
    }

    /// Drops events that later ones of the same key supersede; a share of the keys at a time, where
    /// they are more than memory is for.
    fn compact(&mut self) -> Result<()> {
        let Some(kept) = self.config.key_limit() else { return Ok(()) };
        let earliest = self.topic.state().extent.earliest;
        let before = self.topic.upkeep.compacted(kept).below;
        // What was compacted before holds each key once: only later events can supersede it.
        let from = if kept == 1 { before.max(earliest) } else { earliest };
        let mut share = Share::ALL;
        let mut compacted: Option<Compacted> = None;
        loop {
            let Some(superseded) = Superseded::find(self, from, kept, share)? else {
                (share, compacted) = (share.halved(), None);
                continue;
            };
            self.topic.upkeep.note_looked_at(superseded.below);
            let passed = self.rewrite(earliest, &superseded)?;
            compacted = Some(compacted.map_or(passed, |before| before.and(passed)));
            match share.next() {
                Some(next) => share = next,
                None => break,
            }
        }
        self.compacted = compacted.map(|compacted| Compacted { kept, ..compacted });
        Ok(())
    }

    /// Goes through the blocks from `from` on, and merges what is worth it.
    /// Returns what is left of what `superseded` holds.
    fn rewrite(&mut self, from: Sequence, superseded: &Superseded) -> Result<Compacted> {
        let started = Instant::now();
        self.may_bury = !self.maintenance.horizons.are_held(self.id);
        self.topic.upkeep.begin_pass();
        let passed = super::merging::pass(self, from, superseded)?;
        let pause = SWEEP_INTERVAL.max(10 * started.elapsed()).as_millis() as u64;
        self.topic.upkeep.set_sweep(self.now.plus_ms(pause));
        Ok(passed)
    }

    /// Has the committer write what was merged; it may be on its way when this returns.
    pub(super) fn write(&mut self, rewrite: Rewrite) -> Result<()> {
        if self.writing.len() >= MAX_WRITING {
            self.settle_oldest()?;
        }
        self.writing.push_back(self.maintenance.ask(self.topic, Work::Rewrite(rewrite))?);
        Ok(())
    }

    /// Waits until all that was handed in is written.
    pub(super) fn settle(&mut self) -> Result<()> {
        while !self.writing.is_empty() {
            self.settle_oldest()?;
        }
        if let Some(compacted) = self.compacted.take().filter(|_| !self.is_partial) {
            self.topic.upkeep.set_compacted(compacted);
        }
        Ok(())
    }

    /// Ends the visit: waits for what is on its way, and sets when to come again.
    pub(super) fn end(&mut self) -> Result<()> {
        self.settle()?;
        let upkeep = &self.topic.upkeep;
        if self.topic.state().extent.may_expire {
            upkeep.rewriting.set(upkeep.next_sweep());
        }
        if let Some(kept) = self.config.key_limit() {
            let compacted = upkeep.compacted(kept);
            upkeep.rewriting.set(compacted.due.max(upkeep.next_sweep()));
            let quiet_from = self.quiet_from();
            if compacted.seen < self.topic.state().extent.tail && quiet_from > self.now {
                upkeep.rewriting.set(quiet_from);
            }
        }
        Ok(())
    }

    fn settle_oldest(&mut self) -> Result<()> {
        if let Some(answer) = self.writing.pop_front() {
            let done = self.maintenance.rest_after(answer)?;
            self.report.add(&done.report);
            self.is_partial |= done.is_partial;
        }
        Ok(())
    }

    /// Whether some of what was asked for was not done.
    pub(super) fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Until when its id is remembered, if it has one: as long as that it stays.
    fn remembered_until(&self, event: &EventRef<'_>) -> Timestamp {
        match event.id {
            "" => Timestamp::default(),
            _ => self.ages.appended(event).plus_ms(self.maintenance.dedup_age_ms),
        }
    }

    /// Until when it is held back for its id alone, if it is.
    pub(super) fn held_until(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        Some(self.remembered_until(event)).filter(|until| *until > self.now)
    }

    /// Why an event goes, if it does, or would but for its id.
    pub(super) fn why_dropped(
        &self,
        event: &EventRef<'_>,
        superseded: &Superseded,
    ) -> Option<Reason> {
        let Some(kept) = self.config.key_limit() else {
            return self.ages.has_expired(event).then_some(Reason::Expired);
        };
        if superseded.holds(event) {
            return Some(Reason::Superseded);
        }
        // What goes must not bring back what it has superseded: that has to be gone before.
        let is_alone = match kept {
            1 => event.sequence < self.topic.upkeep.compacted(kept).below,
            _ => superseded.has_nothing_before(event),
        };
        let may_go = event.key.is_empty() || (is_alone && self.may_bury);
        if may_go && self.ages.has_expired(event) {
            return Some(Reason::Expired);
        }
        let grace_ms = self.config.tombstone_grace_ms();
        let is_over =
            event.is_tombstone() && self.ages.appended(event).plus_ms(grace_ms) <= self.now;
        (may_go && is_over).then_some(Reason::Buried)
    }

    /// Whether an event that is kept goes once it has an age.
    pub(super) fn may_expire(&self, event: &EventRef<'_>) -> bool {
        event.ttl_ms.is_some() || (self.config.key_limit().is_some() && event.is_tombstone())
    }
}
