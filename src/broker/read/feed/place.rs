//! The place at which a feed begins.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::missed::Missed;
use super::sources::Sources;
use super::unlisted::Unlisted;
use super::{Feed, MAX_PATTERNS};
use crate::broker::read::drops::Drops;
use crate::broker::read::gaps::{gap, gap_of_all, misplaced};
use crate::broker::read::page::MAX_PAGE_GAPS;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Requested, StartPoint};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Block, Log, Seek};

/// The most topics that a feed from the earliest event on looks at before it begins. With more
/// topics, it lists some of them each time that it comes to the position at which they begin. The
/// number is that of the topics that can be named one by one; few in unit tests.
const MAX_LISTED: usize = if cfg!(test) { 2 } else { MAX_PATTERNS };

impl Feed {
    /// Finds the place that `start` names, and the topics that have something after it.
    pub(super) async fn place(&mut self, start: StartPoint) -> Result<()> {
        match start {
            StartPoint::Latest => {}
            StartPoint::Earliest => {
                self.place_at_earliest().await;
                return Ok(());
            }
            StartPoint::Last(_) => {
                return Err(Error::invalid("from", "last:N is for one topic alone"));
            }
            StartPoint::Time(time) => self.after = self.before(time).await?,
            StartPoint::Unknown => return self.begin_after_gap(None, GapReason::Unknown).await,
            StartPoint::After(Cursor { after: Place::Sequence(sequence), .. }) => {
                let problem = format!("{sequence} is a sequence of one topic; write @{sequence}");
                return Err(Error::invalid("cursor", problem));
            }
            StartPoint::After(cursor @ Cursor { after: Place::Position(position), .. }) => {
                let (_, tail) = self.bounds();
                if let Some(reason) = misplaced(cursor, self.common.epoch(), tail) {
                    return self.begin_after_gap(Some(cursor), reason).await;
                }
                self.after = position;
            }
        }
        self.add_newer().await;
        match self.refusal() {
            Some(error) if self.common.on_gap == OnGap::Fail => return Err(error),
            Some(_) => {}
            None => self.drops.were_told(),
        }
        Ok(())
    }

    async fn place_at_earliest(&mut self) {
        self.after = Position::BEFORE_ALL;
        let (mut walk, mut listed) = (self.interest.walk(), Vec::new());
        while let Some(topics) = walk.next(&self.common.shared.topics).await {
            listed.extend(topics);
            if listed.len() > MAX_LISTED {
                let unlisted = Unlisted::of(self.common.shared.topics.chunks(), self.known);
                self.drops.raise(unlisted.dropped(), self.after);
                return self.sources.list_later(unlisted);
            }
        }
        listed.into_iter().for_each(|topic| self.add(topic, true));
    }

    /// Begins again with all events that are kept, because the reader may hold keys that are
    /// deleted.
    pub(super) fn begin_again(&mut self) {
        self.sources = Sources::default();
        self.common.gaps.clear();
        *self.drops = Drops::of(StartPoint::Earliest, self.common.shared.drops());
        // The feed knows no event before all topics are found.
        self.missed = Some(Box::new(Missed::all(&self.interest, self.known)));
        (self.after, self.known) = (Position::BEFORE_ALL, Position::BEFORE_ALL);
    }

    /// Adds the gap of a reader whose place as a whole is not there, and begins where the reader
    /// goes on. The place is that of `came_with`, or `None` if the reader came with something that
    /// is not a cursor.
    async fn begin_after_gap(
        &mut self,
        came_with: Option<Cursor>,
        reason: GapReason,
    ) -> Result<()> {
        let (on_gap, drops) = (self.common.on_gap, self.common.shared.drops());
        let requested =
            came_with.map_or(Requested::Unknown, |cursor| Requested::Place(cursor.after.next()));
        let (earliest, tail) = self.bounds();
        let gap = gap_of_all(requested, (earliest, tail), reason, on_gap);
        if on_gap == OnGap::Fail {
            return Err(Error::Gap(gap.into()));
        }
        let is_from_the_tail = gap.resume == tail;
        // A reader without a cursor, which comes back before it is told the gap, is told of all
        // events that are gone.
        let after_none = Place::Position(Position::BEFORE_ALL);
        let epoch = Some(self.common.epoch());
        let before = came_with.unwrap_or(Cursor { after: after_none, since: None, epoch });
        self.common.gaps.add(gap, before);
        // This gap stands for all earlier drops: they are not told on their own.
        *self.drops = Drops::of(StartPoint::Earliest, drops);
        match is_from_the_tail {
            true => self.add_newer().await,
            false => self.place_at_earliest().await,
        }
        Ok(())
    }

