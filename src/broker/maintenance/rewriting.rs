//! One visit to one topic, step by step: drops expired blocks at the front (`expire_front`),
//! compacts the topic (`compact`) or sweeps it for expired events (`sweep`), and rolls up small
//! blocks. Each step is preceded by the decision whether it is worth it. The rule for a single
//! event is in `visit.rs`; the pass over the blocks is in `merging.rs`.
//!
//! # Why
//!
//! Rolling up small blocks, compaction and the sweep are the same pass (`merging.rs`) with
//! different rules for the events that go. A block takes part in a roll-up only if it has enough
//! small neighbours, so an event is written again a few times in its life and not once per pass.
//!
//! In a compacted topic, an event with a key deletes that key when it expires, as a tombstone does:
//! the value before it must not come back. Until the event is dropped, readers get it as a
//! tombstone (`broker/tail/`).
//!
//! A deletion must outlast the events that it supersedes. A pass drops a deletion only if
//!
//! - the superseded events were gone before the pass began,
//! - no backup and no read of the topic's state is under way, which may have read one of them, and
//! - the deletion has no id, or its id is forgotten by now.
//!
//! A pass keeps every event with an id until the id is forgotten. After a restart the window of ids
//! is read from the log. Without the event the id would be missing there, and a late repeat of an
//! old value would become the newest event of its key.

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

/// The least number of events that are not compacted yet for which a compaction is worth it. They
/// must also be half as many as the compacted ones.
const MIN_DIRTY_EVENTS: u64 = 64;

/// The least time between two sweeps of a topic with events that expire. A sweep also takes no more
/// than a tenth of the time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// As [`SWEEP_INTERVAL`], for a compacted topic, where an event that expires deletes its key.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(10);

