//! Reading what comes next in many topics: in one turn, and once for all who read the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Replays;
use super::stash::StoredRun;
use crate::broker::tail::newest::SharedBlock;
use crate::broker::topic::topics::Topic;
use crate::broker::turns::Turn;
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{Block, Extent, Log, ReadAhead, Seek};
use crate::topic::TopicId;

/// How long one turn lasts, at the most, besides the read that it ends with.
const MAX_TURN: Duration = Duration::from_millis(5);

/// Of the bytes that are left, a topic gets one part of so many, where it can use them.
const SHARES: usize = 8;

/// Topics of so many events at the most are looked through for where a reader goes on: one read
/// of so many bytes takes less than the several of a search.
const MAX_SCANNED_EVENTS: u64 = 64;
const MAX_SCANNED_BYTES: usize = 4 << 10;

/// Topics from which on half of them are read in a turn of their own, if one is free.
const MIN_SHARED: usize = 64;

/// A topic of which a reader wants what comes next.
#[derive(Debug)]
pub(in crate::broker) struct Wanted {
    pub(in crate::broker) topic: Arc<Topic>,
    pub(in crate::broker) id: TopicId,
    /// The sequence that comes next; `None`: the first after the reader's place.
    pub(in crate::broker) next: Option<Sequence>,
    pub(in crate::broker) extent: Extent,
}

/// What a reader can use.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Bounds {
    /// The reader's place.
    pub(in crate::broker) after: Position,
    /// Blocks that begin here or later are not wanted.
    pub(in crate::broker) before: Position,
    /// Most bytes of all blocks; one block of one topic comes at the least.
    pub(in crate::broker) max_bytes: usize,
    /// How many topics take turns: what is read along and kept for them is shared among these.
    pub(in crate::broker) topics: usize,
}

/// What comes next in a topic.
#[derive(Debug)]
pub(in crate::broker) struct Found {
    /// The sequence that comes next; the topic's tail where nothing does.
    pub(in crate::broker) next: Sequence,
    /// Blocks from the one that holds it on, without a hole: one at least, if there is one.
    pub(in crate::broker) blocks: Vec<Arc<SharedBlock>>,
    /// No event after these has a lower position. `None` if that is not known.
    pub(in crate::broker) following: Option<Position>,
}

impl Replays {
    /// What comes next in each of `wanted`, in their order, of as many of them as there is room and
    /// time for: one at the least. With many, two threads read half of them each, while nobody else
    /// waits to read.
    ///
    /// # Errors
    ///
    /// Of each as [`Log::seek`] and [`Log::read_ahead`].
    pub(in crate::broker) async fn read_ahead(
        self: &Arc<Self>,
        mut wanted: Vec<Wanted>,
        mut bounds: Bounds,
    ) -> Vec<Result<Found>> {
        let mut found = Vec::new();
        if self.find_ahead(&wanted, &mut bounds, &mut found) {
            return found;
        }
        let turn = self.turns.take().await;
        if self.find_ahead(&wanted, &mut bounds, &mut found) {
            return found; // Somebody else has read them meanwhile.
        }
        wanted.drain(..found.len());
        found.extend(self.read_rest(turn, wanted, bounds).await);
        found
    }

    async fn read_rest(
        self: &Arc<Self>,
        turn: Turn<'_>,
        wanted: Vec<Wanted>,
        bounds: Bounds,
    ) -> Vec<Result<Found>> {
        let second = if wanted.len() >= MIN_SHARED { self.turns.try_take() } else { None };
        let (all, middle) = (wanted.len(), wanted.len() / 2);
        let wanted = Arc::<[Wanted]>::from(wanted);
        let Some(second) = second else {
            return self.read_part(turn, wanted, 0..all, bounds).await;
        };
        let bounds = Bounds { max_bytes: bounds.max_bytes / 2, ..bounds };
        let first = self.read_part(turn, wanted.clone(), 0..middle, bounds);
        let second = self.read_part(second, wanted.clone(), middle..all, bounds);
        let (mut found, second) = tokio::join!(first, second);
        // Otherwise these are found among what was read last when it is their turn.
        if found.len() == middle {
            found.extend(second);
        }
        found
    }

