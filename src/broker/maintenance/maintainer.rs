//! The maintainer: its settings and handles, and the ways by which it has the committer drop
//! something.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::MaintenanceConfig;
use super::horizon::Horizons;
use super::retention::Retention;
use crate::broker::clock::Now;
use crate::broker::command::Work;
use crate::broker::failure::BrokerFailure;
use crate::broker::queue::{Queued, QueuedStep};
use crate::broker::report::{Done, MaintenanceReport};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::topics::Topics;
use crate::broker::topic::upkeep::{Alarm, Upkeep};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::Log;

/// The most topics that are looked at in one step.
const MAX_STEPS: usize = 64;

/// The time, in milliseconds, after which a topic is looked at again that could not be maintained.
pub(super) const RETRY_MS: u64 = 60_000;

/// Threads that visit topics. Few, for sled keeps pages for each thread that reads.
pub(super) const VISITORS: usize = 2;

/// A request to the thread.
pub(crate) enum Ask {
    /// Do what there is to do, also what would not be worth it yet; for one topic or for all. Only
    /// for as long as somebody waits for the answer.
    Now { topic: Option<Arc<Topic>>, answer: MaintenanceReply },
    /// End.
    Stop,
}

/// The channel for the reply to whoever asked.
pub(crate) type MaintenanceReply = oneshot::Sender<Result<MaintenanceReport>>;

/// The thread, but for what it is asked.
pub(crate) struct Maintainer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Arc<Topics>,
    /// Weak, so that the committer ends when nobody publishes any more.
    pub(crate) commands: mpsc::WeakSender<Queued>,
    pub(crate) config: MaintenanceConfig,
    pub(crate) max_block_bytes: usize,
    pub(crate) now: Now,
    /// Cancelled when the broker is stopping: a round ends then at the next step.
    pub(crate) stopping: CancellationToken,
    /// The positions of backups, which compaction must not look beyond.
    pub(crate) horizons: Horizons,
    /// The time, in milliseconds, that an event with an id stays: as long as the id is remembered.
    pub(crate) dedup_age_ms: u64,
    /// The hasher that divides keys into shares when they do not fit into memory at once.
    pub(crate) key_hasher: RandomState,
    /// Told when the thread ends by a panic: then nothing bounds the log any more.
    pub(crate) failure: BrokerFailure,
}

impl Maintainer {
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.config.interval_ms)
    }

    /// Returns the topics that one of their alarms asks to look at.
    pub(super) fn due(&self, alarm: impl Fn(&Upkeep) -> &Alarm) -> Vec<Arc<Topic>> {
        let now = (self.now)();
        self.topics.filtered(|topic| alarm(&topic.upkeep).is_due(now))
    }

    /// Drops what the limits of `topics` do not keep, and gives back the space of what was trimmed:
    /// of many topics in one step.
    pub(super) fn retain(
        &self,
        topics: &[Arc<Topic>],
        asked: Option<&MaintenanceReply>,
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

    /// Returns whether there can be anything in front of a topic to drop; it is looked at for it
    /// now.
    pub(super) fn may_drop(&self, topic: &Topic) -> bool {
        topic.upkeep.retention.reset();
        let state = topic.state();
        let is_limited = Retention::is_limited(&topic.effective_config());
        let is_trimmed = state.extent.earliest > Sequence::FIRST;
        let is_ahead = state.extent.is_ahead((self.now)());
        state.id.is_some() && (is_limited || is_trimmed || is_ahead)
    }

    /// Has the committer do one step, and rests for as long as the step took.
    pub(super) fn step(&self, topic: &Arc<Topic>, work: Work) -> Result<Done> {
        self.rest_after(self.ask(topic, work)?)
    }

    pub(super) fn rest_after(&self, answer: oneshot::Receiver<Result<Done>>) -> Result<Done> {
        let done = answer.blocking_recv().unwrap_or(Err(Error::ShuttingDown))?;
        std::thread::sleep(done.took);
        Ok(done)
    }

    pub(super) fn ask(
        &self,
        topic: &Arc<Topic>,
        work: Work,
    ) -> Result<oneshot::Receiver<Result<Done>>> {
        let commands = self.commands.upgrade().filter(|_| !self.stopping.is_cancelled());
        let commands = commands.ok_or(Error::ShuttingDown)?;
        let (reply, answered) = oneshot::channel();
        let step = QueuedStep { topic: topic.clone(), work, reply };
        commands.blocking_send(Queued::Step(step)).map_err(|_ended| Error::ShuttingDown)?;
        Ok(answered)
    }
}

/// Refuses to go on when whoever has asked for it is gone: as when the broker is stopping, for
/// nobody is told.
pub(super) fn check_caller(asked: Option<&MaintenanceReply>) -> Result<()> {
    if asked.is_some_and(MaintenanceReply::is_closed) { Err(Error::ShuttingDown) } else { Ok(()) }
}

pub(super) fn cannot_maintain(topic: &Topic, error: &Error) {
    if !matches!(error, Error::ShuttingDown) {
        warn!(%error, topic = %topic.name, "cannot maintain a topic");
    }
}
