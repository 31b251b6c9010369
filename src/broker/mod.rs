//! The broker: order, durability, fan-out, behind [`Broker`], the embedding API.
//!
//! ```text
//! publish ──▶ queue (bounded in bytes) ──▶ committer (one thread) ──▶ log
//!                                              │ durable
//! subscribe ◀── cursor over tail and log ◀─────┘
//! ```
//!
//! The folders: `order/` gives events their sequences; `topic/` has the topics, and finds them by
//! name; `tail/` has the newest blocks; `wake/` wakes followers; `read/` has every kind of reader;
//! `maintenance/` drops and rewrites events. `command.rs` has the requests to the committer and
//! `report.rs` its answers, as plain data; `queue.rs` carries the requests. `opening.rs` makes the
//! parts of a broker, and `shared.rs` holds them. `ending.rs` closes a broker, `closing.rs` has its
//! callers wait for that, and `open_log.rs` lets go of the log. No file below imports this one, and
//! the broker knows no protocol.
//!
//! The file is longer than others, because the promises of every call of the API stand in one
//! place.

mod announced;
mod arrivals;
mod arriving;
mod atomic;
mod backup;
mod backup_to;
mod batch;
mod busy;
mod clock;
mod closing;
mod command;
mod config;
mod dedup;
#[cfg(feature = "http")]
mod digests;
mod ending;
mod ephemeral;
mod failure;
mod filter;
#[cfg_attr(not(feature = "fleet"), allow(dead_code, reason = "the nodes of a fleet use it"))]
mod forward_queue;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod handing_in;
mod in_fleet;
mod leadership;
mod limits;
mod maintenance;
mod open_log;
mod opening;
mod order;
mod presence;
mod publish;
mod questions;
mod queue;
mod read;
#[cfg(feature = "fleet")]
mod reading_through;
mod report;
mod shared;
mod tail;
#[cfg(test)]
mod tests;
mod topic;
mod turns;
pub(crate) mod typed;
mod unread_topics;
mod wake;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::info;

pub use crate::log::{EventRef, Extent, Headers, LogConfig, LogSpace};
#[cfg(test)]
pub(crate) use crate::log::{Fault, FaultyLog};
pub(crate) use arrivals::Deposit;
pub use backup::{Backup, BackupDone};
pub use batch::{Batch, Events};
#[cfg(feature = "fleet")]
pub(crate) use command::Change;
pub(crate) use config::all_within;
pub use config::{BrokerConfig, OpenConfig};
pub use dedup::DedupConfig;
#[cfg(feature = "fleet")]
pub(crate) use ephemeral::EphemeralRelay;
pub use filter::Filter;
#[cfg(feature = "fleet")]
pub(crate) use forward_queue::ForwardQueue;
#[cfg(feature = "fleet")]
pub(crate) use forward_queue::{Forwarded, ForwardedAppend};
#[cfg(any(test, feature = "fleet"))]
pub(crate) use leadership::Leadership;
pub(crate) use leadership::{LeadTerm, LeadershipWatch};
pub use limits::LimitsConfig;
pub use maintenance::config::MaintenanceConfig;
#[cfg(feature = "fleet")]
pub(crate) use opening::FollowerConfig;
#[cfg(feature = "fleet")]
pub(crate) use presence::MemberElsewhere;
pub use presence::{MemberList, Presence};
#[cfg(feature = "fleet")]
pub(crate) use publish::PublisherId;
pub use publish::{InOrder, Pending, PendingAll, Publish};
#[cfg(feature = "fleet")]
pub(crate) use questions::LeaderAsker;
pub(crate) use questions::{Answerer, Answering};
pub use read::deliveries::{BackupStream, Deliveries, PageStream};
pub use read::delivery::{Delivery, Patience, Waited};
pub use read::feed::MAX_PATTERNS;
pub use read::page::{MAX_PAGE_GAPS, Page, PageReader, PageRequest};
pub use read::reader::Reader;
pub use read::state::page::{StatePage, StateRequest};
pub(crate) use read::walk::count::{EventCounter, SeekAfter};
pub(crate) use read::walk::ends::{PatternEnd, TopicEnd};
pub use read::walk::event_order::EventOrder;
pub(crate) use read::walk::merge::{WalkAnswer, WalkEnd, WalkVisitor, WalkedEvent};
pub(crate) use read::walk::newest::WalkRoom;
pub use read::walk::newest::{NewestPage, NewestRequest, TopicEvent};
pub(crate) use read::walk::selected::{Selected, SelectedTopic};
#[cfg(feature = "fleet")]
pub(crate) use reading_through::{ReadStep, ReadThrough};
pub use report::{Ack, Dropped, Duplicate, MaintenanceReport, Receipt};
pub(crate) use tail::form::WireForm;
pub use tail::run::Run;
pub use topic::defaults::TopicDefaults;
pub use topic::ephemeral::Ephemeral;
pub use topic::info::TopicInfo;
pub use topic::list::TopicList;
#[cfg(feature = "fleet")]
pub(crate) use topic::members::MemberRelay;
pub use topic::members::{Member, MemberInfo, Present};

use crate::cursor::{Cursor, Epoch, OnGap, Place, Position, Sequence, StartPoint, TrimReason};
use crate::error::{Error, OpenReason, Result};
use crate::event::{NewEvent, Timestamp};
use crate::lists;
use crate::log::{Log, MemoryLog, SledLog};
use crate::topic::{TopicId, TopicName, TopicPattern};
use crate::topic_config::TopicConfig;
use backup::BackupTaker;
use busy::Busy;
#[cfg(any(test, feature = "testing"))]
use clock::Now;
#[cfg(not(feature = "fleet"))]
use command::Change;
use command::Work;
use filter::Conditions;
use handing_in::{hand_in, hand_in_as};
use maintenance::foresight::Foresight;
use maintenance::maintainer::Ask;
use publish::{Answer, PublishTurn};
use queue::{AskedBy, Queued, QueuedChange};
use read::page::page_start;
use read::state::read_state;
use read::walk::count::EventCount;
use read::walk::ends::{ends_in, ends_of};
use read::walk::merge::{EventWalk, WalkBounds};
use read::walk::newest::{page_bounds, read_newest, walk_start};
use read::walk::source::WalkTerms;
use shared::{MAX_ASKS, Shared};

