//! One look at one topic: what of it is worth writing again, and why.
//!
//! # Why
//!
//! Rolling up the small blocks of a quiet topic, compaction and expiry are one act with other
//! predicates (`merging.rs`). A block takes part in a roll-up when enough small ones are its
//! neighbours, so an event is written again a few times in its life and not once per pass.
//!
//! In a topic that is compacted an event of a key deletes that key when it expires, as a tombstone
//! does: the value before it must not come back. Until it is gone, readers get it as a tombstone
//! (`broker/tail/`).
//!
//! A deletion must outlast what it supersedes: it goes only when that was gone before the pass
//! began, and never while a backup or a read of its topic's state is on its way, which may have
//! read what was there before. An event with an id stays for as long as the window remembers ids:
//! recalled from the log after a restart, the window would otherwise not know it, and a late repeat
//! of an old value would become the newest of its key.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::superseded::{Share, Superseded};
use super::{Answer, Maintenance, MaintenanceReport, check_caller};
use crate::broker::order::{Done, Rewrite, Work};
use crate::broker::topic::topics::{Topic, TopicState};
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Ages, Block, Compacted, EventRef, Extent, Log};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// Bytes of blocks read at a time.
pub(super) const STEP_BYTES: usize = 256 << 10;

/// How many small blocks a topic gets before they are rolled up, and how many blocks have to fit
/// one to make it worth it; small is what as many of fit one.
pub(in crate::broker) const ROLL_UP_BLOCKS: u32 = 64;
pub(in crate::broker) const MIN_MERGED_BLOCKS: usize = 8;

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

