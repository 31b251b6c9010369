//! The one writer: groups, orders, appends, syncs, answers, wakes.
//!
//! ```text
//! requests ──▶ draft: who gets which sequence ──▶ log.append: one batch, one sync
//!                                                      │ durable
//!                            tails, watches, window ◀──┴──▶ answers
//! ```
//!
//! # Why
//!
//! A thread, not a task: appending blocks. Grouping needs no timer: while one group is being
//! synced, the next one queues up. All that a group changes is drafted first and taken over only
//! when the log has it, so a group that is refused leaves no trace.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::error;

use super::dedup::DedupWindow;
use super::failure::{Failure, PanicGuard};
use super::publish::{Ack, Duplicate, Receipt};
use super::tail::Tails;
use super::topics::{Topic, TopicRef, TopicState};
use crate::cursor::{Position, Sequence, TrimReason};
use crate::error::{Error, Result};
use crate::event::{Durability, Timestamp};
use crate::log::{Block, BlockBuilder, Extent, Group, Log, NewRecords, StoredTopic};
use crate::topic::TopicId;
use crate::topic_config::TopicConfig;

/// What the committer is asked for, in order.
#[derive(Debug)]
pub(super) enum Command {
    /// Store events.
    Publish(Request),
    /// Create a topic, change its settings, or delete it.
    Configure { topic: TopicRef, change: Change, answer: oneshot::Sender<Result<()>> },
    /// Take events out at the front of a topic.
    Trim {
        topic: Arc<Topic>,
        earliest: Sequence,
        reason: TrimReason,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Remove some of what was trimmed; answered with whether there may be more.
    Reclaim { topic: Arc<Topic>, answer: oneshot::Sender<Result<bool>> },
    /// Put a block in the place of those whose sequences it spans.
    Rewrite { topic: Arc<Topic>, block: Block, answer: oneshot::Sender<Result<()>> },
    /// Note that blocks below a sequence were looked at.
    Passed {
        topic: Arc<Topic>,
        rewritten: Sequence,
        may_expire: bool,
        answer: oneshot::Sender<Result<()>>,
    },
    /// Take the ids of blocks from before the start into the window.
    Recall { id: TopicId, blocks: Vec<Block>, answer: oneshot::Sender<()> },
    /// Answer, when all before it is done.
    Barrier { answer: oneshot::Sender<()> },
    /// Answer what is queued already, then end.
    Stop,
}

/// What becomes of a topic.
#[derive(Debug, Clone)]
pub(super) enum Change {
    /// It is created with these settings, unless it exists.
    Create(TopicConfig),
    /// It has these settings, and is created if it does not exist.
    Set(TopicConfig),
    /// It has the fields of these settings that are named.
    Update(TopicConfig, Vec<String>),
    /// It is deleted, with its events and its settings.
    Delete,
}

/// A publish on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) topic: TopicRef,
    pub(super) records: NewRecords,
    pub(super) expected_sequence: Option<u64>,
    pub(super) answer: oneshot::Sender<Result<Ack>>,
    /// Its share of the queue; given back when it is answered.
    pub(super) _space: OwnedSemaphorePermit,
}

/// The committer's own state.
pub(super) struct Committer {
    pub(super) log: Arc<dyn Log>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) tails: Tails,
    pub(super) window: DedupWindow,
    pub(super) failure: Failure,
    /// The position of the newest durable event, for readers.
    pub(super) last_position: Arc<AtomicU64>,
    /// The id of the next new topic; `None` when all are used.
    pub(super) next_id: Option<TopicId>,
    pub(super) last_time: Timestamp,
    pub(super) max_block_bytes: usize,
    pub(super) max_group_bytes: usize,
    /// Whether a topic comes to exist by a publish.
    pub(super) auto_create: bool,
    /// The clock: a new event is never older than the one before it, whatever it says.
    pub(super) now: fn() -> Timestamp,
}

impl Committer {
    /// Runs until it is told to stop, or every handle is gone. Each accepted request is answered.
    pub(super) fn run(self) {
        let _guard = PanicGuard(self.failure.clone());
        let mut committer = self; // Dropped before the guard: who is told can rely on it.
        committer.obey_all();
    }

