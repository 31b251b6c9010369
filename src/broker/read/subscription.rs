//! A cursor over tail and log: replay and follow are one loop, and gaps are found in it.
//!
//! ```text
//!          earliest            cursor                 tail
//!   trimmed   |  log ...............|.... in memory ....|  not there yet
//!  -> gap     |  read the log       |  share the block  |  wait
//! ```
//!
//! # Why
//!
//! A subscription holds no queue that publishers fill: it holds a place. There is no hand-over
//! from replay to live in which an event could fall between, and a reader that stalls holds nothing
//! but the blocks of one read.

use crate::broker::read::delivery::Delivery;
use crate::broker::read::delivery::Patience;
use crate::broker::read::delivery::Waited;
use crate::broker::read::gaps::WantedPlace;
use crate::broker::read::gaps::gap;
use crate::broker::read::gaps::since;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;

use super::behind::Holder;
use super::filter::Filter;
use super::searching::{Search, Searches};
use crate::broker::shared::Shared;
use crate::broker::tail::block::SharedBlock;
use crate::broker::tail::run::Run;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::broker::topic::state::TopicState;
use crate::broker::topic::topics::TopicRef;
use crate::cursor::{Cursor, Epoch, Gap, GapReason, OnGap, Place, Sequence, Since, StartPoint};
use crate::error::{Error, Result};
use crate::log::{Extent, Log, Seek};
use crate::topic::TopicName;

/// The bytes that are searched in one go for events that a filter picks: a hundred microseconds or
/// so.
const MAX_LOOK_BYTES: usize = 16 << 10;

/// The outcome of one look.
enum SubscriptionStep {
    Delivery(Delivery),
    /// The events that were read are not for this reader; there may be more.
    Passed,
    Idle,
}

/// A live reader of one topic.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    topic: TopicRef,
    /// Given after each change of the topic's state.
    signal: watch::Receiver<()>,
    /// The next sequence that is wanted.
    next: Sequence,
    /// The cursor that the reader came with, for a gap at that place.
    came_with: Option<Cursor>,
    on_gap: OnGap,
    gap: Option<Gap>,
    /// The drops before the reader began, or was told of them: its cursors carry them.
    since: Since,
    /// The number of the newest drop of deletions of keys that is no loss to the reader, or that it
    /// was told of.
    accounted: u64,
    /// Blocks of the last read that are not delivered yet.
    read: VecDeque<Arc<SharedBlock>>,
    /// As long as some of them are from the log.
    holder: Option<Holder>,
    is_caught_up: bool,
    /// Whether it holds no key of the topic: it has read nothing of it, now or before.
    is_new: bool,
    /// The number of the last ephemeral event it has last_ephemeral.
    last_ephemeral: u64,
    /// The filter of the reader.
    filter: Option<Arc<Filter>>,
    /// The number of times that the topic had been deleted when the reader came. The reader ends
    /// with the next deletion.
    deletions: u32,
}

impl Subscription {
    pub(crate) async fn start(
        shared: Arc<Shared>,
        topic: TopicRef,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Self> {
        let signal = topic.follow();
        let last_ephemeral = shared.ephemeral.last();
        let came_with = match start {
            StartPoint::After(cursor) => Some(cursor),
            _ => None,
        };
        let (next, gap, since, accounted) = loop {
            // The drops are counted before the topic is looked at: all that was dropped by then is
            // seen.
            let drops = shared.drops();
            let state = topic.state();
            let resolved = resolve(&shared, &topic.name, &state, start, on_gap).await;
            let resolved = resolved.map(|(next, gap)| {
                (next, gap, since(drops, &state.extent), state.extent.buried_drop)
            });
            // Events that are missing because they were trimmed meanwhile are no damage.
            let was_trimmed = topic.state().extent.earliest > state.extent.earliest;
            if resolved.is_ok() || !was_trimmed {
                break resolved?;
            }
        };
        if let Some(gap) = &gap
            && on_gap == OnGap::Fail
        {
            return Err(Error::Gap(gap.clone()));
        }
        // Without a cursor, whoever comes back before the gap is told of all before.
        let has_no_cursor = gap.is_some() && came_with.is_none();
        let next = if has_no_cursor { Sequence::FIRST } else { next };
        let is_new = came_with.is_none() && start != StartPoint::Unknown;
        let (read, is_caught_up) = (VecDeque::new(), false);
        let deletions = topic.state().deletions;
        Ok(Self {
            shared,
            topic,
            signal,
            next,
            came_with,
            on_gap,
            gap,
            since,
            accounted,
            read,
            holder: None,
            is_caught_up,
            is_new,
            last_ephemeral,
            filter: None,
            deletions,
        })
    }

    /// Only the events that `filter` picks. The place moves on with the others, too.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub fn filtered(self, filter: Filter) -> Result<Self> {
        let filter = self.shared.filters.share(filter)?;
        Ok(Self { filter, ..self })
    }

