//! Reading what comes next in many topics: in one turn, and once for all who read the same.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::super::tail::SharedBlock;
use super::super::topics::Topic;
use super::super::turns::Turn;
use super::Replays;
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{Extent, Log, ReadAhead, Seek};
use crate::topic::TopicId;

/// How long one turn lasts, at the most, besides the read that it ends with.
const MAX_TURN: Duration = Duration::from_millis(5);

/// Of the bytes that are left, a topic gets one part of so many, where it can use them.
const SHARES: usize = 8;

/// Topics from which on half of them are read in a turn of their own, if one is free.
const MIN_SHARED: usize = 64;

/// A topic of which a reader wants what comes next.
#[derive(Debug)]
pub(in super::super) struct Wanted {
    pub(in super::super) topic: Arc<Topic>,
    pub(in super::super) id: TopicId,
    /// The sequence that comes next; `None`: the first after the reader's place.
    pub(in super::super) next: Option<Sequence>,
    pub(in super::super) extent: Extent,
}

/// What a reader can use.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Bounds {
    /// The reader's place.
    pub(in super::super) after: Position,
    /// Blocks that begin here or later are not wanted.
    pub(in super::super) before: Position,
    /// Most bytes of all blocks; one block of one topic comes at the least.
    pub(in super::super) max_bytes: usize,
}

/// What comes next in a topic.
#[derive(Debug)]
pub(in super::super) struct Found {
    /// The sequence that comes next; the topic's tail where nothing does.
    pub(in super::super) next: Sequence,
    /// Blocks from the one that holds it on, without a hole: one at least, if there is one.
    pub(in super::super) blocks: Vec<Arc<SharedBlock>>,
    /// No event after these has a lower position. `None` if that is not known.
    pub(in super::super) following: Option<Position>,
}

impl Replays {
    /// What comes next in each of `wanted`, in their order, of as many of them as there is room and
    /// time for: one at the least. With many, two threads read half of them each, while nobody else
    /// waits to read.
    ///
    /// # Errors
    ///
    /// Of each as [`Log::seek`] and [`Log::read_ahead`].
    pub(in super::super) async fn read_ahead(
        self: &Arc<Self>,
        wanted: Vec<Wanted>,
        bounds: Bounds,
    ) -> Vec<Result<Found>> {
        let found = self.find_ahead(&wanted, bounds);
        if !found.is_empty() || wanted.is_empty() {
            return found;
        }
        let turn = self.turns.take().await;
        let found = self.find_ahead(&wanted, bounds);
        if !found.is_empty() {
            return found; // Somebody else has read them meanwhile.
        }
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

    /// Those of the first of `wanted` that were read before, up to one that was not.
    fn find_ahead(&self, wanted: &[Wanted], bounds: Bounds) -> Vec<Result<Found>> {
        let mut room = Room::new(wanted.len(), bounds);
        let found = wanted.iter().map_while(|wanted| {
            let max_bytes = room.share()?;
            room.is_empty = false;
            let found = self.recall(wanted, wanted.next?, bounds.before, max_bytes)?;
            room.take(&found);
            Some(Ok(found))
        });
        found.collect()
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
            None => log.seek(*id, Seek::AfterPosition(bounds.after), *earliest, *tail)?,
        };
        if next >= *tail {
            return Ok(Found { next, blocks: Vec::new(), following: None });
        }
        if let Some(found) = self.recall(wanted, next, bounds.before, max_bytes) {
            return Ok(found);
        }
        // In this order: what is written again from here on is not remembered.
        let rewrites = topic.rewrites.load(Ordering::SeqCst);
        let ReadAhead { blocks, following } =
            log.read_ahead(*id, next..*tail, bounds.before, max_bytes)?;
        let blocks = self.keep((topic, *id), rewrites, blocks, following);
        Ok(Found { next, blocks, following })
    }

    /// What comes next in a topic, if that was read before, and what comes after it is known.
    fn recall(
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
