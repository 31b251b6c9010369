//! A place in many topics: the next position that is wanted, over their tails and logs.
//!
//! ```text
//!            after                        known
//!  topic a ....|....... 12 ...... 17 ......|... 23      each source stands at its next event;
//!  topic b ....|.... 11 ... 14 ............|             the lowest position is delivered next
//!  topic c ....|...........................|...          nothing new: it is no source
//! ```
//!
//! # Why
//!
//! No index says which topics have something after a position: each topic's newest position is in memory, and those
//! with none that is newer are skipped. The waker marks the topics with something new, and says up
//! to which position all of them are marked: the feed goes so far and no farther, so no event is
//! passed over that another thread is about to show.
//!
//! The file is longer than others, because the order of the steps of its one loop is what keeps
//! events from being missed.

mod ephemeral;
mod interest;
mod lookahead;
mod missed;
mod place;
mod source;
mod sources;
mod stride;
#[cfg(test)]
mod tests;
mod unlisted;
mod waiting;

use std::sync::Arc;

use tokio::sync::Notify;

use self::ephemeral::EphemeralEnds;
use self::interest::Interest;
use self::missed::Missed;
use self::source::Source;
use self::sources::Sources;
use self::stride::Stride;
use self::waiting::WaitingTopic;
use super::common::{Common, SlowStep, Step};
use crate::broker::arrivals::Deposit;
use crate::broker::read::drops::Drops;
use crate::broker::read::gaps::{WantedPlace, gap};
use crate::broker::read::replay::stash::AheadReader;
use crate::broker::tail::run::Run;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::lists::{self, MAX_ENTRIES};
use crate::topic::{TopicId, TopicPattern};

/// The most patterns of one feed.
pub const MAX_PATTERNS: usize = MAX_ENTRIES;

/// Topics that are looked at before others have a turn on the thread.
const MAX_STEPS: usize = 256;

/// A reader's place in all topics whose names fit its patterns, in the order of their positions.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) common: Common,
    interest: Interest,
    /// All up to here is delivered, or not for this reader.
    after: Position,
    /// All up to here is known: what has something new is among the sources.
    known: Position,
    /// Topics with events after `after`.
    sources: Sources,
    /// The search for topics with something new, where more were marked than it is told.
    missed: Option<Box<Missed>>,
    /// The number of topics that are read in one go.
    stride: Stride,
    /// The registration by which blocks that are read along are kept, for as long as the feed reads
    /// the log.
    reading: Option<AheadReader>,
    drops: Box<Drops>,
    ephemeral: EphemeralEnds,
}

impl Feed {
    /// Finds the place that `start` names in the topics.
    pub(super) async fn start(
        common: Common,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        deposit: Option<Deposit>,
    ) -> Result<Self> {
        if patterns.is_empty() {
            return Err(Error::invalid("topic", "is missing; name one at least"));
        }
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        let shared = &common.shared;
        let interest = Interest::new(shared, patterns, deposit).await?;
        let ephemeral = EphemeralEnds::after(shared.ephemeral.last());
        // The position is read after the patterns are known: newer events are marked, and older
        // ones are seen below.
        let drops = Box::new(Drops::of(start, shared.drops()));
        let known = Position::new(shared.last_position());
        let mut feed = Self {
            common,
            interest,
            after: known,
            known,
            sources: Sources::default(),
            missed: None,
            stride: Stride::default(),
            reading: None,
            drops,
            ephemeral,
        };
        feed.place(start).await?;
        Ok(feed)
    }

    /// Returns the patterns of the topics.
    pub(super) fn patterns(&self) -> &[TopicPattern] {
        &self.interest.patterns
    }

    /// Returns the first position there is, and the one after all that the feed knows of.
    pub(super) fn bounds(&self) -> (Place, Place) {
        (Place::Position(Position::FIRST), Place::Position(self.known.next()))
    }

