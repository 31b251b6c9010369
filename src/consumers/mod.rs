//! Consumers: named readers whose state the broker keeps, behind [`Consumers`].
//!
//! A **consumer** is a name with a selection (one topic, or a pattern of topics) and a filter. Its
//! **checkpoint** is a cursor: all up to it is finished. Its **marks** say which events are seen,
//! read, archived or snoozed.
//!
//! ```text
//! checkpoint, mark ──▶ keeper (one task) ──▶ $consumers, a topic of the broker ──▶ durable
//!                        │ decides on                                               │
//! get, state, follow ◀── view (in memory) ◀─────────────────────────────────────────┘
//! ```
//!
//! `records.rs` has the records in the log, `loading.rs` builds the view from them, `view.rs` holds
//! all consumers and `entry.rs` one. `keeper.rs` is the one writer, which decides by `deciding.rs`
//! and `marking.rs`; on the way to it, `line.rs` keeps the changes of one caller in order. On a
//! node of a fleet that another one leads, `led.rs` sends changes there (`to_leader.rs`,
//! `act_form.rs`), and `answering.rs` answers them. `following.rs` tells followers what changed.
//! `counting/` counts a consumer's events, and `inbox/` lists them with their marks. `oversight.rs`
//! tells who is behind, and which dead letters wait. Nothing here knows a protocol.
//!
//! # Why
//!
//! What the broker keeps for readers is events of a topic, as everything else. So it is durable,
//! ordered, in each backup and checked by what is there already. There is no second store.

mod act_form;
mod answering;
mod applying;
mod aside;
mod changes;
mod config;
mod counting;
mod cursors;
mod deciding;
mod entry;
mod finding;
mod following;
mod id;
mod in_order;
mod inbox;
mod keeper;
mod keeper_command;
mod kept_batch;
mod led;
mod led_keeper;
mod line;
mod loading;
mod marking;
mod marks;
mod name;
mod oversight;
mod queueing;
mod ranges;
mod records;
mod requests;
mod resolving;
mod sharing;
#[cfg(test)]
mod tests;
mod to_leader;
mod view;
pub(crate) mod work;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::{Semaphore, mpsc};

pub use self::changes::{Changed, ChangedEvents, MarksChange, StateChange};
pub use self::config::{ConsumerScope, ConsumersConfig};
pub use self::counting::count::{CountFilter, EventCounts, MAX_COUNT_FILTERS, PlacedCounts};
pub use self::counting::tag::CountsTag;
use self::counting::tag::KnownExpiries;
use self::deciding::{Act, Changeable};
use self::entry::ConsumerEntry;
use self::following::StateFollowers;
pub use self::following::{StateChanges, StateFollower};
pub(crate) use self::id::check_owner;
pub use self::id::{ConsumerChange, ConsumerId, ConsumerSettings, MAX_OWNER_BYTES};
pub use self::inbox::group_page::{EventGroup, GroupBy, GroupCursor, GroupPage, GroupRequest};
pub use self::inbox::page::{InboxEvent, InboxPage, InboxRequest};
use self::keeper::{Keeper, MARKS_BYTES, NOWHERE};
use self::keeper_command::{KeeperCommand, KeeperOutcome};
use self::led_keeper::LedKeeper;
use self::line::ChangeOrder;
use self::loading::LoadedConsumers;
use self::marking::Marking;
use self::marks::Exceptions;
pub(crate) use self::marks::MarkLine;
pub use self::marks::{EventMarks, Mark, MarkFilter, Marked, Marks};
pub(crate) use self::name::OF_WEBHOOKS;
pub use self::name::{ConsumerName, MAX_CONSUMER_NAME_BYTES};
pub use self::records::TOPIC;
use self::requests::shown;
pub use self::requests::{
    Checkpoint, CheckpointAck, ConsumerInfo, ConsumerList, ConsumerState, EventName, MarkAck,
    MarkRequest, MarkedEvents,
};
pub(crate) use self::requests::{TopicReader, UnhandledLetters};
use self::to_leader::ToLeader;
use self::view::View;
use self::work::WorkQueues;
pub use self::work::{
    DEAD_CONSUMER_HEADER, DEAD_ID_HEADER, DEAD_REASON_HEADER, DEAD_SEQUENCE_HEADER,
    DEAD_TOPIC_HEADER, DEAD_TRIES_HEADER, LeaseId, Leased, MAX_DELAY_MS, MAX_LEASE_MS, MAX_PULL,
    MAX_REASON_BYTES, MAX_SETTLED, MAX_WORKER_BYTES, Nack, PullRequest, SettleOutcome, Settled,
    Settlement, WorkConfig, WorkQueue, WorkSettings, WorkStatus, WorkTotals,
};
use crate::broker::{Answerer, Broker};
use crate::cursor::{Cursor, Position, StartPoint};
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicName;

