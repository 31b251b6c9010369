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
//! It is a place and no queue, as a subscription is (`subscription.rs`). No index says which topics
//! have something after a position: each topic's newest position is in memory, and those with none
//! that is newer are skipped. The waker marks the topics with something new, and says up to which
//! position all of them are marked: the feed goes so far and no farther, so no event is passed over
//! that another thread is about to show.

mod drops;
mod missed;
mod place;
mod source;
#[cfg(test)]
mod tests;
mod whispers;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::drops::Drops;
use self::missed::Missed;
use self::source::Source;
use self::whispers::Whispers;
use super::Shared;
use super::filter::Filter;
use super::interest::FeedSignal;
use super::matching::{PatternSet, Walk};
use super::subscription::{Delivery, Patience, Waited, Wanted, gap};
use super::tail::{Run, SharedBlock};
use super::topics::{Topic, TopicState};
use crate::cursor::{Cursor, Epoch, Gap, GapReason, OnGap, Place, Position, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::log::Seek;
use crate::topic::{TopicId, TopicPattern};

/// Most patterns of one feed. Source: the limits on the wire.
pub const MAX_PATTERNS: usize = 1_024;

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
    sources: BTreeMap<Key, Source>,
    /// The search for topics with something new, where more were marked than it is told.
    missed: Option<Box<Missed>>,
    present: HashSet<TopicId>,
    /// What the sources hold in blocks, in bytes.
    held_bytes: usize,
    gaps: VecDeque<Gap>,
    /// What the reader came with, until it is told of the gap it has there.
    came_with: Option<Cursor>,
    drops: Drops,
    whispers: Whispers,
    on_gap: OnGap,
    filter: Option<Arc<Filter>>,
    is_caught_up: bool,
}

/// Has the waker mark topics for a feed, for as long as it is held.
#[derive(Debug)]
struct Interest {
    shared: Arc<Shared>,
    patterns: Vec<TopicPattern>,
    set: Arc<PatternSet>,
    signal: Arc<FeedSignal>,
}

impl Interest {
    fn new(shared: &Arc<Shared>, patterns: Vec<TopicPattern>) -> Self {
        let signal = Arc::default();
        let set = Arc::new(PatternSet::new(&patterns));
        shared.waker.interests().add(&patterns, &signal);
        Self { shared: shared.clone(), patterns, set, signal }
    }

    /// Goes through the topics that are followed and that there are, each once.
    fn walk(&self) -> Walk {
        Walk::new(&self.set)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.shared.waker.interests().remove(&self.patterns, &self.signal);
    }
}

/// Where a source stands: at the position of its next event, if that is known (true), or before it.
/// Of two at the same position the one that is before it comes first, and is looked up.
type Key = (Position, bool, TopicId);

/// What a step without the log comes to.
enum Step {
    Deliver(Run),
    /// A gap is to be told first.
    Gap,
    /// The first source has to be read from the log.
    Read,
    /// Topics with something new have to be looked for.
    Look,
    /// What was read is not for this reader; there may be more.
    Passed,
    /// Nothing is there.
    Idle,
}

/// What comes of one look.
enum Next {
    Delivery(Delivery),
    Passed,
    Idle,
}

