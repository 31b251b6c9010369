//! The dispatcher of one shared consumer: the task that gives its events to workers.
//!
//! ```text
//! pull, settle ──▶ queue ──▶ decide on the window ──▶ publish_own: records ──▶ answers
//!                                 ▲                          │ durable
//!                  reader ────────┘        dead letters ◀────┘ each with its record, all or none
//! ```
//!
//! # Why
//!
//! One task decides, so no two decisions race. It takes all that waits, and stores it as one
//! publish: while one is synced, the next commands queue up. So thousands of leases a second cost a
//! few hundred writes. When the publish fails, everybody is told, and the window is read again from
//! what is stored.
//!
//! **Clocks.** Ends are judged by a clock that never jumps, so a wall clock that is set an hour on
//! gives no event to a second worker early, and one that is set back keeps none from it. Stored is
//! the end by the wall clock, because no other clock goes on while the process is down. When the
//! wall clock is found to have jumped, all ends are stored anew. So only a jump while the broker is
//! down can end a lease early; and what is left of a lease after a start is never longer than the
//! whole lease.
//!
//! **Dead letters** are written apart from everything else: where their topic takes none, only they
//! wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;

use super::config::WorkConfig;
use super::dead_letter::dead_letter;
use super::fetching::events_of;
use super::lease_id::LeaseId;
use super::records::{EVENT_TYPE, FloorRecord, WorkRecords, floor_key};
use super::requests::{
    Leased, MAX_PULL, Nack, PullRequest, SettleOutcome, Settled, Settlement, WorkStatus,
    milliseconds,
};
use super::shared::SharedConsumer;
use super::source::{WantedWork, WorkSource};
use super::window::{End, LeaseBounds, Window, WorkTime};
use crate::broker::{Broker, Publish};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::{Event, NewEvent};
use crate::polls;
use crate::topic::TopicName;

/// The most commands that are decided together.
const MAX_COMMANDS: usize = 1_024;

/// The most dead letters of one publish.
const MAX_DEAD: usize = 64;

/// The most workers that a status names.
const MAX_SHOWN_WORKERS: usize = 100;

/// The longest search for a first event of a pull that does not wait.
const MAX_SEARCH: Duration = Duration::from_secs(1);

/// The smallest difference between the clocks that is a jump, in milliseconds.
const JUMP_MS: u64 = 1_000;

/// Leases on their way to the worker. Dropped on the way, they are taken back.
#[derive(Debug)]
pub(super) struct GrantedLeases {
    leases: Vec<Leased>,
    commands: mpsc::WeakSender<Command>,
}

impl GrantedLeases {
    /// Returns the leases, which the worker has from now on.
    pub(super) fn take(mut self) -> Vec<Leased> {
        std::mem::take(&mut self.leases)
    }
}

impl Drop for GrantedLeases {
    fn drop(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let leases = self.leases.iter().map(|leased| leased.lease).collect();
        if let Some(commands) = self.commands.upgrade() {
            // If the queue is full, the leases run out.
            let _full = commands.try_send(Command::Undelivered(leases));
        }
    }
}

/// A command to a dispatcher.
#[derive(Debug)]
pub(super) enum Command {
    Pull {
        consumer: SharedConsumer,
        request: PullRequest,
        reply: oneshot::Sender<Result<GrantedLeases>>,
    },
    Settle {
        consumer: SharedConsumer,
        settlement: Settlement,
        reply: oneshot::Sender<Result<Settled>>,
    },
    /// Leases that no worker has heard of.
    Undelivered(Vec<LeaseId>),
    /// The consumer is deleted.
    End(oneshot::Sender<()>),
}

/// A pull that waits for its events.
#[derive(Debug)]
struct WaitingPull {
    worker: Arc<str>,
    limit: usize,
    max_bytes: usize,
    came: Instant,
    deadline: Option<Instant>,
    reply: oneshot::Sender<Result<GrantedLeases>>,
}

/// The parts of the queues that a dispatcher uses.
#[derive(Debug, Clone)]
pub(super) struct DispatcherParts {
    pub(super) broker: Broker,
    pub(super) own_topic: TopicName,
    pub(super) config: WorkConfig,
    pub(super) records: Arc<Mutex<WorkRecords>>,
    pub(super) status: Arc<Mutex<WorkStatus>>,
    /// The way back to the dispatcher's own queue.
    pub(super) own: mpsc::WeakSender<Command>,
}

