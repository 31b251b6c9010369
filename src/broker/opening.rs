//! Opening: makes a running broker of a log, and starts its threads.

use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::announced::Announced;
use super::arrivals::Arrivals;
use super::arriving::ArrivingGroups;
use super::busy::Busy;
use super::clock::Now;
use super::closing::{Closing, Threads};
use super::config::OpenConfig;
use super::dedup::FLEET_CLOCKS_MS;
use super::ephemeral::EphemeralEvents;
use super::failure::BrokerFailure;
use super::filter::Filters;
use super::forward_queue::ForwardQueue;
use super::leadership::{Leadership, SharedLeadership};
use super::maintenance::horizon::Horizons;
use super::maintenance::maintainer::Maintainer;
use super::open_log::OpenLog;
use super::order::apply::topics_by_id;
use super::order::committer::Committer;
use super::order::siblings::Siblings;
use super::order::window::DedupWindow;
use super::publish::InOrder;
use super::questions::Questions;
use super::queue::{COMMAND_BYTES, CommandReceiver};
use super::read::behind::Behind;
use super::read::replay::replays::Replays;
use super::read::searching::Searches;
use super::read::state::keys::StateKeys;
use super::shared::{MAX_ASKS, MAX_RECALLS, Shared};
use super::tail::newest::Tails;
use super::topic::topics::Topics;
use super::turns::Turns;
use super::unread_topics::UnreadTopics;
use super::wake::waker::Waker;
use crate::error::{Error, OpenReason, Result};
use crate::event::Timestamp;
use crate::log::Log;
use crate::topic::TopicId;

/// What the broker of a node needs besides, which begins as a follower.
#[derive(Debug, Default)]
pub(crate) struct FollowerConfig {
    /// What the node that leads is to decide; `None`: it is refused.
    pub(crate) elsewhere: Option<ForwardQueue>,
    /// The longest wait for a place that a reader brings from another node.
    pub(crate) max_wait: Duration,
}

