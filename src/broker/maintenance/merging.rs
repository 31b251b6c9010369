//! One pass over the blocks of a topic: runs of neighbouring blocks become one block, without the
//! events that go. Rolling up, compaction and sweeps all use this pass; `rewriting.rs` decides
//! when.
//!
//! ```text
//! | small | small | small | large | small | superseded | small | newest
//! \________ run ________/         \_________ run ________________/
//!       one block          stays            one block              stays
//! ```
//!
//! The newest block says where its topic ends. A rewritten block covers the same sequences, so it
//! says the same. But while events are published to a topic, its newest block is left as it is:
//! rewriting it is hardly ever worth it.

use super::superseded::Superseded;
use super::visit::{Reason, STEP_BYTES, Visit};
use crate::broker::command::{Merged, PassProgress, Rewrite};
use crate::broker::topic::upkeep::MIN_MERGED_BLOCKS;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::{Block, Compacted, EventRef, HEADER_BYTES, StoredBlock};

/// The most blocks, and the most bytes of blocks, that become one. A single block may be larger.
const MAX_RUN_BLOCKS: usize = 64;
const MAX_RUN_BYTES: usize = 1 << 20;

/// The bytes of merged blocks from which a step is handed in, and the parts that it takes out. Such
/// a step takes about as long as a small group of publishes.
const MAX_READY_BYTES: usize = 64 << 10;
const MAX_READY_PARTS: usize = 64;

/// About the bytes that an event takes besides its texts and its payload.
const RECORD_BYTES: usize = 8;

/// Goes through the blocks from `from` on. While events are published to the topic, the newest
/// block stays as it is. Returns the last rewrite, which is not written yet, and how far the topic
/// is compacted once it is.
pub(super) fn pass(
    visit: &mut Visit<'_>,
    from: Sequence,
    superseded: &Superseded,
) -> Result<(Compacted, Rewrite)> {
    visit.settle()?; // This pass reads the blocks that the one before has written.
    let tail = visit.topic.state().extent.tail;
    let newest = if visit.takes_newest() { None } else { newest_block(visit, tail)? };
    let end = superseded.below.min(newest.as_ref().map_or(tail, Block::first_sequence));
    let compacted = Compacted { below: end, seen: end, ..Compacted::NOTHING };
    // The pass does not look at events that came after the keys were read.
    let mut pass = Pass::new(from, tail.min(superseded.below), compacted);
    for event in newest.iter().flat_map(Block::events).filter(|_| end < tail) {
        pass.keep(visit, &event);
    }
    while pass.next < end {
        visit.check_stop()?;
        let blocks = match visit.log().read(visit.id, pass.next, end, STEP_BYTES) {
            Ok(blocks) => blocks,
            Err(Error::Damaged { last: Some(last), .. }) => {
                pass.merge(visit, superseded)?;
                pass.next = last.next();
                continue;
            }
            Err(Error::Damaged { last: None, .. }) => break,
            Err(error) => return Err(error),
        };
        for block in blocks {
            pass.take(visit, block, superseded)?;
        }
    }
    pass.finish(visit, from, superseded)
}

fn newest_block(visit: &Visit<'_>, tail: Sequence) -> Result<Option<Block>> {
    if tail <= visit.topic.state().extent.earliest {
        return Ok(None);
    }
    Ok(visit.log().read(visit.id, tail.previous(), tail, 1)?.into_iter().next())
}

/// A pass over neighbouring blocks, and the run of blocks that may become one.
struct Pass {
    next: Sequence,
    /// The tail of the topic when the pass began.
    tail: Sequence,
    run: MergeRun,
    /// Whether an event that was kept may go later because of its age.
    may_expire: bool,
    /// The progress of compaction when the pass is done, and the time at which the next event
    /// goes.
    compacted: Compacted,
    ready: ReadyBlocks,
}

/// Neighbouring blocks that may become one.
#[derive(Default)]
struct MergeRun {
    blocks: Vec<Block>,
    size_bytes: usize,
    /// The bytes that the blocks of the run take as one block, and the bytes that go.
    kept_bytes: usize,
    dropped_bytes: usize,
    /// Whether a deletion of a key goes. The run is then rewritten however little space that frees.
    buries: bool,
}

/// Merged blocks that are going to be written together.
#[derive(Default)]
struct ReadyBlocks {
    rewrite: Rewrite,
    size_bytes: usize,
    parts: usize,
}

impl Pass {
    fn new(next: Sequence, tail: Sequence, compacted: Compacted) -> Self {
        let (run, ready) = (MergeRun::default(), ReadyBlocks::default());
        Self { next, tail, run, may_expire: false, compacted, ready }
    }

    /// Notes the time at which a kept event goes because of its age.
    fn keep(&mut self, visit: &Visit<'_>, event: &EventRef<'_>) {
        if let Some(time) = visit.goes_at(event) {
            self.may_expire = true;
            self.compacted.due = self.compacted.due.min(time);
        }
    }

