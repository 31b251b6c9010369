//! A place in one topic: the next sequence that is wanted, over tail and log.
//!
//! ```text
//!          earliest            cursor                 tail
//!   trimmed   |  log ...............|.... in memory ....|  not there yet
//!  -> gap     |  read the log       |  share the block  |  wait
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::common::{Common, SlowStep, Step};
use super::gaps::{WantedPlace, gap, misplaced, since};
use crate::broker::shared::Shared;
use crate::broker::tail::block::SharedBlock;
use crate::broker::topic::ephemeral::Ephemeral;
use crate::broker::topic::state::TopicState;
use crate::broker::topic::topics::TopicRef;
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Sequence, Since, StartPoint};
use crate::error::{Error, Result};
use crate::log::{Extent, Log, Seek};
use crate::topic::TopicName;

/// The bytes of blocks that are looked through in one go for events that the filter picks. This
/// takes about a hundred microseconds.
const MAX_LOOK_BYTES: usize = 16 << 10;

/// A reader's place in one topic.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) common: Common,
    topic: TopicRef,
    /// The signal that is given after each change of the topic's state.
    signal: watch::Receiver<()>,
    /// The next sequence that is wanted.
    next: Sequence,
    /// The drops that are no loss to the reader, because it began after them or was told of them.
    /// The reader's cursors carry the number of the last one, as long as they need it.
    since: Since,
    /// The number of the newest drop of deletions of keys that is no loss to the reader, because it
    /// began after that drop or was told of it.
    accounted: u64,
    /// The blocks of the last read that are not delivered yet.
    read: VecDeque<Arc<SharedBlock>>,
    /// Whether the reader holds no key of the topic, because it has read none of its events, now or
    /// before.
    is_new: bool,
    /// The number of the last ephemeral event that the reader was given.
    last_ephemeral: u64,
    /// The number of times that the topic had been deleted when the reader came. The reader ends
    /// with the next deletion.
    deletions: u32,
}

impl Subscription {
    /// Finds the place that `start` names.
    pub(super) async fn start(common: Common, topic: TopicRef, start: StartPoint) -> Result<Self> {
        let Common { shared, on_gap, .. } = &common;
        let signal = topic.follow();
        let last_ephemeral = shared.ephemeral.last();
        let (next, gap, since, accounted) = loop {
            // The drops are counted before the topic is looked at, so that the topic shows all of
            // them.
            let drops = shared.drops();
            let state = topic.state();
            let resolved = resolve(shared, &topic.name, &state, start, *on_gap).await;
            let resolved = resolved.map(|(next, gap)| {
                (next, gap, since(drops, &state.extent), state.extent.buried_drop)
            });
            // Events that are missing because they were trimmed meanwhile are no damage.
            let was_trimmed = topic.state().extent.earliest > state.extent.earliest;
            if resolved.is_ok() || !was_trimmed {
                break resolved?;
            }
        };
        let is_new = !matches!(start, StartPoint::After(_) | StartPoint::Unknown);
        let deletions = topic.state().deletions;
        let read = VecDeque::new();
        let mut subscription = Self {
            common,
            topic,
            signal,
            next,
            since,
            accounted,
            read,
            is_new,
            last_ephemeral,
            deletions,
        };
        if let Some(gap) = gap {
            subscription.begin_with(gap, start)?;
        }
        Ok(subscription)
    }

    /// Adds the gap that was found at the start, which is told before anything else. The cursor
    /// before it is the one that the reader came with.
    fn begin_with(&mut self, gap: Gap, start: StartPoint) -> Result<()> {
        if self.common.on_gap == OnGap::Fail {
            return Err(Error::Gap(gap.into()));
        }
        let before = match start {
            StartPoint::After(cursor) => cursor,
            // A reader without a cursor, which comes back before it is told the gap, is told of all
            // events that are gone.
            _ => self.cursor_after(Sequence::BEFORE_ALL),
        };
        self.common.gaps.add(gap, before);
        Ok(())
    }

    /// Returns the topic.
    pub(super) fn topic(&self) -> &TopicName {
        &self.topic.name
    }

    /// Returns the cursor of the place.
    pub(super) fn cursor(&self) -> Cursor {
        self.cursor_after(self.next.previous())
    }

    /// Returns the cursor after one of the topic's events.
    pub(super) fn cursor_after(&self, sequence: Sequence) -> Cursor {
        let after = Place::Sequence(sequence);
        // Before the first event the reader holds no key, and needs no deletion of one.
        let since = self.since.at(after).filter(|_| sequence > Sequence::BEFORE_ALL);
        Cursor { after, since, epoch: Some(self.common.epoch()) }
    }

    /// Returns the first sequence that can be read, and the sequence that the next event gets, as
    /// they are now.
    pub(super) fn bounds(&self) -> (Place, Place) {
        let Extent { earliest, tail, .. } = self.topic.state().extent;
        (Place::Sequence(earliest), Place::Sequence(tail))
    }

    /// Returns whether blocks are held that were read and not looked through.
    pub(super) fn holds_blocks(&self) -> bool {
        !self.read.is_empty()
    }

    /// Returns the signal that is given when there may be something new. The reader holds the
    /// topic, so the sender of the signal exists.
    pub(super) fn signal(&mut self) -> &mut watch::Receiver<()> {
        &mut self.signal
    }

