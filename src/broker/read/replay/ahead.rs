//! Reads of the next blocks of many topics: in one turn, and once for all readers of the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::replays::Replays;
use super::stash::StoredRun;
use crate::broker::tail::block::SharedBlock;
use crate::broker::topic::entry::Topic;
use crate::broker::turns::ReadTurn;
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{Block, Extent, Log, ReadAhead, Seek};
use crate::topic::TopicId;

/// The longest time of one turn, besides the read that it ends with.
const MAX_TURN: Duration = Duration::from_millis(5);

/// The number of parts into which the bytes that are left are divided; a topic gets one part, if it
/// can use it.
const SHARES: usize = 8;

/// Topics of at most this many events are read to find where a reader goes on. One read of at most
/// this many bytes takes less time than the several reads of a search.
const MAX_SCANNED_EVENTS: u64 = 64;
const MAX_SCANNED_BYTES: usize = 4 << 10;

/// The number of topics from which on half of them are read in a second turn, if one is free.
const MIN_SHARED: usize = 64;

/// A topic of which a reader wants the next blocks.
#[derive(Debug)]
pub(crate) struct WantedAhead {
    pub(crate) topic: Arc<Topic>,
    pub(crate) id: TopicId,
    /// The sequence that comes next; `None` for the first event after the reader's place.
    pub(crate) next: Option<Sequence>,
    pub(crate) extent: Extent,
}

/// The bounds of one read ahead.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AheadBounds {
    /// The reader's place.
    pub(crate) after: Position,
    /// Blocks that begin here or later are not wanted.
    pub(crate) before: Position,
    /// The most bytes of all blocks. One block of one topic is read in any case.
    pub(crate) max_bytes: usize,
    /// The number of topics that take turns and share the room for blocks that are read along.
    pub(crate) topics: usize,
}

/// The blocks that come next in a topic.
#[derive(Debug)]
pub(crate) struct FoundAhead {
    /// The sequence that comes next; the topic's tail if the topic has no more events.
    pub(crate) next: Sequence,
    /// The blocks from the one that holds `next` on, without a hole; none if there are no more
    /// events.
    pub(crate) blocks: Vec<Arc<SharedBlock>>,
    /// A lower bound on the positions of the events after these blocks. `None` if it is not known.
    pub(crate) following: Option<Position>,
}

impl Replays {
    /// Returns the next blocks of each topic of `wanted`, in this order, for as many topics as
    /// there is room and time for, and for one at the least. With many topics, two threads read
    /// half of them each, if there is a free turn.
    ///
    /// # Errors
    ///
    /// For each topic, as [`Log::seek`] and [`Log::read_ahead`].
    pub(crate) async fn read_ahead(
        self: &Arc<Self>,
        mut wanted: Vec<WantedAhead>,
        mut bounds: AheadBounds,
    ) -> Vec<Result<FoundAhead>> {
        let mut found = Vec::new();
        if self.find_ahead(&wanted, &mut bounds, &mut found) {
            return found;
        }
        let turn = self.turns.take().await;
        if self.find_ahead(&wanted, &mut bounds, &mut found) {
            return found; // Another reader has read them meanwhile.
        }
        wanted.drain(..found.len());
        found.extend(self.read_rest(turn, wanted, bounds).await);
        found
    }

    async fn read_rest(
        self: &Arc<Self>,
        turn: ReadTurn<'_>,
        wanted: Vec<WantedAhead>,
        bounds: AheadBounds,
    ) -> Vec<Result<FoundAhead>> {
        let second = if wanted.len() >= MIN_SHARED { self.turns.try_take() } else { None };
        let (all, middle) = (wanted.len(), wanted.len() / 2);
        let wanted = Arc::<[WantedAhead]>::from(wanted);
        let Some(second) = second else {
            return self.read_part(turn, wanted, 0..all, bounds).await;
        };
        let bounds = AheadBounds { max_bytes: bounds.max_bytes / 2, ..bounds };
        let first = self.read_part(turn, wanted.clone(), 0..middle, bounds);
        let second = self.read_part(second, wanted.clone(), middle..all, bounds);
        let (mut found, second) = tokio::join!(first, second);
        // Otherwise the second half is found among the kept blocks when its turn comes.
        if found.len() == middle {
            found.extend(second);
        }
        found
    }

