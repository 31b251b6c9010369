//! The walk over the events of many topics, in the order of their positions.
//!
//! ```text
//!  topic a   ....|....... 12 ...... 17        each topic stands at its next event, or at a bound:
//!  topic b   ....|.... 11 ... 14 .....        no event that is left has a higher position.
//!  topic c   ....|... ? ≤ 16 .........        17 is given; then topic c is read, because its bound
//!                                             is the highest
//! ```

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::event_order::EventOrder;
use super::selected::Selected;
use super::source::{WalkSource, WalkTerms};
use crate::broker::read::state::page::own;
use crate::broker::shared::Shared;
use crate::broker::tail::run::as_read;
use crate::cursor::{Place, Position};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log::{Block, EventRef, Log};
use crate::polls;
use crate::topic::TopicName;

/// The events that are given to the visitor in one go, before other reads have their turn.
const MAX_STEP_EVENTS: usize = 256;

/// The bounds of a walk, at which it ends early and says how far it got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WalkBounds {
    /// The most events that are looked at, picked or not. The last block may exceed the bound.
    pub(crate) max_looked: u64,
    /// The longest time, counted from the first step. A walk gets on by one block at least.
    pub(crate) max_time: Duration,
    /// The most bytes of blocks that are held at the same time.
    pub(crate) max_held_bytes: usize,
    /// Whether an error after the first event ends the walk before it, so that the next page tells
    /// the error.
    pub(crate) is_page: bool,
}

/// An event that a walk gives to its visitor.
#[derive(Debug)]
pub(crate) struct WalkedEvent<'a> {
    pub(crate) topic: &'a TopicName,
    /// The event as a reader gets it.
    pub(crate) event: EventRef<'a>,
    block: &'a Block,
}

impl WalkedEvent<'_> {
    /// Returns a copy of the event that holds nothing else in memory.
    pub(crate) fn own(&self) -> Event {
        own(self.block, &self.event)
    }
}

/// The answer of a visitor to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WalkAnswer {
    /// The walk goes on.
    GoOn,
    /// The walk ends after this event.
    EndAfter,
    /// The walk ends before this event.
    EndBefore,
}

/// A visitor of the events of a walk.
pub(crate) trait WalkVisitor: Send + 'static {
    /// Takes the next event.
    fn take(&mut self, event: &WalkedEvent<'_>) -> WalkAnswer;
}

/// How far a walk got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WalkEnd {
    /// The place that the next walk goes on before, or after, as the order is; `None` if no event
    /// is left.
    pub(crate) next: Option<Place>,
    /// The number of events that were looked at.
    pub(crate) looked: u64,
}

/// A walk over the events of a selection.
#[derive(Debug)]
pub(crate) struct EventWalk {
    order: EventOrder,
    terms: WalkTerms,
    bounds: WalkBounds,
    /// Whether places are positions.
    has_positions: bool,
    sources: Vec<WalkSource>,
    /// The sources with the ranks of the bounds of their next events: the highest comes next.
    queue: BinaryHeap<(u64, usize)>,
    held_bytes: usize,
    looked: u64,
    started: Option<Instant>,
    /// Whether the walk has got on.
    is_moved: bool,
    /// The rank of the event that was given last.
    given: Option<u64>,
}

impl EventWalk {
    /// Begins a walk over `selected` with the first event, or before or after the place `at`, as
    /// the order is. The kind of the place is that of all places of the walk. Lets other tasks run,
    /// because the topics may be many.
    pub(crate) async fn begin(
        selected: Selected,
        (order, at): (EventOrder, Place),
        terms: WalkTerms,
        bounds: WalkBounds,
    ) -> Self {
        let has_positions = matches!(at, Place::Position(_));
        let (mut sources, mut bounds_of) = (Vec::new(), Vec::new());
        sources.reserve_exact(selected.topics.len());
        for topic in selected.topics {
            let mut source = WalkSource::new(topic, order);
            match at {
                Place::Sequence(sequence) => source.begin_at(sequence),
                Place::Position(position) => source.begin_at_position(position),
            }
            if !source.is_over() {
                bounds_of.push((rank(order, source.first_bound()), sources.len()));
                sources.push(source);
            }
            polls::rest().await;
        }
        let queue = BinaryHeap::from(bounds_of);
        let (held_bytes, looked, started) = (0, 0, None);
        let (is_moved, given) = (false, None);
        Self {
            order,
            terms,
            bounds,
            has_positions,
            sources,
            queue,
            held_bytes,
            looked,
            started,
            is_moved,
            given,
        }
    }