    async fn read_part(
        self: &Arc<Self>,
        turn: Turn<'_>,
        wanted: Arc<[Wanted]>,
        part: Range<usize>,
        bounds: Bounds,
    ) -> Vec<Result<Found>> {
        let replays = self.clone();
        let read = move |log: &dyn Log| Ok(replays.read_each(log, &wanted[part], bounds));
        turn.read(read).await.unwrap_or_else(|error| vec![Err(error)])
    }

    /// Adds those of `wanted` that come after what is found and were read before, up to one that
    /// was not. Returns whether that is enough: a few of many are no reason to come again.
    fn find_ahead(
        &self,
        wanted: &[Wanted],
        bounds: &mut Bounds,
        found: &mut Vec<Result<Found>>,
    ) -> bool {
        let mut room = Room::new(wanted.len(), *bounds);
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

    fn read_each(&self, log: &dyn Log, wanted: &[Wanted], bounds: Bounds) -> Vec<Result<Found>> {
        let mut room = Room::new(wanted.len(), bounds);
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
        wanted: &Wanted,
        bounds: Bounds,
        max_bytes: usize,
    ) -> Result<Found> {
        let Wanted { topic, id, next, extent: Extent { earliest, tail, .. } } = wanted;
        let next = match next {
            Some(next) => *next,
            None if wanted.extent.lowest_position() > bounds.after => *earliest,
            None => first_after(log, *id, bounds.after, *earliest..*tail)?,
        };
        if next >= *tail {
            return Ok(Found { next, blocks: Vec::new(), following: None });
        }
        if let Some(found) = self.recall(wanted, next, bounds.before, max_bytes) {
            return Ok(found);
        }
        // In this order: what is written again from here on is not remembered.
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
        Ok(Found { next, blocks, following: then })
    }

    /// What comes next in a topic, if that was read before, and what comes after it is known.
    fn recall(
        &self,
        wanted: &Wanted,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<Found> {
        let recent = self.recall_recent(wanted, next, before, max_bytes);
        recent.or_else(|| self.recall_stored(wanted, next, before, max_bytes))
    }

    /// The same, of what was read along with other blocks. Other readers may come to it, too.
    fn recall_stored(
        &self,
        wanted: &Wanted,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<Found> {
        let Wanted { topic, id, .. } = wanted;
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let (blocks, following) = self.stash.find((*id, next), before, max_bytes)?;
        let blocks: Vec<Block> =
            blocks.into_iter().map(Block::decode).collect::<std::result::Result<_, _>>().ok()?;
        let is_last = blocks.last()?.last_sequence().next() >= wanted.extent.tail;
        let blocks = self.keep((topic, *id), rewrites, blocks, following);
        (is_last || following.is_some()).then_some(Found { next, blocks, following })
    }

    /// The same, of what was read last.
    fn recall_recent(
        &self,
        wanted: &Wanted,
        next: Sequence,
        before: Position,
        max_bytes: usize,
    ) -> Option<Found> {
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
        (is_last || following.is_some()).then_some(Found { next, blocks, following })
    }
}

/// The first event of a topic after a position, as [`Log::seek`] finds it among `sequences`.
fn first_after(
    log: &dyn Log,
    id: TopicId,
    after: Position,
    sequences: Range<Sequence>,
) -> Result<Sequence> {
    let Range { start: mut earliest, end: tail } = sequences;
    // Damage before the place of the reader is none of its business: the search passes it.
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

/// What is left of the bytes and of the time.
struct Room {
    topics: usize,
    left_bytes: usize,
    whole_bytes: usize,
    until: Instant,
    is_empty: bool,
}

impl Room {
    fn new(topics: usize, bounds: Bounds) -> Self {
        let (left_bytes, until) = (bounds.max_bytes, Instant::now() + MAX_TURN);
        Self { topics: topics.max(1), left_bytes, whole_bytes: left_bytes, until, is_empty: true }
    }

    /// What the next topic may take; `None` if there is no room for it, or no time.
    fn share(&self) -> Option<usize> {
        let has_room = self.left_bytes > 0 && Instant::now() < self.until;
        let share = (self.whole_bytes / self.topics).max(self.left_bytes / SHARES);
        (has_room || self.is_empty).then_some(share)
    }

    fn take(&mut self, found: &Found) {
        let size_bytes: usize = found.blocks.iter().map(|shared| shared.size_bytes()).sum();
        self.left_bytes = self.left_bytes.saturating_sub(size_bytes);
    }
}
