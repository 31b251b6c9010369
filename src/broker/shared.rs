//! The parts that all handles of a broker share, with its threads, and the functions that send
//! commands to the committer.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::announced::Announced;
use crate::broker::arrivals::Arrivals;
use crate::broker::arriving::ArrivingGroups;
use crate::broker::busy::Busy;
use crate::broker::clock::Now;
use crate::broker::closing::Closing;
use crate::broker::command::RecalledIds;
use crate::broker::command::Work;
use crate::broker::dedup::{DedupConfig, FLEET_CLOCKS_MS};
use crate::broker::ephemeral::{EphemeralEvents, EphemeralRelay};
use crate::broker::failure::BrokerFailure;
use crate::broker::filter::Filters;
use crate::broker::leadership::SharedLeadership;
use crate::broker::limits::LimitsConfig;
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::maintainer::Ask;
use crate::broker::open_log::OpenLog;
use crate::broker::publish::InOrder;
use crate::broker::questions::Questions;
use crate::broker::queue::QueuedStep;
use crate::broker::queue::{AskedBy, Queued};
use crate::broker::read::behind::Behind;
use crate::broker::read::replay::replays::Replays;
use crate::broker::read::searching::Searches;
use crate::broker::read::state::keys::StateKeys;
use crate::broker::report::Done;
use crate::broker::report::MaintenanceReport;
use crate::broker::topic::entry::Topic;
#[cfg(feature = "fleet")]
use crate::broker::topic::members::MemberRelay;
use crate::broker::topic::topics::{TopicRef, Topics};
use crate::broker::turns::Turns;
use crate::broker::unread_topics::UnreadTopics;
use crate::broker::wake::waker::Waker;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::log::{Ages, Extent, Log, WayBack};
use crate::topic::TopicId;

/// The most callers that wait for maintenance that they have asked for, including the one whose
/// turn it is.
pub(super) const MAX_ASKS: usize = 8;

/// The number of topics whose ids are recalled at the same time. Each step of one takes about a
/// MiB.
pub(super) const MAX_RECALLS: usize = 4;

/// The parts of a broker that all its handles and subscriptions share.
pub(crate) struct Shared {
    pub(super) log: OpenLog,
    pub(super) topics: Arc<Topics>,
    pub(super) leadership: SharedLeadership,
    pub(super) questions: Questions,
    pub(super) unread: UnreadTopics,
    /// Told of each group that is shown, in a fleet.
    pub(super) arriving: ArrivingGroups,
    pub(super) announced: Arc<Announced>,
    /// The number of the newest drop of the log.
    pub(super) drops: Arc<AtomicU64>,
    pub(super) commands: mpsc::Sender<Queued>,
    /// The room in the queue, in bytes. Closed when no more publishes are accepted.
    pub(super) space: Arc<Semaphore>,
    pub(super) limits: LimitsConfig,
    pub(super) max_queue_bytes: usize,
    pub(super) max_queue_wait: Duration,
    pub(super) max_read_bytes: usize,
    pub(super) behind: Behind,
    pub(super) max_page_bytes: usize,
    pub(super) dedup: DedupConfig,
    /// The number of ids that the window gave up for lack of memory.
    pub(super) forgotten_ids: Arc<AtomicU64>,
    pub(super) now: Now,
    /// The time at which the broker was opened; `None` if a test holds its clock.
    pub(super) started: Option<Instant>,
    /// The order of publishers that give none.
    pub(super) submits: InOrder,
    /// The failure after which nothing more is stored, if there was one.
    pub(super) failure: BrokerFailure,
    /// Cancelled when the broker begins to stop. Callers can wait for it.
    pub(super) stopping: CancellationToken,
    /// Whether every subscription must end. It is a flag, because each subscription checks it
    /// before each of its reads.
    pub(super) is_stopping: AtomicBool,
    pub(super) waker: Waker,
    /// The readers that come and go.
    pub(super) arrivals: Arrivals,
    pub(super) filters: Filters,
    /// The turns at searching events for those that a filter picks.
    pub(super) searches: Searches,
    /// The turns at reading the log, for all but recalls.
    pub(super) turns: Turns,
    pub(super) replays: Arc<Replays>,
    /// The keys of topics whose state is read.
    pub(super) state_keys: StateKeys,
    pub(super) ephemeral: EphemeralEvents,
    /// Set in a fleet.
    pub(super) relay: OnceLock<Box<dyn EphemeralRelay>>,
    /// Set in a fleet.
    #[cfg(feature = "fleet")]
    pub(super) members: OnceLock<Box<dyn MemberRelay>>,
    pub(super) max_members: usize,
    /// The work that the threads have not done yet.
    pub(super) busy: Busy,
    /// The threads of the broker, and how far its closing has come.
    pub(super) closing: Closing,
    /// The channel of requests to maintenance. Each request has a caller that waits for the answer.
    pub(super) maintenance: SyncSender<Ask>,
    /// The permits of callers that wait for maintenance, and the turn, which one of them has.
    pub(super) asking: Semaphore,
    pub(super) asks: tokio::sync::Mutex<()>,
    pub(super) maintenance_totals: Arc<Mutex<MaintenanceReport>>,
    /// The positions that backups, and reads of a state, hold against compaction.
    pub(super) horizons: Horizons,
    /// The permits to recall a topic's ids: [`MAX_RECALLS`] at the same time.
    pub(super) recalls: Semaphore,
    /// The turns at reading the log for recalls. They are separate, because publishes wait for
    /// recalls.
    pub(super) recall_turns: Turns,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.log.epoch()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.waker.stop(); // No handle is left, so nobody follows.
        self.arrivals.stop();
    }
}