/// The kind of the questions that nodes of a fleet ask the leader.
const QUESTIONS: &str = "consumers";

/// The most consumers of one list.
const MAX_LIST: usize = 1_000;

/// The consumers of a broker. Cheap to clone; all clones are one.
///
/// All changes are durable when they are answered. What is read is what was answered.
///
/// A broker has one `Consumers` at a time: two of them would decide without each other. In a fleet,
/// each node has one. That of the leader decides; the others send changes there, and all read the
/// same records. A change is seen at once on the node where it was asked for, and a moment later on
/// the others.
///
/// Changes that are begun at the same time may be decided in any order: await one before the next
/// is begun, or use a handle of [`Consumers::in_order`].
#[derive(Debug, Clone)]
pub struct Consumers(Arc<ConsumersParts>, Changeable, Option<ChangeOrder>);

#[derive(Debug)]
struct ConsumersParts {
    broker: Broker,
    config: ConsumersConfig,
    view: Arc<RwLock<View>>,
    followers: Arc<StateFollowers>,
    commands: mpsc::Sender<KeeperCommand>,
    /// The sequence of the last record that the view has.
    reached: Arc<AtomicU64>,
    /// The room in the queue, in bytes.
    space: Arc<Semaphore>,
    /// The way to the node that leads, if that is another one.
    to_leader: ToLeader,
    /// The queues of the consumers that share their events.
    work: WorkQueues,
    /// The times at which counts change because an event expires.
    expiries: KnownExpiries,
}