/// The time, in milliseconds, that a start may lie ahead of the broker's clock, because clocks
/// differ.
const MAX_AHEAD_MS: u64 = 60_000;

/// The longest walk over events whose caller bounds only their number.
const MAX_WALK: Duration = Duration::from_secs(10);

/// The broker: an event log per topic, durable before it is acknowledged, with replay.
///
/// Cheap to clone; all clones are the same broker.
///
/// # Runtimes
///
/// Asynchronous calls run in a tokio runtime with timers, of either flavor; in any other place they
/// fail with [`Error::NoRuntime`]. Opening, [`Broker::close`], [`Broker::close_blocking`] and all
/// calls that are not asynchronous need no runtime.
///
/// # The end
///
/// [`Broker::drain`] and [`Broker::close`] refuse all new work: each call that would store, read,
/// follow, join or change something fails with [`Error::ShuttingDown`], and readers end. What is in
/// memory is still told, also after the end: the epoch and the last position, limits, topics and
/// their lists, members, totals. [`Broker::close`] returns when every accepted publish is answered
/// and the data directory is free.
///
/// A broker whose last clone, reader, page, backup and presence are dropped without `close` ends as
/// well: its threads store and answer what was accepted, and then close the log. Nobody learns when
/// that is done, so a directory that is opened again at once may still be in use.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

impl Broker {
    /// Opens the broker on `directory`, which is created if it does not exist. The log of a node of
    /// a fleet is refused.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a setting is wrong. [`Error::Open`], [`Error::Damaged`] and
    /// [`Error::DamagedLog`]: no acknowledged event was changed.
    pub fn open(directory: impl AsRef<Path>, config: &OpenConfig) -> Result<Self> {
        let started = Instant::now();
        config.validate()?;
        let log = SledLog::open(directory.as_ref(), &config.log)?;
        if log.applied()?.is_some() {
            return Err(Error::open(directory.as_ref(), OpenReason::OfFleet));
        }
        let broker = Self::with_log(Arc::new(log), config)?;
        info!(
            directory = %directory.as_ref().display(),
            epoch = %broker.epoch(),
            last_position = broker.0.last_position(),
            elapsed_ms = started.elapsed().as_millis(),
            "opened the log"
        );
        Ok(broker)
    }

    /// Opens a broker that keeps its events in memory, for tests. They are lost when it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], and [`Error::Open`] when the system has no thread to give.
    pub fn in_memory(config: &OpenConfig) -> Result<Self> {
        Self::with_log(Arc::new(MemoryLog::default()), config)
    }

    /// Opens the broker on any log.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], as [`Log::topics`], and [`Error::Open`] when the system has no thread to
    /// give.
    pub fn with_log(log: Arc<dyn Log>, config: &OpenConfig) -> Result<Self> {
        let started = Some(Instant::now());
        opening::open(log, config, clock::system_clock(), started, Busy::default(), None).map(Self)
    }

    #[cfg(test)]
    fn with_clock(log: Arc<dyn Log>, config: &OpenConfig, now: Now) -> Result<Self> {
        opening::open(log, config, now, None, Busy::default(), None).map(Self)
    }