/// The answers that are sent when the records are durable.
#[derive(Debug, Default)]
struct WorkAnswers {
    settled: Vec<(oneshot::Sender<Result<Settled>>, Settled)>,
    leased: Vec<(oneshot::Sender<Result<GrantedLeases>>, Vec<Leased>)>,
}

/// The task of one shared consumer.
#[derive(Debug)]
pub(super) struct Dispatcher {
    parts: DispatcherParts,
    consumer: SharedConsumer,
    window: Window,
    /// `None` until it is opened, and after a failure.
    source: Option<WorkSource>,
    waiting: VecDeque<WaitingPull>,
    /// The wall clock's time less the steady one's when they were last read together.
    offset_ms: i64,
    problem: Option<String>,
    idle_since: Instant,
}

impl Dispatcher {
    pub(super) fn new(parts: DispatcherParts, consumer: SharedConsumer) -> Self {
        let time = time_of(&parts.broker);
        Self {
            parts,
            consumer,
            window: Window::default(),
            source: None,
            waiting: VecDeque::new(),
            offset_ms: offset_ms(time),
            problem: None,
            idle_since: Instant::now(),
        }
    }

    /// Runs until the consumer or the broker ends, or nobody used the consumer for a while and
    /// `may_end` says that nobody is about to.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        may_end: impl Fn() -> bool,
    ) {
        let mut taken = Vec::new();
        loop {
            if !self.wait(&mut commands, &mut taken).await {
                return; // The replies are dropped, which their callers are told.
            }
            let ended = self.step(taken.drain(..)).await;
            if let Some(ended) = ended {
                let _nobody_waits = ended.send(());
                return;
            }
            if self.is_idle() {
                if self.idle_since.elapsed() >= Duration::from_millis(self.parts.config.idle_ms) {
                    self.remember_floor().await;
                    if commands.is_empty() && may_end() {
                        return;
                    }
                }
            } else {
                self.idle_since = Instant::now();
            }
            polls::rest().await;
        }
    }

    /// Waits for something to do. Returns whether to go on.
    async fn wait(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        taken: &mut Vec<Command>,
    ) -> bool {
        let wake = self.next_wake();
        let Self { parts, source, window, waiting, consumer, .. } = self;
        let has_room = window.len() < consumer.settings.max_ahead as usize;
        let wants_more = !waiting.is_empty() && has_room;
        let arrival = async {
            match source.as_mut().filter(|_| wants_more) {
                Some(source) => source.arrival().await,
                None => std::future::pending().await,
            }
        };
        let arrived = tokio::select! {
            biased;
            () = parts.broker.draining() => return false,
            count = commands.recv_many(taken, MAX_COMMANDS) => {
                if count == 0 {
                    return false;
                }
                None
            }
            arrived = arrival => Some(arrived),
            () = tokio::time::sleep_until(wake) => None,
        };
        if let (Some(arrived), Some(source)) = (arrived, source.as_mut()) {
            let took = source.took(arrived, &parts.broker, consumer, window).await;
            if let Err(error) = took {
                self.fail_waiting(&error);
            }
        }
        true
    }

    /// Returns the time at which something is to be done if nobody asks for anything.
    fn next_wake(&self) -> Instant {
        let (now, time) = (Instant::now(), time_of(&self.parts.broker));
        let due = self.window.next_due_ms().map(|due_ms| {
            let left_ms = due_ms.saturating_sub(time.steady_ms).max(1);
            now + Duration::from_millis(left_ms)
        });
        let deadlines = self.waiting.iter().filter_map(|pull| pull.deadline);
        // A search that is too long for a pull without a wait ends it.
        let deadlines = deadlines.map(|deadline| match deadline <= now {
            true => now + MAX_SEARCH,
            false => deadline,
        });
        let idle = self.idle_since + Duration::from_millis(self.parts.config.idle_ms);
        let idle = idle.max(now + Duration::from_millis(1));
        due.into_iter().chain(deadlines).fold(idle, Instant::min)
    }

    fn is_idle(&self) -> bool {
        let window = &self.window;
        self.waiting.is_empty() && window.in_flight() == 0 && window.dead_count() == 0
    }

    /// Decides commands, and what is due; stores it; answers. Returns who waits for the end of the
    /// dispatcher, if the consumer is deleted.
    async fn step(
        &mut self,
        commands: impl Iterator<Item = Command>,
    ) -> Option<oneshot::Sender<()>> {
        let mut commands: Vec<Command> = commands.collect();
        if !commands.is_empty() {
            self.idle_since = Instant::now();
        }
        self.adopt(&commands);
        let time = self.time();
        if let Err(error) = self.load(time).await {
            refuse(&mut commands, &error);
            self.fail_waiting(&error);
            return ended(commands);
        }
        self.window.run_due(time, self.consumer.settings.max_tries);
        let mut answers = WorkAnswers::default();
        let mut end = None;
        for command in commands {
            match command {
                Command::Pull { request, reply, .. } => self.add_waiting(request, reply),
                Command::Settle { settlement, reply, .. } => {
                    answers.settled.push((reply, self.settle(&settlement, time)));
                }
                Command::Undelivered(leases) => {
                    let each = leases.iter().map(|lease| (lease.place, lease.tries));
                    each.for_each(|(place, tries)| self.window.take_back(place, tries));
                }
                Command::End(ended) => end = Some(ended),
            }
        }
        if end.is_some() {
            return end; // Nothing more is written for it.
        }
        if let Err(error) = self.lease_to_waiting(time, &mut answers).await {
            self.fail_waiting(&error);
        }
        self.window.pass_finished();
        let stored = self.store(Vec::new()).await;
        self.answer(answers, stored);
        self.bury(time).await;
        self.show();
        None
    }

    /// Takes the newest settings that the commands bring.
    fn adopt(&mut self, commands: &[Command]) {
        let consumer = commands.iter().rev().find_map(|command| match command {
            Command::Pull { consumer, .. } | Command::Settle { consumer, .. } => Some(consumer),
            _ => None,
        });
        let Some(consumer) = consumer.filter(|consumer| **consumer != self.consumer) else {
            return;
        };
        if consumer.filter != self.consumer.filter {
            self.forget(); // The window holds what the filter before picked.
        }
        self.consumer = consumer.clone();
    }

    /// Forgets the window: it is read again from what is stored.
    fn forget(&mut self) {
        self.window = Window::default();
        self.source = None;
    }

    /// Reads the clocks. If the wall clock has jumped, the ends of leases are told anew.
    fn time(&mut self) -> WorkTime {
        let time = time_of(&self.parts.broker);
        let offset_ms = offset_ms(time);
        if offset_ms.abs_diff(self.offset_ms) >= JUMP_MS {
            self.window.retime(time);
            self.offset_ms = offset_ms;
        }
        time
    }

    /// Opens the source, if it is not open, and takes all stored leases into the window.
    async fn load(&mut self, time: WorkTime) -> Result<()> {
        let wanted = WantedWork { ready: 0, ..self.wanted() };
        let Self { parts, consumer, window, source, .. } = self;
        if source.is_none() {
            let records = lock(&parts.records).of(consumer.number).cloned().unwrap_or_default();
            *window = Window::default();
            window.totals = records.floor.map(|floor| floor.totals).unwrap_or_default();
            *source = Some(WorkSource::open(&parts.broker, consumer, &records, time).await?);
        }
        let Some(source) = source else { return Ok(()) };
        while source.is_loading() {
            source.fill(&parts.broker, consumer, window, wanted).await?;
        }
        Ok(())
    }

    /// Returns how many events the waiting pulls want.
    fn wanted(&self) -> WantedWork {
        let ready = self.waiting.iter().map(|pull| pull.limit).sum::<usize>();
        let max_held_bytes =
            usize::try_from(self.parts.config.max_held_bytes).unwrap_or(usize::MAX);
        let settings = &self.consumer.settings;
        let ready = ready.min(settings.max_in_flight as usize);
        WantedWork { ready, max_ahead: settings.max_ahead as usize, max_held_bytes }
    }

    fn add_waiting(&mut self, request: PullRequest, reply: oneshot::Sender<Result<GrantedLeases>>) {
        self.waiting.retain(|pull| !pull.reply.is_closed());
        let limit = self.parts.config.max_waiting;
        if self.waiting.len() as u64 >= limit {
            let _gone = reply.send(Err(Error::Crowded { what: "events of this consumer", limit }));
            return;
        }
        let came = Instant::now();
        let PullRequest { worker, limit, max_bytes, wait } = request;
        let deadline = came.checked_add(wait);
        let (worker, limit) = (worker.into(), limit.clamp(1, MAX_PULL));
        self.waiting.push_back(WaitingPull { worker, limit, max_bytes, came, deadline, reply });
    }

    fn settle(&mut self, settlement: &Settlement, time: WorkTime) -> Settled {
        let (window, max_tries) = (&mut self.window, self.consumer.settings.max_tries);
        let source = self.source.as_ref();
        let ack = |lease: &LeaseId| {
            // A finished event that the reader has not reached again.
            let is_finished = source.is_some_and(|source| source.is_finished(&lease.place));
            if is_finished { SettleOutcome::Done } else { window.ack(lease.place, lease.tries) }
        };
        let ack = settlement.ack.iter().map(ack).collect();
        let nack = |nack: &Nack| {
            let Nack { lease, delay, reason } = nack;
            let said = (milliseconds(*delay), reason.as_str());
            window.nack((lease.place, lease.tries), said, max_tries, time)
        };
        let nack = settlement.nack.iter().map(nack).collect();
        let extend = |(lease, length): &(LeaseId, Duration)| {
            window.extend(lease.place, lease.tries, milliseconds(*length), time)
        };
        let extend = settlement.extend.iter().map(extend).collect();
        let release = |lease: &LeaseId| window.release(lease.place, lease.tries);
        let release = settlement.release.iter().map(release).collect();
        Settled { ack, nack, extend, release }
    }

    /// Leases events to the pulls that wait, in the order in which they came.
    async fn lease_to_waiting(&mut self, time: WorkTime, answers: &mut WorkAnswers) -> Result<()> {
        loop {
            if self.waiting.is_empty() {
                return Ok(());
            }
            let wanted = self.wanted();
            let Self { parts, consumer, window, source, .. } = self;
            if let Some(source) = source {
                source.fill(&parts.broker, consumer, window, wanted).await?;
            }
            let mut lost = false;
            for _ in 0..self.waiting.len() {
                let Some(pull) = self.waiting.pop_front() else { break };
                if pull.reply.is_closed() {
                    continue;
                }
                match self.lease_to(&pull, time).await {
                    Ok((leases, some_lost)) if leases.is_empty() => {
                        lost |= some_lost;
                        self.waiting.push_back(pull);
                    }
                    Ok((leases, _)) => answers.leased.push((pull.reply, leases)),
                    Err(error) => drop(pull.reply.send(Err(error))),
                }
            }
            if !lost {
                break; // Where events were gone, there may be others.
            }
        }
        self.end_waits();
        Ok(())
    }

    /// WorkAnswers the pulls whose wait is over.
    fn end_waits(&mut self) {
        let now = Instant::now();
        let is_full = self.window.len() >= self.consumer.settings.max_ahead as usize;
        let is_searched = is_full || self.source.as_ref().is_some_and(|source| source.is_at_tail);
        let own = &self.parts.own;
        let is_over = |pull: &WaitingPull| {
            let is_late = pull.deadline.is_some_and(|deadline| deadline <= now);
            is_late && (is_searched || now.duration_since(pull.came) >= MAX_SEARCH)
        };
        let waiting = std::mem::take(&mut self.waiting);
        let (over, waiting) = waiting.into_iter().partition::<VecDeque<_>, _>(is_over);
        self.waiting = waiting;
        for pull in over {
            let none = GrantedLeases { leases: Vec::new(), commands: own.clone() };
            let _gone = pull.reply.send(Ok(none));
        }
    }

    /// Leases events to one pull. Returns them, and whether some were found to be gone.
    async fn lease_to(
        &mut self,
        pull: &WaitingPull,
        time: WorkTime,
    ) -> Result<(Vec<Leased>, bool)> {
        let settings = &self.consumer.settings;
        let bounds = LeaseBounds {
            in_all: settings.max_in_flight,
            per_worker: settings.max_in_flight_per_worker,
        };
        let length_ms = settings.lease_ms;
        let chosen = self.window.choose(&pull.worker, pull.limit, pull.max_bytes, bounds);
        if chosen.is_empty() {
            return Ok((Vec::new(), false));
        }
        let mut events = self.events(&chosen, time).await?;
        let mut leases = Vec::with_capacity(chosen.len());
        let mut lost = false;
        for position in chosen {
            let topic = self.window.entry(position).and_then(|entry| entry.topic.clone());
            let (Some(topic), Some(event)) = (topic, events.remove(&position)) else {
                self.window.finish(position, End::Lost);
                lost = true;
                continue;
            };
            let leased = self.window.lease(position, &pull.worker, length_ms, time);
            let Some((place, tries, until)) = leased else { continue };
            let lease = LeaseId { consumer: self.consumer.number, place, tries };
            leases.push(Leased { lease, topic, event, tries, until });
        }
        Ok((leases, lost))
    }

    /// Returns those of the events at these positions that are still there, by position.
    async fn events(
        &mut self,
        positions: &[u64],
        time: WorkTime,
    ) -> Result<HashMap<u64, Arc<Event>>> {
        let mut found = HashMap::with_capacity(positions.len());
        let mut absent: HashMap<TopicName, Vec<(Sequence, u64)>> = HashMap::new();
        let mut earliest: HashMap<TopicName, Option<Sequence>> = HashMap::new();
        for position in positions {
            let held = self.window.take_held(*position);
            let Some(entry) = self.window.entry(*position) else { continue };
            let Some(topic) = &entry.topic else { continue };
            let sequence = entry.place.sequence;
            let first = *earliest.entry(topic.clone()).or_insert_with(|| {
                self.parts.broker.topic(topic).ok().map(|info| info.extent.earliest)
            });
            if first.is_none_or(|first| sequence < first) {
                continue; // It is gone.
            }
            match held.filter(|event| !has_expired(event, time)) {
                Some(event) => drop(found.insert(*position, event)),
                None => absent.entry(topic.clone()).or_default().push((sequence, *position)),
            }
        }
        for (topic, mut wanted) in absent {
            wanted.sort_unstable();
            let sequences: Vec<Sequence> = wanted.iter().map(|(sequence, _)| *sequence).collect();
            let mut events = events_of(&self.parts.broker, &topic, &sequences).await?;
            let places = wanted.into_iter();
            found
                .extend(places.filter_map(|(sequence, position)| {
                    Some((position, events.remove(&sequence)?))
                }));
        }
        Ok(found)
    }

    /// Stores the records of all that was changed, and these dead letters, as one.
    async fn store(&mut self, dead: Vec<Publish>) -> Result<()> {
        let Some(source) = &self.source else { return Ok(()) };
        let number = self.consumer.number;
        let mut events = Vec::new();
        let touched = std::mem::take(&mut self.window.touched);
        {
            let records = lock(&self.parts.records);
            let stored = records.of(number);
            for bucket in touched {
                let mut record = self.window.record(bucket);
                record.add_finished(source.finished_in(bucket));
                let before = stored.and_then(|stored| stored.buckets.get(&bucket));
                let event = match record.is_empty() {
                    true if before.is_none() => continue,
                    true => NewEvent::tombstone(bucket.key(number)),
                    false => NewEvent::json(&record)?.with_key(bucket.key(number)),
                };
                if before.is_none_or(|before| *before != event.payload) {
                    events.push(event.with_type(EVENT_TYPE));
                }
            }
            let floor =
                FloorRecord { cursor: source.floor(&self.window), totals: self.window.totals };
            let before = stored.and_then(|stored| stored.floor);
            // The first floor is stored at once: from then on it is known what is lost.
            let is_needed = before.is_none() || !events.is_empty() || !dead.is_empty();
            if before != Some(floor) && is_needed {
                let event = NewEvent::json(&floor)?.with_key(floor_key(number));
                events.push(event.with_type(EVENT_TYPE));
            }
        }
        self.publish(events, dead).await
    }

    /// Publishes records, and dead letters, all or none; then the records are the stored ones.
    async fn publish(&mut self, events: Vec<NewEvent>, dead: Vec<Publish>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let written: Vec<_> =
            events.iter().map(|event| (event.key.clone(), event.payload.clone())).collect();
        let mut publishes = vec![Publish::new(self.parts.own_topic.clone(), events)];
        publishes.extend(dead);
        self.parts.broker.publish_own(publishes).await?;
        let mut records = lock(&self.parts.records);
        for (key, payload) in written {
            records.apply(&key, &payload);
        }
        Ok(())
    }

    /// Sends the answers, now that the outcome of storing them is known.
    fn answer(&mut self, answers: WorkAnswers, stored: Result<()>) {
        if let Err(error) = &stored {
            self.forget();
            for (reply, _) in answers.settled {
                let _gone = reply.send(Err(error.clone()));
            }
            for (reply, _) in answers.leased {
                let _gone = reply.send(Err(error.clone()));
            }
            return;
        }
        for (reply, settled) in answers.settled {
            let _gone = reply.send(Ok(settled));
        }
        for (reply, leases) in answers.leased {
            // Leases that cannot be sent are taken back when they are dropped.
            let _gone = reply.send(Ok(GrantedLeases { leases, commands: self.parts.own.clone() }));
        }
    }

    /// Makes dead letters of the events that have no try left.
    async fn bury(&mut self, time: WorkTime) {
        while !self.window.dying().is_empty() {
            let dying: Vec<u64> = self.window.dying().iter().take(MAX_DEAD).copied().collect();
            if let Err(error) = self.bury_some(&dying, time).await {
                warn!(consumer = %self.consumer.name, %error, "events cannot become dead letters");
                self.problem = Some(error.to_string());
                self.forget();
                if self.load(time).await.is_err() {
                    return; // The next step loads it, and comes back to them.
                }
                let retry_ms = time.steady_ms.saturating_add(self.parts.config.dead_retry_ms);
                self.window.run_due(time, self.consumer.settings.max_tries);
                let dying: Vec<u64> = self.window.dying().iter().copied().collect();
                dying.into_iter().for_each(|position| self.window.die_later(position, retry_ms));
                return;
            }
            self.problem = None;
        }
    }

    async fn bury_some(&mut self, dying: &[u64], time: WorkTime) -> Result<()> {
        let target = self.consumer.settings.dead_letter_of(&self.consumer.selection)?;
        let mut events = self.events(dying, time).await?;
        let mut dead = Vec::new();
        for position in dying {
            let entry = self.window.entry(*position);
            let event = events.remove(position);
            let letter = match (&target, entry, event) {
                (Some(_), Some(entry), Some(event)) => {
                    dead_letter(&self.consumer.name, entry, &event)
                }
                _ => None,
            };
            let end = if letter.is_some() { End::Dead } else { End::Lost };
            self.window.finish(*position, end);
            dead.extend(letter);
        }
        self.window.pass_finished();
        let dead = target.filter(|_| !dead.is_empty()).map(|topic| Publish::new(topic, dead));
        self.store(dead.into_iter().collect()).await
    }

    /// Stores the floor, if it has moved past events that the filter does not pick.
    async fn remember_floor(&mut self) {
        let Some(source) = &self.source else { return };
        let floor = FloorRecord { cursor: source.floor(&self.window), totals: self.window.totals };
        let stored = lock(&self.parts.records).of(self.consumer.number).and_then(|it| it.floor);
        if stored.is_none_or(|stored| stored == floor) {
            return;
        }
        let Ok(event) = NewEvent::json(&floor) else { return };
        let event = event.with_key(floor_key(self.consumer.number)).with_type(EVENT_TYPE);
        if let Err(error) = self.publish(vec![event], Vec::new()).await {
            warn!(consumer = %self.consumer.name, %error, "the floor is not stored; reading repeats");
        }
    }

    fn fail_waiting(&mut self, error: &Error) {
        for pull in self.waiting.drain(..) {
            let _gone = pull.reply.send(Err(error.clone()));
        }
    }

    /// Shows how the consumer stands.
    fn show(&self) {
        let floor = self.source.as_ref().map(|source| source.floor(&self.window));
        let workers = self.window.workers().take(MAX_SHOWN_WORKERS);
        let mut workers: Vec<_> =
            workers.map(|(worker, count)| (worker.to_string(), u64::from(count))).collect();
        workers.sort();
        *lock(&self.parts.status) = WorkStatus {
            checkpoint: floor,
            in_flight: self.window.in_flight().into(),
            delayed: self.window.delayed().into(),
            dying: self.window.dead_count() as u64,
            waiting: self.waiting.len() as u64,
            totals: self.window.totals,
            problem: self.problem.clone(),
            workers,
        };
    }
}

/// Locks a mutex whose holders never panic in the middle of a change.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn time_of(broker: &Broker) -> WorkTime {
    let (wall, steady_ms) = broker.times();
    WorkTime { wall_ms: wall.as_ms(), steady_ms }
}

fn offset_ms(time: WorkTime) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(time.wall_ms).saturating_sub(signed(time.steady_ms))
}

fn has_expired(event: &Event, time: WorkTime) -> bool {
    let ttl_ms = event.content.ttl_ms;
    ttl_ms.is_some_and(|ttl_ms| event.time.as_ms().saturating_add(ttl_ms) <= time.wall_ms)
}

/// WorkAnswers commands with an error.
fn refuse(commands: &mut Vec<Command>, error: &Error) {
    let rest = std::mem::take(commands);
    for command in rest {
        match command {
            Command::Pull { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Settle { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Undelivered(_) => {} // What is stored of them is read again.
            end @ Command::End(_) => commands.push(end),
        }
    }
}

fn ended(commands: Vec<Command>) -> Option<oneshot::Sender<()>> {
    commands.into_iter().find_map(|command| match command {
        Command::End(ended) => Some(ended),
        _ => None,
    })
}