impl Consumers {
    /// Opens the consumers of a broker, and builds their state from the log.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a setting is wrong, or a record is none that this version can read. As
    /// [`Broker::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn open(broker: &Broker, config: &ConsumersConfig) -> Result<Self> {
        let asked = broker.clone();
        let to_leader = ToLeader::new(move |request| {
            let asked = asked.clone();
            Box::pin(async move { asked.ask_leader(QUESTIONS, request).await })
        });
        let consumers = Self::open_in_fleet(broker, config, to_leader).await?;
        // The broker has it for as long as it lives, and must not keep itself alive.
        let parts = Arc::downgrade(&consumers.0);
        let answerer: Answerer = Arc::new(move |request| {
            let parts = parts.upgrade();
            Box::pin(async move {
                let parts = parts.ok_or(Error::ShuttingDown)?;
                Self(parts, Changeable::All, None).answer(request).await
            })
        });
        broker.answer_questions(QUESTIONS, answerer);
        Ok(consumers)
    }

    /// As [`Self::open`], on a node of a fleet, which asks the leader on the way `to_leader`.
    async fn open_in_fleet(
        broker: &Broker,
        config: &ConsumersConfig,
        to_leader: ToLeader,
    ) -> Result<Self> {
        config.validate()?;
        let topic = TopicName::new(TOPIC)?;
        let (leadership, term) = (broker.leadership(), broker.lead_term());
        let LoadedConsumers { view, work, reader } = loading::load(broker, &topic).await?;
        let view = Arc::new(RwLock::new(view));
        let work = WorkQueues::new(broker.clone(), topic.clone(), config.work.clone(), work, term);
        let followers = StateFollowers::new(config.max_kept_changes);
        let (commands, queued) = mpsc::channel(config.max_queue_commands);
        let reached = Arc::new(AtomicU64::new(reader.reached().get()));
        let keeper = Keeper {
            broker: broker.clone(),
            topic,
            config: config.clone(),
            view: view.clone(),
            followers: followers.clone(),
            work: work.clone(),
            commands: queued,
            taken: VecDeque::new(),
            leadership,
            reached: reached.clone(),
            led: LedKeeper::new(to_leader.clone(), (!broker.is_alone()).then_some(reader)),
        };
        tokio::spawn(polls::timed(polls::Task::Consumers, keeper.run()));
        let (broker, config) = (broker.clone(), config.clone());
        let space = Arc::new(Semaphore::new(config.max_queue_bytes));
        let expiries = KnownExpiries::new(config.max_kept_expiries);
        let parts = ConsumersParts {
            broker,
            config,
            view,
            followers,
            commands,
            reached,
            space,
            to_leader,
            work,
            expiries,
        };
        Ok(Self(Arc::new(parts), Changeable::All, None))
    }

    /// Returns the settings.
    pub fn config(&self) -> &ConsumersConfig {
        &self.0.config
    }

    /// Creates a consumer, or gives the one that exists these settings. A new one begins after
    /// `from`, or before all events; one that exists keeps its checkpoint.
    ///
    /// # Errors
    ///
    /// Nothing was written: [`Error::Invalid`], also for the name of a webhook's consumer,
    /// [`Error::OverLimit`], [`Error::UnknownTopic`] for a `from` that is none of the selection,
    /// [`Error::Full`], [`Error::Busy`]. As [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the change may or may not be stored. It can be repeated.
    pub async fn put(
        &self,
        id: ConsumerId,
        settings: ConsumerSettings,
        from: Option<StartPoint>,
    ) -> Result<ConsumerInfo> {
        settings.check(&id)?;
        let line = self.in_line(&id);
        let turn = line.turn().await;
        let from = match from {
            Some(from) => self.resolved(&id, from).await?,
            None => None,
        };
        let reach = self.reach(&id, from).await?;
        let bytes = settings.size_bytes();
        let outcome = self.ask(&id, Act::Put { settings, from, reach }, bytes, turn).await?;
        self.info_of(&id, outcome)
    }

    /// Changes some settings of a consumer.
    ///
    /// # Errors
    ///
    /// As [`Self::put`]; [`Error::UnknownConsumer`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn update(&self, id: &ConsumerId, change: ConsumerChange) -> Result<ConsumerInfo> {
        let settings = change.clone().applied(&ConsumerSettings::default());
        settings.check(id)?;
        let (line, bytes) = (self.in_line(id), settings.size_bytes());
        let outcome = self.ask(id, Act::Update(change), bytes, line.turn().await).await?;
        self.info_of(id, outcome)
    }

    /// Returns a consumer as it is now. One that does not exist is told as it would be created by
    /// its first use, unless `consumers.auto_create` is false.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownConsumer`]; [`Error::Invalid`], [`Error::OverLimit`] for an owner that none
    /// can have.
    pub fn get(&self, id: &ConsumerId) -> Result<ConsumerInfo> {
        id.check()?;
        let epoch = self.0.broker.epoch();
        match self.view().get(id) {
            Some(entry) => Ok(self.shown(entry)),
            None if self.0.config.auto_create => Ok(ConsumerEntry::new(id, 0).info(epoch)),
            None => Err(Error::UnknownConsumer(shown(&id.selection, &id.name))),
        }
    }

    /// Deletes a consumer with its checkpoint and its marks, in one act.
    ///
    /// # Errors
    ///
    /// As [`Self::update`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn delete(&self, id: &ConsumerId) -> Result<()> {
        let line = self.in_line(id);
        self.ask(id, Act::Delete, 0, line.turn().await).await.map(drop)
    }

    /// Returns consumers in the order of owner, selection and name: up to 1,000, however long the
    /// list may be. None are after one whose owner none can have.
    pub fn list(&self, of: &ConsumerList) -> Vec<ConsumerInfo> {
        if of.after.as_ref().is_some_and(|after| after.check().is_err()) {
            return Vec::new();
        }
        let entries = self.view().list(of, of.limit.min(MAX_LIST));
        entries.iter().map(|entry| self.shown(entry)).collect()
    }

    /// Returns the number of all consumers.
    pub fn count(&self) -> usize {
        self.view().len()
    }

    /// Sets a checkpoint. It moves forward only, unless `to` says otherwise.
    ///
    /// # Errors
    ///
    /// As [`Self::put`]; [`Error::UnexpectedCheckpoint`]; [`Error::UnknownConsumer`] if
    /// `consumers.auto_create` is false. [`Error::Invalid`] for a cursor of another epoch, one
    /// ahead of the tail, and one of the wrong kind.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn checkpoint(&self, id: &ConsumerId, to: Checkpoint) -> Result<CheckpointAck> {
        let broker = &self.0.broker;
        cursors::check_cursor(broker, id, ("cursor", to.to))?;
        if let Some(expected) = to.expected.flatten() {
            cursors::check_kind(broker, id, ("expected", expected))?;
        }
        // So that a refusal tells the present checkpoint as all cursors are told.
        let to = Checkpoint { to: Cursor { epoch: Some(broker.epoch()), ..to.to }, ..to };
        let line = self.in_line(id);
        let turn = line.turn().await;
        let reach = self.reach(id, Some(to.to)).await?;
        let act = Act::Checkpoint { to, reach };
        let KeeperOutcome { entry, changed } = self.ask(id, act, 0, turn).await?;
        let epoch = self.0.broker.epoch();
        let checkpoint = entry.as_ref().and_then(|entry| entry.checkpoint());
        Ok(CheckpointAck {
            checkpoint: checkpoint.map(|cursor| Cursor { epoch: Some(epoch), ..cursor }),
            moved: changed,
            revision: entry.map_or(NOWHERE, |entry| Position::new(entry.revision)),
        })
    }

    /// Changes marks: all that the request names, or nothing. A repeated request changes nothing
    /// more. `by` is the caller, as followers are told.
    ///
    /// # Errors
    ///
    /// As [`Self::checkpoint`]; [`Error::OverLimit`]: too many events are named or have to be
    /// looked at, or the consumer's marks would take too many bytes.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn mark(&self, id: &ConsumerId, request: MarkRequest, by: &str) -> Result<MarkAck> {
        id.check()?;
        marking::check(&request, self.0.broker.now())?;
        let line = self.in_line(id);
        let turn = line.turn().await;
        let (events, gone) = self.found(id, &request, &turn).await?;
        let MarkRequest { mark, unmark, snooze_until, .. } = request;
        let dropped = Exceptions::new();
        let marking = Marking { mark, unmark, snooze_until, by: by.into(), events, gone: dropped };
        let number = turn.number() + 1;
        let KeeperOutcome { entry, changed } = match self.ask_mark(id, marking.clone(), turn).await
        {
            // The marks of events that compaction dropped may take the room.
            Err(Error::OverLimit { name, value, limit }) if name == MARKS_BYTES => {
                let turn = line.turn().await;
                // A change that came after this one is decided already, and stays after it.
                let is_last = turn.number() == number;
                let gone = if is_last { self.gone(id).await? } else { Exceptions::new() };
                if gone.is_empty() {
                    return Err(Error::OverLimit { name, value, limit });
                }
                self.ask_mark(id, Marking { gone, ..marking }, turn).await?
            }
            outcome => outcome?,
        };
        let revision = entry.map_or(NOWHERE, |entry| Position::new(entry.revision));
        Ok(MarkAck { revision, changed, gone })
    }

    /// Returns a consumer with its marks, as it is now. One that does not exist is told as it would
    /// be created.
    ///
    /// # Panics
    ///
    /// If the owner has more than 65,535 bytes: none can have more than [`MAX_OWNER_BYTES`].
    pub fn state(&self, id: &ConsumerId) -> ConsumerState {
        let entry = self.view().get(id).cloned();
        let epoch = self.0.broker.epoch();
        let Some(entry) = entry else { return ConsumerEntry::new(id, 0).state(epoch) };
        let state = entry.state(epoch);
        match entry.settings().shared {
            Some(_) => ConsumerState { info: Arc::new(self.shown(&entry)), ..state },
            None => state,
        }
    }

    /// Whether a consumer is stored.
    pub fn exists(&self, id: &ConsumerId) -> bool {
        self.view().get(id).is_some()
    }

    /// Returns a follower of the state of a consumer, which need not exist.
    pub fn follow(&self, id: &ConsumerId) -> StateFollower {
        let text = entry::text_of(&id.owner, id.selection.as_str(), id.name.as_str());
        let revision = || self.view().get(id).map_or(0, |entry| entry.revision);
        StateFollower::new(&self.0.followers, text, revision)
    }

    /// Returns the changes that a follower of this consumer was not told, and takes it that it is
    /// told them. The first ones are the whole state, unless the follower [knows] a revision.
    ///
    /// [knows]: StateFollower::knows
    pub fn changes(&self, id: &ConsumerId, follower: &mut StateFollower) -> StateChanges {
        follower.take(|| self.state(id))
    }

    /// Returns the present state, and takes it that the follower is told it: afterwards, it is told
    /// newer changes only.
    pub(crate) fn whole(&self, id: &ConsumerId, follower: &mut StateFollower) -> ConsumerState {
        follower.take_whole(|| self.state(id))
    }

    /// Describes a consumer. The checkpoint of one that shares its events is that of its work.
    fn shown(&self, entry: &ConsumerEntry) -> ConsumerInfo {
        let epoch = self.0.broker.epoch();
        let info = entry.info(epoch);
        match entry.settings().shared {
            Some(_) => {
                let floor = self.0.work.floor(entry.number);
                let floor = floor.map(|cursor| Cursor { epoch: Some(epoch), ..cursor });
                ConsumerInfo { checkpoint: floor.or(info.checkpoint), ..info }
            }
            None => info,
        }
    }

    fn info_of(&self, id: &ConsumerId, outcome: KeeperOutcome) -> Result<ConsumerInfo> {
        let entry = outcome.entry.map(|entry| self.shown(&entry));
        // It was deleted since.
        entry.ok_or_else(|| Error::UnknownConsumer(shown(&id.selection, &id.name)))
    }

    fn view(&self) -> RwLockReadGuard<'_, View> {
        self.0.view.read().unwrap_or_else(PoisonError::into_inner)
    }
}