    /// Returns the cursor that names the place.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor_after(self.after)
    }

    /// Returns the cursor after one of the topics' events.
    pub(super) fn cursor_after(&self, position: Position) -> Cursor {
        let after = Place::Position(position);
        Cursor { after, since: self.drops.at(after), epoch: Some(self.common.epoch()) }
    }

    /// Returns the signal that is given when there may be something new.
    pub(super) fn signal(&self) -> &Notify {
        &self.interest.signal.notify
    }

    /// Returns the next ephemeral event that the reader wants.
    pub(super) fn next_ephemeral(&mut self) -> Option<Arc<Ephemeral>> {
        self.ephemeral.next(self.common.filter.as_deref())
    }

    /// Goes on after a gap, at the same position, unless the reader begins again with everything.
    pub(super) fn go_on_after(&mut self, gap: &Gap) {
        if gap.reason == GapReason::Tombstones && self.common.on_gap == OnGap::Earliest {
            self.begin_again();
        }
    }

    /// Takes a step that comes before the next events.
    ///
    /// # Errors
    ///
    /// As [`Self::read_ahead`].
    pub(super) async fn take_slow(&mut self, step: SlowStep) -> Result<()> {
        match step {
            SlowStep::Read => return self.read_ahead().await,
            SlowStep::List => self.list().await,
            SlowStep::Find => self.find().await,
            SlowStep::Pause => tokio::task::yield_now().await,
        }
        Ok(())
    }

    /// Adds the topics that have something after the place.
    async fn add_newer(&mut self) {
        if self.after >= self.known {
            return; // What is newer is marked.
        }
        let mut walk = self.interest.walk();
        while let Some(topics) = walk.next(&self.common.shared.topics).await {
            topics.into_iter().for_each(|topic| self.add(topic, false));
        }
    }

    /// Adds `topic` to the sources, if it has something new; from the first event there is, or from
    /// the feed's place.
    fn add(&mut self, topic: Arc<Topic>, is_from_earliest: bool) {
        let TopicState { id, extent, .. } = topic.state();
        let Some(id) = id else { return };
        if extent.last_position <= self.after {
            return;
        }
        let first = self.after.next();
        let is_from_earliest = is_from_earliest || self.sources.is_unlisted(id);
        // A topic that is listed late may have lost something since the reader came.
        let is_whole = is_from_earliest && !self.drops.has_lost(id, self.after, &extent);
        let next = is_whole.then_some(extent.earliest);
        let wanted = next.map_or(WantedPlace::Position(first), WantedPlace::Sequence);
        // The losses of all topics are told before anything that comes after the place. Once the
        // place has passed the dropped events, nobody would be told of them.
        let is_told_first = self.drops.reason(id, wanted, &extent).is_some();
        let at = if is_told_first { self.after } else { first.max(extent.lowest_position()) };
        let is_unread = is_from_earliest || !extent.had_some_before(first);
        let waiting = WaitingTopic { at, id, topic, next, is_unread };
        if self.sources.add(waiting) {
            self.drops.raise(extent.dropped_position(), self.after);
        }
    }

    /// Adds the topics that were marked; with very many of them, all are to be listed.
    fn take_marks(&mut self) {
        if self.missed.is_some() {
            return; // Marks are of what is newer than that.
        }
        // The position is read first: all marks up to it are taken below.
        let marked = self.common.shared.waker.marked();
        let new = self.interest.signal.take();
        if new.is_over {
            let missed = Missed::new(&self.interest, self.known, marked);
            self.missed = Some(Box::new(missed));
            return;
        }
        for topic in new.topics {
            self.ephemeral.add(&topic);
            self.add(topic, false);
        }
        self.known = self.known.max(marked);
    }

    /// Lists some of the topics that come next. Others have a turn on the thread before.
    async fn list(&mut self) {
        tokio::task::yield_now().await;
        let set = &self.interest.set;
        let listed = self.sources.list(|topic| set.matches(&topic.name));
        listed.into_iter().for_each(|topic| self.add(topic, true));
    }

    /// Finds some of the topics that have something new.
    async fn find(&mut self) {
        let Some(missed) = &mut self.missed else { return };
        if let Some(topics) = missed.next(&self.interest).await {
            for topic in topics {
                self.ephemeral.add(&topic);
                self.add(topic, false);
            }
        } else {
            self.known = self.known.max(missed.through);
            self.missed = None;
        }
    }

    /// Returns the step to take when everything known is delivered.
    fn idle(&mut self) -> Step {
        self.after = self.after.max(self.known);
        if self.missed.is_some() {
            return Step::Slow(SlowStep::Find);
        }
        self.drops.were_told();
        (self.reading, self.common.holder) = (None, None);
        if self.sources.is_empty() {
            self.drops.have_passed_all();
        }
        Step::Idle
    }

    /// Returns what comes next, as far as that is told without the log.
    pub(super) fn look(&mut self) -> Step {
        self.sources.stop_reading();
        for _ in 0..MAX_STEPS {
            if !self.common.gaps.is_empty() {
                return Step::Gap;
            }
            self.take_marks();
            if self.sources.first().is_none_or(|at| at > self.known) {
                return self.idle();
            }
            if let Some((at, source)) = self.sources.pop_read() {
                self.drops.were_told();
                return self.cut(at, source).map_or(Step::Passed, Step::Events);
            }
            if self.sources.is_to_list() {
                return Step::Slow(SlowStep::List);
            }
            if !self.load_first() {
                return Step::Slow(SlowStep::Read);
            }
        }
        Step::Slow(SlowStep::Pause)
    }

    /// Reads the first source from its tail, or finds that it has nothing. Returns whether that was
    /// possible.
    fn load_first(&mut self) -> bool {
        let Some(waiting) = self.sources.pop_waiting() else { return true };
        let state = waiting.topic.state();
        let Some(next) = self.next_of(&waiting, &state) else {
            self.sources.put_waiting(waiting);
            return !self.common.gaps.is_empty();
        };
        let WaitingTopic { at, id, topic, is_unread, .. } = waiting;
        if next >= state.extent.tail {
            self.sources.remove(id);
            return true;
        }
        let wanted = if is_unread { WantedPlace::First(next) } else { WantedPlace::Sequence(next) };
        let Some(read) = topic.tail.read(next..state.extent.tail, self.read_bytes()) else {
            let misses_deletions = self.drops.misses_deletions(id, wanted, &state.extent);
            let mut next = next;
            if misses_deletions {
                next = self.add_gap(&topic, id, &state, wanted, GapReason::Tombstones);
            }
            self.sources.put_waiting(WaitingTopic { at, id, topic, next: Some(next), is_unread });
            return misses_deletions;
        };
        let mut source =
            Source { topic, id, next, blocks: read.into(), following: None, is_unread };
        let other = self.sources.first_waiting();
        match source.skip_to_next() {
            // Blocks are not held when they come after topics that are not looked at yet.
            Some(at) if other.is_some_and(|other| other < at) => {
                self.sources.put_waiting(source.waiting(at));
            }
            Some(at) => {
                self.sources.put_read(at, source);
                self.sources.let_go(self.common.shared.behind.read_bytes());
            }
            None => self.sources.put_waiting(source.waiting(at)),
        }
        true
    }

    /// Returns the sequence at which a source goes on, if it can be told without the log; adds a
    /// gap before it.
    fn next_of(&mut self, waiting: &WaitingTopic, state: &TopicState) -> Option<Sequence> {
        let (id, topic, extent) = (waiting.id, &waiting.topic, &state.extent);
        let wanted = waiting.next.map_or(self.wanted(), WantedPlace::Sequence);
        let reason = match waiting.next {
            Some(next) if next >= extent.earliest => return Some(next),
            Some(_) => Some(extent.trim_reason.into()),
            None => self.drops.reason(id, wanted, extent),
        };
        let Some(reason) = reason else {
            if extent.lowest_position() > self.after {
                return Some(extent.earliest);
            }
            let next = topic.tail.seek_after(waiting.at.previous().max(self.after));
            // Events that were trimmed before the reader began may still be in memory.
            return next.map(|next| next.max(extent.earliest));
        };
        let resume = self.add_gap(topic, id, state, wanted, reason);
        // A reader that misses nothing but deletions goes on at its place, which is not looked up.
        let goes_on = reason == GapReason::Tombstones && self.common.on_gap != OnGap::Latest;
        (!goes_on).then_some(resume)
    }

    /// Returns the event that the reader wants next of a topic of which nothing was looked up.
    fn wanted(&self) -> WantedPlace {
        WantedPlace::Position(self.after.next())
    }

    /// Adds a gap of a topic, and returns the sequence at which the topic goes on.
    fn add_gap(
        &mut self,
        topic: &Topic,
        id: TopicId,
        state: &TopicState,
        wanted: WantedPlace,
        reason: GapReason,
    ) -> Sequence {
        let before = self.cursor();
        self.drops.tell(id, &state.extent);
        let (gap, resume) = gap(&topic.name, state, wanted, reason, self.common.on_gap);
        self.common.gaps.add(gap, before);
        resume
    }

    /// Returns the bytes that may be read of one source.
    fn read_bytes(&self) -> usize {
        (self.common.shared.behind.read_bytes() / self.sources.len().max(1)).max(1)
    }

    /// Takes the events of the first source, whose next one is at `at`, that come before those of
    /// every other.
    fn cut(&mut self, at: Position, mut source: Source) -> Option<Run> {
        let other = self.sources.first();
        let limit = other.map_or(self.known.next(), |at| at.min(self.known.next()));
        let (block, sequences, last) = source.cut(limit.max(at.next()))?;
        self.after = self.after.max(last);
        let (topic, ages) = (source.topic.clone(), self.common.shared.ages(&source.topic));
        match source.skip_to_next() {
            Some(at) => self.sources.put_read(at, source),
            None if source.next >= source.topic.state().extent.tail => {
                self.sources.remove(source.id);
            }
            None => {
                let at = source.following.unwrap_or(self.after.next());
                self.sources.put_waiting(source.waiting(at));
            }
        }
        topic.run(block, sequences, ages, self.common.filter.as_ref())
    }
}
