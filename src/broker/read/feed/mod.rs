//! A cursor over many topics: their tails and logs, merged by position.
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
//! A feed is a place and no queue, as a subscription is (`subscription.rs`). No index says which
//! topics have something after a position: each topic's newest position is in memory, and those
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

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::ephemeral::EphemeralEnds;
use self::interest::Interest;
use self::missed::Missed;
use self::source::Source;
use self::sources::Sources;
use self::stride::Stride;
use self::waiting::WaitingTopic;
use super::behind::Holder;
use super::filter::Filter;
use super::searching::{Search, Searches};
use crate::broker::arrivals::Deposit;
use crate::broker::read::delivery::{Delivery, Patience, Waited};
use crate::broker::read::drops::Drops;
use crate::broker::read::gaps::{WantedPlace, gap};
use crate::broker::read::replay::stash::AheadReader;
use crate::broker::shared::Shared;
use crate::broker::tail::run::Run;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Cursor, Epoch, Gap, GapReason, OnGap, Place, Position, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::lists::{self, MAX_ENTRIES};
use crate::topic::{TopicId, TopicPattern};

/// The most patterns of one feed.
pub const MAX_PATTERNS: usize = MAX_ENTRIES;

/// Topics that are looked at before others have a turn on the thread.
const MAX_STEPS: usize = 256;

/// A live reader of all topics whose names fit its patterns, in the order of their positions.
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
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
    /// As long as it holds what it has read from the log.
    holder: Option<Holder>,
    gaps: VecDeque<Gap>,
    /// The cursor that the reader came with, until the gap at that place is told.
    came_with: Option<Cursor>,
    drops: Box<Drops>,
    ephemeral: EphemeralEnds,
    on_gap: OnGap,
    filter: Option<Arc<Filter>>,
    is_caught_up: bool,
}

/// The outcome of a step without the log.
enum FeedStep {
    Deliver(Run),
    /// A gap is to be told first.
    Gap,
    /// The first source has to be read from the log.
    Read,
    /// Topics that come next have to be listed.
    List,
    /// Topics with something new have to be looked for.
    Look,
    /// Many sources were looked at: it is the turn of others, then there is more.
    Pause,
    /// The events that were read are not for this reader; there may be more.
    Passed,
    /// Nothing is there.
    Idle,
}

/// The outcome of one look.
enum NextStep {
    Delivery(Delivery),
    Passed,
    Idle,
}

impl Feed {
    pub(crate) async fn start(
        shared: Arc<Shared>,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
        deposit: Option<Deposit>,
    ) -> Result<Self> {
        if patterns.is_empty() {
            return Err(Error::invalid("topic", "is missing; name one at least"));
        }
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        let interest = Interest::new(&shared, patterns, deposit).await?;
        let ephemeral = EphemeralEnds::after(shared.ephemeral.last());
        // The position is read after the patterns are known: newer events are marked, and older
        // ones are seen below.
        let drops = Box::new(Drops::of(start, shared.drops()));
        let known = Position::new(shared.last_position());
        let mut feed = Self {
            shared,
            interest,
            after: known,
            known,
            sources: Sources::default(),
            missed: None,
            stride: Stride::default(),
            reading: None,
            holder: None,
            gaps: VecDeque::new(),
            came_with: None,
            drops,
            ephemeral,
            on_gap,
            filter: None,
            is_caught_up: false,
        };
        feed.place(start).await?;
        Ok(feed)
    }