    fn obey_all(&mut self) {
        let mut group = Vec::new();
        while let Some(command) = self.commands.blocking_recv() {
            let mut next = Some(command);
            let mut group_bytes = 0;
            let interruption = loop {
                match next {
                    Some(Command::Publish(request)) => {
                        group_bytes += request.records.size_bytes();
                        group.push(request);
                    }
                    other => break other,
                }
                if group_bytes >= self.max_group_bytes {
                    break None;
                }
                next = self.commands.try_recv().ok();
            };
            self.commit(&mut group);
            if let Some(command) = interruption {
                self.obey(command);
            }
        }
    }

    /// Does what is no publish.
    fn obey(&mut self, command: Command) {
        match command {
            Command::Publish(request) => self.commit(&mut vec![request]),
            Command::Configure { topic, change, answer } => {
                let _nobody_waits = answer.send(self.configure(&topic, change));
            }
            Command::Trim { topic, earliest, reason, answer } => {
                let _nobody_waits = answer.send(self.trim(&topic, earliest, reason));
            }
            Command::Rewrite { topic, block, answer } => {
                let _nobody_waits = answer.send(self.rewrite(&topic, &block));
            }
            Command::Passed { topic, rewritten, may_expire, answer } => {
                let _nobody_waits = answer.send(self.passed(&topic, rewritten, may_expire));
            }
            Command::Reclaim { topic, answer } => {
                let _nobody_waits = answer.send(self.reclaim(&topic));
            }
            Command::Recall { id, blocks, answer } => {
                blocks.iter().for_each(|block| self.window.note_block(id, block));
                let _nobody_waits = answer.send(());
            }
            Command::Barrier { answer } => {
                let _nobody_waits = answer.send(());
            }
            // Whoever was let into the queue before it closed is still answered.
            Command::Stop => self.commands.close(),
        }
    }

    fn commit(&mut self, requests: &mut Vec<Request>) {
        if requests.is_empty() {
            return;
        }
        let now = (self.now)().max(self.last_time);
        self.window.expire(now);
        let mut draft = Draft { next_id: self.next_id, ..Draft::default() };
        for request in requests.drain(..) {
            draft.place(self, request, now);
        }
        if draft.topics.is_empty() {
            return draft.answer(Ok(()), None, now); // Nothing new: nothing to sync.
        }
        let first_position = Position::new(self.last_position.load(Ordering::Relaxed)).next();
        let group = draft.finish(first_position, now);
        let durability = if self.log.is_durable() { group.durability } else { Durability::Memory };
        let outcome = self.log.append(&group);
        match &outcome {
            Ok(()) => self.take_over(&draft, group, now),
            Err(error) => {
                error!(%error, "cannot append a group");
                self.failure.note(error);
            }
        }
        draft.answer(outcome, Some(durability), now);
    }

    /// What an acknowledgement of a publish to `topic` means.
    fn durability(&self, topic: &Topic) -> Durability {
        match self.log.is_durable() {
            true => topic.effective_config().durability.unwrap_or_default(),
            false => Durability::Memory,
        }
    }

    /// Makes a durable group visible: readers see it only now.
    fn take_over(&mut self, draft: &Draft, group: Group, now: Timestamp) {
        self.last_time = now;
        for placed in &draft.answers {
            let Ok(placed) = &placed.outcome else { continue };
            let Some(topic) = placed.topic.map(|index| &draft.topics[index]) else { continue };
            for (index, id) in placed.new_ids(&placed.records) {
                self.window.note(topic.id, id, topic.receipt(placed.sequence(index), now));
            }
        }
        let mut blocks = group.blocks.into_iter().peekable();
        for topic in &draft.topics {
            let mut extent = topic.state.extent;
            while let Some((_, block)) = blocks.next_if(|(id, _)| *id == topic.id) {
                extent = extent.with(&block);
                topic.topic.upkeep.appended(&block, self.max_block_bytes);
                self.tails.push(&topic.topic.tail, block);
            }
            self.last_position.fetch_max(extent.last_position.get(), Ordering::Release);
            let (id, is_deleted) = (Some(topic.id), false);
            topic.topic.set_state(TopicState { id, extent, is_deleted, ..topic.state });
        }
        self.next_id = draft.next_id;
    }

    fn configure(&mut self, topic: &Arc<Topic>, change: Change) -> Result<()> {
        let state = topic.state();
        let unknown = || Error::UnknownTopic(topic.name.clone());
        let config = match change {
            Change::Create(_) if state.exists() => {
                return Err(Error::TopicExists(topic.name.clone()));
            }
            Change::Create(config) | Change::Set(config) => config,
            Change::Update(..) | Change::Delete if !state.exists() => return Err(unknown()),
            Change::Update(config, fields) => state.config.with_fields(&config, &fields)?,
            Change::Delete => return self.delete(topic),
        };
        config.validate()?;
        let id = state.id.map_or_else(|| self.new_id(), Ok)?;
        self.note(topic, TopicState { id: Some(id), config, is_deleted: false, ..state })?;
        topic.upkeep.touch();
        Ok(())
    }