    /// Opens a broker for a test, which holds the test's clock while its threads work.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn watched(log: Arc<dyn Log>, config: &OpenConfig, now: Now) -> Result<Self> {
        opening::open(log, config, now, None, Busy::watched(), None).map(Self)
    }

    /// As [`Self::watched`], for a broker that follows another one, and leaves nothing to it.
    #[cfg(all(test, feature = "fleet"))]
    pub(crate) fn watched_follower(
        log: Arc<dyn Log>,
        config: &OpenConfig,
        now: Now,
    ) -> Result<Self> {
        let fleet = Some(opening::FollowerConfig::default());
        opening::open(log, config, now, None, Busy::watched(), fleet).map(Self)
    }

    /// Opens the broker of a node that follows another one: until [`Self::lead`] it decides
    /// nothing. Publishes, changes of topics and purges are left to the node that leads, by way of
    /// [`FollowerConfig::elsewhere`]; without it they are refused with [`Error::NotLeading`].
    ///
    /// # Errors
    ///
    /// As [`Self::with_log`].
    #[cfg(feature = "fleet")]
    pub(crate) fn following(
        log: Arc<dyn Log>,
        config: &OpenConfig,
        follower: FollowerConfig,
    ) -> Result<Self> {
        let (started, now) = (Some(Instant::now()), clock::system_clock());
        opening::open(log, config, now, started, Busy::default(), Some(follower)).map(Self)
    }

    /// Returns when all commands that were handed in before are decided, or left to the node that
    /// leads.
    ///
    /// # Errors
    ///
    /// As [`Self::check_ready`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    #[cfg(feature = "fleet")]
    pub(crate) async fn flushed(&self) -> Result<()> {
        self.0.ask(|reply| Queued::Barrier { reply }).await.map(drop)
    }

    /// Returns the work that the threads of the broker have not done yet.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn busy(&self) -> &Busy {
        &self.0.busy
    }

    /// Returns the incarnation of the log.
    pub fn epoch(&self) -> Epoch {
        self.0.log.epoch()
    }

    /// Returns the position of the newest durable event.
    pub fn last_position(&self) -> Position {
        Position::new(self.0.last_position())
    }

    /// Returns the time of the broker's clock, and that of a clock which never jumps, in
    /// milliseconds from a beginning that means nothing. A clock that a test gave the broker is
    /// taken for both.
    pub(crate) fn times(&self) -> (Timestamp, u64) {
        let now = (self.0.now)();
        let started = self.0.started.map(|started| started.elapsed().as_millis());
        (now, started.map_or(now.as_ms(), |ms| u64::try_from(ms).unwrap_or(u64::MAX)))
    }

    /// Returns the id of a topic in the log, also of a deleted one; `None` if no event was ever
    /// published to it.
    pub(crate) fn topic_id(&self, name: &TopicName) -> Option<TopicId> {
        self.0.topics.known(name).and_then(|topic| topic.state().id)
    }

    /// Returns the time by the broker's clock.
    pub(crate) fn now(&self) -> Timestamp {
        (self.0.now)()
    }

    /// Returns the extent of a topic; `None` if there is no such topic.
    pub(crate) fn extent(&self, name: &TopicName) -> Option<Extent> {
        self.0.topics.existing(name).ok().map(|topic| topic.state().extent)
    }

    /// Returns the most bytes of one page.
    pub(crate) fn max_page_bytes(&self) -> usize {
        self.0.max_page_bytes
    }

    /// Returns the limits on what is published.
    pub fn limits(&self) -> &LimitsConfig {
        &self.0.limits
    }

    /// Stores events, all or none, and returns when they are durable.
    ///
    /// # Errors
    ///
    /// After [`Error::OutcomeUnknown`] the events may be stored; after any other error nothing was
    /// written.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the events may or may not be stored. With ids, they can safely be
    /// published again.
    pub async fn publish(&self, publish: Publish) -> Result<Ack> {
        self.submit_in_order(publish, &InOrder::default()).await?.ack().await
    }

    /// Submits events, and returns as soon as they have their place in the queue. Publishes that
    /// are submitted one after the other are stored in this order, and get their positions in it,
    /// over all topics. Waits a bounded time for room in the queue. Callers that need no common
    /// order should have an [`InOrder`] each: that costs readers of many topics less.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`], [`Error::Busy`], [`Error::ShuttingDown`]: nothing
    /// was written.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing was submitted.
    pub async fn submit(&self, publish: Publish) -> Result<Pending> {
        self.submit_in_order(publish, &self.0.submits).await
    }

    /// As [`Self::submit`], but after a publish of the same `order` has failed, no later one is
    /// stored. Publishes that were submitted before the failed one are stored.
    ///
    /// # Errors
    ///
    /// As [`Self::submit`]; [`Error::AfterFailure`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit`]; a publish that was given up does not fail those after it.
    pub async fn submit_in_order<E: Events>(
        &self,
        publish: Publish<E>,
        order: &InOrder,
    ) -> Result<Pending> {
        let turn = order.next();
        let submitted = self.submit_within(vec![publish], turn.clone()).await;
        submitted.map(Pending).inspect_err(|_refused| turn.fail())
    }

    /// Stores the events of several publishes, all or none, and returns when they are durable. Each
    /// publish may name another topic, and a topic may be named more than once. Returns the
    /// acknowledgements in the order of the publishes.
    ///
    /// All of it is one write to the log, also across a crash. The publishes count as one to
    /// [`LimitsConfig::max_batch_events`] and [`LimitsConfig::max_batch_bytes`], and
    /// [`LimitsConfig::max_batch_topics`] bounds their number. Positions rise in the order of the
    /// publishes. Readers of different topics may get their events some microseconds apart.
    ///
    /// ```
    /// use leftoff::{Broker, NewEvent, OpenConfig, Publish};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> leftoff::Result<()> {
    /// let broker = Broker::in_memory(&OpenConfig::default())?;
    /// let release = NewEvent::new("version 2 is there");
    /// let inboxes = ["users.1", "users.2"].map(str::parse);
    /// let notify = |inbox| Ok(Publish::one(inbox?, release.clone()));
    /// let publishes = inboxes.into_iter().map(notify).collect::<leftoff::Result<_>>()?;
    /// let acks = broker.publish_all(publishes).await?;
    /// assert_eq!(acks.iter().map(|ack| ack.last().sequence.get()).collect::<Vec<_>>(), [1, 1]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Self::publish`], if any of the publishes is refused: then none is stored. An error that
    /// concerns one topic names it, or names the publish by its index. [`Error::Invalid`] if there
    /// is no publish.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::publish`].
    pub async fn publish_all<E: Events>(&self, publishes: Vec<Publish<E>>) -> Result<Vec<Ack>> {
        self.submit_all_in_order(publishes, &InOrder::default()).await?.acks().await
    }

    /// Submits publishes that are stored all or none, as [`Self::publish_all`] has them, at one
    /// place in an order.
    ///
    /// # Errors
    ///
    /// As [`Self::submit_in_order`], and as [`Self::publish_all`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit_in_order`].
    pub async fn submit_all_in_order<E: Events>(
        &self,
        publishes: Vec<Publish<E>>,
        order: &InOrder,
    ) -> Result<PendingAll> {
        let turn = order.next();
        let submitted = self.submit_within(publishes, turn.clone()).await;
        submitted.map(PendingAll).inspect_err(|_refused| turn.fail())
    }

    /// As [`Self::submit_all_in_order`], but waits for room in the queue without a bound.
    ///
    /// # Errors
    ///
    /// As [`Self::submit_all_in_order`], except [`Error::Busy`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit_in_order`].
    pub(crate) async fn submit_all_patiently<E: Events>(
        &self,
        publishes: Vec<Publish<E>>,
        order: &InOrder,
    ) -> Result<PendingAll> {
        let turn = order.next();
        let submitted = hand_in(&self.0, publishes, &self.0.limits, turn.clone()).await;
        submitted.map(PendingAll).inspect_err(|_refused| turn.fail())
    }

    /// As [`Self::publish_all`], for what the broker itself keeps. The limits for clients do not
    /// hold, but those of [`LimitsConfig::own`]. Waits for room in the queue without a bound, so
    /// the caller bounds how much it hands in. Topics are created as the configuration allows.
    ///
    /// # Errors
    ///
    /// As [`Self::publish_all`], except [`Error::Busy`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::publish_all`].
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "webhooks use it"))]
    pub(crate) async fn publish_own(&self, publishes: Vec<Publish>) -> Result<Vec<Ack>> {
        self.submit_own(publishes, AskedBy::Caller).await
    }

    /// As [`Self::publish_own`], for what was decided while this node led in `term`: it is stored
    /// in that term, by this node, or not at all.
    ///
    /// # Errors
    ///
    /// As [`Self::publish_own`]; [`Error::NotLeading`]: the term is over, and nothing was stored.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::publish_all`].
    pub(crate) async fn publish_within(
        &self,
        term: LeadTerm,
        publishes: Vec<Publish>,
    ) -> Result<Vec<Ack>> {
        self.submit_own(publishes, AskedBy::Leader(term)).await
    }

    async fn submit_own(&self, publishes: Vec<Publish>, asked_by: AskedBy) -> Result<Vec<Ack>> {
        let (turn, limits) = (InOrder::default().next(), LimitsConfig::own());
        PendingAll(hand_in_as(&self.0, publishes, &limits, turn, asked_by).await?).acks().await
    }

    /// Puts publishes into the queue, if there is room in time.
    async fn submit_within<E: Events>(
        &self,
        publishes: Vec<Publish<E>>,
        turn: PublishTurn,
    ) -> Result<Answer> {
        self.0.admit()?; // First, because a timeout needs a runtime.
        let wait = self.0.max_queue_wait;
        let queued = hand_in(&self.0, publishes, &self.0.limits, turn);
        let queued = tokio::time::timeout(wait, queued).await;
        queued.unwrap_or_else(|_no_room| {
            self.0.failure.count_refused(1);
            Err(Error::Busy { waited_ms: wait.as_millis() as u64 })
        })
    }

    /// As [`Self::submit_in_order`], but waits for room in the queue without a bound.
    ///
    /// # Errors
    ///
    /// As [`Self::submit_in_order`], except [`Error::Busy`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit_in_order`].
    pub async fn submit_patiently<E: Events>(
        &self,
        publish: Publish<E>,
        order: &InOrder,
    ) -> Result<Pending> {
        let turn = order.next();
        let submitted = hand_in(&self.0, vec![publish], &self.0.limits, turn.clone()).await;
        submitted.map(Pending).inspect_err(|_refused| turn.fail())
    }

    /// Publishes ephemeral events: they are delivered to the readers that follow `topic` now and
    /// have nothing else to read, and are never stored. Returns the number of readers of the topic.
    /// A reader of many patterns that was just dropped may still count for some milliseconds.
    ///
    /// In a fleet the events go to the readers at all nodes, as far as messages pass; the readers
    /// at other nodes are not counted.
    ///
    /// # Errors
    ///
    /// The errors of [`Self::publish`] that refuse events; [`Error::ShuttingDown`]. In a fleet also
    /// [`Error::OverLimit`], for an event that is too large for a message between nodes; the events
    /// before it are delivered.
    pub fn publish_ephemeral(&self, topic: &TopicName, events: Vec<NewEvent>) -> Result<usize> {
        self.0.check_open()?;
        self.0.limits.check(&events)?;
        self.publish_each_ephemeral(topic, events.into_iter().map(Ok))
    }

    /// Publishes ephemeral events that were checked already. Each is delivered before the next one
    /// is taken from the iterator, so that one at a time is in memory.
    ///
    /// # Errors
    ///
    /// The first error of `events`; the events before it are delivered. [`Error::ShuttingDown`].
    pub(crate) fn publish_each_ephemeral(
        &self,
        topic: &TopicName,
        events: impl Iterator<Item = Result<NewEvent>>,
    ) -> Result<usize> {
        self.0.check_open()?;
        let shared = &self.0;
        let topic = shared.topics.open_briefly(topic)?;
        let receivers = shared.followers(&topic);
        for event in events {
            let (time, event) = ((shared.now)(), event?);
            if let Some(relay) = shared.relay.get() {
                relay.hand_on(&topic.name, time, &event)?;
            }
            shared.deliver_ephemeral_of(&topic, time, event);
        }
        Ok(receivers)
    }

    /// Makes `member` present in these topics, [`MAX_PATTERNS`] at the most, until the returned
    /// value is dropped. Then the member leaves the topics one after the other, within
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: the member is present in no topic, or leaves the
    /// topics that it has joined by then.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the member leaves the topics that it has joined by then.
    pub async fn join(&self, topics: &[TopicName], member: Member) -> Result<Presence> {
        self.join_with(topics, member, None).await
    }

    /// As [`Self::join`]; `deposit` is dropped when the member has left all topics.
    pub(crate) async fn join_with(
        &self,
        topics: &[TopicName],
        member: Member,
        deposit: Option<Deposit>,
    ) -> Result<Presence> {
        self.0.admit()?;
        lists::check("topics", topics.len(), MAX_PATTERNS)?;
        Presence::join(self.0.clone(), topics, member, deposit).await
    }

    /// Returns up to `limit` members that are present in `topic`, in the order of their ids, after
    /// the id `after`. The call blocks the thread until all of them are found. Where there may be
    /// thousands, use [`Self::list_members`].
    pub fn presence(&self, topic: &TopicName, after: &str, limit: usize) -> Vec<Present> {
        self.list_members(topic, after, limit).flatten().collect()
    }

    /// As [`Self::presence`], in steps of some microseconds each. A member that is present all the
    /// time is listed exactly once. A member that joins or leaves meanwhile is listed at most once.
    pub fn list_members(&self, topic: &TopicName, after: &str, limit: usize) -> MemberList {
        MemberList::new(self.0.topics.known(topic), after, limit)
    }

    /// Follows `topic` from `start`. The topic need not exist yet.
    ///
    /// # Errors
    ///
    /// - [`Error::Gap`]: with [`OnGap::Fail`], when the start is gone.
    /// - [`Error::Invalid`]: the start is a time more than a minute in the future. Such a reader
    ///   would get events that are appended before that time.
    /// - [`Error::NotCaughtUp`]: this node of a fleet has not applied the start in time.
    /// - [`Error::ShuttingDown`], [`Error::Damaged`], [`Error::ReadFailed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it.
    pub async fn subscribe(
        &self,
        topic: &TopicName,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Reader> {
        self.0.admit()?;
        self.check_start(start)?;
        self.0.arrive(Some(topic), start).await?;
        let topic = self.0.topics.follow(topic)?;
        Reader::of_one(self.0.clone(), topic, start, on_gap).await
    }

    /// Refuses a start at a time in the future. One minute is allowed.
    pub(crate) fn check_start(&self, start: StartPoint) -> Result<()> {
        let now = (self.0.now)();
        match start {
            StartPoint::Time(time) if time > now.plus_ms(MAX_AHEAD_MS) => {
                let problem = format!("{time} has not come yet, it is {now}; write latest");
                Err(Error::invalid("time", problem))
            }
            _ => Ok(()),
        }
    }

    /// Follows all topics whose names fit any of the patterns, also those that are created later,
    /// in the order of their events' positions. A repeated pattern counts once.
    ///
    /// # Errors
    ///
    /// As [`Self::subscribe`]; [`Error::Invalid`] for a start that only a reader of one topic can
    /// have.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing of the reader is left after some milliseconds.
    pub async fn feed(
        &self,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Reader> {
        self.feed_with(patterns, start, on_gap, None).await
    }

    /// As [`Self::feed`]; `deposit` is dropped when the broker has forgotten the reader.
    pub(crate) async fn feed_with(
        &self,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
        deposit: Option<Deposit>,
    ) -> Result<Reader> {
        self.0.admit()?;
        self.check_start(start)?;
        patterns.iter().try_for_each(|pattern| self.0.topics.check_pattern(pattern))?;
        self.0.arrive(None, start).await?;
        Reader::of_many(self.0.clone(), patterns, start, on_gap, deposit).await
    }

    /// Reads a page of `topic`, which must exist unless the caller waits for its first event.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], and as [`Self::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it.
    pub async fn read(&self, topic: &TopicName, request: PageRequest) -> Result<Page> {
        self.page(topic, request).await?.whole().await
    }

    /// As [`Self::read`], a run of events at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it.
    pub async fn page(&self, topic: &TopicName, request: PageRequest) -> Result<PageReader> {
        self.0.admit()?;
        let mut request = request;
        self.0.arrive(Some(topic), request.start).await?;
        match self.0.topics.existing(topic) {
            Ok(topic) => request.start = page_start(&self.0, &topic, &request).await?,
            Err(_it_is_waited_for) if !request.wait.is_zero() => {}
            Err(error) => return Err(error),
        }
        let reader = self.subscribe(topic, request.start, request.on_gap).await?;
        let reader = reader.filtered(std::mem::take(&mut request.filter))?;
        let mut more = std::mem::take(&mut request.more_filters).into_iter();
        let reader = more.try_fold(reader, |reader, filter| reader.filtered(filter))?;
        Ok(PageReader::new(reader, request, self.0.max_page_bytes))
    }

    /// Reads a page of all topics whose names fit any of the patterns.
    ///
    /// # Errors
    ///
    /// As [`Self::feed`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::feed`].
    pub async fn read_many(
        &self,
        patterns: Vec<TopicPattern>,
        request: PageRequest,
    ) -> Result<Page> {
        self.page_of_many(patterns, request).await?.whole().await
    }

    /// As [`Self::read_many`], a run of events at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::feed`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::feed`].
    pub async fn page_of_many(
        &self,
        patterns: Vec<TopicPattern>,
        request: PageRequest,
    ) -> Result<PageReader> {
        self.page_of_many_with(patterns, request, None).await
    }

    /// As [`Self::page_of_many`], with a `deposit` as in [`Self::feed_with`].
    pub(crate) async fn page_of_many_with(
        &self,
        patterns: Vec<TopicPattern>,
        mut request: PageRequest,
        deposit: Option<Deposit>,
    ) -> Result<PageReader> {
        let feed = self.feed_with(patterns, request.start, request.on_gap, deposit).await?;
        let reader = feed.filtered(std::mem::take(&mut request.filter))?;
        let mut more = std::mem::take(&mut request.more_filters).into_iter();
        let reader = more.try_fold(reader, |reader, filter| reader.filtered(filter))?;
        Ok(PageReader::new(reader, request, self.0.max_page_bytes))
    }

    /// Reads a page of the newest events of `topic`, the newest first. Events that are published
    /// meanwhile are in no later page, so that the pages of one list are stable. What is gone is
    /// left out without a gap.
    ///
    /// ```
    /// # use leftoff::{Broker, NewEvent, NewestRequest, OpenConfig, Publish};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> leftoff::Result<()> {
    /// # let broker = Broker::in_memory(&OpenConfig::default())?;
    /// # let topic = "users.42".parse()?;
    /// let events = ["one", "two", "three"].map(NewEvent::new).to_vec();
    /// broker.publish(Publish::new(topic, events)).await?;
    /// # let topic = "users.42".parse()?;
    /// let page = broker.newest(&topic, NewestRequest::default().limit(2)).await?;
    /// assert_eq!(page.events[0].event.content.payload, "three");
    /// let rest = NewestRequest::default().before(page.next.expect("one is left"));
    /// assert_eq!(broker.newest(&topic, rest).await?.events.len(), 1);
    /// # broker.close().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]; [`Error::Invalid`]: the place in the request is a position, or from
    /// another epoch; [`Error::Damaged`], [`Error::ReadFailed`]: the first event of the page cannot
    /// be read.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub async fn newest(&self, topic: &TopicName, request: NewestRequest) -> Result<NewestPage> {
        self.0.admit()?;
        self.0.topics.existing(topic)?;
        read_newest(&self.0, Selected::one(&self.0, topic), false, request).await
    }

    /// As [`Self::newest`], of all topics whose names fit any of the patterns, in the order of
    /// their positions. Topics that do not exist have no events.
    ///
    /// # Errors
    ///
    /// As [`Self::newest`], but the place in the request is a position; [`Error::OverLimit`]: there
    /// are more than [`MAX_PATTERNS`] patterns; [`Error::Invalid`]: there is none.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::newest`].
    pub async fn newest_of_many(
        &self,
        patterns: &[TopicPattern],
        request: NewestRequest,
    ) -> Result<NewestPage> {
        self.0.admit()?;
        if patterns.is_empty() {
            return Err(Error::invalid("topic", "is missing; name one at least"));
        }
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        patterns.iter().try_for_each(|pattern| self.0.topics.check_pattern(pattern))?;
        read_newest(&self.0, Selected::many(&self.0, patterns).await, true, request).await
    }

    /// Gives the events of a selection that all filters pick to `visitor`, in either order, from
    /// the first one on or before or after `from`, until the visitor ends it or `max_looked` events
    /// were looked at. Returns the visitor with how far the walk got.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `cursor`; [`Error::OverLimit`] for a filter with too many
    /// values; [`Error::Damaged`], [`Error::ReadFailed`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub(crate) async fn walk<V: WalkVisitor>(
        &self,
        selection: &TopicPattern,
        (order, from): (EventOrder, Option<Cursor>),
        filters: impl IntoIterator<Item = Filter>,
        max_looked: u64,
        visitor: V,
    ) -> Result<(V, WalkEnd)> {
        self.0.admit()?;
        self.0.topics.check_pattern(selection)?;
        let at = walk_start(&self.0, order, !selection.is_name(), from)?;
        let selected = Selected::of(&self.0, selection).await;
        self.walk_selected(selected, (order, at), filters, Some(max_looked), visitor).await
    }

    /// As [`Self::walk`], over events that were selected before, from the place `at` on, whose kind
    /// is that of all places of the walk. Without `max_looked`, the walk fills a page: it ends
    /// after a second at the latest, and before an error that comes after events.
    ///
    /// # Errors
    ///
    /// As [`Self::walk`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::walk`].
    pub(crate) async fn walk_selected<V: WalkVisitor>(
        &self,
        selected: Selected,
        (order, at): (EventOrder, Place),
        filters: impl IntoIterator<Item = Filter>,
        max_looked: Option<u64>,
        visitor: V,
    ) -> Result<(V, WalkEnd)> {
        let filter = conditions(filters)?;
        let terms = WalkTerms { filter, position: selected.position };
        let page = page_bounds(&self.0);
        let bounds = match max_looked {
            Some(max_looked) => {
                WalkBounds { max_looked, max_time: MAX_WALK, is_page: false, ..page }
            }
            None => page,
        };
        EventWalk::begin(selected, (order, at), terms, bounds).await.run(&self.0, visitor).await
    }

    /// Returns where a walk in this order begins whose caller names `from`; the first place if it
    /// names none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `cursor`: the place is of the other kind, or of another epoch.
    pub(crate) fn walk_start(
        &self,
        order: EventOrder,
        has_positions: bool,
        from: Option<Cursor>,
    ) -> Result<Place> {
        walk_start(&self.0, order, has_positions, from)
    }

    /// Selects the topic that `selection` names, or all topics whose names fit it, as they are now.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`]; [`Error::Invalid`]: no topic can have such a name.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left of it.
    pub(crate) async fn select(&self, selection: &TopicPattern) -> Result<Selected> {
        self.0.admit()?;
        self.0.topics.check_pattern(selection)?;
        Ok(Selected::of(&self.0, selection).await)
    }

    /// Counts the events of `selected` that all filters pick. Without filters, as few of them as
    /// possible are decoded, with filters all; `max_looked` at the most. Returns the counter, and
    /// whether events were left out because of this bound.
    ///
    /// # Errors
    ///
    /// As [`Self::walk`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::walk`].
    pub(crate) async fn count<C: EventCounter>(
        &self,
        selected: Selected,
        filters: impl IntoIterator<Item = Filter>,
        max_looked: u64,
        counter: C,
    ) -> Result<(C, bool)> {
        let filter = conditions(filters)?;
        EventCount::new(selected, filter, max_looked, counter).run(&self.0).await
    }

    /// Returns the last sequences at or before `position` of these topics, without those that do
    /// not exist.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`], [`Error::Damaged`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left of it.
    pub(crate) async fn ends_of(
        &self,
        topics: impl IntoIterator<Item = TopicName>,
        position: Position,
    ) -> Result<Vec<TopicEnd>> {
        ends_of(&self.0, topics, position).await
    }

    /// Returns the last sequences at or before `position` of the topics whose names fit `pattern`;
    /// `None` if they are more than `max_topics`.
    ///
    /// # Errors
    ///
    /// As [`Self::ends_of`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left of it.
    pub(crate) async fn ends_in(
        &self,
        pattern: &TopicPattern,
        position: Position,
        max_topics: usize,
    ) -> Result<Option<Vec<PatternEnd>>> {
        ends_in(&self.0, pattern, position, max_topics).await
    }

    /// Reads the latest event of each key of `topic`.
    ///
    /// A page may have fewer events than its limit, or none, although there is a next page. A key
    /// that was published again after the state's sequence, and compacted since, is missing. A
    /// reader that follows the topic from that sequence on gets it.
    ///
    /// A page of a compacted topic costs little more than the read of its own events. A page of any
    /// other topic may cost one read of all events after them.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Damaged`], [`Error::ReadFailed`];
    /// [`Error::DeadlineExceeded`] after a wait of a minute for other reads.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub async fn state(&self, topic: &TopicName, request: StateRequest) -> Result<StatePage> {
        self.0.admit()?;
        read_state(&self.0, topic, request).await
    }

    /// Purges the events of `topic` below `earliest`. Readers that are behind are told a gap. The
    /// space of the events is freed in small steps, between which publishes go on. All of it is
    /// free when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]: nothing was changed. As [`Log::commit`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the events may or may not be purged. The space of purged events
    /// is freed later.
    pub async fn purge(&self, topic: &TopicName, earliest: Sequence) -> Result<()> {
        self.purge_for(topic, earliest, AskedBy::Caller).await
    }

    async fn purge_for(
        &self,
        topic: &TopicName,
        earliest: Sequence,
        asked_by: AskedBy,
    ) -> Result<()> {
        self.0.admit()?;
        let topic = self.0.topics.existing(topic)?;
        let (reason, report) = (TrimReason::Purged, MaintenanceReport::default());
        let work = Work::Trim { earliest, reason, report };
        self.0.step_for(&topic, work, asked_by).await?;
        self.0.reclaim(&topic).await
    }

    /// Creates a topic with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::TopicExists`], [`Error::Invalid`], [`Error::OverLimit`]: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the topic may or may not be created.
    pub async fn create_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        self.configure(name, Change::Create(config)).await
    }

    /// Gives a topic these settings, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the topic may or may not have the settings.
    pub async fn set_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        self.configure(name, Change::Set(config)).await
    }

    /// Changes the `fields` of a topic's settings to these, and leaves its other settings as they
    /// are.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Invalid`], [`Error::OverLimit`]: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::set_topic`].
    pub async fn update_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
        fields: Vec<String>,
    ) -> Result<TopicInfo> {
        self.0.admit()?;
        self.0.topics.existing(name)?;
        self.configure(name, Change::Update(config, fields)).await
    }

    /// Tells what a change of settings would drop: with the settings that would hold then, the
    /// events, exact to a block, that limits on age, events and bytes would no longer keep. Without
    /// `fields` the topic has none but these settings, as in [`Self::set_topic`]; with them, only
    /// these fields are changed, as in [`Self::update_topic`]. Nothing is changed. Events that
    /// compaction would drop are not among them: they are not known before all of the topic is
    /// read.
    ///
    /// # Errors
    ///
    /// As the call that makes the change; [`Error::ReadFailed`], [`Error::DamagedLog`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn foresee(
        &self,
        name: &TopicName,
        config: TopicConfig,
        fields: Option<Vec<String>>,
    ) -> Result<(TopicConfig, Dropped)> {
        self.0.admit()?;
        let topic = match (self.0.topics.existing(name), &fields) {
            (Ok(topic), _) => topic,
            (Err(unknown), Some(_)) => return Err(unknown),
            (Err(_it_would_be_created), None) => {
                name.check_new()?;
                config.validate()?;
                return Ok((config.over(self.default_config(name)), Dropped::default()));
            }
        };
        let state = topic.state();
        let own = match fields {
            Some(fields) => state.config.with_fields(&config, &fields)?,
            None => config,
        };
        own.validate()?;
        let limits = own.over(self.default_config(name));
        let Some(id) = state.id else { return Ok((limits, Dropped::default())) };
        let mut foresight = Foresight::new(id, state.extent, limits, (self.0.now)());
        let step = move |log: &dyn Log| {
            Ok(foresight.step(log)?.map_or(ControlFlow::Continue(()), ControlFlow::Break))
        };
        Ok((limits, self.0.turns.read_long(step).await?))
    }

    /// Deletes a topic with its events and its settings. Readers of this one topic end with
    /// [`Error::TopicDeleted`]. When the topic is created again, its sequences go on after the last
    /// one.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]: nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the topic may or may not be deleted. The space of a deleted topic
    /// is freed later.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        self.0.admit()?;
        self.0.topics.existing(name)?;
        self.change(name, Change::Delete).await
    }

    async fn configure(&self, name: &TopicName, change: Change) -> Result<TopicInfo> {
        self.0.admit()?;
        let topic = self.0.topics.open(name)?;
        self.change(name, change).await?;
        Ok(TopicInfo::of(&topic))
    }

    /// Changes a topic; the blocks of a deleted one are removed.
    async fn change(&self, name: &TopicName, change: Change) -> Result<()> {
        let asked_by = AskedBy::Caller;
        let (topic, is_deletion) = (self.0.topics.open(name)?, matches!(change, Change::Delete));
        let changed = Arc::clone(&topic);
        let queued = |reply| Queued::Change(QueuedChange { topic, change, asked_by, reply });
        self.0.ask(queued).await??;
        match is_deletion {
            true => self.0.reclaim(&changed).await,
            false => Ok(()),
        }
    }

    /// Runs maintenance on one topic or on all, also where it would not be worth it yet, and
    /// returns a report. Calls run one after the other.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]; [`Error::Crowded`]: too many calls wait; and the error that stopped
    /// maintenance.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, maintenance ends soon, with some of it done. Dropped while other
    /// calls run, it does not begin.
    pub async fn maintain(&self, topic: Option<&TopicName>) -> Result<MaintenanceReport> {
        self.0.admit()?;
        if !self.leads() {
            return self.maintain_at_leader(topic).await;
        }
        let topic = topic.map(|name| self.0.topics.existing(name)).transpose()?;
        let busy = || Error::crowded("maintenance", MAX_ASKS as u64);
        let _place = self.0.asking.try_acquire().map_err(|_others_wait| busy())?;
        let _turn = self.0.asks.lock().await;
        let _busy = self.0.busy.begin();
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Now { topic, answer };
        self.0.maintenance.try_send(ask).map_err(|_others_are_ending| busy())?;
        answered.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Begins a backup of everything. With `from`, the position of an earlier backup, begins a
    /// backup of what was added after it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: `from` is not a position, or not a position of this log.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it.
    pub async fn backup(&self, from: Option<Cursor>) -> Result<Backup> {
        backup::start(self.0.clone(), from, BackupTaker::Operator).await
    }

    /// Returns the totals of all maintenance since the broker was opened.
    pub fn maintenance_totals(&self) -> MaintenanceReport {
        *self.0.maintenance_totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of steps of reads of the log since the broker was opened, with those of
    /// backups and recalls, and without those of maintenance. A step takes a few milliseconds, or
    /// reads 1 MiB of blocks.
    pub fn read_steps(&self) -> u64 {
        self.0.turns.steps() + self.0.recall_turns.steps()
    }

    /// Returns the number of publishes that were refused since the broker was opened although
    /// nothing was wrong with them: storage failed or had no room, or the queue stayed full.
    pub fn refused_publishes(&self) -> u64 {
        self.0.failure.refused()
    }

    /// Returns the number of ids that were forgotten too early since the broker was opened, because
    /// the ids of all topics took more memory than allowed.
    pub fn forgotten_ids(&self) -> u64 {
        self.0.forgotten_ids.load(Ordering::Relaxed)
    }

    /// Returns a topic as it is now.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`].
    pub fn topic(&self, name: &TopicName) -> Result<TopicInfo> {
        self.0.topics.existing(name).map(|topic| TopicInfo::of(&topic))
    }

    /// Returns the number of topics that exist, with the broker's own.
    pub(crate) fn topic_count(&self) -> usize {
        self.0.topics.count()
    }

    /// Returns the space of the log; `None` if it has no disk. Asks the file system, which may
    /// block the thread.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`]; as [`Log::space`].
    pub(crate) fn log_space(&self) -> Result<Option<LogSpace>> {
        self.0.log.step(|log| log.space())
    }

    /// Returns the settings that the configuration has for a topic.
    pub(crate) fn default_config(&self, name: &TopicName) -> TopicConfig {
        self.0.topics.default_config(name)
    }

    /// Returns the settings that hold for a topic, also for one that does not exist yet.
    pub(crate) fn effective_config(&self, name: &TopicName) -> TopicConfig {
        self.0.topics.effective_config(name)
    }

    /// Returns up to `limit` topics in the order of their names, from the one after `after` on. The
    /// call blocks the thread until all of them are found. Where there may be thousands, use
    /// [`Self::list_topics`].
    pub fn topics(&self, after: Option<&str>, limit: usize) -> Vec<TopicInfo> {
        self.list_topics(after, limit).flatten().collect()
    }

    /// As [`Self::topics`], in steps of some microseconds each. A step may find no topic. A topic
    /// that exists all the time is listed exactly once. A topic that is created or deleted
    /// meanwhile is listed at most once.
    pub fn list_topics(&self, after: Option<&str>, limit: usize) -> TopicList {
        TopicList::new(&self.0.topics, after, limit)
    }

    /// Calls `look` with each topic that exists, in the order of the names: its name, its extent
    /// and the number of its subscriptions. Blocks the thread until all are looked at; nobody else
    /// waits for that.
    pub(crate) fn each_topic(&self, mut look: impl FnMut(&TopicName, &Extent, usize)) {
        let (mut last, mut found): (Option<TopicName>, _) = (None, Vec::new());
        loop {
            let (after, all) = (last.as_ref().map(TopicName::as_str), usize::MAX);
            last = self.0.topics.some_after(after, all, |topic| topic.state().exists(), &mut found);
            for topic in found.drain(..) {
                look(&topic.name, &topic.state().extent, self.0.followers(&topic));
            }
            if last.is_none() {
                return;
            }
        }
    }

    /// Accepts nothing new from now on, and ends every reader. Publishes that were accepted before
    /// are finished and answered.
    pub fn drain(&self) {
        self.0.space.close();
        self.0.stopping.cancel();
        // The flag is set before the signals, because a follower reads it and then waits for a
        // signal.
        self.0.is_stopping.store(true, Ordering::SeqCst);
        self.0.topics.signal_all();
        self.0.waker.interests().signal_all();
    }

    /// Returns whether [`Self::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    /// Checks that the broker accepts publishes.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`], [`Error::ReadOnly`]: the reason for which it does not.
    pub fn check_ready(&self) -> Result<()> {
        self.0.check_open()?;
        self.0.failure.error().map_or(Ok(()), Err)
    }

    /// Waits for a failure after which nothing more is accepted until the broker is reopened.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub async fn failed(&self) {
        self.0.failure.happened().await;
    }

    /// Waits until [`Self::drain`] is called.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: another call waits for the same.
    pub async fn draining(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Drains the broker, and returns when every accepted publish is answered, all threads of the
    /// broker have ended, and the log is closed. Then the data directory is free: it can be opened
    /// again at once, also in this process, whatever clones, readers, pages, backups and presences
    /// are left of this broker. They fail as the broker's calls do.
    ///
    /// Needs no runtime. Every call waits for the same end, also later calls, and calls on other
    /// clones. In the rare case that the system has no thread to do the closing, the first call
    /// blocks its thread until the end.
    ///
    /// A log that was given to [`Broker::with_log`] is closed when its other owners drop it, too.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the closing goes on. Another call waits for its end.
    pub async fn close(&self) {
        self.drain();
        ending::begin(&self.0);
        self.0.closing.ended().await;
    }

    /// As [`Self::close`], but blocks the thread: for a `Drop`, and for threads without a runtime.
    /// A thread of a runtime should rather await [`Self::close`].
    pub fn close_blocking(&self) {
        self.drain();
        ending::begin(&self.0);
        self.0.closing.wait();
    }
}

/// Returns the conditions that hold if all filters do.
fn conditions(filters: impl IntoIterator<Item = Filter>) -> Result<Conditions> {
    filters.into_iter().try_fold(Conditions::default(), Conditions::and)
}
