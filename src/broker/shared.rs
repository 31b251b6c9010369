//! What all handles of a broker share: its parts, its threads, and the ways to the committer.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::broker::announced::Announced;
use crate::broker::arrivals::Arrivals;
use crate::broker::clock::Now;
use crate::broker::config::OpenConfig;
use crate::broker::dedup::DedupConfig;
use crate::broker::ephemeral::Ephemera;
use crate::broker::failure::Failure;
use crate::broker::limits::LimitsConfig;
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::{Ask, Maintenance, MaintenanceReport};
use crate::broker::order::window::DedupWindow;
use crate::broker::order::{Command, Committer, Done, Step, Work};
use crate::broker::publish::InOrder;
use crate::broker::read::behind::Behind;
use crate::broker::read::filter::Filters;
use crate::broker::read::page::PageRequest;
use crate::broker::read::replay::Replays;
use crate::broker::read::searching::Searches;
use crate::broker::read::state::StateKeys;
use crate::broker::tail::newest::Tails;
use crate::broker::topic::topics::{Topic, TopicRef, TopicState, Topics};
use crate::broker::turns::Turns;
use crate::broker::wake::waker::Waker;
use crate::cursor::{Cursor, Place, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::log::{Ages, Extent, Log, WayBack};
use crate::topic::TopicId;

/// Callers that wait for maintenance by hand, the one whose turn it is included.
pub(super) const MAX_ASKS: usize = 8;

/// Topics whose ids are recalled at the same time; each step of one takes a MiB or so.
const MAX_RECALLS: usize = 4;

/// What a request takes of the queue besides its events, in bytes.
pub(super) const REQUEST_BYTES: usize = 512;

/// What all handles and subscriptions share.
pub(super) struct Shared {
    pub(super) log: Arc<dyn Log>,
    pub(super) topics: Arc<Topics>,
    pub(super) announced: Arc<Announced>,
    /// The number of the newest drop of the log.
    drops: Arc<AtomicU64>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Room in the queue, in bytes. Closed when nothing new is accepted.
    pub(super) space: Arc<Semaphore>,
    pub(super) limits: LimitsConfig,
    pub(super) max_queue_bytes: usize,
    pub(super) max_queue_wait: Duration,
    pub(super) max_read_bytes: usize,
    pub(super) behind: Behind,
    pub(super) max_page_bytes: usize,
    pub(super) dedup: DedupConfig,
    /// Ids that were given up for want of memory.
    pub(super) forgotten_ids: Arc<AtomicU64>,
    pub(super) now: Now,
    /// Whoever submits without saying who it is.
    pub(super) submits: InOrder,
    /// Why nothing more is taken.
    pub(super) failure: Failure,
    /// Told to whoever waits for a stop.
    pub(super) stopping: CancellationToken,
    /// Ends every subscription. Of its own, for each looks at it before each of its reads.
    pub(super) is_stopping: AtomicBool,
    pub(super) waker: Waker,
    /// Readers that come and go.
    pub(super) arrivals: Arrivals,
    pub(super) filters: Filters,
    /// At looking through events for those that a filter picks.
    pub(super) searches: Searches,
    /// At reading the log, for all but recalls.
    pub(super) turns: Turns,
    pub(super) replays: Arc<Replays>,
    /// The keys of topics whose state is read.
    pub(super) state_keys: StateKeys,
    pub(super) ephemera: Ephemera,
    pub(super) max_members: usize,
    pub(super) threads: Mutex<Option<Threads>>,
    /// Asks maintenance to do something now; whoever asks waits for the answer.
    pub(super) maintenance: SyncSender<Ask>,
    /// Places for callers that wait for maintenance, and the turn of one of them.
    pub(super) asking: Semaphore,
    pub(super) asks: tokio::sync::Mutex<()>,
    pub(super) maintenance_totals: Arc<Mutex<MaintenanceReport>>,
    /// Held by backups, and by reads of a state that need it.
    pub(super) horizons: Horizons,
    /// Topics whose ids are recalled at the same time.
    pub(super) recalls: Semaphore,
    /// At reading the log for recalls: of their own, for publishes wait for these.
    pub(super) recall_turns: Turns,
}

/// The threads of a broker.
pub(super) struct Threads {
    pub(super) committer: JoinHandle<()>,
    pub(super) maintenance: JoinHandle<()>,
    pub(super) waker: JoinHandle<()>,
    pub(super) usher: JoinHandle<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("epoch", &self.log.epoch()).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.waker.stop(); // Nobody follows any more.
        self.arrivals.stop();
    }
}