    fn delete(&mut self, topic: &Arc<Topic>) -> Result<()> {
        let state = topic.state();
        let extent = Extent {
            earliest: state.extent.tail,
            trimmed_position: state.extent.last_position,
            trim_reason: TrimReason::Deleted,
            ..state.extent
        };
        let config = TopicConfig::default();
        self.note(topic, TopicState { extent, config, is_deleted: true, ..state })?;
        topic.upkeep.touch(); // Its space comes back by and by.
        Ok(())
    }

    fn new_id(&mut self) -> Result<TopicId> {
        let id = next_id(self.next_id)?;
        self.next_id = id.next();
        Ok(id)
    }

    fn trim(
        &mut self,
        topic: &Arc<Topic>,
        earliest: Sequence,
        trim_reason: TrimReason,
    ) -> Result<()> {
        let stored = stored(topic)?;
        let earliest = earliest.min(stored.extent.tail);
        if earliest <= stored.extent.earliest {
            return Ok(());
        }
        let trimmed_position = self.log.position_below(&stored, earliest)?;
        let extent = Extent { earliest, trimmed_position, trim_reason, ..stored.extent };
        self.note(topic, TopicState { extent, ..topic.state() })
    }

    /// Has the log note what a topic is, then everybody else: readers are told before anything is
    /// removed, of a gap and not of damage.
    fn note(&mut self, topic: &Arc<Topic>, state: TopicState) -> Result<()> {
        let TopicState { id, extent, config, is_deleted } = state;
        let id = id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
        let name = topic.name.clone();
        self.log
            .record(&StoredTopic { id, name, extent, config, is_deleted })
            .inspect_err(|error| self.failure.note(error))?;
        topic.set_state(state);
        Ok(())
    }

    fn reclaim(&mut self, topic: &Arc<Topic>) -> Result<bool> {
        let stored = stored(topic)?;
        let extent = self.log.reclaim(&stored).inspect_err(|error| self.failure.note(error))?;
        topic.set_state(TopicState { extent, ..topic.state() });
        Ok(extent != stored.extent)
    }

    fn rewrite(&mut self, topic: &Arc<Topic>, block: &Block) -> Result<()> {
        let stored = stored(topic)?;
        let extent = self.log.rewrite(&stored, block);
        let extent = extent.inspect_err(|error| self.failure.note(error))?;
        // Nobody sees again what is dropped now.
        topic.tail.forget_through(block.last_sequence());
        topic.set_state(TopicState { extent, ..topic.state() });
        Ok(())
    }

    fn passed(&mut self, topic: &Arc<Topic>, rewritten: Sequence, may_expire: bool) -> Result<()> {
        let state = topic.state();
        let extent = Extent { rewritten, may_expire, ..state.extent };
        self.note(topic, TopicState { extent, ..state })
    }
}

/// A topic as the log knows it.
fn stored(topic: &Topic) -> Result<StoredTopic> {
    let TopicState { id, extent, config, is_deleted } = topic.state();
    let id = id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
    Ok(StoredTopic { id, name: topic.name.clone(), extent, config, is_deleted })
}

fn next_id(next: Option<TopicId>) -> Result<TopicId> {
    let limit = u32::MAX as usize;
    next.ok_or_else(|| Error::over("topics ever", limit + 1, limit))
}

/// What a group will change, before the log has it.
#[derive(Default)]
struct Draft {
    topics: Vec<DraftTopic>,
    by_topic: HashMap<*const Topic, usize>,
    answers: Vec<Answer>,
    next_id: Option<TopicId>,
}

/// A topic that the group appends to.
struct DraftTopic {
    topic: Arc<Topic>,
    id: TopicId,
    /// As it is before the group.
    state: TopicState,
    /// The sequence that the next event gets.
    next: Sequence,
    /// Where the group's events of this topic begin; known when all of them are.
    first_position: Position,
    builders: Vec<BlockBuilder>,
    /// What its acknowledgements mean.
    durability: Durability,
    /// Ids of events in this same group.
    ids: HashMap<Box<str>, Sequence>,
}

