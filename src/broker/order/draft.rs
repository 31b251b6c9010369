//! A group of publishes before the log has it. The draft gives out topic ids, sequences (`place`)
//! and positions (`number`), has the events put into blocks (`build`), trims the topics (`retain`),
//! and answers the publishers.
//!
//! ```text
//!  publisher 1     a1  b1          a3      one stretch, topic by topic:     a1 a2  b1 b2
//!  publisher 2             a2  b2          the next, for a3 comes after b1: a3
//! ```
//!
//! # Why
//!
//! Sequences follow the queue. Positions follow each publisher's own order, over all topics;
//! between publishers any order is right. So a group is numbered topic by topic, which gives
//! readers of many topics long runs of one topic.
//!
//! A *stretch* is a part of a group that is numbered topic by topic. If a publisher returns to an
//! earlier topic, a new stretch begins, which is numbered after the one before it. So the
//! publisher's own order is kept. Eight publishers with a topic each need one stretch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::committer::{Committer, GroupTopics, next_id};
use super::placed::{DraftTopic, KnownId, Placed, find_duplicates};
use crate::broker::command::Append;
use crate::broker::forward_queue::ForwardQueue;
use crate::broker::maintenance::retention::{Retained, Retention};
use crate::broker::publish::{PublishTurn, PublisherId};
use crate::broker::queue::{AskedBy, QueuedPublish};
use crate::broker::report::Ack;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::state::TopicState;
use crate::broker::topic::topics::TopicRef;
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Group, MAX_REMOVED_PARTS, parts_in};
use crate::topic::TopicId;

/// A group of publishes, before the log has it.
pub(super) struct Draft {
    topics: Vec<DraftTopic>,
    by_topic: HashMap<*const Topic, usize>,
    answers: Vec<PublishAnswer>,
    next_id: Option<TopicId>,
    /// The number of topics that the group creates.
    born: isize,
    runs: Vec<NumberedRun>,
    /// The index of the first run of the current stretch.
    stretch: usize,
    /// The index of the last run of each publisher.
    publishers: HashMap<PublisherId, usize>,
}

/// Neighbouring events of a topic, which get neighbouring positions.
struct NumberedRun {
    /// The index of the topic in the draft.
    topic: usize,
    first: Sequence,
    events: u64,
}

/// A publish with its outcome, which waits for the log.
struct PublishAnswer {
    /// The events by topic, in the order in which the publisher named the topics.
    outcome: Result<Vec<Placed>>,
    asked_by: AskedBy,
    may_be_stored: bool,
    left: Option<Instant>,
    turn: PublishTurn,
    reply: oneshot::Sender<Result<Vec<Ack>>>,
    topics: Vec<TopicRef>,
    _space: OwnedSemaphorePermit,
}

/// The state of a draft before a publish, to which it returns if the publish is refused.
struct Before {
    topics: usize,
    next_id: Option<TopicId>,
    born: isize,
}

impl Draft {
    /// Returns an empty draft. The first new topic gets the id `next_id`.
    pub(super) fn new(next_id: Option<TopicId>) -> Self {
        Self {
            topics: Vec::new(),
            by_topic: HashMap::new(),
            answers: Vec::new(),
            next_id,
            born: 0,
            runs: Vec::new(),
            stretch: 0,
            publishers: HashMap::new(),
        }
    }

    /// Whether the draft appends nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Returns the topics that the draft appends to.
    pub(super) fn topics(&mut self) -> &mut [DraftTopic] {
        &mut self.topics
    }

    /// Returns the topics that the draft appends to, by their ids.
    pub(super) fn topics_by_id(&self) -> GroupTopics {
        self.topics.iter().map(|topic| (topic.id, topic.topic.clone())).collect()
    }

    /// Gives the events of `publish` their sequences, or refuses all of them. A refused publish
    /// leaves nothing in the draft.
    pub(super) fn place(
        &mut self,
        committer: &mut Committer,
        publish: QueuedPublish,
        now: Timestamp,
    ) {
        let QueuedPublish { appends, asked_by, may_be_stored, left, turn, reply, _space } = publish;
        let (topics, appends): (Vec<_>, Vec<_>) = appends.into_iter().unzip();
        let in_term = match asked_by {
            AskedBy::Leader(term) => committer.leadership.check(term),
            AskedBy::Caller | AskedBy::Node => Ok(()),
        };
        let outcome = turn.check().and(in_term);
        let outcome = outcome.and_then(|()| self.place_all(committer, &topics, appends, now));
        match &outcome {
            Ok(placed) => placed.iter().for_each(|placed| self.join_run(placed, turn.publisher())),
            Err(_) => turn.fail(),
        }
        self.answers.push(PublishAnswer {
            outcome,
            asked_by,
            may_be_stored,
            left,
            turn,
            reply,
            topics,
            _space,
        });
    }

