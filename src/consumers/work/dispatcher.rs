//! The dispatcher of one shared consumer: the task that gives its events to workers.
//!
//! ```text
//! pull, settle ──▶ queue ──▶ decide on the window ──▶ one publish: records ──▶ answers
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
//! whole lease. In a fleet the clock of a former leader may be any other. So a node that begins to
//! lead has all stored leases hold for their whole length from then on, by its steady clock.
//!
//! **Dead letters** are written apart from everything else: where their topic takes none, only they
//! wait.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::config::WorkConfig;
use super::lease_id::LeaseId;
use super::records::WorkRecords;
use super::requests::{
    Leased, MAX_SHOWN_WORKERS, Nack, SettleOutcome, Settled, Settlement, WorkStatus, milliseconds,
};
use super::shared::SharedConsumer;
use super::source::{WantedWork, WorkSource};
use super::window::Window;
use super::window_entry::WorkTime;
use super::work_commands::{Command, GrantedLeases, ended, refuse};
use crate::broker::{Broker, LeadTerm};
use crate::error::{Error, Result};
use crate::polls;
use crate::topic::TopicName;

/// The most commands that are decided together.
const MAX_COMMANDS: usize = 1_024;

/// The longest search for a first event of a pull that does not wait.
pub(super) const MAX_SEARCH: Duration = Duration::from_secs(1);

/// The time between two looks at a search that somebody waits for.
const SEARCH_STEP: Duration = Duration::from_millis(10);

/// The smallest difference between the clocks that is a jump, in milliseconds.
const JUMP_MS: u64 = 1_000;

/// A pull that waits for its events.
#[derive(Debug)]
pub(super) struct WaitingPull {
    pub(super) worker: Arc<str>,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
    pub(super) came: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<GrantedLeases>>,
}

/// The parts of the queues that a dispatcher uses.
#[derive(Debug, Clone)]
pub(super) struct DispatcherParts {
    pub(super) broker: Broker,
    /// The term in which this node leads. Nothing is stored after it.
    pub(super) term: LeadTerm,
    /// The time of the steady clock at which the term began; `None` for a broker alone.
    pub(super) led_since_ms: Option<u64>,
    pub(super) own_topic: TopicName,
    pub(super) config: WorkConfig,
    pub(super) records: Arc<Mutex<WorkRecords>>,
    pub(super) status: Arc<Mutex<WorkStatus>>,
    /// The way back to the dispatcher's own queue.
    pub(super) own: mpsc::WeakSender<Command>,
}

/// The answers that are sent when the records are durable.
#[derive(Debug, Default)]
pub(super) struct WorkAnswers {
    pub(super) settled: Vec<(oneshot::Sender<Result<Settled>>, Settled)>,
    pub(super) leased: Vec<(oneshot::Sender<Result<GrantedLeases>>, Vec<Leased>)>,
    pub(super) hastened: Vec<oneshot::Sender<Result<()>>>,
}

