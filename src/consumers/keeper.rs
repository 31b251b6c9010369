//! The one writer of consumers: decides commands in their order, writes what they change, and
//! answers them when it is durable.
//!
//! ```text
//! callers ──▶ queue (bounded in bytes and number) ──▶ keeper: decide ──▶ one publish ──▶ durable
//!                                                               view ◀── apply, answer ◀──┘
//! ```
//!
//! `led.rs` has what the keeper does on a node of a fleet that another node leads.
//!
//! # Why
//!
//! Decisions do not race, because one task makes all of them, on a view that only it changes.
//! Grouping needs no timer: while one batch is being stored, the next one queues up. A command is
//! decided on what the commands before it in the batch have changed; if the batch is not stored,
//! all that rests on it is answered with the error, and the view is as before.
//!
//! In a fleet, the keeper of the leader decides, and no other. If each node decided on its own view
//! and stored a batch only where nobody else was faster, a node far from the leader would seldom be
//! the faster one, and the records of shared work, which are in the same topic, would refuse nearly
//! every batch. A batch is stored in the term in which it was decided, or not at all: so a leader
//! that has lost its lead, and does not know it yet, changes nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc;

use super::changes::{Changed, StateChange, with_one_of_marks};
use super::config::ConsumersConfig;
use super::deciding::{Act, Changeable, Circumstances, Decided, decide};
use super::entry::{ConsumerEntry, text_of};
use super::following::StateFollowers;
use super::id::ConsumerId;
use super::keeper_command::KeeperCommand;
use super::kept_batch::{KeptBatch, WaitingAnswer};
use super::led_keeper::LedKeeper;
use super::records::{TOPIC, consumer_event, marks_event};
use super::requests::shown;
use super::view::View;
use super::work::WorkQueues;
use crate::broker::{Ack, Broker, LeadTerm, LeadershipWatch, Publish};
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
pub(super) const MAX_APPLIED: usize = 64;

/// The longest wait of a node that stores nothing as the leader for its leadership to end.
const MAX_UNLED: Duration = Duration::from_secs(5);

/// The name of the bound on the marks of one consumer.
pub(super) const MARKS_BYTES: &str = "bytes of a consumer's marks";

/// The one writer of consumers.
pub(super) struct Keeper {
    pub(super) broker: Broker,
    pub(super) topic: TopicName,
    pub(super) config: ConsumersConfig,
    pub(super) view: Arc<RwLock<View>>,
    pub(super) followers: Arc<StateFollowers>,
    pub(super) work: WorkQueues,
    pub(super) commands: mpsc::Receiver<KeeperCommand>,
    /// Commands that were taken out of the queue, and are to be decided before the others.
    pub(super) taken: VecDeque<KeeperCommand>,
    pub(super) leadership: LeadershipWatch,
    /// The sequence of the last record that the view has.
    pub(super) reached: Arc<AtomicU64>,
    /// What there is besides while another node leads.
    pub(super) led: LedKeeper,
}