    /// Returns what comes next, as far as it is known without a read of the log.
    ///
    /// # Errors
    ///
    /// [`Error::TopicDeleted`]: this and each later call.
    pub(super) fn look(&mut self) -> Result<Step> {
        if let Some(step) = self.take_read() {
            return Ok(step);
        }
        // The signal is reset before the state is read: each later change is signalled again.
        self.signal.mark_unchanged();
        let drops = self.common.shared.drops();
        let state = self.topic.state();
        if state.deletions != self.deletions {
            return Err(Error::TopicDeleted(self.topic.name.clone()));
        }
        Ok(if self.next < state.extent.earliest {
            self.fall_behind(&state, state.extent.trim_reason.into(), drops)
        } else if self.next < state.extent.tail && self.read_tail(&state) {
            // The tail holds events as they were published, so no deletion of a key is missing.
            self.take_read().unwrap_or(Step::Passed)
        } else if self.misses_deletions(&state.extent) {
            self.fall_behind(&state, GapReason::Tombstones, drops)
        } else if self.next < state.extent.tail {
            Step::Slow(SlowStep::Read)
        } else {
            Step::Idle
        })
    }

    /// Moves the place to where `gap` says that events go on.
    pub(super) fn go_on_after(&mut self, gap: &Gap) {
        if let Place::Sequence(resume) = gap.resume {
            self.next = resume;
        }
    }

    /// Returns the next ephemeral event that the reader wants.
    pub(super) fn next_ephemeral(&mut self) -> Option<Arc<Ephemeral>> {
        while let Some((event, number)) = self.topic.ephemeral.after(self.last_ephemeral) {
            self.last_ephemeral = number;
            let filter = self.common.filter.as_ref();
            if filter.is_none_or(|filter| filter.picks_new(&event.event)) {
                return Some(event);
            }
        }
        None
    }

    /// Looks through the blocks that are held, [`MAX_LOOK_BYTES`] of them at a time. Returns the
    /// next events for the reader, or that the events looked through are for others; `None` when no
    /// block is held.
    fn take_read(&mut self) -> Option<Step> {
        if self.read.is_empty() {
            self.common.holder = None;
            return None;
        }
        let mut looked_bytes = 0;
        while looked_bytes < MAX_LOOK_BYTES
            && let Some(block) = self.read.pop_front()
        {
            looked_bytes += block.block().bytes().len();
            let below = block.block().last_sequence().next();
            let from = self.next;
            self.next = below.max(from);
            let Common { shared, filter, .. } = &self.common;
            let ages = shared.ages(&self.topic);
            if let Some(run) = self.topic.run(block, from..below, ages, filter.as_ref()) {
                self.is_new = false;
                return Some(Step::Events(run));
            }
        }
        if self.read.is_empty() {
            self.common.holder = None;
        }
        Some(Step::Passed)
    }

    /// Takes the next blocks from the tail. Returns whether the tail holds them.
    fn read_tail(&mut self, state: &TopicState) -> bool {
        let readable = self.next..state.extent.tail;
        let blocks = self.topic.tail.read(readable, self.common.shared.behind.read_bytes());
        blocks.map(|blocks| self.read.extend(blocks)).is_some()
    }

    /// Reads the next blocks from the log.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::ReadFailed`]: the place stays where it is.
    pub(super) async fn read_log(&mut self) -> Result<()> {
        let state = self.topic.state();
        let Some(id) = state.id else { return Ok(()) };
        let (next, tail) = (self.next, state.extent.tail);
        let Common { shared, .. } = &self.common;
        let holder = shared.behind.enter();
        let max_bytes = shared.behind.read_bytes();
        let blocks = shared.replays.read((&self.topic, id), next, tail, max_bytes).await;
        let now = self.topic.state().extent;
        if next < now.earliest || self.misses_deletions(&now) {
            return Ok(()); // Events were dropped meanwhile: missing ones are a gap, and no damage.
        }
        self.read.extend(blocks?);
        self.common.holder = Some(holder);
        Ok(())
    }

    /// Returns whether deletions of keys were dropped that come after the place, and that the
    /// reader may need.
    fn misses_deletions(&self, extent: &Extent) -> bool {
        let wanted = WantedPlace::Sequence(self.next);
        !self.is_new && wanted.misses_deletions(extent, Some(self.accounted))
    }

    /// Adds the gap of a reader whose next events were dropped since it began. The drops were
    /// counted before `state` was read.
    fn fall_behind(&mut self, state: &TopicState, reason: GapReason, drops: u64) -> Step {
        let (wanted, before) = (WantedPlace::Sequence(self.next), self.cursor());
        let (gap, _) = gap(&self.topic.name, state, wanted, reason, self.common.on_gap);
        (self.since, self.accounted) = (since(drops, &state.extent), state.extent.buried_drop);
        self.common.gaps.add(gap, before);
        Step::Gap
    }
}

/// Returns the sequence at which a reader that asks for `start` begins, and the gap there, if there
/// is one. Both are of one moment: the one of `state`.
async fn resolve(
    shared: &Shared,
    topic: &TopicName,
    state: &TopicState,
    start: StartPoint,
    on_gap: OnGap,
) -> Result<(Sequence, Option<Gap>)> {
    let gap_at = |wanted: WantedPlace, reason| {
        let (gap, resume) = gap(topic, state, wanted, reason, on_gap);
        Ok((resume, Some(gap)))
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
        StartPoint::After(cursor) => {
            since = cursor.since.filter(|drop| *drop <= shared.drops());
            let wanted = WantedPlace::after(cursor.after);
            let tail = match cursor.after {
                Place::Sequence(_) => Place::Sequence(state.extent.tail),
                Place::Position(_) => Place::Position(Position::new(shared.last_position()).next()),
            };
            if let Some(reason) = misplaced(cursor, shared.log.epoch(), tail) {
                return gap_at(wanted, reason);
            }
            wanted
        }
    };
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