    /// Returns the place before all events that were appended at `time` or later.
    async fn before(&self, time: Timestamp) -> Result<Position> {
        let mut topics = Vec::new();
        let mut walk = self.interest.walk();
        while let Some(found) = walk.next(&self.common.shared.topics).await {
            let has_some = |topic: &Arc<Topic>| topic.state().extent.last_time >= time;
            topics.extend(found.into_iter().filter(has_some));
        }
        let mut topics = topics.into_iter().peekable();
        let mut first = self.known.next();
        let find = move |log: &dyn Log| {
            let Some(topic) = topics.peek() else {
                return Ok(ControlFlow::Break(first.previous()));
            };
            let extent = topic.state().extent;
            match first_since(log, topic, time) {
                Ok(found) => {
                    first = found.map_or(first, |found| first.min(found));
                    topics.next();
                }
                // Events were trimmed meanwhile, which is no damage: the topic is looked at again.
                Err(_) if topic.state().extent.earliest > extent.earliest => {}
                Err(error) => return Err(error),
            }
            Ok(ControlFlow::Continue(()))
        };
        self.common.shared.turns.read_long(find).await
    }

    /// Returns the error for a reader that asked to be refused at gaps, if it has lost events after
    /// its place. The error has a gap for each topic that lost events, up to [`MAX_PAGE_GAPS`] of
    /// them.
    fn refusal(&self) -> Option<Error> {
        let mut topics: Vec<_> = self.sources.topics().collect();
        topics.sort_unstable_by_key(|(id, _)| *id);
        let gaps = topics.into_iter();
        let gaps = gaps.filter_map(|(id, topic)| {
            let (state, wanted) = (topic.state(), self.wanted());
            let reason = self.drops.reason(id, wanted, &state.extent)?;
            Some(gap(&topic.name, &state, wanted, reason, self.common.on_gap).0)
        });
        let mut gaps: Vec<Gap> = gaps.take(MAX_PAGE_GAPS).collect();
        match gaps.len() {
            0 | 1 => gaps.pop().map(|gap| Error::Gap(gap.into())),
            _ => Some(Error::Gaps(gaps.into())),
        }
    }
}

/// Returns the position of the first event of `topic` that was appended at `time` or later, if
/// there is one. When such events were trimmed, returns their position, so that the gap is told.
fn first_since(log: &dyn Log, topic: &Topic, time: Timestamp) -> Result<Option<Position>> {
    let TopicState { id, extent, .. } = topic.state();
    let Some(id) = id.filter(|_| extent.last_time >= time) else { return Ok(None) };
    if extent.trimmed_position > Position::BEFORE_ALL && extent.trimmed_time >= time {
        return Ok(Some(extent.trimmed_position));
    }
    let (earliest, tail) = (extent.earliest, extent.tail);
    let found = log.seek(id, Seek::Time(time), earliest, tail)?;
    let mut at = found;
    while at < tail {
        let blocks = log.read(id, at, tail, 1)?;
        let mut events = blocks.iter().flat_map(Block::events);
        if let Some(first) = events.find(|event| event.sequence >= found) {
            return Ok(Some(first.position));
        }
        // Compaction left none of these events.
        at = blocks.last().map_or(tail, |block| block.last_sequence().next());
    }
    Ok(None)
}
