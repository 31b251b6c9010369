//! A count of the events of a selection, with as few looks at events as possible.
//!
//! ```text
//! nothing was dropped, nothing expires   the sequences are the events: nothing is read
//! some were dropped                      the headers of blocks say how many events they hold
//! some may expire, or the counter        the events of the block are decoded
//!   must know which ones a block holds
//! a filter                               all events are decoded, the newest first
//! ```
//!
//! # Why
//!
//! A number of notifications is asked for much more often than they change, for topics of every
//! size. In a topic from which nothing was dropped, a count is a subtraction, and a million events
//! take as long as ten. A block's header tells its number of events, so that a compacted topic
//! costs one look at each block and no decoding.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::event_order::EventOrder;
use super::selected::{Selected, SelectedTopic};
use super::source::{WalkSource, WalkTerms};
use crate::broker::filter::Conditions;
use crate::broker::shared::Shared;
use crate::broker::tail::run::as_read;
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, EventRef, Log, StoredBlock};

/// The parts of blocks whose headers are read in one go: some milliseconds.
const MAX_HEADER_PARTS: usize = 256;

/// The bytes of blocks in memory that are looked at in one go.
const MAX_LOOK_BYTES: usize = 256 << 10;

/// The times that a topic is counted again, because its blocks were rewritten meanwhile. Then one
/// block may be counted as it was before, and another one as it was after.
const MAX_RECOUNTS: u32 = 8;

/// The time for which a count goes on with what is in memory, on the caller's thread.
const MAX_GLANCE: Duration = Duration::from_millis(1);

/// Finds the first sequence of a topic after a position; `None` if it must be read from the log,
/// and the count is not reading it yet.
pub(crate) type SeekAfter<'a> = dyn FnMut(Position) -> Result<Option<Sequence>> + 'a;

/// Somebody who counts the events of a selection, one topic after the other.
pub(crate) trait EventCounter: Send + 'static {
    /// Whether it must be given all events one by one.
    fn needs_events(&self) -> bool {
        false
    }

    /// Begins with a topic, and forgets what it counted of the topic whose count was not ended.
    /// Returns whether it could: it cannot if `seek` has nothing for a position that it needs.
    ///
    /// # Errors
    ///
    /// Those of `seek`.
    fn begin(&mut self, topic: &SelectedTopic, seek: &mut SeekAfter<'_>) -> Result<bool>;

    /// Takes neighbouring sequences. Each of them is an event, or, if `events` is given, that many
    /// of them are. Returns whether it could. If not, it is given the events one by one; it always
    /// can if each sequence is an event.
    fn span(&mut self, sequences: Range<Sequence>, events: Option<u64>) -> bool;

    /// Takes an event, with the time at which it expires or becomes a deletion of its key.
    fn event(&mut self, event: &EventRef<'_>, expires: Option<Timestamp>);

    /// Ends with the topic: what was counted of it is right.
    fn end(&mut self);
}

/// A count that goes on, a step at a time.
pub(crate) struct EventCount<C> {
    topics: std::vec::IntoIter<SelectedTopic>,
    position: Position,
    now: Timestamp,
    /// The filters, all of which pick each event.
    filter: Conditions,
    current: Option<TopicCount>,
    counter: C,
    /// The number of events that were decoded, and the most that are.
    looked: u64,
    max_looked: u64,
    is_cut: bool,
}

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountStep {
    Done,
    More,
    /// The next step needs the log.
    NeedsLog,
}

/// The count of one topic.
#[derive(Debug)]
struct TopicCount {
    topic: SelectedTopic,
    stage: CountStage,
    /// The end of the events that are counted, as soon as it is known.
    tail: Option<Sequence>,
    rewrites: u64,
    recounts: u32,
}

#[derive(Debug)]
enum CountStage {
    Begin,
    /// The blocks are looked at.
    Blocks {
        /// The first sequence that is not counted.
        next: Sequence,
        /// The sequence from which on the log lists its blocks: `next`, or the start of all if it
        /// is not known where the block with `next` begins.
        from: Sequence,
    },
    Events(Box<WalkSource>),
    /// The topic must be counted again.
    Again,
    End,
}

impl<C: EventCounter> EventCount<C> {
    /// Begins to count the events of `selected` that the filters pick. At most `max_looked` events
    /// are decoded.
    pub(crate) fn new(selected: Selected, filter: Conditions, max_looked: u64, counter: C) -> Self {
        let Selected { topics, position, now, deleted: _ } = selected;
        let (topics, looked, is_cut) = (topics.into_iter(), 0, false);
        Self { topics, position, now, filter, current: None, counter, looked, max_looked, is_cut }
    }

    /// Counts. Returns the counter, and whether events were left out, because more of them would
    /// have had to be decoded than allowed. What is in memory is looked at on the caller's thread,
    /// for a millisecond at the most.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::ReadFailed`], [`Error::ShuttingDown`], [`Error::NoRuntime`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub(crate) async fn run(mut self, shared: &Shared) -> Result<(C, bool)> {
        let started = Instant::now();
        while started.elapsed() < MAX_GLANCE {
            match self.step(None)? {
                CountStep::Done => return Ok((self.counter, self.is_cut)),
                CountStep::More => {}
                CountStep::NeedsLog => break,
            }
        }
        let mut counting = Some(self);
        let step = move |log: &dyn Log| {
            let Some(mut count) = counting.take() else { return Err(Error::ShuttingDown) };
            if count.step(Some(log))? == CountStep::Done {
                return Ok(ControlFlow::Break((count.counter, count.is_cut)));
            }
            counting = Some(count);
            Ok(ControlFlow::Continue(()))
        };
        shared.turns.read_long(step).await
    }

    fn step(&mut self, log: Option<&dyn Log>) -> Result<CountStep> {
        if self.current.is_none() {
            let Some(topic) = self.topics.next() else { return Ok(CountStep::Done) };
            self.current = Some(TopicCount::new(topic));
        }
        let Self { current: Some(current), counter, position, .. } = self else {
            return Ok(CountStep::Done);
        };
        let stepped = match &mut current.stage {
            CountStage::Begin => current.begin(log, counter, *position, self.filter.is_empty()),
            CountStage::Blocks { .. } => {
                let (looked, is_cut) = (&mut self.looked, &mut self.is_cut);
                let mut look = CountLook { counter, looked, max_looked: self.max_looked, is_cut };
                current.blocks(log, &mut look)
            }
            CountStage::Events(source) => match log {
                None => return Ok(CountStep::NeedsLog),
                Some(_) if self.looked >= self.max_looked => {
                    self.is_cut = true;
                    current.stage = CountStage::End;
                    Ok(CountStep::More)
                }
                Some(log) => {
                    let terms = WalkTerms { filter: self.filter.clone(), position: *position };
                    let is_over = source.read(log, &terms, &mut self.looked)?.is_none();
                    while let Some((event, _)) = source.next() {
                        let expires = current.topic.expires(&event);
                        counter.event(&event, expires);
                        source.pass();
                    }
                    if is_over {
                        current.stage = CountStage::End;
                    }
                    Ok(CountStep::More)
                }
            },
            CountStage::Again => {
                current.again(self.now, counter);
                Ok(CountStep::More)
            }
            CountStage::End => {
                counter.end();
                self.current = None;
                Ok(CountStep::More)
            }
        };
        match (stepped, &mut self.current) {
            // Events that are missing because they were trimmed meanwhile are no damage.
            (Err(_), Some(current)) if current.was_trimmed() => {
                current.stage = CountStage::Again;
                Ok(CountStep::More)
            }
            (stepped, _) => stepped,
        }
    }
}