    /// Places the events of all topics of a publish. If those of one topic are refused, those of
    /// the topics before it are taken out again.
    fn place_all(
        &mut self,
        committer: &mut Committer,
        topics: &[TopicRef],
        appends: Vec<Append>,
        now: Timestamp,
    ) -> Result<Vec<Placed>> {
        let Self { next_id, born, .. } = *self;
        let before = Before { topics: self.topics.len(), next_id, born };
        let mut placed = Vec::with_capacity(appends.len());
        for (topic, append) in topics.iter().zip(appends) {
            match self.try_place(committer, topic, append, now) {
                Ok(of_topic) => placed.push(of_topic),
                Err(refused) => {
                    self.take_out(before, &placed);
                    return Err(refused);
                }
            }
        }
        Ok(placed)
    }

    /// Takes out what was placed last, back to the state `before` it.
    fn take_out(&mut self, before: Before, placed: &[Placed]) {
        for placed in placed.iter().rev() {
            let Some(index) = placed.topic else { continue };
            let topic = &mut self.topics[index];
            for (_, id) in placed.new_ids(&placed.records) {
                topic.ids.remove(id);
            }
            topic.next = placed.first;
        }
        for topic in self.topics.drain(before.topics..) {
            self.by_topic.remove(&Arc::as_ptr(&topic.topic));
        }
        (self.next_id, self.born) = (before.next_id, before.born);
    }

    fn try_place(
        &mut self,
        committer: &mut Committer,
        topic: &Arc<Topic>,
        append: Append,
        now: Timestamp,
    ) -> Result<Placed> {
        let Append { records, expected_sequence } = &append;
        let expected_sequence = *expected_sequence;
        let drafted = self.by_topic.get(&Arc::as_ptr(topic)).copied();
        let state = topic.state();
        let next = drafted.map_or(state.extent.tail, |index| self.topics[index].next);
        let in_group = drafted.map(|index| &self.topics[index].ids);
        let duplicates = match (records.ids().is_empty(), state.id) {
            (true, _) => Vec::new(),
            (false, id) => find_duplicates(records, next, |id_text| {
                let stored = |id| committer.window.find(id, id_text, next, now);
                let grouped = in_group.and_then(|ids| ids.get(id_text));
                grouped.map(|s| KnownId::InGroup(*s)).or(id.and_then(stored).map(KnownId::Stored))
            }),
        };
        if state.extent.is_damaged && duplicates.len() < records.len() {
            return Err(Error::DamagedEnd(topic.name.clone()));
        }
        let actual = next.previous().get();
        if let Some(expected) = expected_sequence
            && expected != actual
            && duplicates.len() < records.len()
        {
            return Err(Error::UnexpectedSequence { topic: topic.name.clone(), expected, actual });
        }
        let durability = committer.durability(topic);
        let placed = |topic, duplicates| Placed {
            topic,
            records: records.clone(),
            expected_sequence,
            first: next,
            duplicates,
            durability,
        };
        let index = match drafted {
            None if duplicates.len() == records.len() => {
                return Ok(placed(None, duplicates));
            }
            None => self.draft_topic(committer, topic, state)?,
            Some(index) => index,
        };
        let placed = placed(Some(index), duplicates);
        let topic = &mut self.topics[index];
        for (event, id) in placed.new_ids(&placed.records) {
            topic.ids.insert(id.into(), placed.sequence(event));
        }
        topic.next = topic.next.plus(placed.appended());
        Ok(placed)
    }

    /// Adds placed events to the last run of their topic, or to a new run, so that they come after
    /// all earlier events of their publisher in the group.
    fn join_run(&mut self, placed: &Placed, publisher: PublisherId) {
        let (Some(index), events @ 1..) = (placed.topic, placed.appended()) else { return };
        let is_current = |run: &usize| *run >= self.stretch;
        let before = self.publishers.get(&publisher).copied().filter(is_current);
        let own = self.topics[index].run.filter(is_current);
        let run = match own {
            Some(own) if before.is_none_or(|before| before <= own) => own,
            _ => {
                if own.is_some() {
                    self.stretch = self.runs.len();
                }
                self.runs.push(NumberedRun { topic: index, first: placed.first, events: 0 });
                self.runs.len() - 1
            }
        };
        self.runs[run].events += events;
        self.topics[index].run = Some(run);
        self.publishers.insert(publisher, run);
    }

