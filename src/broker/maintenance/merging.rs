//! One pass over the blocks of a topic: runs of neighbours become one block, without the events
//! that go.
//!
//! ```text
//! | small | small | small | large | small | superseded | small | newest
//! \________ run ________/         \_________ run ________________/
//!       one block          stays            one block              stays
//! ```
//!
//! The newest block tells where its topic ends. Written again it still spans what it spanned, and
//! tells the same; but while a topic is published to, its newest block is hardly ever worth it.

use super::superseded::Superseded;
use super::visit::{Reason, STEP_BYTES, Visit};
use crate::broker::command::{Merged, PassProgress, Rewrite};
use crate::broker::topic::upkeep::MIN_MERGED_BLOCKS;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::{Block, Compacted, EventRef, HEADER_BYTES, StoredBlock};

/// The most blocks, and bytes of blocks, that become one. A single block may be larger.
const MAX_RUN_BLOCKS: usize = 64;
const MAX_RUN_BYTES: usize = 1 << 20;

/// Bytes of merged blocks that are written in a step, and parts that are taken out in it: about
/// what takes as long as a small group of publishes does.
const MAX_READY_BYTES: usize = 64 << 10;
const MAX_READY_PARTS: usize = 64;

/// The bytes that an event takes besides its texts and its payload, about.
const RECORD_BYTES: usize = 8;

/// Goes through the blocks from `from` on; while the topic is published to, the newest one stays
/// as it is. Returns how far compaction is once the step is written that is left to write.
pub(super) fn pass(
    visit: &mut Visit<'_>,
    from: Sequence,
    superseded: &Superseded,
) -> Result<(Compacted, Rewrite)> {
    visit.settle()?; // What the pass before has written is read.
    let tail = visit.topic.state().extent.tail;
    let newest = if visit.takes_newest() { None } else { newest_block(visit, tail)? };
    let end = superseded.below.min(newest.as_ref().map_or(tail, Block::first_sequence));
    let compacted = Compacted { below: end, seen: end, ..Compacted::NOTHING };
    // Events that came after the keys were read were not looked at.
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

/// A way through neighbouring blocks, of which a run may become one.
struct Pass {
    next: Sequence,
    /// The tail of the topic when the pass began.
    tail: Sequence,
    run: MergeRun,
    /// Whether anything on the way may be dropped later, by its age alone.
    may_expire: bool,
    /// The progress of compaction, with what is left to do.
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
    /// Whether a deletion of a key is over, which goes however little space it takes.
    buries: bool,
}

/// Merged blocks that wait for being written together.
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

    /// Notes when an event goes that is kept.
    fn keep(&mut self, visit: &Visit<'_>, event: &EventRef<'_>) {
        if let Some(time) = visit.goes_at(event) {
            self.may_expire = true;
            self.compacted.due = self.compacted.due.min(time);
        }
    }

    /// Adds a block to the run, after what there is no room for any more is merged.
    fn take(&mut self, visit: &mut Visit<'_>, block: Block, superseded: &Superseded) -> Result<()> {
        let (mut kept, mut dropped, mut buries) = (HEADER_BYTES, 0, false);
        if block.has_ttl() || visit.config.key_limit().is_some() {
            for event in block.events() {
                let size_bytes = event.size_bytes() + RECORD_BYTES;
                match (visit.why_dropped(&event, superseded), visit.held_until(&event)) {
                    (Some(Reason::Superseded), Some(until)) => {
                        self.compacted.below = self.compacted.below.min(event.sequence);
                        self.compacted.due = self.compacted.due.min(until);
                        self.may_expire |= event.ttl_ms.is_some();
                        kept += size_bytes;
                    }
                    (Some(reason), None) => {
                        dropped += size_bytes;
                        buries |= visit.buries(&event, reason);
                    }
                    (None, _) | (Some(_), Some(_)) => {
                        kept += size_bytes;
                        self.keep(visit, &event);
                    }
                }
            }
        } else {
            kept = block.bytes().len();
        }
        let is_full = self.run.kept_bytes + kept > visit.maintenance.max_block_bytes
            || self.run.size_bytes + block.bytes().len() > MAX_RUN_BYTES
            || self.run.blocks.len() >= MAX_RUN_BLOCKS;
        if is_full {
            self.merge(visit, superseded)?;
        }
        self.next = block.last_sequence().next();
        self.run.size_bytes += block.bytes().len();
        self.run.kept_bytes += kept;
        self.run.dropped_bytes += dropped;
        self.run.buries |= buries;
        self.run.blocks.push(block);
        Ok(())
    }

    /// Makes one block of the run, if that is worth it; the run is empty then. Returns whether it
    /// was.
    fn merge(&mut self, visit: &mut Visit<'_>, superseded: &Superseded) -> Result<bool> {
        let run = std::mem::take(&mut self.run);
        let (kept, dropped) = (run.kept_bytes, run.dropped_bytes);
        let rolls_up = run.blocks.len() >= MIN_MERGED_BLOCKS;
        let is_much = 4 * dropped >= kept || run.buries;
        let drops = dropped > 0 && (is_much || !superseded.is_empty() || visit.is_forced());
        if !rolls_up && !drops {
            self.may_expire |= dropped > 0; // It goes with more of its kind.
            return Ok(false);
        }
        self.ready.add(visit, &run.blocks, superseded);
        if self.ready.size_bytes >= MAX_READY_BYTES || self.ready.parts >= MAX_READY_PARTS {
            visit.write(std::mem::take(&mut self.ready).rewrite)?;
        }
        Ok(true)
    }

    /// Leaves the rest to be written, with how far it has come.
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
    /// Adds what is left of neighbouring blocks.
    fn add(&mut self, visit: &Visit<'_>, blocks: &[Block], superseded: &Superseded) {
        let rewrite = &mut self.rewrite;
        let merged = Block::merge(blocks, |event| {
            let reason = visit.why_dropped(event, superseded);
            let Some(reason) = reason.filter(|_| visit.held_until(event).is_none()) else {
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
    /// Counts an event that goes, and that may be the last of its key to do so.
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
