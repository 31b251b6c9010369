//! A place in many topics: the next position that is wanted, over their tails and logs.
//!
//! ```text
//!            after                        known
//!  topic a ....|....... 12 ...... 17 ......|... 23      each source stands at its next event;
//!  topic b ....|.... 11 ... 14 ............|             the lowest position is delivered next
//!  topic c ....|...........................|...          topic c has nothing new: no source
//! ```
//!
//! # Why
//!
//! No index says which topics have something after a position. Each topic's newest position is in
//! memory, and topics without a newer one are skipped. The waker marks the topics with something
//! new, and tells the position up to which all of them are marked. The feed reads up to that
//! position and no farther, so that it passes over no event that another thread is about to show.

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

/// The number of topics that are looked at before other tasks have a turn on the thread.
const MAX_STEPS: usize = 256;

/// A reader's place in all topics whose names fit its patterns, in the order of their positions.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) common: Common,
    interest: Interest,
    /// The position up to which all events are delivered, or not for this reader.
    after: Position,
    /// The position up to which the feed knows all events: each topic with an event after `after`
    /// and up to here is among the sources.
    known: Position,
    /// The topics with events after `after`.
    sources: Sources,
    /// The search for topics with something new. It runs when more topics were marked than the feed
    /// is told one by one.
    missed: Option<Box<Missed>>,
    /// The number of topics that are read in one go.
    stride: Stride,
    /// The registration by which blocks that are read along are kept, for as long as the feed reads
    /// the log.
    reading: Option<AheadReader>,
    /// The drops that are a loss to the reader.
    drops: Box<Drops>,
    /// The ephemeral events that the reader was given.
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

    /// Returns the first position there is, and the position after all that the feed knows.
    pub(super) fn bounds(&self) -> (Place, Place) {
        (Place::Position(Position::FIRST), Place::Position(self.known.next()))
    }

    /// Returns the cursor of the place.
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

    /// Goes on after a gap at the same position, or begins again with all events if deletions of
    /// keys are missing and the reader asked for the earliest event.
    pub(super) fn go_on_after(&mut self, gap: &Gap) {
        if gap.reason == GapReason::Tombstones && self.common.on_gap == OnGap::Earliest {
            self.begin_again();
        }
    }

    /// Takes a slow step.
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
            return; // Topics with newer events are marked.
        }
        let mut walk = self.interest.walk();
        while let Some(topics) = walk.next(&self.common.shared.topics).await {
            topics.into_iter().for_each(|topic| self.add(topic, false));
        }
    }

    /// Adds `topic` to the sources if it has an event after the feed's place. It is read from its
    /// earliest event, or from the feed's place.
    fn add(&mut self, topic: Arc<Topic>, is_from_earliest: bool) {
        let TopicState { id, extent, .. } = topic.state();
        let Some(id) = id else { return };
        if extent.last_position <= self.after {
            return;
        }
        let first = self.after.next();
        let is_from_earliest = is_from_earliest || self.sources.is_unlisted(id);
        // A topic that is listed late may have lost events since the reader came.
        let is_whole = is_from_earliest && !self.drops.has_lost(id, self.after, &extent);
        let next = is_whole.then_some(extent.earliest);
        let wanted = next.map_or(WantedPlace::Position(first), WantedPlace::Sequence);
        // The losses of all topics are told before any event after the place. Once the place has
        // passed the dropped events, the reader would not be told of them.
        let is_told_first = self.drops.reason(id, wanted, &extent).is_some();
        let at = if is_told_first { self.after } else { first.max(extent.lowest_position()) };
        let is_unread = is_from_earliest || !extent.had_some_before(first);
        let waiting = WaitingTopic { at, id, topic, next, is_unread };
        if self.sources.add(waiting) {
            self.drops.raise(extent.dropped_position(), self.after);
        }
    }

    /// Adds the topics that were marked. If more were marked than are told one by one, begins a
    /// search for them.
    fn take_marks(&mut self) {
        if self.missed.is_some() {
            return; // The marks since then are of newer events, and wait.
        }
        // The position is read before the marks are taken, so that all marks up to it are taken.
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

    /// Lists some of the topics that come next. Other tasks have a turn on the thread before.
    async fn list(&mut self) {
        tokio::task::yield_now().await;
        let set = &self.interest.set;
        let listed = self.sources.list(|topic| set.matches(&topic.name));
        listed.into_iter().for_each(|topic| self.add(topic, true));
    }

    /// Finds some of the topics that have something new, and ends the search if there are no more.
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

    /// Returns the step to take when all events that the feed knows are delivered.
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

    /// Returns what comes next, as far as it is known without a read of the log.
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

    /// Looks at the topic that comes first of those that wait: reads it from its tail, adds its
    /// gap, or removes it if it has no more events. Returns `false` if the topic must be read from
    /// the log.
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

    /// Returns the sequence at which a topic goes on, if it is known without a read of the log. If
    /// events before it are gone, adds the gap.
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
            // The tail may still hold events that were trimmed before the reader began.
            return next.map(|next| next.max(extent.earliest));
        };
        let resume = self.add_gap(topic, id, state, wanted, reason);
        // A reader that misses only deletions goes on at its place, which is not looked up yet.
        let goes_on = reason == GapReason::Tombstones && self.common.on_gap != OnGap::Latest;
        (!goes_on).then_some(resume)
    }

    /// Returns the event that the reader wants next in a topic whose next sequence is not looked
    /// up.
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

    /// Returns the most bytes to read of one source.
    fn read_bytes(&self) -> usize {
        (self.common.shared.behind.read_bytes() / self.sources.len().max(1)).max(1)
    }

    /// Takes those events of `source` that come before the events of all other sources. The next
    /// event of `source` is at `at`. Returns the events that the filter picks.
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