impl Shared {
    /// Refuses a call that would store, read, follow, join or change something, if the broker is
    /// stopping. Every such call begins here, or with [`Self::admit`].
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`].
    pub(super) fn check_open(&self) -> Result<()> {
        let is_stopping = self.is_stopping.load(Ordering::SeqCst);
        if is_stopping { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    /// As [`Self::check_open`], for calls that need a tokio runtime. Without one, such a call would
    /// panic somewhere in the middle.
    ///
    /// # Errors
    ///
    /// [`Error::ShuttingDown`], [`Error::NoRuntime`].
    pub(super) fn admit(&self) -> Result<()> {
        self.check_open()?;
        tokio::runtime::Handle::try_current().map(drop).map_err(|_outside| Error::NoRuntime)
    }

    /// Gives an ephemeral event to the topic's followers, if there are any.
    pub(super) fn deliver_ephemeral(&self, topic: &TopicRef, event: NewEvent) {
        self.deliver_ephemeral_of(topic, (self.now)(), event);
    }

    /// As [`Self::deliver_ephemeral`], for an event that was published at `time`.
    pub(super) fn deliver_ephemeral_of(&self, topic: &TopicRef, time: Timestamp, event: NewEvent) {
        if self.followers(topic) > 0 {
            self.ephemeral.push(topic, time, event);
            self.waker.wake(topic);
        }
    }

    /// Returns the number of subscriptions of a topic.
    pub(super) fn followers(&self, topic: &Topic) -> usize {
        topic.followers() + self.waker.interests().count_of(&topic.name)
    }

    /// Returns the ages of the topic's events at this moment.
    pub(super) fn ages(&self, topic: &Topic) -> Ages {
        Ages::of(&topic.state().extent, (self.now)())
    }

    /// Returns the number of the newest drop of the log. A caller that then looks at a topic sees
    /// that drop and all earlier ones.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    pub(super) fn last_position(&self) -> u64 {
        self.announced.position()
    }
}

impl Shared {
    /// Waits for room in the queue for `size_bytes`. A size above the whole queue gets the whole
    /// queue.
    pub(super) async fn space(&self, size_bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(size_bytes.min(self.max_queue_bytes)).unwrap_or(u32::MAX);
        let space = self.space.clone().acquire_many_owned(permits).await;
        space.map_err(|_closed| Error::ShuttingDown)
    }

    pub(super) async fn send(&self, command: Queued) -> Result<()> {
        let busy = self.busy.begin();
        self.commands.send(command).await.map_err(|_committer_ended| self.ended())?;
        busy.hand_over();
        Ok(())
    }

    /// Sends a command, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Queued,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer)).await?;
        answered.await.map_err(|_committer_ended| self.ended())
    }

    /// Returns why the committer takes no more commands.
    pub(super) fn ended(&self) -> Error {
        self.failure.error().unwrap_or_else(|| match self.is_stopping.load(Ordering::SeqCst) {
            true => Error::ShuttingDown,
            // The committer ends by a panic, and its failure is noted a moment later.
            false => Error::ReadOnly(std::io::Error::other("the committer has ended").into()),
        })
    }

    /// Has the committer do one step of maintenance.
    pub(super) async fn step(&self, topic: &Arc<Topic>, work: Work) -> Result<Done> {
        self.step_for(topic, work, AskedBy::Caller).await
    }

    /// As [`Self::step`], for a caller of this node or for another node.
    pub(super) async fn step_for(
        &self,
        topic: &Arc<Topic>,
        work: Work,
        asked_by: AskedBy,
    ) -> Result<Done> {
        let topic = topic.clone();
        self.ask(|reply| Queued::Step(QueuedStep { topic, work, asked_by, reply })).await?
    }

    /// Has the committer remove all trimmed blocks of `topic`. If another node of the fleet leads,
    /// these are removed when it removes them.
    pub(super) async fn reclaim(&self, topic: &Arc<Topic>) -> Result<()> {
        loop {
            match self.step(topic, Work::Retain).await {
                Ok(done) if done.has_more => {}
                Ok(_) | Err(Error::NotLeading) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the sequence of the `count`th event before `below` in a topic with this extent; its
    /// earliest sequence if there are fewer events.
    ///
    /// # Errors
    ///
    /// [`Error::ReadFailed`].
    pub(super) async fn back(
        &self,
        id: TopicId,
        extent: Extent,
        below: Sequence,
        count: u64,
    ) -> Result<Sequence> {
        let mut way = WayBack::new(id, extent, below, count);
        let step = move |log: &dyn Log| {
            Ok(way.step(log)?.map_or(ControlFlow::Continue(()), ControlFlow::Break))
        };
        self.turns.read_long(step).await
    }

    /// Makes sure that the window has the ids of the topic's events from before the start.
    pub(super) async fn recall(&self, topic: &Arc<Topic>) -> Result<()> {
        let Some(id) = topic.state().id else { return Ok(()) };
        let remember = |blocks| async move {
            let (topic, recalled) = (topic.clone(), RecalledIds { id, blocks });
            self.ask(|reply| Queued::Recall { topic, recalled, reply }).await
        };
        if topic.recall.is_done() {
            return Ok(());
        }
        let _one_of_few = self.recalls.acquire().await.map_err(|_closed| Error::ShuttingDown)?;
        let clocks_ms = if self.leadership.is_alone() { 0 } else { FLEET_CLOCKS_MS };
        let (turns, dedup) = ((&self.recall_turns, id), (&self.dedup, clocks_ms));
        topic.recall.finish(turns, dedup, (self.now)(), remember).await
    }
}
