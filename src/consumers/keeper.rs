//! The one writer of consumers: decides commands in their order, writes what they change, and
//! answers them when it is durable.
//!
//! ```text
//! callers ──▶ queue (bounded in bytes and number) ──▶ keeper: decide ──▶ one publish ──▶ durable
//!                                                               view ◀── apply, answer ◀──┘
//! ```
//!
//! # Why
//!
//! Decisions do not race, because one task makes all of them, on a view that only it changes.
//! Grouping needs no timer: while one batch is being stored, the next one queues up. A command is
//! decided on what the commands before it in the batch have changed; if the batch is not stored,
//! all that rests on it is answered with the error, and the view is as before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::changes::{Changed, StateChange, with_one_of_marks};
use super::config::ConsumersConfig;
use super::deciding::{Act, Changeable, Circumstances, Decided, decide};
use super::entry::{ConsumerEntry, text_of};
use super::following::StateFollowers;
use super::id::ConsumerId;
use super::records::{RecordPiece, TOPIC, consumer_event, marks_event};
use super::requests::shown;
use super::view::View;
use super::work::WorkQueues;
use crate::broker::{Ack, Broker, Publish};
use crate::cursor::{Cursor, Position};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::own_topics;
use crate::polls;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The time for which the end of a record is kept, in milliseconds. Nobody follows the records by
/// a cursor, and work sharing ends many.
const TOMBSTONE_GRACE_MS: u64 = 60_000;

/// The most commands of one batch.
const MAX_BATCH_COMMANDS: usize = 1_024;

/// The most bytes of the records of one batch. A batch ends with the command that reaches them.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// The most entries that are applied under one lock of the view.
const MAX_APPLIED: usize = 64;

/// The name of the bound on the marks of one consumer.
pub(super) const MARKS_BYTES: &str = "bytes of a consumer's marks";

/// A command that waits for its decision.
#[derive(Debug)]
pub(super) struct KeeperCommand {
    pub(super) id: ConsumerId,
    pub(super) act: Act,
    pub(super) changeable: Changeable,
    pub(super) answer: oneshot::Sender<Result<KeeperOutcome>>,
    /// The room that the command takes in the queue.
    pub(super) _space: OwnedSemaphorePermit,
}

/// What became of a command: durable.
#[derive(Debug, Clone)]
pub(super) struct KeeperOutcome {
    /// The consumer after the command; `None` if it does not exist.
    pub(super) entry: Option<Arc<ConsumerEntry>>,
    /// Whether the command changed something.
    pub(super) changed: bool,
}

/// The one writer of consumers.
pub(super) struct Keeper {
    pub(super) broker: Broker,
    pub(super) topic: TopicName,
    pub(super) config: ConsumersConfig,
    pub(super) view: Arc<RwLock<View>>,
    pub(super) followers: Arc<StateFollowers>,
    pub(super) work: WorkQueues,
    pub(super) commands: mpsc::Receiver<KeeperCommand>,
}

/// What a batch changes, before it is stored.
#[derive(Default)]
struct KeptBatch {
    /// The consumers that the batch changes, by the texts of their identities.
    drafts: HashMap<Arc<str>, ConsumerDraft>,
    /// The texts in the order in which they were changed first.
    order: Vec<Arc<str>>,
    /// The highest number that the batch has given to a new consumer.
    last_number: u64,
    /// The consumers that the batch adds.
    added: usize,
    bytes: usize,
    answers: Vec<WaitingAnswer>,
}

/// A command that was decided on, and waits until the batch is durable.
struct WaitingAnswer {
    answer: oneshot::Sender<Result<KeeperOutcome>>,
    /// The text of the consumer's identity.
    text: Arc<str>,
    /// Whether the command changes something.
    outcome: Result<bool>,
    /// The command takes its room until it is answered.
    _space: OwnedSemaphorePermit,
}

/// One consumer as it will be.
struct ConsumerDraft {
    /// The consumer; `None` if it is deleted.
    entry: Option<ConsumerEntry>,
    consumer: Option<NewEvent>,
    marks: Option<NewEvent>,
    /// The keys of the consumers that are deleted.
    tombstones: Vec<String>,
    changes: Vec<(Arc<str>, Changed)>,
}

impl Keeper {
    /// Runs until every handle is gone and the queue is empty; each command is answered.
    pub(super) async fn run(mut self) {
        let mut queued = Vec::new();
        while self.commands.recv_many(&mut queued, MAX_BATCH_COMMANDS).await > 0 {
            let mut waiting = queued.drain(..).peekable();
            while waiting.peek().is_some() {
                let mut batch = KeptBatch::default();
                while batch.bytes < MAX_BATCH_BYTES
                    && let Some(queued) = waiting.next()
                {
                    self.take(queued, &mut batch);
                    polls::rest().await;
                }
                self.store(batch).await;
            }
        }
    }