impl DraftTopic {
    fn receipt(&self, sequence: Sequence, now: Timestamp) -> Receipt {
        let offset = sequence.get() - self.state.extent.tail.get();
        Receipt { sequence, position: self.first_position.plus(offset), time: now }
    }

    fn push(&mut self, record: &[u8], has_id: bool, has_ttl: bool, max_block_bytes: usize) {
        let full = |builder: &BlockBuilder| builder.size_bytes() + record.len() > max_block_bytes;
        if self.builders.last().is_none_or(full) {
            self.builders.push(BlockBuilder::new(self.next));
        }
        if let Some(builder) = self.builders.last_mut() {
            builder.push(record, has_id, has_ttl);
        }
        self.next = self.next.next();
    }
}

/// A request with its outcome, waiting for the log.
struct Answer {
    outcome: Result<Placed>,
    /// What it means where nothing had to be appended for it.
    durability: Durability,
    request: oneshot::Sender<Result<Ack>>,
    _topic: TopicRef,
    _space: OwnedSemaphorePermit,
}

/// A request whose events have their sequences.
struct Placed {
    /// Which of the draft's topics; `None` when every event was stored before.
    topic: Option<usize>,
    records: NewRecords,
    first: Sequence,
    /// Events that are not appended, by index: stored before, or earlier in this group.
    duplicates: Vec<(usize, Known)>,
}

/// Where a repeated id was found.
#[derive(Clone, Copy)]
enum Known {
    Stored(Receipt),
    InGroup(Sequence),
}

impl Placed {
    fn is_duplicate(&self, index: usize) -> bool {
        self.duplicates.binary_search_by_key(&index, |(index, _)| *index).is_ok()
    }

    /// The sequence of an event that is no duplicate.
    fn sequence(&self, index: usize) -> Sequence {
        let skipped = self.duplicates.partition_point(|(duplicate, _)| *duplicate < index);
        self.first.plus((index - skipped) as u64)
    }

    fn new_ids<'a>(&'a self, records: &'a NewRecords) -> impl Iterator<Item = (usize, &'a str)> {
        let ids = records.ids().iter().map(|(index, id)| (*index, &**id));
        ids.filter(|(index, _)| !self.is_duplicate(*index))
    }
}

impl Draft {
    /// Gives the events of `request` their sequences, or refuses it whole.
    fn place(&mut self, committer: &mut Committer, request: Request, now: Timestamp) {
        let Request { topic, records, expected_sequence, answer, _space } = request;
        let outcome = self.try_place(committer, &topic, records, expected_sequence, now);
        let durability = committer.durability(&topic);
        self.answers.push(Answer { outcome, durability, request: answer, _topic: topic, _space });
    }

    fn try_place(
        &mut self,
        committer: &mut Committer,
        topic: &Arc<Topic>,
        records: NewRecords,
        expected_sequence: Option<u64>,
        now: Timestamp,
    ) -> Result<Placed> {
        let drafted = self.by_topic.get(&Arc::as_ptr(topic)).copied();
        let state = topic.state();
        let next = drafted.map_or(state.extent.tail, |index| self.topics[index].next);
        let in_group = drafted.map(|index| &self.topics[index].ids);
        let duplicates = match (records.ids().is_empty(), state.id) {
            (true, _) => Vec::new(),
            (false, id) => find_duplicates(&records, next, |id_text| {
                let kept = state.extent.earliest..next;
                let stored = |id| committer.window.find(id, id_text, kept.clone(), now);
                let grouped = in_group.and_then(|ids| ids.get(id_text));
                grouped.map(|s| Known::InGroup(*s)).or(id.and_then(stored).map(Known::Stored))
            }),
        };
        let actual = next.previous().get();
        if let Some(expected) = expected_sequence
            && expected != actual
            && duplicates.len() < records.len()
        {
            return Err(Error::UnexpectedSequence { topic: topic.name.clone(), expected, actual });
        }
        let index = match drafted {
            None if duplicates.len() == records.len() => {
                return Ok(Placed { topic: None, records, first: next, duplicates });
            }
            None => self.draft_topic(committer, topic, state)?,
            Some(index) => index,
        };
        let placed = Placed { topic: Some(index), records, first: next, duplicates };
        let topic = &mut self.topics[index];
        for (event, id) in placed.new_ids(&placed.records) {
            topic.ids.insert(id.into(), placed.sequence(event));
        }
        let mut ids = placed.records.ids().iter().map(|(index, _)| *index).peekable();
        for event in 0..placed.records.len() {
            let has_id = ids.next_if_eq(&event).is_some();
            if placed.duplicates.is_empty() || !placed.is_duplicate(event) {
                let (record, has_ttl) = (placed.records.record(event), placed.records.has_ttl());
                topic.push(record, has_id, has_ttl, committer.max_block_bytes);
            }
        }
        Ok(placed)
    }