impl Keeper {
    /// Runs until every handle is gone and the queue is empty; each command is answered.
    pub(super) async fn run(mut self) {
        loop {
            let goes_on = match self.leadership.term() {
                Some(term) => self.lead(term).await,
                None => self.follow().await,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Decides for as long as this node leads. Returns whether to go on after that.
    async fn lead(&mut self, term: LeadTerm) -> bool {
        match self.catch_up().await {
            Ok(()) => {}
            Err(error) => return self.cannot_read(error).await,
        }
        self.work.lead(Some(term));
        let goes_on = self.decide_all(term).await;
        if goes_on {
            self.work.lead(None);
            // Of what was decided last, nobody may know whether it is stored.
            self.led.is_behind = true;
        }
        goes_on
    }

    async fn decide_all(&mut self, term: LeadTerm) -> bool {
        let mut queued = Vec::new();
        loop {
            if self.taken.is_empty() {
                let count = tokio::select! {
                    biased;
                    () = self.leadership.changed() => return true,
                    count = self.commands.recv_many(&mut queued, MAX_BATCH_COMMANDS) => count,
                };
                if count == 0 {
                    return false;
                }
                self.taken.extend(queued.drain(..));
            }
            let mut batch = KeptBatch::default();
            while batch.bytes < MAX_BATCH_BYTES
                && let Some(queued) = self.taken.pop_front()
            {
                self.take(queued, &mut batch).await;
                polls::rest().await;
            }
            if let Err(refused) = self.store(batch, term).await {
                self.give_back(refused).await;
                return true;
            }
        }
    }

    /// Puts the commands of a batch, which was not stored because this node leads no longer, before
    /// all others. Waits until the leadership has ended here, too.
    async fn give_back(&mut self, batch: KeptBatch) {
        for waiting in batch.answers.into_iter().rev() {
            self.taken.push_front(waiting.command);
        }
        if tokio::time::timeout(MAX_UNLED, self.leadership.changed()).await.is_err() {
            self.taken.drain(..).for_each(|command| command.refuse(Error::NotLeading));
        }
    }

    /// Decides on a command, and adds what it changes to the batch.
    async fn take(&self, command: KeeperCommand, batch: &mut KeptBatch) {
        if command.answer.is_closed() {
            return; // Nobody waits for it any more.
        }
        let KeeperCommand { id, act, changeable, .. } = &command;
        let text = text_of(&id.owner, id.selection.as_str(), id.name.as_str());
        if matches!(act, Act::Delete) && *changeable != Changeable::Unshared {
            self.end_work(&text, batch).await;
        }
        let outcome = self.decide(id, (act, *changeable), &text, batch);
        if batch.drafts.contains_key(&text) {
            return batch.answers.push(WaitingAnswer { command, text, outcome });
        }
        // It rests on what is durable.
        command.answer(outcome, || self.read().of_text(&text).cloned());
    }

    /// Ends the work of a consumer that is about to be deleted, so that nothing is written for it
    /// afterwards.
    async fn end_work(&self, text: &str, batch: &mut KeptBatch) {
        let shares = |entry: &&Arc<ConsumerEntry>| entry.settings().shared.is_some();
        let number = self.read().of_text(text).filter(shares).map(|entry| entry.number);
        if let Some(number) = number {
            batch.endings.push(self.work.end(number).await);
        }
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

    /// Stores a batch, applies it to the view, and answers its commands. Returns the batch if
    /// nothing was stored because this node leads no longer.
    async fn store(&self, mut batch: KeptBatch, term: LeadTerm) -> Result<(), KeptBatch> {
        let (events, last_of) = batch.take_events();
        if !events.is_empty() {
            let stored = self.publish(events, term).await;
            match stored.map(|acks| acks.into_iter().next()) {
                Ok(Some(ack)) => self.apply(&mut batch, &last_of, &ack).await,
                Ok(None) => unreachable!("a publish has an acknowledgement"),
                Err(Error::NotLeading) => return Err(batch),
                Err(error) => {
                    batch.refuse(&error);
                    return Ok(());
                }
            }
        }
        for WaitingAnswer { command, text, outcome } in batch.answers {
            command.answer(outcome, || self.read().of_text(&text).cloned());
        }
        Ok(())
    }

    /// Publishes records, to a topic that is made with the first of them.
    async fn publish(&self, records: Vec<NewEvent>, term: LeadTerm) -> Result<Vec<Ack>> {
        let config =
            TopicConfig { tombstone_grace_ms: Some(TOMBSTONE_GRACE_MS), ..own_topics::keyed() };
        own_topics::open(&self.broker, TOPIC, config).await?;
        self.broker.publish_within(term, vec![Publish::new(self.topic.clone(), records)]).await
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
        self.reached.store(ack.last().sequence.get(), Ordering::Release);
    }

    pub(super) fn read(&self) -> std::sync::RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn with_epoch(what: Changed, epoch: crate::cursor::Epoch) -> Changed {
    match what {
        Changed::Checkpoint(cursor) => {
            Changed::Checkpoint(cursor.map(|cursor| Cursor { epoch: Some(epoch), ..cursor }))
        }
        other => other,
    }
}

/// The position of nothing, for answers about consumers that do not exist.
pub(super) const NOWHERE: Position = Position::BEFORE_ALL;