impl Shared {
    /// Gives an ephemeral event to who is there.
    pub(super) fn whisper(&self, topic: &TopicRef, event: NewEvent) {
        if self.followers(topic) > 0 {
            self.ephemera.push(topic, (self.now)(), event);
            self.waker.wake(topic);
        }
    }

    /// How many subscriptions of a topic there are.
    pub(super) fn followers(&self, topic: &Topic) -> usize {
        topic.followers() + self.waker.interests().count_of(&topic.name)
    }

    /// How old the events of `topic` are now.
    pub(super) fn ages(&self, topic: &Topic) -> Ages {
        Ages::of(&topic.state().extent, (self.now)())
    }

    /// The number of the newest drop of the log. Whoever asks, and then looks at a topic, sees all
    /// that went with it and with those before it.
    pub(super) fn drops(&self) -> u64 {
        self.drops.load(Ordering::Acquire)
    }

    pub(super) fn last_position(&self) -> u64 {
        self.announced.position()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(|error| {
        let problem = format!("no thread for the {name}: {error}");
        Error::Open { path: Default::default(), problem }
    })
}

impl Shared {
    /// Opens a broker on a log, and starts its threads.
    pub(super) fn open(log: Arc<dyn Log>, config: &OpenConfig, now: Now) -> Result<Arc<Self>> {
        config.validate()?;
        let OpenConfig { broker: settings, limits, dedup, .. } = config;
        let stored = log.topics()?;
        let last_position = stored.iter().map(|topic| topic.extent.last_position.get()).max();
        let announced = Arc::new(Announced::new(last_position.unwrap_or(0)));
        let drops = stored.iter().map(|topic| topic.extent.newest_drop()).max();
        let drops = Arc::new(AtomicU64::new(drops.unwrap_or(0)));
        let max_queue_bytes = settings.max_queue_bytes as usize;
        let (commands, received) = mpsc::channel(1 + max_queue_bytes / REQUEST_BYTES);
        let failure = Failure::default();
        let forgotten_ids = Arc::<AtomicU64>::default();
        let told = failure.clone();
        log.tell_failure(Box::new(move |cause| told.note(&Error::ReadOnly(cause.clone()))));
        let stopping = CancellationToken::new();
        let maintenance_totals = Arc::default();
        let horizons = Horizons::default();
        let waker = Waker::new(announced.clone());
        let turns = Turns::new(log.clone(), settings.max_reads as usize);
        let bytes = [settings.max_replay_bytes, settings.max_ahead_bytes].map(|b| b as usize);
        let replays = Arc::new(Replays::new(turns.clone(), bytes[0], bytes[1]));
        let last_id = stored.iter().map(|topic| topic.id).max();
        let topics = Topics::new(&stored, limits, config.topics.clone());
        let mut window = DedupWindow::new(dedup.clone(), forgotten_ids.clone());
        window.load(&stored, log.ids()?, now());
        let committer = Committer {
            log: log.clone(),
            commands: received,
            tails: Tails::new(settings.max_tail_bytes as usize),
            window,
            failure: failure.clone(),
            announced: announced.clone(),
            drops: drops.clone(),
            next_id: last_id.map_or(Some(TopicId::FIRST), TopicId::next),
            last_clock: Timestamp::default(),
            max_block_bytes: settings.max_block_bytes as usize,
            max_group_bytes: settings.max_group_bytes as usize,
            auto_create: settings.auto_create,
            steps: VecDeque::new(),
            quiet: HashMap::new(),
            waker: waker.clone(),
            replays: replays.clone(),
            horizons: horizons.clone(),
            totals: Arc::clone(&maintenance_totals),
            now: now.clone(),
        };
        let (maintenance, asks) = std::sync::mpsc::sync_channel(MAX_ASKS);
        let maintaining = Maintenance {
            log: log.clone(),
            topics: topics.clone(),
            commands: commands.downgrade(),
            config: config.maintenance.clone(),
            max_block_bytes: settings.max_block_bytes as usize,
            now: now.clone(),
            stopping: stopping.clone(),
            horizons: horizons.clone(),
            dedup_age_ms: dedup.max_age_ms,
            key_hasher: RandomState::new(),
            failure: failure.clone(),
        };
        let max_pace = Duration::from_millis(settings.max_pace_ms);
        let (waking, wakers_failure) = (waker.clone(), failure.clone());
        let arrivals = Arrivals::default();
        let (ushering, ushers_failure) = (arrivals.clone(), failure.clone());
        let threads = Threads {
            committer: spawn("committer", || committer.run())?,
            maintenance: spawn("maintenance", || maintaining.run(asks))?,
            waker: spawn("waker", move || waking.run(max_pace, &wakers_failure))?,
            usher: spawn("usher", move || ushering.run(&ushers_failure))?,
        };
        Ok(Arc::new(Self {
            searches: Searches::new(settings.max_reads as usize),
            recall_turns: Turns::new(log.clone(), MAX_RECALLS),
            topics,
            log,
            announced,
            drops,
            commands,
            space: Arc::new(Semaphore::new(max_queue_bytes)),
            limits: limits.clone(),
            max_queue_bytes,
            max_queue_wait: Duration::from_millis(settings.max_queue_wait_ms),
            max_read_bytes: settings.max_read_bytes as usize,
            behind: Behind::new(
                settings.max_behind_bytes as usize,
                settings.max_read_bytes as usize,
            ),
            max_page_bytes: settings.max_page_bytes as usize,
            dedup: dedup.clone(),
            forgotten_ids,
            now,
            submits: InOrder::default().independent(),
            failure,
            stopping,
            is_stopping: AtomicBool::new(false),
            waker,
            arrivals,
            filters: Filters::default(),
            turns,
            replays,
            state_keys: StateKeys::new(settings.max_state_bytes as usize),
            ephemera: Ephemera::new(settings.max_ephemeral_bytes as usize),
            max_members: settings.max_members as usize,
            threads: Mutex::new(Some(threads)),
            maintenance,
            asking: Semaphore::new(MAX_ASKS),
            asks: tokio::sync::Mutex::default(),
            maintenance_totals,
            horizons,
            recalls: Semaphore::new(MAX_RECALLS),
        }))
    }