    /// Decides on a command, and adds what it changes to the batch.
    fn take(&self, queued: KeeperCommand, batch: &mut KeptBatch) {
        let KeeperCommand { id, act, changeable, answer, _space } = queued;
        if answer.is_closed() {
            return; // Nobody waits for it any more.
        }
        let text = text_of(&id.owner, id.selection.as_str(), id.name.as_str());
        let outcome = self.decide(&id, (&act, changeable), &text, batch);
        if batch.drafts.contains_key(&text) {
            return batch.answers.push(WaitingAnswer { answer, text, outcome, _space });
        }
        // It rests on what is durable.
        let entry = self.read().of_text(&text).cloned();
        let _gone = answer.send(outcome.map(|changed| KeeperOutcome { entry, changed }));
    }

    /// Returns whether the command changes something.
    fn decide(
        &self,
        id: &ConsumerId,
        (act, changeable): (&Act, Changeable),
        text: &Arc<str>,
        batch: &mut KeptBatch,
    ) -> Result<bool> {
        let stored = self.read().of_text(text).cloned();
        let draft = batch.drafts.get(text);
        let current = match draft {
            Some(draft) => draft.entry.as_ref(),
            None => stored.as_deref(),
        };
        let earliest = |topic: &TopicName| Some(self.broker.extent(topic)?.earliest.get());
        let now = self.broker.now();
        let auto_create = self.config.auto_create;
        let around = Circumstances { now, earliest: &earliest, auto_create, changeable };
        let create = || self.created(id, batch);
        let what_of = || shown(&id.selection, &id.name);
        match decide(act, current, create, &around, what_of)? {
            Decided::Nothing => Ok(false),
            Decided::Deleted => {
                let number = current.map(|entry| entry.number).unwrap_or_default();
                let work = self.work.with_records(|records| records.keys_of(number));
                batch.delete(text, number, work);
                Ok(true)
            }
            Decided::Now { entry, is_consumer, by, what } => {
                self.change(text, entry, (is_consumer, by, what), batch)?;
                Ok(true)
            }
        }
    }

    /// Returns a new consumer, if there may be one more.
    fn created(&self, id: &ConsumerId, batch: &KeptBatch) -> Result<ConsumerEntry> {
        let view = self.read();
        let most = self.config.max_consumers;
        if (view.len() + batch.added) as u64 >= most {
            return Err(Error::full("consumers", most));
        }
        let most = self.config.max_consumers_per_owner;
        if !id.owner.is_empty() {
            let limit = usize::try_from(most).unwrap_or(usize::MAX);
            let of_batch = batch.drafts.values().filter(|draft| draft.is_new_of(&id.owner)).count();
            if view.count_of(&id.owner, limit) + of_batch >= limit {
                return Err(Error::full("consumers of this owner", most));
            }
        }
        Ok(ConsumerEntry::new(id, view.last_number().max(batch.last_number) + 1))
    }

    /// Adds a changed consumer to the batch.
    fn change(
        &self,
        text: &Arc<str>,
        entry: ConsumerEntry,
        (is_consumer, by, what): (bool, Arc<str>, Changed),
        batch: &mut KeptBatch,
    ) -> Result<()> {
        let marks = match &what {
            Changed::Marks(change) => {
                let is_one = batch.drafts.get(text).is_none_or(|draft| draft.marks.is_none());
                let (event, bytes) = marks_event(&entry, &by, is_one.then_some(change))?;
                let limit = self.config.max_marks_bytes;
                if bytes > limit {
                    return Err(Error::over(MARKS_BYTES, bytes, limit));
                }
                Some(event)
            }
            _ => None,
        };
        let consumer = is_consumer.then(|| consumer_event(&entry)).transpose()?;
        let is_new = entry.revision == 0 && !batch.drafts.contains_key(text);
        batch.added += usize::from(is_new);
        batch.last_number = batch.last_number.max(entry.number);
        batch.bytes +=
            [&consumer, &marks].into_iter().flatten().map(|it| it.payload.len()).sum::<usize>();
        let draft = batch.draft(text);
        draft.entry = Some(entry);
        draft.consumer = consumer.or(draft.consumer.take());
        draft.marks = marks.or(draft.marks.take());
        draft.changes.push((by, what));
        Ok(())
    }

