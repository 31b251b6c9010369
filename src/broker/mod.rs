//! The broker: order, durability, fan-out, behind [`Broker`], the embedding API.
//!
//! ```text
//! publish ──▶ queue (bounded in bytes) ──▶ committer (one thread) ──▶ log
//!                                              │ durable
//! subscribe ◀── cursor over tail and log ◀─────┘
//! ```
//!
//! The rooms: `order/` gives out sequences, `topic/` is one topic and all by name, `tail/` the
//! newest blocks, `wake/` tells followers, `read/` is every kind of reader, `maintenance/` drops
//! and rewrites. `command.rs` and `report.rs` are what the committer is asked and tells, as plain
//! data; `queue.rs` is the way there. `shared.rs` holds the parts together, and `opening.rs` makes
//! them. Nothing below imports this file, and the broker knows no protocol.
//!
//! The file is longer than others, because the promises of every call of the API stand in one
//! place.

mod announced;
mod arrivals;
mod atomic;
mod backup;
mod batch;
mod clock;
mod command;
mod config;
mod dedup;
mod ephemeral;
mod failure;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod limits;
#[cfg(test)]
mod losses;
mod maintenance;
mod opening;
mod order;
mod presence;
mod publish;
mod queue;
mod read;
#[cfg(test)]
mod readers;
mod report;
mod shared;
mod tail;
#[cfg(test)]
mod tests;
mod topic;
mod turns;
mod wake;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::info;

pub use crate::log::{EventRef, Extent, Headers, LogConfig};
#[cfg(test)]
pub(crate) use crate::log::{Fault, FaultyLog};
pub(crate) use arrivals::Deposit;
pub use backup::Backup;
pub use batch::{Batch, Events};
pub(crate) use config::all_within;
pub use config::{BrokerConfig, OpenConfig};
pub use dedup::DedupConfig;
pub use limits::LimitsConfig;
pub use maintenance::config::MaintenanceConfig;
pub use presence::{MemberList, Presence};
pub use publish::{InOrder, Pending, Publish};
pub use read::delivery::{Delivery, Patience, Waited};
pub use read::feed::MAX_PATTERNS;
pub use read::filter::Filter;
pub use read::page::{MAX_PAGE_GAPS, Page, PageReader, PageRequest};
pub use read::reader::Reader;
pub use read::state::page::{StatePage, StateRequest};
pub use report::{Ack, Dropped, Duplicate, MaintenanceReport, Receipt};
pub use tail::form::WireForm;
pub use tail::run::Run;
pub use topic::defaults::TopicDefaults;
pub use topic::ephemeral::Ephemeral;
pub use topic::info::TopicInfo;
pub use topic::list::TopicList;
pub use topic::members::{Member, MemberInfo, Present};

use crate::cursor::{Cursor, Epoch, OnGap, Position, Sequence, StartPoint, TrimReason};
use crate::error::{Error, Result};
use crate::event::NewEvent;
use crate::lists;
use crate::log::{Log, MemoryLog, SledLog};
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;
use clock::Now;
use command::{Append, Change, Work};
use maintenance::maintainer::Ask;
use publish::PublishTurn;
use queue::{COMMAND_BYTES, Queued, QueuedChange, QueuedPublish};
use read::page::page_start;
use read::state::read_state;
use shared::{MAX_ASKS, Shared, Threads};

/// The time, in milliseconds, that a start may lie ahead of the broker's clock, because clocks
/// differ.
const MAX_AHEAD_MS: u64 = 60_000;

/// The broker: an event log per topic, durable before it is acknowledged, with replay.
///
/// Cheap to clone; all clones are the same broker. It needs a tokio runtime for all but opening.
/// The data directory is free again when [`Broker::close`] has returned, every clone and every
/// subscription is dropped, and reads that these had begun are over.
#[derive(Debug, Clone)]
pub struct Broker(Arc<Shared>);

impl Broker {
    /// Opens the broker on `directory`, creating it where there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a setting cannot be. [`Error::Open`], [`Error::Damaged`] and
    /// [`Error::DamagedLog`]: nothing was changed that anybody was told is stored.
    pub fn open(directory: impl AsRef<Path>, config: &OpenConfig) -> Result<Self> {
        let started = Instant::now();
        config.validate()?;
        let log = SledLog::open(directory.as_ref(), &config.log)?;
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

    /// Opens a broker that keeps its events in memory, for tests; they are gone with it.
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
        Self::with_clock(log, config, clock::system_clock())
    }