/// The same of one that is compacted: there an event that expires deletes its key.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

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
    /// Below it each key has one event, if one is kept.
    alone_below: Sequence,
    /// The steps that are on their way.
    writing: VecDeque<oneshot::Receiver<Result<Done>>>,
    /// Whether a step did less than it was asked for.
    is_partial: bool,
    /// When events expire that are looked at, until that is written.
    expiry: Timestamp,
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
            alone_below: Sequence::FIRST,
            writing: VecDeque::new(),
            is_partial: false,
            expiry: Timestamp::MAX,
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
        if looked.is_err() {
            self.give_back_expiry();
        }
        looked
    }

    fn try_look(&mut self) -> Result<()> {
        self.expire_front()?;
        match self.config.key_limit() {
            Some(kept) if self.is_worth_compacting(kept) => {
                let left = self.compact(kept)?;
                // What deletes a key is alone by now, and may go.
                if self.is_forced() || (left.due <= self.now && self.may_bury) {
                    self.compact(kept)?;
                }
            }
            None if self.is_worth_a_sweep() => self.sweep()?,
            Some(_) | None => {}
        }
        if self.topic.upkeep.has_small_blocks() {
            let extent = self.topic.state().extent;
            let from = extent.rewritten.max(extent.earliest);
            let (_, rest) = self.rewrite(from, &Superseded::none())?;
            self.write(rest)?;
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

    /// How far compaction to this many events of a key has come.
    fn compacted(&self, kept: u64) -> Compacted {
        let extent = self.topic.state().extent;
        if extent.compacted.kept == kept {
            return extent.compacted;
        }
        // Under other settings other events go, at other times.
        let is_unknown = extent.may_expire && extent.compacted.seen > extent.earliest;
        let due = if is_unknown { Timestamp::default() } else { Timestamp::MAX };
        Compacted { kept, due, ..Compacted::NOTHING }
    }

    /// When there is something to drop, or may be; of `kept` events of a key, 0: all.
    fn due(&self, kept: u64) -> Timestamp {
        let extent = self.topic.state().extent;
        // What was told by a clock that was ahead may be due before.
        if extent.may_expire && extent.ahead.position >= extent.trimmed_position.next() {
            return Timestamp::default();
        }
        self.compacted(kept).due.min(self.topic.upkeep.expiry())
    }

    fn is_worth_compacting(&self, kept: u64) -> bool {
        let extent = self.topic.state().extent;
        let compacted = self.compacted(kept);
        let dirty = extent.tail.get() - compacted.seen.max(extent.earliest).get();
        let clean = extent.events().saturating_sub(dirty);
        // Each compaction reads all there is: that is paid by what was added, or it is little.
        let is_much = 2 * dirty >= clean;
        let is_little = extent.size_bytes() <= STEP_BYTES as u64;
        let is_left = dirty > 0 && (is_much || is_little) && self.quiet_from() <= self.now;
        self.is_forced()
            || (dirty >= MIN_DIRTY_EVENTS && is_much)
            || is_left
            || (self.due(kept) <= self.now && self.may_sweep())
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
        let may_expire = self.topic.state().extent.may_expire;
        self.is_forced() || (may_expire && self.due(0) <= self.now && self.may_sweep())
    }

    fn may_sweep(&self) -> bool {
        self.topic.upkeep.next_sweep() <= self.now
    }

    /// Drops events that later ones of the same key supersede; a share of the keys at a time, where
    /// they are more than memory is for. Returns how far it has come, once that is written.
    fn compact(&mut self, kept: u64) -> Result<Compacted> {
        self.settle()?; // What the compaction before has come to counts.
        self.take_expiry();
        let earliest = self.topic.state().extent.earliest;
        let before = self.compacted(kept);
        // What was compacted before holds each key once: only later events can supersede it.
        let from = if kept == 1 { before.below.max(earliest) } else { earliest };
        let mut share = Share::ALL;
        let mut compacted: Option<Compacted> = None;
        loop {
            let Some(superseded) = Superseded::find(self, from, kept, share)? else {
                (share, compacted) = (share.halved(), None);
                continue;
            };
            self.topic.upkeep.note_looked_at(superseded.below);
            let (passed, rest) = self.rewrite(earliest, &superseded)?;
            let mut passed = compacted.map_or(passed, |before| before.and(passed));
            if superseded.is_cut {
                // Of those beyond the horizon it says no more than was known.
                passed.due = passed.due.min(before.due).min(self.expiry);
            }
            compacted = Some(passed);
            match share.next() {
                Some(next) => {
                    share = next;
                    self.write(rest)?;
                }
                None => return self.write_compacted(Compacted { kept, ..passed }, rest),
            }
        }
    }

    /// Drops events that have expired, of a topic that is not compacted.
    fn sweep(&mut self) -> Result<()> {
        self.take_expiry();
        let earliest = self.topic.state().extent.earliest;
        let (swept, rest) = self.rewrite(earliest, &Superseded::none())?;
        self.write_compacted(swept, rest).map(drop)
    }

    /// Has the last step written, with how far it has come, unless a step before has failed to.
    fn write_compacted(&mut self, compacted: Compacted, mut rest: Rewrite) -> Result<Compacted> {
        let is_new = compacted != self.topic.state().extent.compacted;
        rest.compacted = Some(compacted).filter(|_| is_new && !self.is_partial);
        self.write(rest)?;
        Ok(compacted)
    }

    /// Goes through the blocks from `from` on, and merges what is worth it. Returns how far
    /// compaction is once the step is written that is left to write.
    fn rewrite(&mut self, from: Sequence, superseded: &Superseded) -> Result<(Compacted, Rewrite)> {
        let started = Instant::now();
        self.may_bury = !self.maintenance.horizons.are_held(self.id);
        self.alone_below = self.compacted(1).below;
        self.topic.upkeep.begin_pass();
        let passed = super::merging::pass(self, from, superseded)?;
        let is_compacted = self.config.key_limit().is_some();
        let interval = if is_compacted { EXPIRY_INTERVAL } else { SWEEP_INTERVAL };
        let pause = interval.max(10 * started.elapsed()).as_millis() as u64;
        self.topic.upkeep.set_sweep(self.now.plus_ms(pause));
        Ok(passed)
    }

    /// Has the committer write what was merged; it may be on its way when this returns.
    pub(super) fn write(&mut self, rewrite: Rewrite) -> Result<()> {
        if rewrite.is_empty() {
            return Ok(());
        }
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
        Ok(())
    }

    /// Takes what the topic says of its expiry, for all that can be read by now is looked at.
    fn take_expiry(&mut self) {
        if self.is_partial {
            self.give_back_expiry();
        }
        self.expiry = self.topic.upkeep.take_expiry();
    }

    /// Gives back what was taken of what the topic says of its expiry: it was not looked at whole.
    fn give_back_expiry(&mut self) {
        let expiry = std::mem::replace(&mut self.expiry, Timestamp::MAX);
        self.topic.upkeep.expires(expiry);
    }

    /// Ends the visit: waits for what is on its way, and sets when to come again.
    pub(super) fn end(&mut self) -> Result<()> {
        let settled = self.settle();
        if settled.is_err() || self.is_partial {
            self.give_back_expiry();
        }
        settled?;
        let upkeep = &self.topic.upkeep;
        let extent = self.topic.state().extent;
        let key_limit = self.config.key_limit();
        let due = self.due(key_limit.unwrap_or(0));
        if due < Timestamp::MAX && (extent.may_expire || key_limit.is_some()) {
            upkeep.rewriting.set(due.max(upkeep.next_sweep()));
        }
        if let Some(kept) = key_limit {
            let quiet_from = self.quiet_from();
            if self.compacted(kept).seen < extent.tail && quiet_from > self.now {
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
            1 => event.sequence < self.alone_below,
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

    /// Whether it deletes its key, which compaction asks of an event that has one.
    pub(super) fn is_deletion(&self, event: &EventRef<'_>) -> bool {
        event.is_tombstone() || self.ages.has_expired(event)
    }

    /// Whether an event that goes for this reason is one that deletes its key.
    pub(super) fn buries(&self, event: &EventRef<'_>, reason: Reason) -> bool {
        let is_compacted = self.config.key_limit().is_some();
        is_compacted && reason != Reason::Superseded && !event.key.is_empty()
    }

    /// When an event that is kept goes for its age, if it does.
    pub(super) fn goes_at(&self, event: &EventRef<'_>) -> Option<Timestamp> {
        let is_buried = self.config.key_limit().is_some() && event.is_tombstone();
        let buried =
            is_buried.then(|| self.ages.appended(event).plus_ms(self.config.tombstone_grace_ms()));
        let first = self.ages.expires(event).into_iter().chain(buried).min()?;
        Some(first.max(self.remembered_until(event)))
    }
}