    /// Gives the events their positions, run by run.
    pub(super) fn number(&mut self, first_position: Position) {
        let mut position = first_position;
        for run in &self.runs {
            self.topics[run.topic].places.push((run.first, position));
            position = position.plus(run.events);
        }
    }

    /// Puts the events into blocks.
    pub(super) fn build(&mut self, max_block_bytes: usize) {
        let placed = self.answers.iter().filter_map(|answer| answer.outcome.as_ref().ok());
        for placed in placed.flatten() {
            if let (Some(topic), 1..) = (placed.topic, placed.appended()) {
                self.topics[topic].build(placed, max_block_bytes);
            }
        }
    }

    fn draft_topic(
        &mut self,
        committer: &Committer,
        topic: &Arc<Topic>,
        state: TopicState,
    ) -> Result<usize> {
        if !state.exists() {
            if !committer.auto_create {
                return Err(Error::UnknownTopic(topic.name.clone()));
            }
            topic.check_existing(self.born)?;
        }
        let id = match state.id {
            Some(id) => id,
            None => {
                let id = next_id(self.next_id)?;
                self.next_id = id.next();
                id
            }
        };
        let index = self.topics.len();
        let drafted = DraftTopic {
            topic: topic.clone(),
            id,
            state,
            retained: None,
            dropped_ids: Vec::new(),
            next: state.extent.tail,
            run: None,
            places: Vec::new(),
            builders: Vec::new(),
            next_position: Position::BEFORE_ALL,
            durability: committer.durability(topic),
            ids: HashMap::new(),
        };
        committer.log.check_appendable(&drafted.stored())?; // A failure refuses this publish alone.
        self.born += isize::from(!state.exists());
        self.topics.push(drafted);
        self.by_topic.insert(Arc::as_ptr(topic), index);
        Ok(index)
    }

    /// Trims the topics to their limits, with the events that are appended. A topic whose blocks
    /// cannot be read is left as it is: maintenance looks at it later, and logs the failure.
    pub(super) fn retain(&mut self, committer: &mut Committer, now: Timestamp) {
        let builders = self.topics.iter().flat_map(|topic| &topic.builders);
        let appended: usize = builders.map(|(_, b)| parts_in(b.size_bytes())).sum();
        let mut left = MAX_REMOVED_PARTS + appended;
        self.topics.iter_mut().for_each(|topic| topic.state.extent.remember_ahead(now));
        for topic in self.topics.iter_mut().filter(|topic| topic.state.exists()) {
            let limits = topic.topic.effective_config();
            let added = topic.added();
            let quiet = committer.quiet.get(&topic.id);
            let is_quiet = quiet.is_some_and(|q| q.holds(&topic.state.extent, added, now));
            if is_quiet || !Retention::is_limited(&limits) {
                continue;
            }
            if left == 0 {
                topic.topic.upkeep.touch();
                continue;
            }
            let published = topic.state.extent.earliest;
            let retention =
                Retention { log: &*committer.log, limits, published, now, max_parts: left };
            let mut stored = topic.stored();
            let retained = retention.apply(&mut stored, added).and_then(|retained| {
                let removed = retained.removed.iter().map(|block| (topic.id, *block)).collect();
                committer.log.check_writable(&Group { removed, ..Group::default() })?;
                Ok(retained)
            });
            let Ok(retained) = retained else {
                topic.topic.upkeep.touch();
                continue;
            };
            let parts: usize = retained.removed.iter().map(|block| block.parts).sum();
            left = left.saturating_sub(parts);
            stored.extent.number_trim(&topic.state.extent, committer.next_drop());
            topic.dropped_ids = committer.ids_of(&topic.topic, &stored, &retained.removed);
            topic.state.extent = stored.extent;
            topic.retained = Some(retained);
        }
    }