impl Visit<'_> {
    /// Does all steps that are worth it. The last one may be on its way when this returns: the
    /// topic is not looked at again before [`Self::end`] returns.
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
            Some(key_limit) if self.is_worth_compacting(key_limit) => {
                let left = self.compact(key_limit)?;
                // The events that deletions superseded are gone by now, so the deletions may go.
                if self.is_forced() || (left.due <= self.now && self.may_bury) {
                    self.compact(key_limit)?;
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

    /// Trims the blocks at the front in which every event has expired.
    fn expire_front(&mut self) -> Result<()> {
        let extent = self.topic.state().extent;
        let mut report = MaintenanceReport::default();
        let (mut at, mut earliest) = (extent.earliest, extent.earliest);
        while extent.may_expire && at < extent.tail {
            self.check_stop()?;
            let blocks = match self.log().read(self.id, at, extent.tail, STEP_BYTES) {
                Ok(blocks) => blocks,
                // The events of a damaged block are unknown: it goes with the first block after it.
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

    /// Whether all events of the block, at least one, have expired and may go. If they expire
    /// later, sets the topic's alarm to that time.
    fn has_expired(&self, block: &Block) -> bool {
        let mut last = Timestamp::default();
        for event in block.events() {
            match self.ages.expires(&event) {
                // The events that this one has superseded lie before it, and go with it.
                Some(time) => last = last.max(time).max(self.remembered_until(&event)),
                None => return false,
            }
        }
        if last > self.now {
            self.topic.upkeep.rewriting.set(last);
        }
        block.count() > 0 && last <= self.now
    }

    /// Returns the time from which an event may have to go because of its age. `key_limit` is the
    /// number of events of a key that the topic keeps; 0 for a topic that is not compacted.
    fn due(&self, key_limit: u64) -> Timestamp {
        let extent = self.topic.state().extent;
        // Times that a fast clock gave may be too late.
        if extent.may_expire && extent.ahead.position >= extent.trimmed_position.next() {
            return Timestamp::default();
        }
        self.compacted(key_limit).due.min(self.topic.upkeep.expiry())
    }

    fn is_worth_compacting(&self, key_limit: u64) -> bool {
        let extent = self.topic.state().extent;
        let compacted = self.compacted(key_limit);
        let dirty = extent.tail.get() - compacted.seen.max(extent.earliest).get();
        let clean = extent.events().saturating_sub(dirty);
        // Each compaction reads the whole topic. The new events must be many enough for that, or
        // the topic small.
        let is_much = 2 * dirty >= clean;
        let is_little = extent.size_bytes() <= STEP_BYTES as u64;
        let is_left = dirty > 0 && (is_much || is_little) && self.quiet_from() <= self.now;
        self.is_forced()
            || (dirty >= MIN_DIRTY_EVENTS && is_much)
            || is_left
            || (self.due(key_limit) <= self.now && self.may_sweep())
    }

    fn is_worth_a_sweep(&self) -> bool {
        let may_expire = self.topic.state().extent.may_expire;
        self.is_forced() || (may_expire && self.due(0) <= self.now && self.may_sweep())
    }

    fn may_sweep(&self) -> bool {
        self.topic.upkeep.next_sweep() <= self.now
    }

    /// Drops events that later ones of the same key supersede. If the keys take more memory than is
    /// allowed, a share of the keys is compacted at a time. Returns how far the topic is compacted
    /// once the last step is written.
    fn compact(&mut self, key_limit: u64) -> Result<Compacted> {
        self.settle()?; // The progress of an earlier compaction must be known.
        self.take_expiry();
        let earliest = self.topic.state().extent.earliest;
        let before = self.compacted(key_limit);
        // Events below that sequence are the only ones of their keys there: only later events can
        // supersede them.
        let from = if key_limit == 1 { before.below.max(earliest) } else { earliest };
        let mut share = KeyShare::ALL;
        let mut compacted: Option<Compacted> = None;
        loop {
            let Some(superseded) = find_superseded(self, from, key_limit, share)? else {
                (share, compacted) = (share.halved(), None);
                continue;
            };
            self.topic.upkeep.raise_looked_at(superseded.below);
            let (passed, rest) = self.rewrite(earliest, &superseded)?;
            let mut passed = compacted.map_or(passed, |before| before.and(passed));
            if superseded.is_cut {
                // The events beyond the horizon were not looked at: for them the earlier times
                // hold.
                passed.due = passed.due.min(before.due).min(self.expiry);
            }
            compacted = Some(passed);
            match share.next() {
                Some(next) => {
                    share = next;
                    self.write(rest)?;
                }
                None => return self.write_compacted(Compacted { kept: key_limit, ..passed }, rest),
            }
        }
    }

    /// Drops events that have expired, in a topic that is not compacted.
    fn sweep(&mut self) -> Result<()> {
        self.take_expiry();
        let earliest = self.topic.state().extent.earliest;
        let (swept, rest) = self.rewrite(earliest, &Superseded::none())?;
        self.write_compacted(swept, rest).map(drop)
    }

    /// Has the committer write the last rewrite. The progress of compaction goes with it, unless an
    /// earlier step was incomplete.
    fn write_compacted(&mut self, compacted: Compacted, mut rest: Rewrite) -> Result<Compacted> {
        let is_new = compacted != self.topic.state().extent.compacted;
        rest.compacted = Some(compacted).filter(|_| is_new && !self.is_partial);
        self.write(rest)?;
        Ok(compacted)
    }

    /// Goes through the blocks from `from` on, and merges those that are worth it. Returns the last
    /// rewrite, which is not written yet, and how far the topic is compacted once it is.
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

    /// Ends the visit: waits for the steps on their way, and sets the time of the next visit.
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
        if let Some(key_limit) = key_limit {
            let quiet_from = self.quiet_from();
            if self.compacted(key_limit).seen < extent.tail && quiet_from > self.now {
                upkeep.rewriting.set(quiet_from);
            }
        }
        Ok(())
    }
}

/// Reads the keys of the events from `from` on, those that are in `share`. `None` if they take more
/// memory than is allowed.
fn find_superseded(
    visit: &Visit<'_>,
    from: Sequence,
    key_limit: u64,
    share: KeyShare,
) -> Result<Option<Superseded>> {
    let tail = visit.topic.state().extent.tail;
    // The tail is read before the horizon: a backup that begins in between is at this tail, or
    // beyond it.
    let horizon = visit.maintenance.horizons.first(visit.id);
    let mut found = Superseded { key_limit: key_limit as usize, below: tail, ..Superseded::none() };
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
            // A share of one key cannot be halved.
            if size_bytes > max_bytes && found.keys.len() > 1 {
                return Ok(None);
            }
        }
    }
    Ok(Some(found))
}

impl Compacted {
    /// Combines the progress of two passes: the lesser of both.
    fn and(self, pass: Self) -> Self {
        Self {
            kept: self.kept,
            below: self.below.min(pass.below),
            seen: self.seen.min(pass.seen),
            due: self.due.min(pass.due),
        }
    }
}