/// The counter, and what it may still look at.
struct CountLook<'a, C> {
    counter: &'a mut C,
    looked: &'a mut u64,
    max_looked: u64,
    is_cut: &'a mut bool,
}

impl TopicCount {
    fn new(topic: SelectedTopic) -> Self {
        let rewrites = topic.topic.rewrites.load(Ordering::SeqCst);
        Self { topic, stage: CountStage::Begin, tail: None, rewrites, recounts: 0 }
    }

    fn was_trimmed(&self) -> bool {
        self.topic.topic.state().extent.earliest > self.topic.extent.earliest
    }

    fn was_rewritten(&self) -> bool {
        self.topic.topic.rewrites.load(Ordering::SeqCst) != self.rewrites
    }

    /// Begins the count of the topic once more, as the topic is now. No event is counted that came
    /// after the count began.
    fn again(&mut self, now: Timestamp, counter: &mut impl EventCounter) {
        let (tail, recounts) = (self.tail, self.recounts + 1);
        let topic = self.topic.topic.clone();
        match SelectedTopic::of(topic, now) {
            Some(topic) => *self = Self { tail, recounts, ..Self::new(topic) },
            // It was deleted.
            None => match counter.begin(&self.topic, &mut |_| Ok(Some(Sequence::FIRST))) {
                Ok(true) => self.stage = CountStage::End,
                Ok(false) | Err(_) => unreachable!("the seek has a sequence for each position"),
            },
        }
    }

