//! One topic of a walk: its blocks, one at a time, from its end or from its beginning.
//!
//! ```text
//!         from                       below
//!  passed  |  not looked at           |  passed: ····x··x·x    the held block: its events that
//!          |                          |            the walk is for, and that it has not passed
//! ```

use std::sync::Arc;

use super::event_order::EventOrder;
use super::selected::SelectedTopic;
use crate::broker::filter::Conditions;
use crate::broker::tail::block::SharedBlock;
use crate::broker::tail::run::as_read;
use crate::cursor::{Position, Sequence};
use crate::error::Result;
use crate::log::{Block, EventRef, Log, RecordStart, Seek};

/// What the events of a walk have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalkTerms {
    /// The filters, all of which pick each event.
    pub(crate) filter: Conditions,
    /// The last position that an event may have.
    pub(crate) position: Position,
}

/// One topic of a walk.
#[derive(Debug)]
pub(super) struct WalkSource {
    pub(super) topic: SelectedTopic,
    order: EventOrder,
    /// The sequences that were not looked at.
    from: Sequence,
    below: Sequence,
    /// The position that the walk begins before, or after. Its sequence in the topic is not known
    /// yet.
    sought: Option<Position>,
    held: Option<HeldBlock>,
}

/// A block with events that the walk has not passed.
#[derive(Debug)]
struct HeldBlock {
    shared: Arc<SharedBlock>,
    /// The places of these events in the block; the last one is the next one.
    starts: Vec<RecordStart>,
}

impl HeldBlock {
    fn next(&self) -> Option<EventRef<'_>> {
        self.starts.last().map(|start| self.shared.block().event_at(start))
    }
}

impl WalkSource {
    /// Begins with all events of a topic.
    pub(super) fn new(topic: SelectedTopic, order: EventOrder) -> Self {
        let (from, below) = (topic.extent.earliest, topic.extent.tail);
        Self { topic, order, from, below, sought: None, held: None }
    }

    /// Begins before this sequence, or after it, as the order is.
    pub(super) fn begin_at(&mut self, sequence: Sequence) {
        match self.order {
            EventOrder::Newest => self.below = self.below.min(sequence),
            // The sequence is what a caller says, so there may be none after it.
            EventOrder::Oldest if sequence >= self.below => self.from = self.below,
            EventOrder::Oldest => self.from = self.from.max(sequence.next()),
        }
    }

    /// Begins before this position, or after it, as the order is.
    pub(super) fn begin_at_position(&mut self, position: Position) {
        let extent = &self.topic.extent;
        match self.order {
            EventOrder::Newest if position <= Position::FIRST => self.below = self.from,
            EventOrder::Newest if position > extent.last_position => {}
            EventOrder::Oldest if position >= extent.last_position => self.from = self.below,
            EventOrder::Oldest if position < extent.lowest_position() => {}
            EventOrder::Oldest if position == Position::BEFORE_ALL => {}
            _ => self.sought = Some(position),
        }
    }

    /// Returns the position that the next event has at the best: no event of this source that the
    /// walk has not passed has a higher one (from the newest), or a lower one (from the oldest).
    pub(super) fn first_bound(&self) -> Position {
        let (extent, sought) = (&self.topic.extent, self.sought);
        match self.order {
            EventOrder::Newest => sought.map_or(extent.last_position, Position::previous),
            EventOrder::Oldest => sought.map_or(extent.lowest_position(), Position::next),
        }
    }

    /// Whether no event is left.
    pub(super) fn is_over(&self) -> bool {
        self.held.is_none() && self.from >= self.below
    }

    /// Returns the next event, if the block with it is held.
    pub(super) fn next(&self) -> Option<(EventRef<'_>, &Block)> {
        let held = self.held.as_ref()?;
        held.next().map(|event| (event, held.shared.block()))
    }

    /// Passes the next event. Returns the bound of the position of the event after it; `None` if no
    /// event is left.
    pub(super) fn pass(&mut self) -> Option<Position> {
        let held = self.held.as_mut()?;
        let block = held.shared.block();
        let (first, last) = (block.first_position(), block.last_position());
        held.starts.pop();
        if let Some(next) = held.next() {
            return Some(next.position);
        }
        self.held = None;
        (!self.is_over()).then(|| match self.order {
            EventOrder::Newest => first.previous(),
            EventOrder::Oldest => last.next(),
        })
    }

