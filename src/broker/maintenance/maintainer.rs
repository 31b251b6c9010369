//! The maintainer: its settings and handles, and its requests to the committer. `retain` trims many
//! topics in one go; `step` and `ask` have one step of one topic done.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::MaintenanceConfig;
use super::horizon::Horizons;
use super::retention::Retention;
use crate::broker::busy::Busy;
use crate::broker::clock::Now;
use crate::broker::command::Work;
use crate::broker::failure::BrokerFailure;
use crate::broker::leadership::SharedLeadership;
use crate::broker::queue::{AskedBy, Queued, QueuedStep};
use crate::broker::report::{Done, MaintenanceReport};
use crate::broker::topic::entry::Topic;
use crate::broker::topic::topics::Topics;
use crate::broker::topic::upkeep::{Alarm, Upkeep};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::Log;

/// The most topics whose fronts the committer is asked to look at in one go.
const MAX_STEPS: usize = 64;

/// The time, in milliseconds, after which a topic is looked at again whose maintenance failed.
pub(super) const RETRY_MS: u64 = 60_000;

/// The number of threads that visit topics. It is small, because sled keeps pages for each thread
/// that reads.
pub(super) const VISITORS: usize = 2;

/// A request to the thread of maintenance.
pub(crate) enum Ask {
    /// Do all there is to do, also what is not worth it yet, for one topic or for all. The round
    /// ends early if nobody waits for the answer any more.
    Now { topic: Option<Arc<Topic>>, answer: MaintenanceReply },
    /// End.
    Stop,
}

/// The channel for the reply to the caller who asked.
pub(crate) type MaintenanceReply = oneshot::Sender<Result<MaintenanceReport>>;

/// The thread of maintenance, without its channel of requests.
pub(crate) struct Maintainer {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Arc<Topics>,
    /// Whether this node decides what is dropped and rewritten, or another one of its fleet.
    pub(crate) leadership: SharedLeadership,
    /// The committer's queue. Weak, so that the committer ends when no other handle is left.
    pub(crate) commands: mpsc::WeakSender<Queued>,
    pub(crate) busy: Busy,
    pub(crate) config: MaintenanceConfig,
    pub(crate) max_block_bytes: usize,
    pub(crate) now: Now,
    /// Cancelled when the broker is stopping. A round then ends at its next step.
    pub(crate) stopping: CancellationToken,
    /// The positions of backups and of reads of states. Compaction must not look beyond them.
    pub(crate) horizons: Horizons,
    /// The time, in milliseconds, for which an event with an id is kept: as long as the id is
    /// remembered.
    pub(crate) dedup_age_ms: u64,
    /// The hasher that divides keys into shares if they do not fit into memory at once.
    pub(crate) key_hasher: RandomState,
    /// Told if the thread ends by a panic: nothing bounds the log any more then.
    pub(crate) failure: BrokerFailure,
}

impl Maintainer {
    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.config.interval_ms)
    }

    /// Returns the topics whose `alarm` is due.
    pub(super) fn due(&self, alarm: impl Fn(&Upkeep) -> &Alarm) -> Vec<Arc<Topic>> {
        let now = (self.now)();
        self.topics.filtered(|topic| alarm(&topic.upkeep).is_due(now))
    }

    /// Has the committer trim `topics` by their limits and remove blocks that were trimmed before,
    /// many topics at a time.
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
                    rest.for_each(|topic| topic.upkeep.has_front()); // The next round looks.
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
                        Err(error) if ends_round(&error) => return Err(error),
                        Err(error) => {
                            cannot_maintain(topic, &error);
                            // Removing blocks makes room on a full disk, so this is tried again
                            // soon.
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

    /// Whether the front of `topic` may have blocks to drop. Turns the topic's alarm off, because
    /// the caller looks at the front now.
    pub(super) fn may_drop(&self, topic: &Topic) -> bool {
        topic.upkeep.retention.reset();
        let state = topic.state();
        let is_limited = Retention::is_limited(&topic.effective_config());
        let is_trimmed = state.extent.earliest > Sequence::FIRST;
        let is_ahead = state.extent.is_ahead((self.now)());
        state.id.is_some() && (is_limited || is_trimmed || is_ahead)
    }

    /// Has the committer do one step, waits for it, and rests for as long as the step took.
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
        let step = QueuedStep { topic: topic.clone(), work, asked_by: AskedBy::Caller, reply };
        let busy = self.busy.begin();
        commands.blocking_send(Queued::Step(step)).map_err(|_ended| Error::ShuttingDown)?;
        busy.hand_over();
        Ok(answered)
    }
}

/// Refuses to go on if the caller who asked is gone. The error is that of a broker that stops,
/// because nobody reads it.
pub(super) fn check_caller(asked: Option<&MaintenanceReply>) -> Result<()> {
    if asked.is_some_and(MaintenanceReply::is_closed) { Err(Error::ShuttingDown) } else { Ok(()) }
}

/// Whether nothing more can be maintained after this error.
pub(super) fn ends_round(error: &Error) -> bool {
    matches!(error, Error::ShuttingDown | Error::NotLeading | Error::ReadOnly(_))
}

pub(super) fn cannot_maintain(topic: &Topic, error: &Error) {
    if !matches!(error, Error::ShuttingDown | Error::NotLeading) {
        warn!(%error, topic = %topic.name, "cannot maintain a topic");
    }
}
