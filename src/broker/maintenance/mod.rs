//! Maintenance: drops what the topics' limits no longer keep, and writes again what is worth it.
//!
//! ```text
//! all topics:  retention ──▶ trimmed, then removed     (retention.rs)
//! one topic:   rewriting ──▶ neighbouring blocks become one, without what is over
//! ```
//!
//! # Why
//!
//! A thread of its own decides, reads and merges; what changes the log goes through the committer,
//! a small step at a time, so there is one writer and a publish waits for one step at the most.
//! After each step the thread rests for as long as the step kept the committer busy.

pub(super) mod horizon;
mod merging;
pub(super) mod retention;
mod rewriting;
mod superseded;
mod upkeep;
mod visitor;

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod tests;

use std::hash::RandomState;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::rewriting::Visit;
use self::upkeep::Alarm;
pub(super) use self::upkeep::Upkeep;
use self::visitor::Visitor;
use crate::broker::clock::Now;
use crate::broker::failure::{Failure, PanicGuard};
use crate::broker::maintenance::horizon::Horizons;
use crate::broker::maintenance::retention::Retention;
use crate::broker::order::{Command, Done, Step, Work};
use crate::broker::topic::topics::{Topic, Topics};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::log::Log;

/// Most topics that are looked at in one step.
const MAX_STEPS: usize = 64;

/// When a topic is looked at again that could not be maintained, in milliseconds.
const RETRY_MS: u64 = 60_000;

/// Threads that visit topics. Few, for sled keeps pages for each thread that reads.
const VISITORS: usize = 2;

/// How maintenance works.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaintenanceConfig {
    /// Pause between two rounds over the topics, in milliseconds. Default: 1,000.
    pub interval_ms: u64,
    /// Memory for the keys of a topic that is compacted, in bytes; a topic with more is compacted
    /// in parts. Default: 64 MiB.
    pub max_key_bytes: u64,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { interval_ms: 1_000, max_key_bytes: 64 << 20 }
    }
}

/// Events that were dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dropped {
    /// How many.
    pub events: u64,
    /// What they took, in bytes.
    pub bytes: u64,
}

impl Dropped {
    /// Counts events that take so many bytes.
    pub(super) fn add(&mut self, events: u64, bytes: u64) {
        self.events += events;
        self.bytes += bytes;
    }
}

/// What maintenance did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaintenanceReport {
    /// Topics that were looked at.
    pub topics: u64,
    /// What limits on age, events or bytes dropped.
    pub retention: Dropped,
    /// What expired.
    pub expired: Dropped,
    /// What a later event of the same key superseded, and tombstones past their grace.
    pub compacted: Dropped,
    /// What was purged, or deleted with its topic, and is removed by now.
    pub purged: Dropped,
    /// Blocks that were written again as part of a larger one.
    pub merged_blocks: u64,
    /// Space that was given back to the log, in bytes.
    pub reclaimed_bytes: u64,
}

impl MaintenanceReport {
    pub(super) fn add(&mut self, other: &Self) {
        self.topics += other.topics;
        for (dropped, other) in self.dropped_mut().into_iter().zip(other.dropped()) {
            dropped.add(other.1.events, other.1.bytes);
        }
        self.merged_blocks += other.merged_blocks;
        self.reclaimed_bytes += other.reclaimed_bytes;
    }

    /// What was dropped, by its reason.
    pub fn dropped(&self) -> [(&'static str, Dropped); 4] {
        [
            ("retention", self.retention),
            ("expired", self.expired),
            ("compacted", self.compacted),
            ("purged", self.purged),
        ]
    }

    fn dropped_mut(&mut self) -> [&mut Dropped; 4] {
        [&mut self.retention, &mut self.expired, &mut self.compacted, &mut self.purged]
    }

    fn has_done_something(&self) -> bool {
        Self { topics: 0, ..*self } != Self::default()
    }
}

/// What the thread is asked for.
pub(super) enum Ask {
    /// Do what there is to do, also what would not be worth it yet; for one topic or for all. Only
    /// for as long as somebody waits for the answer.
    Now { topic: Option<Arc<Topic>>, answer: Answer },
    /// End.
    Stop,
}

/// Where the answer to whoever asked goes.
pub(super) type Answer = oneshot::Sender<Result<MaintenanceReport>>;

/// One round over the topics.
struct Round<'a> {
    topics: Vec<Arc<Topic>>,
    /// Who has asked for it, if somebody has.
    asked: Option<&'a Answer>,
    /// The next one to visit.
    next: AtomicUsize,
    /// When what is over a limit was looked for last.
    retained: Mutex<Instant>,
}