impl Feed {
    pub(super) async fn start(
        shared: Arc<Shared>,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Self> {
        match patterns.len() {
            0 => return Err(Error::invalid("topic", "is missing; name one at least")),
            count if count > MAX_PATTERNS => {
                return Err(Error::over("topics", count, MAX_PATTERNS));
            }
            _ => {}
        }
        let interest = Interest::new(&shared, patterns);
        let whispers = Whispers::after(shared.ephemera.last());
        // In this order: what is newer than this is marked, and what is not is seen below.
        let drops = Drops::of(start, shared.drops());
        let known = Position::new(shared.last_position());
        let mut feed = Self {
            shared,
            interest,
            after: known,
            known,
            sources: BTreeMap::new(),
            missed: None,
            present: HashSet::new(),
            held_bytes: 0,
            gaps: VecDeque::new(),
            came_with: None,
            drops,
            whispers,
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

    /// The patterns of the topics.
    pub fn patterns(&self) -> &[TopicPattern] {
        &self.interest.patterns
    }

    /// Up to where it is known what there is for the reader.
    pub fn known(&self) -> Position {
        self.known
    }

    /// The cursor that names the reader's place: what to come back with.
    pub fn cursor(&self) -> Cursor {
        self.came_with.unwrap_or_else(|| self.cursor_after(self.after))
    }

    /// The cursor after one of the events that it delivers.
    pub(super) fn cursor_after(&self, position: Position) -> Cursor {
        let after = Place::Position(position);
        Cursor { after, since: self.drops.at(after), epoch: Some(self.epoch()) }
    }

    /// The incarnation of the log that is read.
    pub fn epoch(&self) -> Epoch {
        self.shared.log.epoch()
    }

    /// The gap that will be delivered first, if there is one.
    pub fn gap(&self) -> Option<&Gap> {
        self.gaps.front()
    }

    /// The next delivery; waits for one at the tail, for as long as the reader is patient.
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
        loop {
            match self.next_step().await? {
                Next::Delivery(delivery) => {
                    patience.renew();
                    return Ok(Waited::Delivery(delivery));
                }
                Next::Passed if !patience.is_over() => continue,
                Next::Passed => {}
                Next::Idle if self.shared.is_stopping.load(Ordering::SeqCst) => {
                    return Ok(Waited::Stopping);
                }
                Next::Idle => tokio::select! {
                    biased;
                    () = self.interest.signal.notify.notified() => {
                        if !patience.is_over() {
                            continue;
                        }
                    }
                    () = patience.ended() => {}
                },
            }
            patience.renew();
            // The place moves on over what was published for others.
            return Ok(match self.next_step().await? {
                Next::Delivery(delivery) => Waited::Delivery(delivery),
                Next::Passed | Next::Idle => Waited::Silence,
            });
        }
    }

    /// The next delivery, or `None` at the tail or when the broker is stopping. It may read the
    /// disk, but it does not wait for events.
    ///
    /// # Errors
    ///
    /// As [`Self::next_within`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next_within`].
    pub async fn next_ready(&mut self) -> Result<Option<Delivery>> {
        loop {
            match self.next_step().await? {
                Next::Delivery(delivery) => return Ok(Some(delivery)),
                Next::Passed => {}
                Next::Idle => return Ok(None),
            }
        }
    }

    async fn next_step(&mut self) -> Result<Next> {
        loop {
            if self.shared.is_stopping.load(Ordering::SeqCst) {
                return Ok(Next::Idle);
            }
            return Ok(match self.step() {
                Step::Deliver(run) => Next::Delivery(Delivery::Events(run)),
                Step::Passed => Next::Passed,
                Step::Gap => {
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
                    Next::Delivery(Delivery::Gap(gap))
                }
                Step::Read => {
                    self.read_first().await?;
                    continue;
                }
                Step::Look => {
                    self.look().await;
                    continue;
                }
                Step::Idle if self.is_caught_up => {
                    let next = self.whispers.next(self.filter.as_deref());
                    next.map_or(Next::Idle, |event| Next::Delivery(Delivery::Ephemeral(event)))
                }
                Step::Idle => {
                    self.is_caught_up = true;
                    Next::Delivery(Delivery::CaughtUp)
                }
            });
        }
    }

    /// The next delivery, if it is in memory; so that several go out in one write.
    pub fn next_in_memory(&mut self) -> Option<Delivery> {
        match self.step() {
            Step::Deliver(run) => Some(Delivery::Events(run)),
            Step::Gap | Step::Read | Step::Look | Step::Passed | Step::Idle => None,
        }
    }

    /// Adds the topics that have something after the place.
    async fn add_newer(&mut self) {
        if self.after >= self.known {
            return; // What is newer is marked.
        }
        let mut walk = self.interest.walk();
        while let Some(topics) = walk.next(&self.shared.topics).await {
            topics.into_iter().for_each(|topic| self.add(topic, None));
        }
    }

    /// Adds `topic` to the sources, if it has something new.
    fn add(&mut self, topic: Arc<Topic>, next: Option<Sequence>) {
        let TopicState { id, extent, .. } = topic.state();
        let Some(id) = id else { return };
        let has_new = extent.last_position > self.after;
        if has_new && self.present.insert(id) {
            self.drops.note(&extent, self.after);
            // In this order: what all of them have lost is looked for, and told, before anything
            // that comes after the place.
            let source = Source { topic, next, blocks: VecDeque::new() };
            self.sources.insert((self.after.next(), false, id), source);
        }
    }

    /// Adds the topics that were marked.
    fn take_marks(&mut self) {
        if self.missed.is_some() {
            return; // Marks are of what is newer than that.
        }
        // In this order: all marks up to there are taken.
        let marked = self.shared.waker.marked();
        let new = self.interest.signal.take();
        if new.is_over {
            let missed = Missed::new(&self.interest, self.known, marked);
            self.missed = Some(Box::new(missed));
            return;
        }
        for topic in new.topics {
            self.whispers.note(&topic);
            self.add(topic, None);
        }
        self.known = self.known.max(marked);
    }

    /// Looks for some of the topics that have something new.
    async fn look(&mut self) {
        let Some(missed) = &mut self.missed else { return };
        if let Some(topics) = missed.next(&self.interest).await {
            for topic in topics {
                self.whispers.note(&topic);
                self.add(topic, None);
            }
        } else {
            self.known = self.known.max(missed.through);
            self.missed = None;
        }
    }

    /// What there is when all that is known of is delivered.
    fn idle(&mut self) -> Step {
        self.after = self.after.max(self.known);
        if self.missed.is_some() {
            return Step::Look;
        }
        self.drops.were_told();
        if self.sources.is_empty() {
            self.drops.have_passed_all();
        }
        Step::Idle
    }

    fn step(&mut self) -> Step {
        loop {
            if !self.gaps.is_empty() {
                return Step::Gap;
            }
            self.take_marks();
            let Some((key, source)) = self.sources.first_key_value() else { return self.idle() };
            if key.0 > self.known {
                return self.idle();
            }
            if source.blocks.is_empty() {
                if !self.load_first() {
                    return Step::Read;
                }
            } else {
                self.drops.were_told();
                return self.cut_first().map_or(Step::Passed, Step::Deliver);
            }
        }
    }

    /// Reads the first source from its tail, or finds that it has nothing. Returns whether that was
    /// possible.
    fn load_first(&mut self) -> bool {
        let Some((key, mut source)) = self.sources.pop_first() else { return true };
        let (.., id) = key;
        let state = source.topic.state();
        let Some(next) = self.next_of(&source, id, &state) else {
            self.sources.insert(key, source);
            return !self.gaps.is_empty();
        };
        if next >= state.extent.tail {
            self.present.remove(&id);
            return true;
        }
        source.next = Some(next);
        let read = source.topic.tail.read(next..state.extent.tail, self.read_bytes());
        let wanted = Wanted::Sequence(next);
        if read.is_none() && self.drops.misses_deletions(id, wanted, &state.extent) {
            let gap = self.gap_from(&source.topic, &state, wanted, GapReason::Tombstones);
            self.drops.tell(id, &state.extent);
            source.next = Some(gap.resume);
            self.gaps.push_back(gap);
            self.sources.insert(key, source);
            return true;
        }
        let is_read = read.is_some();
        self.put(source, key, read.unwrap_or_default());
        is_read
    }

    /// Where a source goes on, if that can be told without the log; notes a gap before it.
    fn next_of(&mut self, source: &Source, id: TopicId, state: &TopicState) -> Option<Sequence> {
        let gap = match source.next {
            Some(next) if next >= state.extent.earliest => return Some(next),
            Some(next) => {
                let reason = state.extent.trim_reason.into();
                Some(self.gap_from(&source.topic, state, Wanted::Sequence(next), reason))
            }
            None => self.gap_of(&source.topic, id, state),
        };
        let Some(gap) = gap else {
            let next = source.topic.tail.seek_after(self.after);
            // What was trimmed before the reader began may still be in memory.
            return next.map(|next| next.max(state.extent.earliest));
        };
        self.drops.tell(id, &state.extent);
        // A reader that misses nothing but deletions goes on at its place, which is not looked up.
        let goes_on = gap.reason == GapReason::Tombstones && self.on_gap != OnGap::Latest;
        let resume = gap.resume;
        self.gaps.push_back(gap);
        (!goes_on).then_some(resume)
    }

    /// The gap of a topic of which something was dropped that the reader could have had after its
    /// place.
    fn gap_of(&self, topic: &Topic, id: TopicId, state: &TopicState) -> Option<Gap> {
        let wanted = Wanted::Position(self.after.next());
        let reason = self.drops.reason(id, wanted, &state.extent)?;
        Some(self.gap_from(topic, state, wanted, reason))
    }

    fn gap_from(
        &self,
        topic: &Topic,
        state: &TopicState,
        wanted: Wanted,
        reason: GapReason,
    ) -> Gap {
        gap(&topic.name, state, wanted, reason, self.on_gap)
    }

    /// What may be read of one source.
    fn read_bytes(&self) -> usize {
        (self.shared.max_read_bytes / self.present.len().max(1)).max(1)
    }

    /// Reads the first source from the log.
    async fn read_first(&mut self) -> Result<()> {
        let Some((&key, source)) = self.sources.first_key_value() else { return Ok(()) };
        let (.., id) = key;
        let (topic, next, after) = (source.topic.clone(), source.next, self.after);
        let extent = topic.state().extent;
        let max_bytes = self.read_bytes();
        let (turns, replays) = (&self.shared.turns, &self.shared.replays);
        let seek = Seek::AfterPosition(after);
        let (earliest, tail) = (extent.earliest, extent.tail);
        let read = async {
            let next = match next {
                Some(next) => next,
                None => turns.read(move |log| log.seek(id, seek, earliest, tail)).await?,
            };
            match next < tail {
                true => Ok((next, replays.read((&topic, id), next, tail, max_bytes).await?)),
                false => Ok((next, Vec::new())),
            }
        };
        let read: Result<_> = read.await;
        let now = topic.state().extent;
        let wanted = next.map_or(Wanted::Position(after.next()), Wanted::Sequence);
        if now.earliest > extent.earliest || self.drops.reason(id, wanted, &now).is_some() {
            return Ok(()); // Dropped while it was read: what is missing is a gap, and no damage.
        }
        let (next, blocks) = read?;
        let Some(mut source) = self.sources.remove(&key) else { return Ok(()) };
        source.next = Some(next);
        self.put(source, key, blocks);
        Ok(())
    }

    /// Puts a source back with what was read of it, at its next event. It stood at `key`.
    fn put(&mut self, mut source: Source, key: Key, blocks: Vec<Arc<SharedBlock>>) {
        let (at, _, id) = key;
        source.blocks.extend(blocks);
        let key = match source.skip_to_next() {
            Some(at) => (at, true, id),
            None => (at, false, id),
        };
        self.held_bytes += source.held_bytes();
        self.sources.insert(key, source);
        self.let_go(id);
    }

    /// Lets go of what the last sources hold, where that is more than one read: they are read again
    /// when it is their turn. What was read of `id` stays.
    fn let_go(&mut self, id: TopicId) {
        let max_bytes = self.shared.max_read_bytes;
        for ((.., other), source) in self.sources.iter_mut().rev() {
            if self.held_bytes <= max_bytes {
                return;
            }
            if *other != id {
                self.held_bytes -= source.held_bytes();
                source.blocks.clear();
            }
        }
    }

    /// Takes the events of the first source that come before those of every other.
    fn cut_first(&mut self) -> Option<Run> {
        let ((.., id), mut source) = self.sources.pop_first()?;
        self.held_bytes -= source.held_bytes();
        let other = self.sources.first_key_value().map(|((at, ..), _)| *at);
        let limit = other.map_or(self.known.next(), |at| at.min(self.known.next()));
        let (block, sequences, last) = source.cut(limit)?;
        self.after = self.after.max(last);
        let (topic, ages) = (source.topic.clone(), self.shared.ages(&source.topic));
        let is_over = source.next.is_none_or(|next| next >= source.topic.state().extent.tail);
        if source.blocks.is_empty() && is_over {
            self.present.remove(&id);
        } else {
            self.put(source, (self.after.next(), false, id), Vec::new());
        }
        Run::new(&topic, block, sequences, ages, self.filter.as_ref())
    }
}