    async fn read_part(
        self: &Arc<Self>,
        turn: ReadTurn<'_>,
        wanted: Arc<[WantedAhead]>,
        part: Range<usize>,
        bounds: AheadBounds,
    ) -> Vec<Result<FoundAhead>> {
        let replays = self.clone();
        let read = move |log: &dyn Log| Ok(replays.read_each(log, &wanted[part], bounds));
        turn.read(read).await.unwrap_or_else(|error| vec![Err(error)])
    }

    /// Adds to `found` the next topics of `wanted` whose blocks are kept, up to the first whose
    /// blocks are not. Returns whether these are enough to return without a read: a few of many are
    /// not.
    fn find_ahead(
        &self,
        wanted: &[WantedAhead],
        bounds: &mut AheadBounds,
        found: &mut Vec<Result<FoundAhead>>,
    ) -> bool {
        let mut room = AheadRoom::new(wanted.len(), *bounds);
        for wanted in &wanted[found.len()..] {
            room.is_empty = found.is_empty();
            let Some(max_bytes) = room.share() else { return true };
            let recall = |next| self.recall(wanted, next, bounds.before, max_bytes);
            let Some(recalled) = wanted.next.and_then(recall) else { break };
            room.take(&recalled);
            found.push(Ok(recalled));
        }
        bounds.max_bytes = room.left_bytes;
        found.len() >= MIN_SHARED.min(wanted.len())
    }

    fn read_each(
        &self,
        log: &dyn Log,
        wanted: &[WantedAhead],
        bounds: AheadBounds,
    ) -> Vec<Result<FoundAhead>> {
        let mut room = AheadRoom::new(wanted.len(), bounds);
        let found = wanted.iter().map_while(|wanted| {
            let max_bytes = room.share()?;
            room.is_empty = false;
            let found = self.read_one(log, wanted, bounds, max_bytes);
            if let Ok(found) = &found {
                room.take(found);
            }
            Some(found)
        });
        found.collect()
    }

    fn read_one(
        &self,
        log: &dyn Log,
        wanted: &WantedAhead,
        bounds: AheadBounds,
        max_bytes: usize,
    ) -> Result<FoundAhead> {
        let WantedAhead { topic, id, next, extent: Extent { earliest, tail, .. } } = wanted;
        let next = match next {
            Some(next) => *next,
            None if wanted.extent.lowest_position() > bounds.after => *earliest,
            None => first_after(log, *id, bounds.after, *earliest..*tail)?,
        };
        if next >= *tail {
            return Ok(FoundAhead { next, blocks: Vec::new(), following: None });
        }
        if let Some(found) = self.recall(wanted, next, bounds.before, max_bytes) {
            return Ok(found);
        }
        // The number is read before the log: blocks that are rewritten from here on are not kept.
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let more_bytes = self.stash.share(bounds.topics);
        let ReadAhead { mut blocks, wanted: count, following } =
            log.read_ahead(*id, next..*tail, bounds.before, max_bytes, more_bytes)?;
        let mut then = following;
        if let Some((first, run)) = StoredRun::of(&blocks.split_off(count), following) {
            then = run.first_position();
            let is_current = || topic.rewrites.load(Ordering::SeqCst) == rewrites;
            self.stash.put((*id, first), next, run, is_current);
        }
        let blocks = self.keep((topic, *id), rewrites, blocks, then);
        Ok(FoundAhead { next, blocks, following: then })
    }