/// The thread, but for what it is asked.
pub(super) struct Maintenance {
    pub(super) log: Arc<dyn Log>,
    pub(super) topics: Arc<Topics>,
    /// Weak, so that the committer ends when nobody publishes any more.
    pub(super) commands: mpsc::WeakSender<Command>,
    pub(super) config: MaintenanceConfig,
    pub(super) max_block_bytes: usize,
    pub(super) now: Now,
    /// Cancelled when the broker is stopping: a round ends then at the next step.
    pub(super) stopping: CancellationToken,
    /// Where backups are, which compaction must not look beyond.
    pub(super) horizons: Horizons,
    /// How long an event with an id stays, in milliseconds: as long as the id is remembered.
    pub(super) dedup_age_ms: u64,
    /// By which keys are divided that are too many to be in memory at once.
    pub(super) key_hasher: RandomState,
    /// Told when the thread ends by a panic: then nothing bounds the log any more.
    pub(super) failure: Failure,
}

impl Maintenance {
    /// Runs until it is told to stop, or every handle is gone.
    pub(super) fn run(self, asks: Receiver<Ask>) {
        let _guard = PanicGuard::new(&self.failure, "maintenance");
        let mut last_clock = Timestamp::default();
        loop {
            self.heed_clock(&mut last_clock);
            match asks.recv_timeout(self.interval()) {
                Ok(Ask::Now { topic, answer }) => {
                    let outcome = self.round(topic, Some(&answer));
                    let _nobody_waits = answer.send(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.round(None, None)
                        && !matches!(error, Error::ShuttingDown)
                    {
                        warn!(%error, "maintenance cannot go on for now");
                    }
                }
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Has all topics looked at when the clock says less than it did: what was to be done at a time
    /// may be due.
    fn heed_clock(&self, last: &mut Timestamp) {
        let now = (self.now)();
        if now < *last {
            self.topics.filtered(|_| true).iter().for_each(|topic| topic.upkeep.touch());
        }
        *last = now;
    }

    /// Looks at the topics that need it, or, if somebody has `asked`, at those that are named.
    fn round(
        &self,
        topic: Option<Arc<Topic>>,
        asked: Option<&Answer>,
    ) -> Result<MaintenanceReport> {
        check_caller(asked)?;
        let mut report = MaintenanceReport::default();
        let topics = match topic {
            Some(topic) => vec![topic],
            None if asked.is_some() => self.topics.filtered(|_| true),
            None => self.due(|upkeep| &upkeep.rewriting),
        };
        let mut outcome = match asked {
            Some(_) => self.retain(&topics, asked, &mut report),
            None => self.retain(&self.due(|upkeep| &upkeep.retention), None, &mut report),
        };
        let round = Round {
            topics,
            asked,
            next: AtomicUsize::new(0),
            retained: Mutex::new(Instant::now()),
        };
        for (visited, visits) in self.visit(&round) {
            report.add(&visits);
            outcome = outcome.and(visited);
        }
        if report.has_done_something() {
            info!(
                topics = report.topics,
                retention = ?report.retention,
                expired = ?report.expired,
                compacted = ?report.compacted,
                purged = ?report.purged,
                merged_blocks = report.merged_blocks,
                reclaimed_bytes = report.reclaimed_bytes,
                "maintained the log"
            );
        }
        outcome.map(|()| report)
    }

    /// Visits the topics of a round: this thread does, and as many others as there can be.
    fn visit(&self, round: &Round<'_>) -> Vec<(Result<()>, MaintenanceReport)> {
        let others = VISITORS.min(round.topics.len()).saturating_sub(1);
        std::thread::scope(|scope| {
            let spawn = |_| {
                let thread = std::thread::Builder::new().name("maintenance".to_owned());
                let spawned = thread.spawn_scoped(scope, || self.visit_some(round));
                spawned.inspect_err(|error| warn!(%error, "no more threads for maintenance")).ok()
            };
            let others: Vec<_> = (0..others).filter_map(spawn).collect();
            let mut visited = vec![self.visit_some(round)];
            visited.extend(others.into_iter().map(|o| o.join().expect("it passes on a panic")));
            visited
        })
    }

    /// Visits topics of a round until there are no more.
    fn visit_some(&self, round: &Round<'_>) -> (Result<()>, MaintenanceReport) {
        let mut visitor = Visitor::default();
        while let Some(topic) = round.topics.get(round.next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(visit) = Visit::new(self, topic, round.asked) {
                visitor.visit(visit);
            }
            // What is over a limit does not wait until all that is worth it is rewritten.
            if round.asked.is_none()
                && let Ok(mut retained) = round.retained.try_lock()
                && retained.elapsed() >= self.interval()
            {
                let due = self.due(|upkeep| &upkeep.retention);
                let outcome = self.retain(&due, None, &mut visitor.report);
                visitor.note(outcome);
                *retained = Instant::now();
            }
            let is_over = matches!(visitor.outcome, Err(Error::ShuttingDown | Error::ReadOnly(_)));
            if is_over || check_caller(round.asked).is_err() {
                break;
            }
        }
        visitor.end()
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(self.config.interval_ms)
    }

    /// The topics that one of their alarms asks to look at.
    fn due(&self, alarm: impl Fn(&Upkeep) -> &Alarm) -> Vec<Arc<Topic>> {
        let now = (self.now)();
        self.topics.filtered(|topic| alarm(&topic.upkeep).is_due(now))
    }

    /// Drops what the limits of `topics` do not keep, and gives back the space of what was trimmed:
    /// of many topics in one step.
    fn retain(
        &self,
        topics: &[Arc<Topic>],
        asked: Option<&Answer>,
        report: &mut MaintenanceReport,
    ) -> Result<()> {
        let mut outcome = Ok(());
        let mut next: Vec<_> = topics.iter().filter(|topic| self.may_drop(topic)).collect();
        while !next.is_empty() {
            let mut again = Vec::new();
            for (done, some) in next.chunks(MAX_STEPS).enumerate() {
                if let Err(gone) = check_caller(asked) {
                    let rest = next[done * MAX_STEPS..].iter().chain(&again);
                    rest.for_each(|topic| topic.upkeep.has_front()); // In the next round.
                    return Err(gone);
                }
                let steps: Result<Vec<_>> =
                    some.iter().map(|topic| self.ask(topic, Work::Retain)).collect();
                let mut took = Duration::ZERO;
                for (topic, answer) in some.iter().zip(steps?) {
                    match answer.blocking_recv().unwrap_or(Err(Error::ShuttingDown)) {
                        Ok(done) => {
                            report.add(&done.report);
                            took += done.took;
                            done.due.into_iter().for_each(|due| topic.upkeep.retention.set(due));
                            again.extend(done.has_more.then_some(*topic));
                        }
                        Err(error @ (Error::ShuttingDown | Error::ReadOnly(_))) => {
                            return Err(error);
                        }
                        Err(error) => {
                            cannot_maintain(topic, &error);
                            // By what is removed here, a full disk gets room again.
                            let is_full = matches!(error, Error::DiskFull { .. });
                            let wait_ms = if is_full { self.config.interval_ms } else { RETRY_MS };
                            topic.upkeep.retention.set((self.now)().plus_ms(wait_ms));
                            outcome = Err(error);
                        }
                    }
                }
                std::thread::sleep(took);
            }
            next = again;
        }
        outcome
    }

    /// Whether there can be anything in front of a topic to drop; it is looked at for it now.
    fn may_drop(&self, topic: &Topic) -> bool {
        topic.upkeep.retention.reset();
        let state = topic.state();
        let is_limited = Retention::is_limited(&topic.effective_config());
        let is_trimmed = state.extent.earliest > Sequence::FIRST;
        let is_ahead = state.extent.is_ahead((self.now)());
        state.id.is_some() && (is_limited || is_trimmed || is_ahead)
    }

    /// Has the committer do a step, and rests for as long as it took.
    fn step(&self, topic: &Arc<Topic>, work: Work) -> Result<Done> {
        self.rest_after(self.ask(topic, work)?)
    }

    fn rest_after(&self, answer: oneshot::Receiver<Result<Done>>) -> Result<Done> {
        let done = answer.blocking_recv().unwrap_or(Err(Error::ShuttingDown))?;
        std::thread::sleep(done.took);
        Ok(done)
    }

    fn ask(&self, topic: &Arc<Topic>, work: Work) -> Result<oneshot::Receiver<Result<Done>>> {
        let commands = self.commands.upgrade().filter(|_| !self.stopping.is_cancelled());
        let commands = commands.ok_or(Error::ShuttingDown)?;
        let (answer, answered) = oneshot::channel();
        let step = Step { topic: topic.clone(), work, answer };
        commands.blocking_send(Command::Step(step)).map_err(|_ended| Error::ShuttingDown)?;
        Ok(answered)
    }
}

/// Refuses to go on when whoever has asked for it is gone: as when the broker is stopping, for
/// nobody is told.
fn check_caller(asked: Option<&Answer>) -> Result<()> {
    if asked.is_some_and(Answer::is_closed) { Err(Error::ShuttingDown) } else { Ok(()) }
}

fn cannot_maintain(topic: &Topic, error: &Error) {
    if !matches!(error, Error::ShuttingDown) {
        warn!(%error, topic = %topic.name, "cannot maintain a topic");
    }
}