    /// Stores a batch, applies it to the view, and answers its commands.
    async fn store(&self, mut batch: KeptBatch) {
        let mut events = Vec::new();
        let mut last_of = Vec::with_capacity(batch.order.len());
        for text in &batch.order {
            let draft = batch.drafts.get_mut(text).expect("each changed consumer has a draft");
            events.extend(draft.tombstones.drain(..).map(NewEvent::tombstone));
            events.extend(draft.consumer.take().into_iter().chain(draft.marks.take()));
            last_of.push(events.len().checked_sub(1));
        }
        if !events.is_empty() {
            let stored = self.publish(events).await;
            match stored.map(|acks| acks.into_iter().next()) {
                Ok(Some(ack)) => self.apply(&mut batch, &last_of, &ack).await,
                Ok(None) => unreachable!("a publish has an acknowledgement"),
                Err(error) => return batch.refuse(&error),
            }
        }
        let KeptBatch { answers, .. } = batch;
        for WaitingAnswer { answer, text, outcome, _space } in answers {
            let entry = self.read().of_text(&text).cloned();
            let _gone = answer.send(outcome.map(|changed| KeeperOutcome { entry, changed }));
        }
    }

    /// Publishes records, to a topic that is made with the first of them.
    async fn publish(&self, records: Vec<NewEvent>) -> Result<Vec<Ack>> {
        let config =
            TopicConfig { tombstone_grace_ms: Some(TOMBSTONE_GRACE_MS), ..own_topics::keyed() };
        own_topics::open(&self.broker, TOPIC, config).await?;
        self.broker.publish_own(vec![Publish::new(self.topic.clone(), records)]).await
    }

    /// Applies a stored batch to the view, and tells followers.
    async fn apply(&self, batch: &mut KeptBatch, last_of: &[Option<usize>], ack: &Ack) {
        let epoch = self.broker.epoch();
        let stored: Vec<_> = batch.order.iter().zip(last_of).collect();
        for some in stored.chunks(MAX_APPLIED) {
            let mut told = Vec::new();
            {
                let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
                for (text, last) in some {
                    let Some(last) = **last else { continue };
                    let draft = batch.drafts.get_mut(*text).expect("it is in the batch");
                    let (revision, time) = (ack.receipt(last).position, ack.receipt(last).time);
                    match draft.entry.take() {
                        Some(entry) => view.put(Arc::new(entry.with_revision(revision))),
                        None => {
                            let number = view.of_text(text).map(|entry| entry.number);
                            number.into_iter().for_each(|number| view.remove(number));
                            number.into_iter().for_each(|number| self.work.forget(number));
                        }
                    }
                    let mut changes = std::mem::take(&mut draft.changes);
                    with_one_of_marks(&mut changes);
                    told.push((*text, changes, revision, time));
                }
            }
            for (text, changes, revision, time) in told {
                let changes = changes.into_iter().map(|(by, what)| {
                    let what = with_epoch(what, epoch);
                    StateChange { revision, time, by, what }
                });
                self.followers.tell(text, changes.collect());
            }
            polls::rest().await;
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeptBatch {
    fn draft(&mut self, text: &Arc<str>) -> &mut ConsumerDraft {
        self.drafts.entry(text.clone()).or_insert_with(|| {
            self.order.push(text.clone());
            ConsumerDraft {
                entry: None,
                consumer: None,
                marks: None,
                tombstones: Vec::new(),
                changes: Vec::new(),
            }
        })
    }

    /// Deletes a consumer. What the batch would have written of it is not written.
    fn delete(&mut self, text: &Arc<str>, number: u64, work: Vec<String>) {
        let draft = self.draft(text);
        (draft.entry, draft.consumer, draft.marks) = (None, None, None);
        let pieces = [RecordPiece::Consumer(number), RecordPiece::Marks(number)];
        draft.tombstones.extend(pieces.map(RecordPiece::key).into_iter().chain(work));
        draft.changes.push((Arc::default(), Changed::Deleted));
    }

    /// Answers all that rests on the batch with the error for which it is not stored.
    fn refuse(self, error: &Error) {
        for waiting in self.answers {
            let _gone = waiting.answer.send(Err(error.clone()));
        }
    }
}

impl ConsumerDraft {
    fn is_new_of(&self, owner: &str) -> bool {
        self.entry.as_ref().is_some_and(|entry| entry.revision == 0 && entry.owner() == owner)
    }
}

fn with_epoch(what: Changed, epoch: crate::cursor::Epoch) -> Changed {
    match what {
        Changed::Checkpoint(cursor) => {
            Changed::Checkpoint(cursor.map(|cursor| Cursor { epoch: Some(epoch), ..cursor }))
        }
        other => other,
    }
}

/// The position of nothing, for answers about consumers that do not exist.
pub(super) const NOWHERE: Position = Position::BEFORE_ALL;

/// The bytes that a command takes in the queue besides its texts.
pub(super) const COMMAND_BYTES: usize = 512;