    /// Returns the turns of those who look for events.
    pub(crate) fn searches(&self) -> &Searches {
        &self.shared.searches
    }

    /// Returns the topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic.name
    }

    /// Returns the cursor that names the reader's place: what to come back with. As long as a gap
    /// is not delivered it is the cursor that the reader came with, so that the gap is not
    /// forgotten.
    pub fn cursor(&self) -> Cursor {
        match (&self.gap, self.came_with) {
            (Some(_), Some(cursor)) => cursor,
            _ => self.cursor_after(self.next.previous()),
        }
    }

    /// Returns the cursor after one of the events that it delivers.
    pub(crate) fn cursor_after(&self, sequence: Sequence) -> Cursor {
        let after = Place::Sequence(sequence);
        // A reader that has read nothing has no key, and needs no deletion.
        let since = self.since.at(after).filter(|_| sequence > Sequence::BEFORE_ALL);
        Cursor { after, since, epoch: Some(self.epoch()) }
    }

    /// Returns the incarnation of the log that is read.
    pub fn epoch(&self) -> Epoch {
        self.shared.log.epoch()
    }

    /// Returns the first sequence that can be read, and the one that is given next, now.
    pub fn bounds(&self) -> (Sequence, Sequence) {
        let Extent { earliest, tail, .. } = self.topic.state().extent;
        (earliest, tail)
    }

    /// Returns the gap that will be delivered first, if there is one.
    pub fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    /// Returns whether everything that was there is delivered.
    pub fn is_at_tail(&self) -> bool {
        self.gap.is_none() && self.next >= self.topic.state().extent.tail
    }

    /// Returns the next delivery; waits for one at the tail. `None` when the broker is stopping.
    ///
    /// # Errors
    ///
    /// - [`Error::Damaged`], [`Error::ReadFailed`]: the place stays where it is.
    /// - [`Error::Gap`]: with [`OnGap::Fail`], events that were next have been trimmed.
    /// - [`Error::TopicDeleted`]: the last word.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: what was not returned is delivered by the next call.
    pub async fn next(&mut self) -> Result<Option<Delivery>> {
        loop {
            match self.next_within(&mut Patience::new(Duration::MAX)).await? {
                Waited::Delivery(delivery) => return Ok(Some(delivery)),
                Waited::Silence => {}
                Waited::Stopping => return Ok(None),
            }
        }
    }

    /// Returns the next delivery; waits for one at the tail, for as long as the reader is patient.
    /// The time counts for waiting alone: what is there is read however long that takes.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next`].
    pub async fn next_within(&mut self, patience: &mut Patience) -> Result<Waited> {
        let mut search = Search::default();
        loop {
            match self.step().await? {
                SubscriptionStep::Delivery(delivery) => {
                    patience.renew();
                    return Ok(Waited::Delivery(delivery));
                }
                // The events that there are, are not for this reader.
                SubscriptionStep::Passed if patience.is_over() => {
                    patience.renew();
                    return Ok(Waited::Silence);
                }
                SubscriptionStep::Passed => {
                    search.pause(&self.shared.searches, !self.read.is_empty()).await;
                    continue;
                }
                SubscriptionStep::Idle => {}
            }
            search = Search::default();
            if self.shared.is_stopping.load(Ordering::SeqCst) {
                return Ok(Waited::Stopping);
            }
            tokio::select! {
                biased;
                _signalled = self.signal.changed() => if patience.is_over() {
                    patience.renew(); // What there is, is not for this reader.
                    return Ok(Waited::Silence);
                },
                () = patience.ended() => {
                    patience.renew();
                    return Ok(Waited::Silence);
                }
            }
        }
    }

    /// Returns the next delivery, or `None` at the tail or when the broker is stopping. The call
    /// may read the disk, but does not wait for events.
    ///
    /// # Errors
    ///
    /// As [`Self::next`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::next`].
    pub async fn next_ready(&mut self) -> Result<Option<Delivery>> {
        let mut search = Search::default();
        loop {
            match self.step().await? {
                SubscriptionStep::Delivery(delivery) => return Ok(Some(delivery)),
                SubscriptionStep::Passed => {
                    search.pause(&self.shared.searches, !self.read.is_empty()).await
                }
                SubscriptionStep::Idle => return Ok(None),
            }
        }
    }

    /// Reads once, at the most.
    async fn step(&mut self) -> Result<SubscriptionStep> {
        let mut has_read = false;
        loop {
            if self.shared.is_stopping.load(Ordering::SeqCst) {
                return Ok(SubscriptionStep::Idle);
            }
            if let Some(gap) = self.gap.take() {
                self.next = gap.resume;
                return Ok(SubscriptionStep::Delivery(Delivery::Gap(gap)));
            }
            if let Some(run) = self.take_read() {
                return Ok(SubscriptionStep::Delivery(Delivery::Events(run)));
            }
            if has_read || !self.read.is_empty() {
                return Ok(SubscriptionStep::Passed);
            }
            self.signal.mark_unchanged(); // In this order: what is new after it is signalled.
            let drops = self.shared.drops();
            let state = self.topic.state();
            if state.deletions != self.deletions {
                return Err(Error::TopicDeleted(self.topic.name.clone()));
            }
            if self.next < state.extent.earliest {
                self.fall_behind(&state, state.extent.trim_reason.into(), drops)?;
            } else if self.next < state.extent.tail && self.read_tail(&state) {
                has_read = true; // As it was published.
            } else if self.misses_deletions(&state.extent) {
                self.fall_behind(&state, GapReason::Tombstones, drops)?;
            } else if self.next < state.extent.tail {
                // In a box: it is done rarely, and a reader that waits needs no room for it.
                Box::pin(self.read_log(state)).await?;
                has_read = true;
            } else if !self.is_caught_up {
                self.is_caught_up = true;
                return Ok(SubscriptionStep::Delivery(Delivery::CaughtUp));
            } else {
                let next = self.next_ephemeral().map(Delivery::Ephemeral);
                return Ok(next.map_or(SubscriptionStep::Idle, SubscriptionStep::Delivery));
            }
        }
    }

    /// Returns the next delivery, if it was read already; so that several go out in one write.
    pub fn next_in_memory(&mut self) -> Option<Delivery> {
        if self.gap.is_some() {
            return None;
        }
        if let Some(run) = self.take_read() {
            return Some(Delivery::Events(run));
        }
        if !self.read.is_empty() {
            return None; // There is more to look through.
        }
        let state = self.topic.state();
        if state.deletions != self.deletions
            || self.next < state.extent.earliest
            || self.next >= state.extent.tail
            || !self.read_tail(&state)
        {
            return None;
        }
        self.take_read().map(Delivery::Events)
    }

    /// Returns the next ephemeral event that the reader wants.
    fn next_ephemeral(&mut self) -> Option<Arc<Ephemeral>> {
        while let Some((event, number)) = self.topic.ephemeral.after(self.last_ephemeral) {
            self.last_ephemeral = number;
            if self.filter.as_ref().is_none_or(|filter| filter.picks_new(&event.event)) {
                return Some(event);
            }
        }
        None
    }

    /// Returns the next events of what was read, if there are some for the reader in what is looked
    /// through in one go.
    fn take_read(&mut self) -> Option<Run> {
        let mut looked_bytes = 0;
        while looked_bytes < MAX_LOOK_BYTES
            && let Some(block) = self.read.pop_front()
        {
            looked_bytes += block.block().bytes().len();
            let below = block.block().last_sequence().next();
            let from = self.next;
            self.next = below.max(from);
            let (ages, filter) = (self.shared.ages(&self.topic), self.filter.as_ref());
            if let Some(run) = self.topic.run(block, from..below, ages, filter) {
                self.is_new = false;
                return Some(run);
            }
        }
        if self.read.is_empty() {
            self.holder = None;
        }
        None
    }

    fn read_tail(&mut self, state: &TopicState) -> bool {
        let readable = self.next..state.extent.tail;
        let blocks = self.topic.tail.read(readable, self.shared.behind.read_bytes());
        blocks.map(|blocks| self.read.extend(blocks)).is_some()
    }

    async fn read_log(&mut self, state: TopicState) -> Result<()> {
        let Some(id) = state.id else { return Ok(()) };
        let (next, tail) = (self.next, state.extent.tail);
        let holder = self.shared.behind.enter();
        let max_bytes = self.shared.behind.read_bytes();
        let replays = &self.shared.replays;
        let blocks = replays.read((&self.topic, id), next, tail, max_bytes).await;
        let now = self.topic.state().extent;
        if next < now.earliest || self.misses_deletions(&now) {
            return Ok(()); // Dropped while it was read: what is missing is a gap, and no damage.
        }
        self.read.extend(blocks?);
        self.holder = Some(holder);
        Ok(())
    }

    /// Returns whether deletions of keys were dropped that come next, and that the reader may need.
    fn misses_deletions(&self, extent: &Extent) -> bool {
        extent.buried_sequence >= self.next
            && extent.buried_drop > self.accounted
            && self.next > Sequence::FIRST // Whoever has read nothing has no key.
            && !self.is_new
    }

    /// Notes that events the reader wanted next were dropped while it was away or slow. `drops` was
    /// looked at before `state`.
    fn fall_behind(&mut self, state: &TopicState, reason: GapReason, drops: u64) -> Result<()> {
        let name = &self.topic.name;
        (self.since, self.accounted) = (since(drops, &state.extent), state.extent.buried_drop);
        let gap = gap(name, state, WantedPlace::Sequence(self.next), reason, self.on_gap);
        if self.on_gap == OnGap::Fail {
            return Err(Error::Gap(gap));
        }
        self.gap = Some(gap);
        Ok(())
    }
}