/// Opens a broker on a log, and starts its threads. A broker of a `fleet` follows until it leads.
/// `started` is the present time, unless a test holds the clock.
pub(super) fn open(
    log: Arc<dyn Log>,
    config: &OpenConfig,
    now: Now,
    started: Option<Instant>,
    busy: Busy,
    fleet: Option<FollowerConfig>,
) -> Result<Arc<Shared>> {
    config.validate()?;
    let OpenConfig { broker: settings, limits, dedup, .. } = config;
    let stored = log.topics()?;
    let last_position = stored.iter().map(|topic| topic.extent.last_position.get()).max();
    let announced = Arc::new(Announced::new(last_position.unwrap_or(0)));
    let drops = stored.iter().map(|topic| topic.extent.newest_drop()).max();
    let drops = Arc::new(AtomicU64::new(drops.unwrap_or(0)));
    let max_queue_bytes = settings.max_queue_bytes as usize;
    let (commands, received) = mpsc::channel(1 + max_queue_bytes / COMMAND_BYTES);
    let failure = BrokerFailure::default();
    let forgotten_ids = Arc::<AtomicU64>::default();
    let told = failure.clone();
    log.tell_failure(Box::new(move |cause| {
        told.stop_writes_after(&Error::ReadOnly(cause.clone()))
    }));
    let stopping = CancellationToken::new();
    let maintenance_totals = Arc::default();
    let horizons = Horizons::default();
    let waker = Waker::new(announced.clone(), busy.clone());
    let open_log = OpenLog::new(log.clone());
    let turns = Turns::new(open_log.clone(), settings.max_reads as usize);
    let bytes = [settings.max_replay_bytes, settings.max_ahead_bytes].map(|b| b as usize);
    let replays = Arc::new(Replays::new(turns.clone(), bytes[0], bytes[1]));
    let last_id = stored.iter().map(|topic| topic.id).max();
    let topics = Topics::new(&stored, limits, config.topics.clone());
    let clocks_ms = if fleet.is_some() { FLEET_CLOCKS_MS } else { 0 };
    let window = DedupWindow::new(dedup.clone(), forgotten_ids.clone());
    let mut window = window.with_clocks(clocks_ms);
    window.load(&stored, log.ids()?, now());
    let begins = if fleet.is_some() { Leadership::Follows } else { Leadership::Leads };
    let leadership = SharedLeadership::new(begins);
    let FollowerConfig { elsewhere, max_wait } = fleet.unwrap_or_default();
    let arriving = ArrivingGroups::new(max_wait);
    elsewhere.iter().for_each(ForwardQueue::open);
    let followed = match begins {
        Leadership::Leads => HashMap::new(),
        Leadership::Follows => topics_by_id(&topics),
    };
    let committer = Committer {
        log: log.clone(),
        topics: topics.clone(),
        leadership: leadership.clone(),
        elsewhere,
        arriving: arriving.clone(),
        siblings: Siblings::default(),
        returned: VecDeque::new(),
        followed,
        commands: CommandReceiver::new(received, busy.clone()),
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
    let maintaining = Maintainer {
        log,
        topics: topics.clone(),
        leadership: leadership.clone(),
        commands: commands.downgrade(),
        busy: busy.clone(),
        config: config.maintenance.clone(),
        max_block_bytes: settings.max_block_bytes as usize,
        now: now.clone(),
        stopping: stopping.clone(),
        horizons: horizons.clone(),
        dedup_age_ms: dedup.max_age_ms.saturating_add(clocks_ms),
        key_hasher: RandomState::new(),
        failure: failure.clone(),
    };
    let max_pace = Duration::from_millis(settings.max_pace_ms);
    let (waking, wakers_failure) = (waker.clone(), failure.clone());
    let arrivals = Arrivals::new(busy.clone());
    let (ushering, ushers_failure) = (arrivals.clone(), failure.clone());
    let start = || -> Result<Threads> {
        Ok(Threads {
            committer: spawn("committer", || committer.run())?,
            maintenance: spawn("maintenance", || maintaining.run(asks))?,
            waker: spawn("waker", move || waking.run(max_pace, &wakers_failure))?,
            usher: spawn("usher", move || ushering.run(&ushers_failure))?,
        })
    };
    let threads = start().inspect_err(|_| waker.stop())?; // The other threads end by themselves.
    Ok(Arc::new(Shared {
        searches: Searches::new(settings.max_reads as usize),
        recall_turns: Turns::new(open_log.clone(), MAX_RECALLS),
        topics,
        leadership,
        questions: Questions::default(),
        unread: UnreadTopics::default(),
        arriving,
        log: open_log,
        announced,
        drops,
        commands,
        space: Arc::new(Semaphore::new(max_queue_bytes)),
        limits: limits.clone(),
        max_queue_bytes,
        max_queue_wait: Duration::from_millis(settings.max_queue_wait_ms),
        max_read_bytes: settings.max_read_bytes as usize,
        behind: Behind::new(settings.max_behind_bytes as usize, settings.max_read_bytes as usize),
        max_page_bytes: settings.max_page_bytes as usize,
        dedup: dedup.clone(),
        forgotten_ids,
        now,
        started,
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
        ephemeral: EphemeralEvents::new(settings.max_ephemeral_bytes as usize),
        relay: OnceLock::new(),
        #[cfg(feature = "fleet")]
        members: OnceLock::new(),
        max_members: settings.max_members as usize,
        busy,
        closing: Closing::new(threads),
        maintenance,
        asking: Semaphore::new(MAX_ASKS),
        asks: tokio::sync::Mutex::default(),
        maintenance_totals,
        horizons,
        recalls: Semaphore::new(MAX_RECALLS),
    }))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(|error| {
        Error::open("", OpenReason::NoThread { name: name.to_owned(), cause: error.into() })
    })
}