    /// Walks on, a block or some events at a time, until `visitor` ends it, no event is left, or a
    /// bound is reached. Returns the visitor with how far the walk got.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::ReadFailed`]; [`Error::ShuttingDown`], [`Error::NoRuntime`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub(crate) async fn run<V: WalkVisitor>(
        mut self,
        shared: &Shared,
        visitor: V,
    ) -> Result<(V, WalkEnd)> {
        let mut visitor = Some(visitor);
        let step = move |log: &dyn Log| {
            let Some(mut taking) = visitor.take() else { return Err(Error::ShuttingDown) };
            Ok(match self.step(log, &mut taking)? {
                ControlFlow::Break(end) => ControlFlow::Break((taking, end)),
                ControlFlow::Continue(()) => {
                    visitor = Some(taking);
                    ControlFlow::Continue(())
                }
            })
        };
        shared.turns.read_long(step).await
    }

    /// Takes one step of the walk.
    pub(crate) fn step(
        &mut self,
        log: &dyn Log,
        visitor: &mut impl WalkVisitor,
    ) -> Result<ControlFlow<WalkEnd>> {
        let started = *self.started.get_or_insert_with(Instant::now);
        for _ in 0..MAX_STEP_EVENTS {
            let Some((bound, index)) = self.queue.pop() else {
                return Ok(ControlFlow::Break(self.end(None)));
            };
            if self.sources[index].held_bytes() == 0 {
                let is_late = self.looked >= self.bounds.max_looked
                    || started.elapsed() >= self.bounds.max_time;
                if is_late && self.is_moved {
                    return Ok(ControlFlow::Break(self.end(Some((bound, index)))));
                }
                return match self.read(log, index) {
                    Err(_told_by_the_next_page) if self.bounds.is_page && self.given.is_some() => {
                        Ok(ControlFlow::Break(self.end(Some((bound, index)))))
                    }
                    read => read.map(ControlFlow::Continue),
                };
            }
            let taking = self.give(index, visitor);
            if taking == WalkAnswer::EndBefore {
                return Ok(ControlFlow::Break(self.end(Some((bound, index)))));
            }
            self.pass(index);
            if taking == WalkAnswer::EndAfter {
                let next = self.queue.pop();
                return Ok(ControlFlow::Break(self.end(next)));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the next block of a source.
    fn read(&mut self, log: &dyn Log, index: usize) -> Result<()> {
        let source = &mut self.sources[index];
        let next = source.read(log, &self.terms, &mut self.looked)?;
        self.is_moved = true;
        self.held_bytes += source.held_bytes();
        let Some(next) = next else { return Ok(()) };
        let rank = rank(self.order, next);
        let is_next = self.queue.peek().is_none_or(|(other, _)| rank >= *other);
        if !is_next && self.held_bytes > self.bounds.max_held_bytes {
            self.held_bytes -= source.held_bytes();
            source.let_go();
        }
        self.queue.push((rank, index));
        Ok(())
    }

    fn give(&mut self, index: usize, visitor: &mut impl WalkVisitor) -> WalkAnswer {
        let source = &self.sources[index];
        let Some((stored, block)) = source.next() else { return WalkAnswer::GoOn };
        let (topic, rank) = (&source.topic, rank(self.order, stored.position));
        let read = as_read(stored, topic.ages, topic.deletes_keys);
        let Some((event, _is_expired)) = read else { return WalkAnswer::GoOn };
        let taking = visitor.take(&WalkedEvent { topic: topic.name(), event, block });
        if taking != WalkAnswer::EndBefore {
            self.given = Some(rank);
        }
        taking
    }

    fn pass(&mut self, index: usize) {
        let source = &mut self.sources[index];
        let before = source.held_bytes();
        let next = source.pass();
        self.is_moved = true;
        self.held_bytes = self.held_bytes + source.held_bytes() - before;
        if let Some(next) = next {
            self.queue.push((rank(self.order, next), index));
        }
    }

    /// Returns the end of the walk, before the source that comes next.
    fn end(&self, next: Option<(u64, usize)>) -> WalkEnd {
        // The bound of a source may be the position of an event of another one that was given.
        let before_given = self.given.map_or(u64::MAX, |given| given - 1);
        let next = next.map(|(bound, index)| (bound.min(before_given), index));
        let next = next.map(|(bound, index)| match (self.has_positions, self.order) {
            (false, _) => Place::Sequence(self.sources[index].place()),
            (true, EventOrder::Newest) => Place::Position(Position::new(bound).next()),
            (true, EventOrder::Oldest) => Place::Position(Position::new(!bound).previous()),
        });
        WalkEnd { next, looked: self.looked }
    }
}

/// Returns the rank of a position in the queue: the highest comes first.
fn rank(order: EventOrder, position: Position) -> u64 {
    match order {
        EventOrder::Newest => position.get(),
        EventOrder::Oldest => !position.get(),
    }
}