/// The task of one shared consumer.
#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) parts: DispatcherParts,
    pub(super) consumer: SharedConsumer,
    pub(super) window: Window,
    /// `None` until it is opened, and after a failure.
    pub(super) source: Option<WorkSource>,
    pub(super) waiting: VecDeque<WaitingPull>,
    /// Whether this step has looked for pulls that were given up, to make room for others.
    pub(super) has_looked: bool,
    /// The wall clock's time less the steady one's when they were last read together.
    pub(super) offset_ms: i64,
    pub(super) problem: Option<String>,
    pub(super) idle_since: Instant,
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
            has_looked: false,
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
        if !self.window.dying().is_empty() {
            return now;
        }
        let due = self.window.next_due_ms().map(|due_ms| {
            let left_ms = due_ms.saturating_sub(time.steady_ms).max(1);
            now + Duration::from_millis(left_ms)
        });
        let deadlines = self.waiting.iter().filter_map(|pull| pull.deadline);
        // A pull without a wait waits for the search for a first event.
        let deadlines = deadlines.map(|deadline| match deadline <= now {
            true => now + SEARCH_STEP,
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
    pub(super) async fn step(
        &mut self,
        commands: impl Iterator<Item = Command>,
    ) -> Option<oneshot::Sender<()>> {
        let mut commands: Vec<Command> = commands.collect();
        self.has_looked = false;
        if !commands.is_empty() {
            self.idle_since = Instant::now();
        }
        self.adopt(&commands);
        let time = self.time();
        if let Err(error) = self.load(time).await {
            self.forget(); // It is read again for whoever asks next.
            refuse(&mut commands, &error);
            self.fail_waiting(&error);
            return ended(commands);
        }
        self.window.run_due(time, self.consumer.settings.max_tries);
        self.window.revive(self.consumer.settings.max_tries);
        let mut answers = WorkAnswers::default();
        let mut end = None;
        for command in commands {
            match command {
                Command::Pull { request, reply, .. } => self.add_waiting(request, reply),
                Command::Settle { settlement, reply, .. } => {
                    answers.settled.push((reply, self.settle(&settlement, time).await));
                }
                Command::Hasten { reply, .. } => {
                    self.window.hasten();
                    answers.hastened.push(reply);
                }
                Command::Undelivered(leases) => {
                    let each = leases.iter().map(|lease| (lease.place, lease.tries));
                    each.for_each(|(place, tries)| self.window.take_back(place, tries));
                }
                Command::End(ended) => end = Some(ended),
            }
            polls::rest().await;
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
            Command::Pull { consumer, .. }
            | Command::Settle { consumer, .. }
            | Command::Hasten { consumer, .. } => Some(consumer),
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
    pub(super) fn forget(&mut self) {
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
    pub(super) async fn load(&mut self, time: WorkTime) -> Result<()> {
        let wanted = WantedWork { ready: 0, ..self.wanted() };
        let Self { parts, consumer, window, source, .. } = self;
        if source.is_none() {
            let records = lock(&parts.records).of(consumer.number).cloned().unwrap_or_default();
            *window = Window::default();
            if let Some(floor) = &records.floor {
                window.totals = floor.totals;
                window.counted = floor.counted.clone();
            }
            *source = Some(
                WorkSource::open(&parts.broker, consumer, &records, time, parts.led_since_ms)
                    .await?,
            );
        }
        let Some(source) = source else { return Ok(()) };
        while source.is_loading() {
            source.fill(&parts.broker, consumer, window, wanted).await?;
        }
        Ok(())
    }

    /// Settles leases. Many are settled in several polls: only this task changes the window, and
    /// what is decided is not stored before all commands of the step are.
    async fn settle(&mut self, settlement: &Settlement, time: WorkTime) -> Settled {
        let max_tries = self.consumer.settings.max_tries;
        let mut settled = Settled::default();
        for lease in &settlement.ack {
            settled.ack.push(self.ack(lease));
            polls::rest().await;
        }
        for Nack { lease, delay, reason } in &settlement.nack {
            let said = (milliseconds(*delay), reason.as_str());
            let nacked = self.window.nack((lease.place, lease.tries), said, max_tries, time);
            settled.nack.push(nacked);
            polls::rest().await;
        }
        for (lease, length) in &settlement.extend {
            let length_ms = milliseconds(*length);
            let extended = self.window.extend(lease.place, lease.tries, length_ms, time);
            settled.extend.push(extended);
            polls::rest().await;
        }
        for lease in &settlement.release {
            settled.release.push(self.window.release(lease.place, lease.tries));
            polls::rest().await;
        }
        settled
    }

    fn ack(&mut self, lease: &LeaseId) -> SettleOutcome {
        match &self.source {
            // A finished event that the reader has not reached again.
            Some(source) if source.is_finished(&lease.place) => SettleOutcome::Done,
            // Nobody can have had a lease there.
            Some(source) if source.is_ahead(&lease.place) && !self.window.has(&lease.place) => {
                SettleOutcome::Over
            }
            _ => self.window.ack(lease.place, lease.tries),
        }
    }

    pub(super) fn fail_waiting(&mut self, error: &Error) {
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
            problem: self.problem.clone().filter(|_| self.window.dead_count() > 0),
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