    /// Adds a block to the run. If the run has no room for it, the run is merged first.
    fn take(&mut self, visit: &mut Visit<'_>, block: Block, superseded: &Superseded) -> Result<()> {
        let (mut kept_bytes, mut dropped, mut buries) = (HEADER_BYTES, 0, false);
        if block.has_ttl() || visit.config.key_limit().is_some() {
            for event in block.events() {
                let size_bytes = event.size_bytes() + RECORD_BYTES;
                match (visit.why_dropped(&event, superseded), visit.held_back_until(&event)) {
                    (Some(Reason::Superseded), Some(until)) => {
                        self.compacted.below = self.compacted.below.min(event.sequence);
                        self.compacted.due = self.compacted.due.min(until);
                        self.may_expire |= event.ttl_ms.is_some();
                        kept_bytes += size_bytes;
                    }
                    (Some(reason), None) => {
                        dropped += size_bytes;
                        buries |= visit.buries(&event, reason);
                    }
                    (None, _) | (Some(_), Some(_)) => {
                        kept_bytes += size_bytes;
                        self.keep(visit, &event);
                    }
                }
            }
        } else {
            kept_bytes = block.bytes().len();
        }
        let is_full = self.run.kept_bytes + kept_bytes > visit.maintenance.max_block_bytes
            || self.run.size_bytes + block.bytes().len() > MAX_RUN_BYTES
            || self.run.blocks.len() >= MAX_RUN_BLOCKS;
        if is_full {
            self.merge(visit, superseded)?;
        }
        self.next = block.last_sequence().next();
        self.run.size_bytes += block.bytes().len();
        self.run.kept_bytes += kept_bytes;
        self.run.dropped_bytes += dropped;
        self.run.buries |= buries;
        self.run.blocks.push(block);
        Ok(())
    }

    /// Makes one block of the run, if that is worth it, and begins an empty run. Returns whether it
    /// was worth it.
    fn merge(&mut self, visit: &mut Visit<'_>, superseded: &Superseded) -> Result<bool> {
        let run = std::mem::take(&mut self.run);
        let (kept, dropped) = (run.kept_bytes, run.dropped_bytes);
        let rolls_up = run.blocks.len() >= MIN_MERGED_BLOCKS;
        let is_much = 4 * dropped >= kept || run.buries;
        let drops = dropped > 0 && (is_much || !superseded.is_empty() || visit.is_forced());
        if !rolls_up && !drops {
            self.may_expire |= dropped > 0; // They go in a later pass, together with more.
            return Ok(false);
        }
        self.ready.add(visit, &run.blocks, superseded);
        if self.ready.size_bytes >= MAX_READY_BYTES || self.ready.parts >= MAX_READY_PARTS {
            visit.write(std::mem::take(&mut self.ready).rewrite)?;
        }
        Ok(true)
    }

    /// Ends the pass. Returns the last rewrite, with the pass's progress in it, for the caller to
    /// write.
    fn finish(
        mut self,
        visit: &mut Visit<'_>,
        from: Sequence,
        superseded: &Superseded,
    ) -> Result<(Compacted, Rewrite)> {
        let rest = self.run.blocks.first().map_or(self.next, Block::first_sequence);
        let rewritten = if self.merge(visit, superseded)? { self.next } else { rest };
        visit.settle()?;
        let extent = visit.topic.state().extent;
        let is_further =
            from <= extent.rewritten.max(extent.earliest) && rewritten > extent.rewritten;
        let rewritten = if is_further { rewritten } else { extent.rewritten };
        let is_whole = from <= extent.earliest && !visit.is_partial();
        let may_expire = self.may_expire || (extent.may_expire && !is_whole);
        let mut rewrite = self.ready.rewrite;
        if is_further || may_expire != extent.may_expire {
            rewrite.passed = Some(PassProgress { rewritten, may_expire, tail: self.tail });
        }
        Ok((self.compacted, rewrite))
    }
}

impl ReadyBlocks {
    /// Makes one block of neighbouring ones, without the events that go, and adds it.
    fn add(&mut self, visit: &Visit<'_>, blocks: &[Block], superseded: &Superseded) {
        let rewrite = &mut self.rewrite;
        let merged = Block::merge(blocks, |event| {
            let reason = visit.why_dropped(event, superseded);
            let Some(reason) = reason.filter(|_| visit.held_back_until(event).is_none()) else {
                return true;
            };
            rewrite.count_dropped(event, reason, visit.buries(event, reason));
            false
        });
        rewrite.report.merged_blocks += blocks.len() as u64;
        let replaced: Vec<StoredBlock> = blocks.iter().map(StoredBlock::of).collect();
        self.parts += replaced.iter().map(|block| block.parts).sum::<usize>();
        self.size_bytes += merged.bytes().len();
        self.rewrite.merged.push(Merged { block: merged, replaced });
    }
}

impl Rewrite {
    /// Counts an event that goes. If it `buries` its key, notes its place.
    fn count_dropped(&mut self, event: &EventRef<'_>, reason: Reason, buries: bool) {
        let dropped = match reason {
            Reason::Expired => &mut self.report.expired,
            Reason::Superseded | Reason::Buried => &mut self.report.compacted,
        };
        dropped.add(1, event.size_bytes() as u64);
        if buries {
            self.buried = self.buried.max(Some((event.position, event.sequence)));
        }
    }
}