    /// Returns the bytes of the block that is held.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.shared.size_bytes())
    }

    /// Lets go of the block that is held. It is read again when its next event comes.
    pub(super) fn let_go(&mut self) {
        let Some(held) = self.held.take() else { return };
        let Some(next) = held.next().map(|event| event.sequence) else { return };
        match self.order {
            EventOrder::Newest => self.below = next.next(),
            EventOrder::Oldest => self.from = next,
        }
    }

    /// Returns the sequence that the walk goes on before, or after, as the order is.
    pub(super) fn place(&self) -> Sequence {
        let next = self.held.as_ref().and_then(HeldBlock::next).map(|event| event.sequence);
        match self.order {
            EventOrder::Newest => next.map_or(self.below, Sequence::next),
            EventOrder::Oldest => next.unwrap_or(self.from).previous(),
        }
    }

    /// Reads the next block. Returns the bound of the next event's position, which is exact if the
    /// block holds such an event; `None` if no event is left. Adds the events that were looked at
    /// to `looked`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::ReadFailed`]: the place stays where it is.
    pub(super) fn read(
        &mut self,
        log: &dyn Log,
        terms: &WalkTerms,
        looked: &mut u64,
    ) -> Result<Option<Position>> {
        loop {
            if self.is_over() {
                return Ok(None);
            }
            let read = self.seek(log).and_then(|()| match self.is_over() {
                true => Ok(None),
                false => self.read_block(log),
            });
            match read {
                Ok(None) => return Ok(None),
                Ok(Some(shared)) => return Ok(self.take(shared, terms, looked)),
                // Events that are missing because they were trimmed meanwhile are no damage.
                Err(error) => {
                    let earliest = self.topic.topic.state().extent.earliest;
                    if earliest <= self.from {
                        return Err(error);
                    }
                    self.from = earliest;
                }
            }
        }
    }

    /// Finds the sequence of the position at which the walk begins.
    fn seek(&mut self, log: &dyn Log) -> Result<()> {
        let Some(position) = self.sought else { return Ok(()) };
        let after = match self.order {
            EventOrder::Newest => position.previous(),
            EventOrder::Oldest => position,
        };
        let (id, from, below) = (self.topic.id, self.from, self.below);
        let found = match self.topic.topic.tail.seek_after(after) {
            Some(found) => found,
            None => log.seek(id, Seek::AfterPosition(after), from, below)?,
        };
        match self.order {
            EventOrder::Newest => self.below = below.min(found),
            EventOrder::Oldest => self.from = from.max(found),
        }
        self.sought = None;
        Ok(())
    }

    fn read_block(&self, log: &dyn Log) -> Result<Option<Arc<SharedBlock>>> {
        let tail = &self.topic.topic.tail;
        let (from, in_memory) = match self.order {
            EventOrder::Newest => (self.below.previous(), tail.before(self.below)),
            EventOrder::Oldest => {
                let read = tail.read(self.from..self.below, 1);
                (self.from, read.and_then(|blocks| blocks.into_iter().next()))
            }
        };
        if in_memory.is_some() {
            return Ok(in_memory);
        }
        let read = log.read(self.topic.id, from, from.next(), 1)?;
        Ok(read.into_iter().next().map(SharedBlock::new))
    }

    /// Holds a block for its events that the walk is for.
    fn take(
        &mut self,
        shared: Arc<SharedBlock>,
        terms: &WalkTerms,
        looked: &mut u64,
    ) -> Option<Position> {
        let block = shared.block();
        let (first, next) = (block.first_sequence(), block.last_sequence().next());
        let (lowest, highest) = (block.first_position(), block.last_position());
        let SelectedTopic { ages, deletes_keys, .. } = self.topic;
        let sequences = self.from..self.below;
        let mut starts = block.starts(|event| {
            sequences.contains(&event.sequence)
                && event.position <= terms.position
                && terms.filter.picks(event)
                && (!block.has_ttl() || as_read(event.clone(), ages, deletes_keys).is_some())
        });
        *looked += block.count() as u64;
        match self.order {
            EventOrder::Newest => self.below = first.max(self.from),
            EventOrder::Oldest => {
                self.from = next.min(self.below);
                starts.reverse();
            }
        }
        let held = HeldBlock { shared: shared.clone(), starts };
        if let Some(next) = held.next().map(|event| event.position) {
            self.held = Some(held);
            return Some(next);
        }
        (!self.is_over()).then(|| match self.order {
            EventOrder::Newest => lowest.previous(),
            EventOrder::Oldest => highest.next(),
        })
    }
}