/// Returns the sequence at which a reader that asks for `start` begins, and the gap there. One
/// snapshot of the topic is used for both.
async fn resolve(
    shared: &Shared,
    topic: &TopicName,
    state: &TopicState,
    start: StartPoint,
    on_gap: OnGap,
) -> Result<(Sequence, Option<Gap>)> {
    let gap_at = |wanted: WantedPlace, reason| {
        let gap = gap(topic, state, wanted, reason, on_gap);
        Ok((gap.resume, Some(gap)))
    };
    let mut since = None;
    let wanted = match start {
        StartPoint::Earliest => return Ok((state.extent.earliest, None)),
        StartPoint::Latest => return Ok((state.extent.tail, None)),
        StartPoint::Last(count) => {
            let (id, extent) = (state.id, state.extent);
            let Some(id) = id else { return Ok((extent.tail, None)) };
            return Ok((shared.back(id, extent, extent.tail, count).await?, None));
        }
        StartPoint::Time(time) => WantedPlace::Time(time),
        StartPoint::Unknown => {
            return gap_at(WantedPlace::Sequence(Sequence::BEFORE_ALL), GapReason::Unknown);
        }
        StartPoint::After(Cursor { after, since: seen, epoch }) => {
            since = seen.filter(|drop| *drop <= shared.drops());
            let wanted = match after {
                Place::Sequence(sequence) => WantedPlace::Sequence(sequence.next()),
                Place::Position(position) => WantedPlace::Position(position.next()),
            };
            if epoch.is_some_and(|epoch| epoch != shared.log.epoch()) {
                return gap_at(wanted, GapReason::Epoch);
            }
            wanted
        }
    };
    if wanted.is_ahead(&state.extent, shared.last_position()) {
        return gap_at(wanted, GapReason::Ahead);
    }
    if wanted.is_trimmed(&state.extent, since) {
        return gap_at(wanted, state.extent.trim_reason.into());
    }
    let misses_deletions = wanted.misses_deletions(&state.extent, since);
    let seek = match wanted {
        WantedPlace::Sequence(next) if misses_deletions => {
            return gap_at(WantedPlace::Sequence(next), GapReason::Tombstones);
        }
        WantedPlace::Sequence(next) | WantedPlace::First(next) => return Ok((next, None)),
        WantedPlace::Position(next) => Seek::AfterPosition(next.previous()),
        WantedPlace::Time(time) => Seek::Time(time),
    };
    let Some(id) = state.id else { return Ok((state.extent.tail, None)) };
    let (earliest, tail) = (state.extent.earliest, state.extent.tail);
    let seek = move |log: &dyn Log| log.seek(id, seek, earliest, tail);
    let next = shared.turns.read(seek).await?;
    match misses_deletions {
        true => gap_at(WantedPlace::Sequence(next), GapReason::Tombstones),
        false => Ok((next, None)),
    }
}