    fn with_clock(log: Arc<dyn Log>, config: &OpenConfig, now: Now) -> Result<Self> {
        opening::open(log, config, now).map(Self)
    }

    /// Returns the incarnation of the log.
    pub fn epoch(&self) -> Epoch {
        self.0.log.epoch()
    }

    /// Returns the position of the newest durable event.
    pub fn last_position(&self) -> Position {
        Position::new(self.0.last_position())
    }

    /// Returns the bound of one page, in bytes.
    pub(crate) fn max_page_bytes(&self) -> usize {
        self.0.max_page_bytes
    }

    /// Returns the limits on what publishers hand in.
    pub fn limits(&self) -> &LimitsConfig {
        &self.0.limits
    }

    /// Stores events, all or none, and returns when they are durable.
    ///
    /// # Errors
    ///
    /// After [`Error::OutcomeUnknown`] they may be stored; after any other nothing was written.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the events may or may not be stored; with ids, it is safe to
    /// publish them again.
    pub async fn publish(&self, publish: Publish) -> Result<Ack> {
        self.submit_in_order(publish, &InOrder::default()).await?.ack().await
    }

    /// Hands in events, and returns as soon as they have their place in the queue: what is
    /// submitted is stored in this order, and gets positions in it, over all topics. Waits a
    /// bounded time for room. Callers who need no order among each other cost readers of many
    /// topics less with an [`InOrder`] each.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`], [`Error::Busy`], [`Error::ShuttingDown`]: nothing
    /// was written.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing was handed in.
    pub async fn submit(&self, publish: Publish) -> Result<Pending> {
        self.submit_in_order(publish, &self.0.submits).await
    }

    /// As [`Self::submit`], but nothing is stored after a publish of the same `order` that failed.
    /// Publishes that were handed in before the failed one are stored.
    ///
    /// # Errors
    ///
    /// As [`Self::submit`]; [`Error::AfterFailure`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::submit`]; a publish that was given up is no failure to those after it.
    pub async fn submit_in_order<E: Events>(
        &self,
        publish: Publish<E>,
        order: &InOrder,
    ) -> Result<Pending> {
        let (turn, wait) = (order.next(), self.0.max_queue_wait);
        let queued = tokio::time::timeout(wait, self.enqueue(publish, turn.clone())).await;
        let busy = Error::Busy { waited_ms: wait.as_millis() as u64 };
        queued.unwrap_or(Err(busy)).inspect_err(|_refused| turn.fail())
    }