    /// Returns the next blocks of a topic, if they are kept and the position after them is known,
    /// or they are the last.
    fn recall(
        &self,
        wanted: &WantedAhead,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<FoundAhead> {
        let recent = self.recall_recent(wanted, next, before, max_bytes);
        recent.or_else(|| self.recall_stored(wanted, next, before, max_bytes))
    }

    /// As [`Self::recall`], from the blocks that were read along. They stay, because other readers
    /// may come to them, too.
    fn recall_stored(
        &self,
        wanted: &WantedAhead,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<FoundAhead> {
        let WantedAhead { topic, id, .. } = wanted;
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let (blocks, following) = self.stash.find((*id, next), before, max_bytes)?;
        let blocks: Vec<Block> =
            blocks.into_iter().map(Block::decode).collect::<std::result::Result<_, _>>().ok()?;
        let is_last = blocks.last()?.last_sequence().next() >= wanted.extent.tail;
        let blocks = self.keep((topic, *id), rewrites, blocks, following);
        (is_last || following.is_some()).then_some(FoundAhead { next, blocks, following })
    }

    /// As [`Self::recall`], from the blocks that were read last.
    fn recall_recent(
        &self,
        wanted: &WantedAhead,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<FoundAhead> {
        let mut blocks = Vec::new();
        let (mut size_bytes, mut following) = (0, None);
        let recent = self.recent();
        for kept in recent.from(wanted.id, next) {
            let block = kept.shared.block();
            size_bytes += block.bytes().len();
            let is_wanted = block.first_position() < before && size_bytes <= max_bytes;
            if !is_wanted && !blocks.is_empty() {
                following = Some(block.first_position());
                break;
            }
            following = kept.following;
            blocks.push(kept.shared.clone());
        }
        let is_last = blocks.last()?.block().last_sequence().next() >= wanted.extent.tail;
        (is_last || following.is_some()).then_some(FoundAhead { next, blocks, following })
    }
}

/// Returns the sequence of the first event of a topic after the position `after`, among
/// `sequences`, as [`Log::seek`] does.
fn first_after(
    log: &dyn Log,
    id: TopicId,
    after: Position,
    sequences: Range<Sequence>,
) -> Result<Sequence> {
    let Range { start: mut earliest, end: tail } = sequences;
    // Damage before the reader's place is no error for the reader: the search passes it.
    if tail.get() - earliest.get() <= MAX_SCANNED_EVENTS
        && let Ok(blocks) = log.read(id, earliest, tail, MAX_SCANNED_BYTES)
    {
        let newer = blocks.iter().filter(|block| block.last_position() > after);
        let mut events = newer.flat_map(Block::events);
        let found = events.find(|event| event.position > after && event.sequence >= earliest);
        if let Some(found) = found {
            return Ok(found.sequence);
        }
        let scanned = blocks.last().map_or(earliest, |block| block.last_sequence().next());
        earliest = scanned.clamp(earliest, tail);
    }
    log.seek(id, Seek::AfterPosition(after), earliest, tail)
}

/// The bytes and the time that are left for a read ahead.
struct AheadRoom {
    topics: usize,
    left_bytes: usize,
    whole_bytes: usize,
    until: Instant,
    is_empty: bool,
}

impl AheadRoom {
    fn new(topics: usize, bounds: AheadBounds) -> Self {
        let (left_bytes, until) = (bounds.max_bytes, Instant::now() + MAX_TURN);
        Self { topics: topics.max(1), left_bytes, whole_bytes: left_bytes, until, is_empty: true }
    }

    /// Returns the bytes that the next topic may take; `None` if no room or no time is left.
    fn share(&self) -> Option<usize> {
        let has_room = self.left_bytes > 0 && Instant::now() < self.until;
        let share = (self.whole_bytes / self.topics).max(self.left_bytes / SHARES);
        (has_room || self.is_empty).then_some(share)
    }

    fn take(&mut self, found: &FoundAhead) {
        let size_bytes: usize = found.blocks.iter().map(|shared| shared.size_bytes()).sum();
        self.left_bytes = self.left_bytes.saturating_sub(size_bytes);
    }
}