    /// Only the events that `filter` picks. The place moves on with the others, too.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub fn filtered(mut self, filter: Filter) -> Result<Self> {
        self.filter = self.shared.filters.share(filter)?;
        Ok(self)
    }

    /// Returns the turns of those who look for events.
    pub(crate) fn searches(&self) -> &Searches {
        &self.shared.searches
    }

    /// Returns the patterns of the topics.
    pub fn patterns(&self) -> &[TopicPattern] {
        &self.interest.patterns
    }

    /// Returns the position up to which the feed knows what there is for its reader.
    pub fn known(&self) -> Position {
        self.known
    }

    /// Returns the cursor that names the reader's place: what to come back with.
    pub fn cursor(&self) -> Cursor {
        self.came_with.unwrap_or_else(|| self.cursor_after(self.after))
    }

    /// Returns the cursor after one of the events that it delivers.
    pub(crate) fn cursor_after(&self, position: Position) -> Cursor {
        let after = Place::Position(position);
        Cursor { after, since: self.drops.at(after), epoch: Some(self.epoch()) }
    }

    /// Returns the incarnation of the log that is read.
    pub fn epoch(&self) -> Epoch {
        self.shared.log.epoch()
    }

    /// Returns the gap that will be delivered first, if there is one.
    pub fn gap(&self) -> Option<&Gap> {
        self.gaps.front()
    }

    /// Returns the next delivery; waits for one at the tail, for as long as the reader is patient.
    ///
    /// # Errors
    ///
    /// - [`Error::Damaged`], [`Error::ReadFailed`]: the place stays where it is.
    /// - [`Error::Gap`]: with [`OnGap::Fail`], events that were next have been trimmed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is delivered by the next call.
    pub async fn next_within(&mut self, patience: &mut Patience) -> Result<Waited> {
        let mut search = Search::default();
        loop {
            match self.next_step().await? {
                NextStep::Delivery(delivery) => {
                    patience.renew();
                    return Ok(Waited::Delivery(delivery));
                }
                NextStep::Passed if !patience.is_over() => {
                    search.pause(&self.shared.searches, false).await;
                    continue;
                }
                NextStep::Passed => search.pause(&self.shared.searches, false).await,
                NextStep::Idle if self.shared.is_stopping.load(Ordering::SeqCst) => {
                    return Ok(Waited::Stopping);
                }
                NextStep::Idle => {
                    search = Search::default();
                    tokio::select! {
                        biased;
                        () = self.interest.signal.notify.notified() => {
                            if !patience.is_over() {
                                continue;
                            }
                        }
                        () = patience.ended() => {}
                    }
                }
            }
            patience.renew();
            // The place moves on over what was published for others.
            return Ok(match self.next_step().await? {
                NextStep::Delivery(delivery) => Waited::Delivery(delivery),
                NextStep::Passed | NextStep::Idle => Waited::Silence,
            });
        }
    }

    /// Returns the next delivery, or `None` at the tail or when the broker is stopping. The call
    /// may read the disk, but does not wait for events.
    ///
    /// # Errors
    ///
    /// As [`Self::next_within`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next_within`].
    pub async fn next_ready(&mut self) -> Result<Option<Delivery>> {
        let mut search = Search::default();
        loop {
            match self.next_step().await? {
                NextStep::Delivery(delivery) => return Ok(Some(delivery)),
                NextStep::Passed => search.pause(&self.shared.searches, false).await,
                NextStep::Idle => return Ok(None),
            }
        }
    }

    async fn next_step(&mut self) -> Result<NextStep> {
        loop {
            if self.shared.is_stopping.load(Ordering::SeqCst) {
                return Ok(NextStep::Idle);
            }
            return Ok(match self.step() {
                FeedStep::Deliver(run) => NextStep::Delivery(Delivery::Events(run)),
                FeedStep::Passed => NextStep::Passed,
                FeedStep::Gap => {
                    let Some(gap) = self.gaps.pop_front() else { continue };
                    if self.gaps.is_empty() {
                        self.came_with = None;
                    }
                    if self.on_gap == OnGap::Fail {
                        return Err(Error::Gap(gap));
                    }
                    if gap.reason == GapReason::Tombstones && self.on_gap == OnGap::Earliest {
                        self.begin_again();
                    }
                    NextStep::Delivery(Delivery::Gap(gap))
                }
                FeedStep::Read => {
                    // In a box, as all that is done rarely: a feed that waits needs no room for it.
                    Box::pin(self.read_ahead()).await?;
                    continue;
                }
                FeedStep::Pause => {
                    tokio::task::yield_now().await;
                    continue;
                }
                FeedStep::List => {
                    self.list().await;
                    continue;
                }
                FeedStep::Look => {
                    Box::pin(self.look()).await;
                    continue;
                }
                FeedStep::Idle if self.is_caught_up => {
                    let next = self.ephemeral.next(self.filter.as_deref());
                    next.map_or(NextStep::Idle, |event| {
                        NextStep::Delivery(Delivery::Ephemeral(event))
                    })
                }
                FeedStep::Idle => {
                    self.is_caught_up = true;
                    NextStep::Delivery(Delivery::CaughtUp)
                }
            });
        }
    }

    /// Returns the next delivery, if it is in memory; so that several go out in one write.
    pub fn next_in_memory(&mut self) -> Option<Delivery> {
        match self.step() {
            FeedStep::Deliver(run) => Some(Delivery::Events(run)),
            FeedStep::Gap | FeedStep::Read | FeedStep::List | FeedStep::Look => None,
            FeedStep::Passed | FeedStep::Pause | FeedStep::Idle => None,
        }
    }

    /// Adds the topics that have something after the place.
    async fn add_newer(&mut self) {
        if self.after >= self.known {
            return; // What is newer is marked.
        }
        let mut walk = self.interest.walk();
        while let Some(topics) = walk.next(&self.shared.topics).await {
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
        let marked = self.shared.waker.marked();
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

    /// Looks for some of the topics that have something new.
    async fn look(&mut self) {
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
    fn idle(&mut self) -> FeedStep {
        self.after = self.after.max(self.known);
        if self.missed.is_some() {
            return FeedStep::Look;
        }
        self.drops.were_told();
        (self.reading, self.holder) = (None, None);
        if self.sources.is_empty() {
            self.drops.have_passed_all();
        }
        FeedStep::Idle
    }

    fn step(&mut self) -> FeedStep {
        self.sources.stop_reading();
        for _ in 0..MAX_STEPS {
            if !self.gaps.is_empty() {
                return FeedStep::Gap;
            }
            self.take_marks();
            if self.sources.first().is_none_or(|at| at > self.known) {
                return self.idle();
            }
            if let Some((at, source)) = self.sources.pop_read() {
                self.drops.were_told();
                return self.cut(at, source).map_or(FeedStep::Passed, FeedStep::Deliver);
            }
            if self.sources.is_to_list() {
                return FeedStep::List;
            }
            if !self.load_first() {
                return FeedStep::Read;
            }
        }
        FeedStep::Pause
    }

    /// Reads the first source from its tail, or finds that it has nothing. Returns whether that was
    /// possible.
    fn load_first(&mut self) -> bool {
        let Some(waiting) = self.sources.pop_waiting() else { return true };
        let state = waiting.topic.state();
        let Some(next) = self.next_of(&waiting, &state) else {
            self.sources.put_waiting(waiting);
            return !self.gaps.is_empty();
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
                let gap = self.gap_from(&topic, &state, wanted, GapReason::Tombstones);
                self.drops.tell(id, &state.extent);
                next = gap.resume;
                self.gaps.push_back(gap);
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
                self.sources.let_go(self.shared.behind.read_bytes());
            }
            None => self.sources.put_waiting(source.waiting(at)),
        }
        true
    }

    /// Returns the sequence at which a source goes on, if it can be told without the log; records a
    /// gap before it.
    fn next_of(&mut self, waiting: &WaitingTopic, state: &TopicState) -> Option<Sequence> {
        let (id, topic, extent) = (waiting.id, &waiting.topic, &state.extent);
        let gap = match waiting.next {
            Some(next) if next >= extent.earliest => return Some(next),
            Some(next) => {
                let reason = extent.trim_reason.into();
                Some(self.gap_from(topic, state, WantedPlace::Sequence(next), reason))
            }
            None => self.gap_of(topic, id, state),
        };
        let Some(gap) = gap else {
            if extent.lowest_position() > self.after {
                return Some(extent.earliest);
            }
            let next = topic.tail.seek_after(waiting.at.previous().max(self.after));
            // Events that were trimmed before the reader began may still be in memory.
            return next.map(|next| next.max(extent.earliest));
        };
        self.drops.tell(id, extent);
        // A reader that misses nothing but deletions goes on at its place, which is not looked up.
        let goes_on = gap.reason == GapReason::Tombstones && self.on_gap != OnGap::Latest;
        let resume = gap.resume;
        self.gaps.push_back(gap);
        (!goes_on).then_some(resume)
    }

    /// Returns the gap of a topic of which something was dropped that the reader could have had
    /// after its place.
    fn gap_of(&self, topic: &Topic, id: TopicId, state: &TopicState) -> Option<Gap> {
        let wanted = WantedPlace::Position(self.after.next());
        let reason = self.drops.reason(id, wanted, &state.extent)?;
        Some(self.gap_from(topic, state, wanted, reason))
    }

    fn gap_from(
        &self,
        topic: &Topic,
        state: &TopicState,
        wanted: WantedPlace,
        reason: GapReason,
    ) -> Gap {
        gap(&topic.name, state, wanted, reason, self.on_gap)
    }

    /// Returns the bytes that may be read of one source.
    fn read_bytes(&self) -> usize {
        (self.shared.behind.read_bytes() / self.sources.len().max(1)).max(1)
    }

    /// Takes the events of the first source, whose next one is at `at`, that come before those of
    /// every other.
    fn cut(&mut self, at: Position, mut source: Source) -> Option<Run> {
        let other = self.sources.first();
        let limit = other.map_or(self.known.next(), |at| at.min(self.known.next()));
        let (block, sequences, last) = source.cut(limit.max(at.next()))?;
        self.after = self.after.max(last);
        let (topic, ages) = (source.topic.clone(), self.shared.ages(&source.topic));
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
        topic.run(block, sequences, ages, self.filter.as_ref())
    }
}