    fn draft_topic(
        &mut self,
        committer: &Committer,
        topic: &Arc<Topic>,
        state: TopicState,
    ) -> Result<usize> {
        if !state.exists() && !committer.auto_create {
            return Err(Error::UnknownTopic(topic.name.clone()));
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
        self.topics.push(DraftTopic {
            topic: topic.clone(),
            id,
            state,
            next: state.extent.tail,
            first_position: Position::new(0),
            builders: Vec::new(),
            durability: committer.durability(topic),
            ids: HashMap::new(),
        });
        self.by_topic.insert(Arc::as_ptr(topic), index);
        Ok(index)
    }

    /// Gives out positions, topic by topic, and ends the blocks.
    fn finish(&mut self, first_position: Position, now: Timestamp) -> Group {
        let lowest = Group { durability: Durability::Memory, ..Group::default() };
        let mut group = lowest;
        let mut position = first_position;
        for topic in &mut self.topics {
            topic.first_position = position;
            group.durability = group.durability.max(topic.durability);
            if !topic.state.exists() && !topic.builders.is_empty() {
                let TopicState { extent, config, .. } = topic.state;
                let name = topic.topic.name.clone();
                let created = StoredTopic { id: topic.id, name, extent, config, is_deleted: false };
                group.created.push(created);
            }
            let mut end_bytes = topic.state.extent.appended_bytes;
            for builder in topic.builders.drain(..) {
                let count = builder.count();
                let block = builder.finish(position, now, end_bytes);
                end_bytes = block.end_bytes();
                group.blocks.push((topic.id, block));
                position = position.plus(count);
            }
        }
        group
    }

    /// Answers everyone; what was appended has this durability.
    fn answer(self, appended: Result<()>, durability: Option<Durability>, now: Timestamp) {
        for answer in self.answers {
            let ack = answer.outcome.and_then(|placed| {
                if placed.depends_on_group() {
                    appended.clone()?;
                }
                let topic = placed.topic.map(|index| &self.topics[index]);
                // A sync makes durable what was appended before it, too.
                let durability =
                    durability.filter(|_| appended.is_ok()).max(Some(answer.durability));
                Ok(placed.ack(topic, durability.unwrap_or(answer.durability), now))
            });
            let _publisher_is_gone = answer.request.send(ack);
        }
    }
}

impl Placed {
    /// Whether any of the events was not durable before the group.
    fn depends_on_group(&self) -> bool {
        let stored = |(_, known): &(usize, Known)| matches!(known, Known::Stored(_));
        self.duplicates.len() < self.records.len() || !self.duplicates.iter().all(stored)
    }

    fn ack(&self, topic: Option<&DraftTopic>, durability: Durability, now: Timestamp) -> Ack {
        let in_group = |sequence| {
            topic.expect("what the group appends has a topic in it").receipt(sequence, now)
        };
        let duplicate = |(index, known): &(usize, Known)| Duplicate {
            index: *index,
            receipt: match *known {
                Known::Stored(receipt) => receipt,
                Known::InGroup(sequence) => in_group(sequence),
            },
        };
        let appended = self.duplicates.len() < self.records.len();
        Ack {
            count: self.records.len(),
            first_appended: appended.then(|| in_group(self.first)),
            duplicates: self.duplicates.iter().map(duplicate).collect(),
            durability,
        }
    }
}

/// The events of `records` whose id `find` knows, or that an earlier one of them has too.
fn find_duplicates(
    records: &NewRecords,
    next: Sequence,
    find: impl Fn(&str) -> Option<Known>,
) -> Vec<(usize, Known)> {
    let mut duplicates: Vec<(usize, Known)> = Vec::new();
    let mut own: HashMap<&str, Sequence> = HashMap::with_capacity(records.ids().len());
    for (index, id) in records.ids() {
        let repeated = own.get(&**id).map(|sequence| Known::InGroup(*sequence));
        match repeated.or_else(|| find(id)) {
            Some(known) => duplicates.push((*index, known)),
            None => {
                own.insert(id, next.plus((index - duplicates.len()) as u64));
            }
        }
    }
    duplicates
}