    /// Ends the blocks, and returns the group for the log.
    pub(super) fn finish(&mut self, now: Timestamp) -> Group {
        let lowest = Group { durability: Durability::Memory, ..Group::default() };
        let mut group = lowest;
        for topic in &mut self.topics {
            group.durability = group.durability.max(topic.durability);
            let first = topic.builders.first().map(|(position, _)| *position);
            let first = first.filter(|_| topic.state.extent.is_empty());
            if let Some(position) = first {
                topic.state.extent.first_position = position;
            }
            // The log's record of a topic is written with its first event. Later on the record may
            // be older than the blocks.
            let has_had_none = !topic.state.exists() || topic.state.extent.tail == Sequence::FIRST;
            let is_new = first.is_some() && has_had_none;
            let drops = |r: &Retained| r.has_more || !r.removed.is_empty();
            // When a log is opened, only the newest block is read, so this goes into the record.
            let expires = !topic.state.extent.may_expire
                && topic.builders.iter().any(|(_, builder)| builder.has_ttl());
            topic.state.extent.may_expire |= expires;
            let is_ahead = topic.state.extent.ahead != topic.topic.state().extent.ahead;
            if is_new || expires || is_ahead || topic.retained.as_ref().is_some_and(drops) {
                group.topics.push(topic.stored());
            }
            let removed = topic.retained.iter_mut().flat_map(|r| std::mem::take(&mut r.removed));
            group.removed.extend(removed.map(|block| (topic.id, block)));
            group.ids.append(&mut topic.dropped_ids);
            let (mut end_bytes, time) = (topic.state.extent.appended_bytes, topic.time(now));
            for (position, builder) in topic.builders.drain(..) {
                let block = builder.finish(position, time, end_bytes);
                let block = if now < time { block.with_clock(now) } else { block };
                end_bytes = block.end_bytes();
                group.appended.push((topic.id, block));
            }
        }
        group
    }

    /// Answers all publishers. `durability` is that of the appended events. Returns how many of the
    /// publishes storage has refused. What was not stored, and is for another node to decide, goes
    /// to `elsewhere` instead.
    pub(super) fn answer(
        self,
        appended: Result<()>,
        durability: Option<Durability>,
        now: Timestamp,
        elsewhere: Option<&ForwardQueue>,
    ) -> u64 {
        let mut refused = 0;
        let synced = durability.filter(|_| appended.is_ok());
        for answer in self.answers {
            let answer = match (&appended, elsewhere) {
                (Err(error), Some(elsewhere)) => match answer.for_another(error) {
                    Ok(publish) => {
                        elsewhere.push(publish.into());
                        continue;
                    }
                    Err(answer) => *answer,
                },
                _ => answer,
            };
            let acks = answer.outcome.and_then(|placed| {
                if placed.iter().any(Placed::depends_on_group) {
                    appended.clone()?;
                }
                let topic = |placed: &Placed| placed.topic.map(|index| &self.topics[index]);
                Ok(placed.iter().map(|placed| placed.ack(topic(placed), synced, now)).collect())
            });
            let acks = acks.map_err(|error| error.of_repeated(answer.may_be_stored));
            if acks.is_err() {
                answer.turn.fail();
            }
            refused += u64::from(acks.as_ref().is_err_and(Error::is_of_storage));
            let _publisher_is_gone = answer.reply.send(acks);
        }
        refused
    }
}

impl PublishAnswer {
    /// Returns the publish again, if the `error` of its group leaves it to another node: it is
    /// surely not stored, or its events are recognised by their ids if they are.
    fn for_another(self, error: &Error) -> std::result::Result<QueuedPublish, Box<Self>> {
        let is_sure = matches!(error, Error::NotLeading);
        let may_go = match &self.outcome {
            Ok(placed) if self.asked_by == AskedBy::Caller => {
                let have_ids = || placed.iter().all(|placed| placed.records.all_have_ids());
                placed.iter().any(Placed::depends_on_group) && (is_sure || have_ids())
            }
            _ => false,
        };
        let Self { outcome: Ok(placed), .. } = self else { return Err(self.into()) };
        if !may_go {
            return Err(Self { outcome: Ok(placed), ..self }.into());
        }
        let appends = placed.into_iter().map(|placed| Append {
            records: placed.records,
            expected_sequence: placed.expected_sequence,
        });
        Ok(QueuedPublish {
            appends: self.topics.into_iter().zip(appends).collect(),
            asked_by: self.asked_by,
            may_be_stored: self.may_be_stored || !is_sure,
            left: self.left,
            turn: self.turn,
            reply: self.reply,
            _space: self._space,
        })
    }
}
