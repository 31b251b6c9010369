//! Where a feed begins.

use super::super::blocking;
use super::super::page::MAX_PAGE_GAPS;
use super::super::topics::TopicState;
use super::Feed;
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::{Log, Seek};

impl Feed {
    /// Finds the place that `start` names, and the topics that have something after it.
    pub(super) async fn place(&mut self, start: StartPoint) -> Result<()> {
        match start {
            StartPoint::Latest => {}
            StartPoint::Earliest => {
                self.place_at_earliest();
                return Ok(());
            }
            StartPoint::Last(_) => {
                return Err(Error::invalid("from", "last:N is for one topic alone"));
            }
            StartPoint::Time(time) => self.after = self.before(time).await?,
            StartPoint::After(Cursor { after: Place::Sequence(sequence), .. }) => {
                let problem = format!("{sequence} is a sequence of one topic; write @{sequence}");
                return Err(Error::invalid("cursor", problem));
            }
            StartPoint::After(cursor @ Cursor { after: Place::Position(position), epoch }) => {
                if epoch.is_some_and(|epoch| epoch != self.epoch()) {
                    return self.begin_after_gap(cursor, position.next(), GapReason::Epoch);
                }
                if position > self.known {
                    return self.begin_after_gap(cursor, position.next(), GapReason::Ahead);
                }
                self.after = position;
            }
        }
        self.add_newer();
        if self.on_gap == OnGap::Fail
            && let Some(error) = self.refusal()
        {
            return Err(error);
        }
        Ok(())
    }

    fn place_at_earliest(&mut self) {
        self.after = Position::BEFORE_ALL;
        for topic in self.interest.topics() {
            let earliest = topic.state().extent.earliest;
            self.add(topic, Some(earliest));
        }
    }

    /// Begins where a reader goes on whose whole place is gone.
    fn begin_after_gap(
        &mut self,
        came_with: Cursor,
        wanted: Position,
        reason: GapReason,
    ) -> Result<()> {
        let is_from_the_tail = match self.on_gap {
            OnGap::Resume | OnGap::Fail => reason == GapReason::Ahead,
            OnGap::Earliest => false,
            OnGap::Latest => true,
        };
        let tail = Sequence::new(self.known.get()).next();
        let gap = Gap {
            topic: None,
            requested: wanted.get(),
            earliest: Sequence::FIRST,
            tail,
            lost: None,
            reason,
            resume: if is_from_the_tail { tail } else { Sequence::FIRST },
        };
        if self.on_gap == OnGap::Fail {
            return Err(Error::Gap(gap));
        }
        self.gaps.push_back(gap);
        self.came_with = Some(came_with);
        match is_from_the_tail {
            true => self.add_newer(),
            false => self.place_at_earliest(),
        }
        Ok(())
    }

    /// The place before everything that was appended at `time` or later.
    async fn before(&self, time: Timestamp) -> Result<Position> {
        let topics = self.interest.topics();
        let states: Vec<TopicState> = topics.iter().map(|topic| topic.state()).collect();
        let known = self.known;
        let find = move |log: &dyn Log| {
            let mut first = known.next();
            for state in states.iter().filter(|state| state.extent.last_time >= time) {
                let extent = &state.extent;
                if extent.trimmed_position > Position::BEFORE_ALL && extent.trimmed_time >= time {
                    first = first.min(extent.trimmed_position); // So that the gap is told.
                    continue;
                }
                let (Some(id), earliest, tail) = (state.id, extent.earliest, extent.tail) else {
                    continue;
                };
                let found = log.seek(id, Seek::Time(time), earliest, tail)?;
                if found < tail
                    && let Some(block) = log.read(id, found, tail, 1)?.first()
                    && let Some(event) = block.events().find(|event| event.sequence >= found)
                {
                    first = first.min(event.position);
                }
            }
            Ok(first.previous())
        };
        let _turn = self.shared.replays.turn().await;
        blocking(&self.shared.log, find).await
    }

    /// What a reader is refused with that has lost events after its place, and asked to be: the
    /// topics that have lost some, [`MAX_PAGE_GAPS`] of them at the most.
    fn refusal(&self) -> Option<Error> {
        let topics = self.sources.values().map(|source| &source.topic);
        let gaps = topics.filter_map(|topic| self.gap_of(topic, &topic.state()));
        let mut gaps: Vec<Gap> = gaps.take(MAX_PAGE_GAPS).collect();
        match gaps.len() {
            0 | 1 => gaps.pop().map(Error::Gap),
            _ => Some(Error::Gaps(gaps.into())),
        }
    }
}