    /// As [`Self::submit_in_order`], for a caller that can be kept waiting: it waits for room as
    /// long as it takes.
    ///
    /// # Errors
    ///
    /// As [`Self::submit_in_order`], but for [`Error::Busy`].
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
        self.enqueue(publish, turn.clone()).await.inspect_err(|_refused| turn.fail())
    }

    async fn enqueue<E: Events>(&self, publish: Publish<E>, turn: PublishTurn) -> Result<Pending> {
        turn.check()?;
        let shared = &self.0;
        let Publish { topic, events, expected_sequence } = publish;
        let records = batch::records(events.into_batch(&shared.limits)?, &shared.limits)?;
        let topic = shared.topics.open(&topic)?;
        if !records.ids().is_empty() {
            shared.recall(&topic).await?;
        }
        let _space = shared.space(COMMAND_BYTES + records.size_bytes()).await?;
        let (reply, pending) = oneshot::channel();
        let append = Append { records, expected_sequence };
        let queued = QueuedPublish { topic, append, turn, reply, _space };
        shared.send(Queued::Publish(queued)).await?;
        Ok(Pending(pending))
    }

    /// Publishes ephemeral events: they are delivered to who follows `topic` now and has nothing
    /// else to read, and never stored. Returns how many subscriptions of it there are; a feed of
    /// many patterns that was just dropped may still count, for some milliseconds.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`], for what is wrong with the events; [`Error::ShuttingDown`].
    pub fn publish_ephemeral(&self, topic: &TopicName, events: Vec<NewEvent>) -> Result<usize> {
        self.0.limits.check(&events)?;
        self.publish_each_ephemeral(topic, events.into_iter().map(Ok))
    }

    /// Publishes ephemeral events that were checked already. Each is delivered as it comes out of
    /// the iterator, so that there need not be more than one.
    ///
    /// # Errors
    ///
    /// The first of `events`: those before it are delivered. [`Error::ShuttingDown`].
    pub(crate) fn publish_each_ephemeral(
        &self,
        topic: &TopicName,
        events: impl Iterator<Item = Result<NewEvent>>,
    ) -> Result<usize> {
        if self.is_draining() {
            return Err(Error::ShuttingDown);
        }
        let shared = &self.0;
        let topic = shared.topics.open_briefly(topic)?;
        let receivers = shared.followers(&topic);
        for event in events {
            shared.deliver_ephemeral(&topic, event?);
        }
        Ok(receivers)
    }

    /// Makes a reader present as `member` in these topics, [`MAX_PATTERNS`] at the most, for as
    /// long as what is returned is held. Dropped, it leaves many topics one after the other, within
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: it is present in none, or leaves those that it has
    /// joined by then.
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
        lists::check("topics", topics.len(), MAX_PATTERNS)?;
        Presence::join(self.0.clone(), topics, member, deposit).await
    }

    /// Returns up to `limit` members who are present in `topic`, in the order of their ids, after
    /// `after`. The caller's thread is held until all of them are found: where there may be
    /// thousands, list them with [`Self::list_members`].
    pub fn presence(&self, topic: &TopicName, after: &str, limit: usize) -> Vec<Present> {
        self.list_members(topic, after, limit).flatten().collect()
    }

    /// As [`Self::presence`], in steps of some microseconds each. A member who is there all the
    /// time is listed exactly once; one who comes or goes meanwhile, once at the most.
    pub fn list_members(&self, topic: &TopicName, after: &str, limit: usize) -> MemberList {
        MemberList::new(self.0.topics.known(topic), after, limit)
    }

    /// Follows `topic` from `start`. The topic need not exist yet.
    ///
    /// # Errors
    ///
    /// - [`Error::Gap`]: with [`OnGap::Fail`], when the start is gone.
    /// - [`Error::Invalid`]: the start is a time more than a minute from now. The reader would have
    ///   got what is appended until then.
    /// - [`Error::ShuttingDown`], [`Error::Damaged`], [`Error::ReadFailed`].
    pub async fn subscribe(
        &self,
        topic: &TopicName,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Reader> {
        if self.is_draining() {
            return Err(Error::ShuttingDown);
        }
        self.check_start(start)?;
        let topic = self.0.topics.follow(topic)?;
        Reader::of_one(self.0.clone(), topic, start, on_gap).await
    }

    /// Refuses a start by a time that has not come yet.
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

    /// Follows all topics whose names fit any of the patterns, in the order of their positions,
    /// those that are created later, too. A pattern that is named twice is one.
    ///
    /// # Errors
    ///
    /// As [`Self::subscribe`]; [`Error::Invalid`] for a start that is one of a single topic.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing of the reader is left, within milliseconds.
    pub async fn feed(
        &self,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
    ) -> Result<Reader> {
        self.feed_with(patterns, start, on_gap, None).await
    }

    /// As [`Self::feed`]; `deposit` is dropped when the broker knows nothing of the reader.
    pub(crate) async fn feed_with(
        &self,
        patterns: Vec<TopicPattern>,
        start: StartPoint,
        on_gap: OnGap,
        deposit: Option<Deposit>,
    ) -> Result<Reader> {
        if self.is_draining() {
            return Err(Error::ShuttingDown);
        }
        self.check_start(start)?;
        patterns.iter().try_for_each(|pattern| self.0.topics.check_pattern(pattern))?;
        Reader::of_many(self.0.clone(), patterns, start, on_gap, deposit).await
    }

    /// Reads a page of `topic`, which must exist unless the caller waits for its first event.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], and as [`Self::subscribe`].
    pub async fn read(&self, topic: &TopicName, request: PageRequest) -> Result<Page> {
        self.page(topic, request).await?.whole().await
    }

    /// As [`Self::read`], a run of events at a time.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub async fn page(&self, topic: &TopicName, request: PageRequest) -> Result<PageReader> {
        let mut request = request;
        match self.0.topics.existing(topic) {
            Ok(topic) => request.start = page_start(&self.0, &topic, &request).await?,
            Err(_it_is_waited_for) if !request.wait.is_zero() => {}
            Err(error) => return Err(error),
        }
        let reader = self.subscribe(topic, request.start, request.on_gap).await?;
        let reader = reader.filtered(std::mem::take(&mut request.filter))?;
        Ok(PageReader::new(reader, request, self.0.max_page_bytes))
    }

    /// Reads a page of all topics whose names fit any of the patterns.
    ///
    /// # Errors
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
        Ok(PageReader::new(reader, request, self.0.max_page_bytes))
    }

    /// Reads the latest event of each key of `topic`.
    ///
    /// A page may have fewer events than it could, or none, and a next one all the same. A key that
    /// was published again after `at`, and compacted since, is missing; following from `at` brings
    /// it.
    ///
    /// A page of a compacted topic costs little more than its own events; of any other topic it may
    /// cost one reading of all that comes after them.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Damaged`], [`Error::ReadFailed`];
    /// [`Error::DeadlineExceeded`] when it had to wait for a minute for other reads.
    pub async fn state(&self, topic: &TopicName, request: StateRequest) -> Result<StatePage> {
        read_state(&self.0, topic, request).await
    }

    /// Purges the events of `topic` below `earliest`; readers behind are told. Their space comes
    /// back in small steps, between which publishes go on, and all of it by the time this returns.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]: nothing happened. As [`Log::commit`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the events may or may not be dropped, and their space comes back
    /// by and by.
    pub async fn purge(&self, topic: &TopicName, earliest: Sequence) -> Result<()> {
        let topic = self.0.topics.existing(topic)?;
        let (reason, report) = (TrimReason::Purged, MaintenanceReport::default());
        self.0.step(&topic, Work::Trim { earliest, reason, report }).await?;
        self.0.reclaim(&topic).await
    }

    /// Creates a topic with these settings.
    ///
    /// # Errors
    ///
    /// [`Error::TopicExists`], [`Error::Invalid`], [`Error::OverLimit`]: nothing happened.
    pub async fn create_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        self.configure(name, Change::Create(config)).await
    }

    /// Gives a topic these settings, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: nothing happened.
    pub async fn set_topic(&self, name: &TopicName, config: TopicConfig) -> Result<TopicInfo> {
        self.configure(name, Change::Set(config)).await
    }

    /// Gives a topic the `fields` of these settings, and leaves its others as they are.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Invalid`], [`Error::OverLimit`]: nothing happened.
    pub async fn update_topic(
        &self,
        name: &TopicName,
        config: TopicConfig,
        fields: Vec<String>,
    ) -> Result<TopicInfo> {
        self.0.topics.existing(name)?;
        self.configure(name, Change::Update(config, fields)).await
    }

    /// Deletes a topic with its events and its settings. Subscriptions of the topic end with
    /// [`Error::TopicDeleted`]. When the topic is created again, its sequences go on from where
    /// they were.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`]: nothing happened.
    pub async fn delete_topic(&self, name: &TopicName) -> Result<()> {
        let topic = self.0.topics.existing(name)?;
        let of = self.0.topics.open(name)?;
        let change = Change::Delete;
        let queued = |reply| Queued::Change(QueuedChange { topic: of, change, reply });
        self.0.ask(queued).await??;
        self.0.reclaim(&topic).await
    }

    async fn configure(&self, name: &TopicName, change: Change) -> Result<TopicInfo> {
        let topic = self.0.topics.open(name)?;
        let of = self.0.topics.open(name)?;
        let queued = |reply| Queued::Change(QueuedChange { topic: of, change, reply });
        self.0.ask(queued).await??;
        Ok(TopicInfo::of(&topic))
    }

    /// Has maintenance do all that there is to do, in one topic or in all, even where it would not
    /// be worth it yet. Returns a report. Callers have their turn one after the other.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Crowded`], and what
    /// kept it from going on.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, maintenance ends soon, with some of it done; while others have
    /// their turn, it is not begun.
    pub async fn maintain(&self, topic: Option<&TopicName>) -> Result<MaintenanceReport> {
        let topic = topic.map(|name| self.0.topics.existing(name)).transpose()?;
        let busy = || Error::Crowded { what: "maintenance", limit: MAX_ASKS as u64 };
        let _place = self.0.asking.try_acquire().map_err(|_others_wait| busy())?;
        let _turn = self.0.asks.lock().await;
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Now { topic, answer };
        self.0.maintenance.try_send(ask).map_err(|_others_are_ending| busy())?;
        answered.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Begins a backup of everything, or of what was added after `from`, the position of another.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: `from` is no position, or not one of this log.
    pub async fn backup(&self, from: Option<Cursor>) -> Result<Backup> {
        backup::start(self.0.clone(), from).await
    }

    /// Returns all that maintenance has done since the broker was opened.
    pub fn maintenance_totals(&self) -> MaintenanceReport {
        *self.0.maintenance_totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps of reads of the log that were begun since the broker was opened, those of backups and
    /// recalls included, those of maintenance not. A step is a few milliseconds, or 1 MiB of
    /// blocks.
    pub fn read_steps(&self) -> u64 {
        self.0.turns.steps() + self.0.recall_turns.steps()
    }

    /// Returns the number of ids that were forgotten too early since the broker was opened, because
    /// the ids of all topics took more memory than they may.
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

    /// Returns up to `limit` topics in the order of their names, from the one after `after`. The
    /// caller's thread is held until all of them are found: where there may be thousands, list them
    /// with [`Self::list_topics`].
    pub fn topics(&self, after: Option<&str>, limit: usize) -> Vec<TopicInfo> {
        self.list_topics(after, limit).flatten().collect()
    }

    /// As [`Self::topics`], in steps of some microseconds each, of which any may find no topic. A
    /// topic that is there all the time is listed exactly once; one that is created or deleted
    /// meanwhile, once at the most.
    pub fn list_topics(&self, after: Option<&str>, limit: usize) -> TopicList {
        TopicList::new(&self.0.topics, after, limit)
    }

    /// Accepts nothing new from now on, and ends every subscription. Publishes that were accepted
    /// before are finished and answered.
    pub fn drain(&self) {
        self.0.space.close();
        self.0.stopping.cancel();
        // The flag is set before the signals: a follower looks at it, then waits for a signal.
        self.0.is_stopping.store(true, Ordering::SeqCst);
        self.0.topics.signal_all();
        self.0.waker.interests().signal_all();
    }

    /// Returns whether [`Self::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    /// Returns whether publishes are taken.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`], [`Error::ReadOnly`]: why they are not.
    pub fn check_ready(&self) -> Result<()> {
        if self.is_draining() {
            return Err(Error::ShuttingDown);
        }
        self.0.failure.error().map_or(Ok(()), Err)
    }

    /// Resolves when storage has failed, so that nothing more is taken until it is reopened.
    pub async fn failed(&self) {
        self.0.failure.happened().await;
    }

    /// Resolves when [`Self::drain`] is called.
    pub async fn draining(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Drains, and returns when every accepted publish is answered. A second call does nothing.
    pub async fn close(&self) {
        self.drain();
        let threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { committer, maintenance, waker, usher }) = threads else { return };
        let asks = self.0.maintenance.clone();
        let stopped = tokio::task::spawn_blocking(move || {
            let _ended_already = asks.send(Ask::Stop);
            maintenance.join()
        });
        let is_maintained = matches!(stopped.await, Ok(Ok(())));
        let _ended_already = self.0.commands.send(Queued::Stop).await;
        let (wakers, arrivals) = (self.0.waker.clone(), self.0.arrivals.clone());
        let joined = tokio::task::spawn_blocking(move || {
            let committed = committer.join();
            arrivals.stop(); // In this order: those who leave may have others told.
            let ushered = usher.join();
            wakers.stop();
            waker.join().and(ushered).and(committed)
        });
        let joined = joined.await;
        if !is_maintained || !matches!(joined, Ok(Ok(()))) {
            tracing::error!("a thread of the broker ended by a panic");
        }
    }
}