    fn begin(
        &mut self,
        log: Option<&dyn Log>,
        counter: &mut impl EventCounter,
        position: Position,
        is_unfiltered: bool,
    ) -> Result<CountStep> {
        let extent = self.topic.extent;
        if self.tail.is_none() {
            self.tail = match extent.last_position > position {
                true => self.topic.after_position(log, position)?,
                false => Some(extent.tail),
            };
        }
        let Some(tail) = self.tail else { return Ok(CountStep::NeedsLog) };
        let topic = &self.topic;
        if !counter.begin(topic, &mut |position| topic.after_position(log, position))? {
            return Ok(CountStep::NeedsLog);
        }
        let readable = extent.earliest..tail;
        self.stage = if readable.is_empty() {
            CountStage::End
        } else if !is_unfiltered || counter.needs_events() {
            let mut source = WalkSource::new(topic.clone(), EventOrder::Newest);
            source.begin_at(tail);
            CountStage::Events(source.into())
        } else if self.is_whole(log)? {
            counter.span(readable, None);
            CountStage::End
        } else if log.is_none() && !topic.topic.tail.holds(extent.earliest) {
            return Ok(CountStep::NeedsLog);
        } else {
            CountStage::Blocks { next: extent.earliest, from: Sequence::FIRST }
        };
        Ok(CountStep::More)
    }

    /// Whether each sequence that can be read is an event that never expires, as far as that is
    /// known without the log, or with it.
    fn is_whole(&self, log: Option<&dyn Log>) -> Result<bool> {
        let extent = &self.topic.extent;
        match log {
            _ if extent.may_expire => Ok(false),
            _ if extent.dropped_events == 0 => Ok(true),
            None => Ok(false),
            // Trimmed blocks that are removed meanwhile can make a topic look whole.
            Some(log) => Ok(log.is_whole(self.topic.id, extent)?
                && self.topic.topic.state().extent.dropped_events == extent.dropped_events),
        }
    }

    /// Looks at the next blocks.
    fn blocks(
        &mut self,
        log: Option<&dyn Log>,
        look: &mut CountLook<'_, impl EventCounter>,
    ) -> Result<CountStep> {
        let (&CountStage::Blocks { mut next, mut from }, Some(tail)) = (&self.stage, self.tail)
        else {
            return Ok(CountStep::More);
        };
        if next >= tail {
            let is_mixed = self.was_rewritten() && self.recounts < MAX_RECOUNTS;
            self.stage = if is_mixed { CountStage::Again } else { CountStage::End };
            return Ok(CountStep::More);
        }
        if let Some(blocks) = self.topic.topic.tail.read(next..tail, MAX_LOOK_BYTES) {
            for shared in blocks {
                let block = shared.block();
                let header = StoredBlock::of(block);
                next = self.block(&header, next..tail, look, || Ok(Some(block.clone())))?;
            }
            from = next;
        } else {
            let Some(log) = log else { return Ok(CountStep::NeedsLog) };
            let id = self.topic.id;
            let headers = log.stored_blocks(id, from..tail, MAX_HEADER_PARTS)?;
            let read_at = |next: Sequence| log.read(id, next, next.next(), 1);
            from = headers.last().map_or(tail, |last| last.end);
            for header in headers {
                if header.end <= next {
                    continue; // It was trimmed, and is not removed yet.
                }
                if header.first > next {
                    break;
                }
                let read = || Ok(read_at(next)?.into_iter().next());
                next = self.block(&header, next..tail, look, read)?;
            }
            if next < from && from > self.topic.extent.earliest {
                // A block is missing, and that is an error, or blocks were merged meanwhile.
                read_at(next)?;
                self.stage = CountStage::Again;
                return Ok(CountStep::More);
            }
        }
        self.stage = CountStage::Blocks { next, from };
        Ok(CountStep::More)
    }

    /// Counts the events of a block that are in `sequences`. Returns the first sequence after them.
    fn block(
        &self,
        header: &StoredBlock,
        sequences: Range<Sequence>,
        look: &mut CountLook<'_, impl EventCounter>,
        read: impl FnOnce() -> Result<Option<Block>>,
    ) -> Result<Sequence> {
        let counted = header.first.max(sequences.start)..header.end.min(sequences.end);
        let is_all = counted == (header.first..header.end);
        let spanned = header.end.get() - header.first.get();
        let events = (header.events < spanned).then_some(header.events);
        if is_all && !header.has_ttl && look.counter.span(counted.clone(), events) {
            return Ok(counted.end);
        }
        if *look.looked >= look.max_looked {
            *look.is_cut = true;
            return Ok(counted.end);
        }
        let Some(block) = read()? else { return Ok(counted.end) };
        *look.looked += block.count() as u64;
        let SelectedTopic { ages, deletes_keys, .. } = self.topic;
        for stored in block.events().filter(|event| counted.contains(&event.sequence)) {
            let expires = self.topic.expires(&stored);
            if let Some((event, _)) = as_read(stored, ages, deletes_keys) {
                look.counter.event(&event, expires);
            }
        }
        Ok(counted.end)
    }
}