    /// Room in the queue for `size_bytes`; more than there is in all is given all of it.
    pub(super) async fn space(&self, size_bytes: usize) -> Result<OwnedSemaphorePermit> {
        let permits = u32::try_from(size_bytes.min(self.max_queue_bytes)).unwrap_or(u32::MAX);
        let space = self.space.clone().acquire_many_owned(permits).await;
        space.map_err(|_closed| Error::ShuttingDown)
    }

    pub(super) async fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).await.map_err(|_committer_ended| self.ended())
    }

    /// Sends a command, and waits for its answer.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.send(command(answer)).await?;
        answered.await.map_err(|_committer_ended| self.ended())
    }

    /// Why the committer takes nothing any more.
    pub(super) fn ended(&self) -> Error {
        self.failure.error().unwrap_or(Error::ShuttingDown)
    }

    /// Has the committer do a step of maintenance.
    pub(super) async fn step(&self, topic: &Arc<Topic>, work: Work) -> Result<Done> {
        let topic = topic.clone();
        self.ask(|answer| Command::Step(Step { topic, work, answer })).await?
    }

    /// Gives back the space of what was trimmed from `topic`.
    pub(super) async fn reclaim(&self, topic: &Arc<Topic>) -> Result<()> {
        while self.step(topic, Work::Retain).await?.has_more {}
        Ok(())
    }

    /// The sequence of the `count`th event before `below` of a topic that holds `extent`; its
    /// earliest where there are fewer.
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

    /// Where a page begins, also one that is asked for by its end.
    pub(super) async fn page_start(
        &self,
        topic: &Topic,
        request: &PageRequest,
    ) -> Result<StartPoint> {
        let since = Some(self.drops()); // In this order: all that was dropped by then is seen.
        let TopicState { id, extent, .. } = topic.state();
        let (Some(before), StartPoint::Latest, Some(id)) = (request.before, request.start, id)
        else {
            return Ok(request.start);
        };
        let (end, limit) = (before.min(extent.tail).max(extent.earliest), request.limit as u64);
        let first = self.back(id, extent, end, limit).await?;
        let after = Place::Sequence(first.previous());
        Ok(StartPoint::After(Cursor { after, since, epoch: None }))
    }

    /// Makes sure that the window has the ids that `topic` held before the start.
    pub(super) async fn recall(&self, topic: &Arc<Topic>) -> Result<()> {
        let Some(id) = topic.state().id else { return Ok(()) };
        let note = |blocks| async move {
            let topic = topic.clone();
            self.ask(|answer| Command::Recall { topic, id, blocks, answer }).await
        };
        if topic.recall.is_done() {
            return Ok(());
        }
        let _one_of_few = self.recalls.acquire().await.map_err(|_closed| Error::ShuttingDown)?;
        topic.recall.finish((&self.recall_turns, id), &self.dedup, (self.now)(), note).await
    }
}
