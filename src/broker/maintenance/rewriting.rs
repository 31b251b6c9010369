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

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use super::maintainer::VISITORS;
use super::superseded::{KeyShare, Superseded};
use super::visit::{STEP_BYTES, Visit};
use crate::broker::command::{Rewrite, Work};
use crate::broker::report::MaintenanceReport;
use crate::cursor::{Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, Compacted};

/// Events that are not compacted yet before a compaction is worth it; there must be half as many of
/// them as of the others, too.
const MIN_DIRTY_EVENTS: u64 = 64;

/// A topic with events that expire is gone through at most this often, and not more than for a
/// tenth of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// As [`SWEEP_INTERVAL`], for a topic that is compacted: there an event that expires deletes its
/// key.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

impl Visit<'_> {
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
                // Events that delete a key are alone by now, and may go.
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

    /// Takes out whole blocks at the front, of which every event has expired.
    fn expire_front(&mut self) -> Result<()> {
        let extent = self.topic.state().extent;
        let mut report = MaintenanceReport::default();
        let (mut at, mut earliest) = (extent.earliest, extent.earliest);
        while extent.may_expire && at < extent.tail {
            self.check_stop()?;
            let blocks = match self.log().read(self.id, at, extent.tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                // A damaged block does not say what it holds: it goes with the first block after
                // it.
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

    /// Returns whether it holds events, and all of them have expired and may go; or when they will
    /// have.
    fn has_expired(&self, block: &Block) -> bool {
        let mut last = Timestamp::default();
        for event in block.events() {
            match self.ages.expires(&event) {
                // The events that it has superseded lie before it, and go with it.
                Some(time) => last = last.max(time).max(self.remembered_until(&event)),
                None => return false,
            }
        }
        if last > self.now {
            self.topic.upkeep.rewriting.set(last);
        }
        block.count() > 0 && last <= self.now
    }

    /// Returns the time from which there may be something to drop, for a topic that keeps `kept`
    /// events of a key; 0 for a topic that is not compacted.
    fn due(&self, kept: u64) -> Timestamp {
        let extent = self.topic.state().extent;
        // A time that was told by a clock that was ahead may be too late.
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
        // The part that was compacted before holds each key once: only later events can supersede
        // its events.
        let from = if kept == 1 { before.below.max(earliest) } else { earliest };
        let mut share = KeyShare::ALL;
        let mut compacted: Option<Compacted> = None;
        loop {
            let Some(superseded) = find_superseded(self, from, kept, share)? else {
                (share, compacted) = (share.halved(), None);
                continue;
            };
            self.topic.upkeep.raise_looked_at(superseded.below);
            let (passed, rest) = self.rewrite(earliest, &superseded)?;
            let mut passed = compacted.map_or(passed, |before| before.and(passed));
            if superseded.is_cut {
                // Nothing new is known of the events beyond the horizon.
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

    /// Writes the last rewrite together with the progress of compaction, unless an earlier step was
    /// incomplete.
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
}

/// Reads the keys of the events from `from` on; `None` if those of `share` are more than memory
/// is for.
fn find_superseded(
    visit: &Visit<'_>,
    from: Sequence,
    kept: u64,
    share: KeyShare,
) -> Result<Option<Superseded>> {
    let tail = visit.topic.state().extent.tail;
    // The tail is read first: a backup that begins now is at this tail, or beyond it.
    let horizon = visit.maintenance.horizons.first(visit.id);
    let mut found = Superseded { kept: kept as usize, below: tail, ..Superseded::none() };
    let max_bytes = visit.maintenance.config.max_key_bytes as usize / VISITORS;
    let hasher = &visit.maintenance.key_hasher;
    let is_shared = |key: &str| share.of == 1 || hasher.hash_one(key) % share.of == share.index;
    let (mut at, mut size_bytes) = (from, 0);
    while at < tail {
        visit.check_stop()?;
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
                (found.below, found.is_cut) = (block.first_sequence(), true);
                return Ok(Some(found));
            }
            at = block.last_sequence().next();
            for event in block.events() {
                if !event.key.is_empty() && is_shared(event.key) {
                    size_bytes += found.add(&event, visit.is_deletion(&event));
                }
            }
            // A share of one key is as small as it gets.
            if size_bytes > max_bytes && found.keys.len() > 1 {
                return Ok(None);
            }
        }
    }
    Ok(Some(found))
}

impl Compacted {
    /// Combines the progress of two passes: the less of both.
    fn and(self, pass: Self) -> Self {
        Self {
            kept: self.kept,
            below: self.below.min(pass.below),
            seen: self.seen.min(pass.seen),
            due: self.due.min(pass.due),
        }
    }
}
