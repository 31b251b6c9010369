//! Maintenance: drops events that the topics' limits no longer keep, and rewrites blocks: many
//! small ones become one (rolling up), without events that have expired or are superseded
//! (compaction).
//!
//! # Which file does which step
//!
//! ```text
//! mod.rs          the thread: waits, and goes round over the topics whose alarms are due
//! maintainer.rs   the handles of that thread; asks the committer for a step; trims topics in bulk
//! retention.rs    which blocks at the front of a topic are over a limit (each publish asks, too)
//! visitor.rs      the topics of one thread, one after the other: begins the next visit while the
//!                 last steps of earlier ones are written
//! rewriting.rs    one visit: decides if expiry, compaction, rolling up are worth it, and does them
//! visit.rs        the data of one visit, its steps on their way, and the rule why an event goes
//! superseded.rs   the latest events of each key, as a compaction has read them
//! merging.rs      one pass over the blocks: makes one block of a run, without the events that go
//! horizon.rs      the positions beyond which compaction may not look, for backups and states
//! ```
//!
//! Compaction has no file of its own. `rewriting.rs` decides on it (`is_worth_compacting`) and does
//! it (`compact`): it reads the keys into `superseded.rs`, and has `merging.rs` make blocks without
//! the superseded events. The committer writes these blocks (`order/steps.rs`).
//!
//! # What is remembered of a topic
//!
//! In memory, in the topic's `Upkeep`. An *alarm* is the time at which maintenance looks at a topic
//! next. Each topic has two alarms, `retention` and `rewriting`. An alarm that *rings* is due at
//! once. After a start both ring:
//!
//! ```text
//! state         means                          set by                      cleared by
//! retention     alarm: look at the front, at   order: first event, blocks  the look (may_drop)
//!               once or at a time              to remove, a limit's time
//! rewriting     alarm: visit the topic, at     order: append, expiry;      the visit, as it begins
//!               once or at a time              a visit: its next time
//! small_blocks  small blocks since a pass      order: each small block     a pass, as it begins
//! expires_ms    the first expiry among         order; a visit that fails   a compaction, a sweep,
//!               events since the last sweep    gives it back               as it begins
//! sweep_ms      no sweep before this time      a pass, as it ends          never: the time passes
//! looked_at     compaction has read the keys   a compaction, before it     never: it rises
//!               of events below it             drops any
//! ```
//!
//! In the log, in the topic's extent:
//!
//! ```text
//! state         means                          set by                      cleared by
//! rewritten     a pass has looked at the       the last rewrite of a pass  never: it rises
//!               blocks below it
//! may_expire    some event may go because      order: the first event      a pass that finds none,
//!               of its age                     with a time to live         if none came meanwhile
//! compacted     the progress of compaction:    the last rewrite of a       other settings
//!               see `Compacted`                compaction or a sweep
//! buried_…      the newest deletion of a key   a rewrite that drops one    never
//!               that was dropped
//! ```
//!
//! # Words
//!
//! A pass *keeps* an event or *drops* it, for a `Reason`. An event with an id that has a reason to
//! go is *held back* until the id is forgotten (`held_back_until`). `key_limit` is the number of
//! events of a key that a topic keeps. A *sweep* drops expired events in a pass over all blocks of
//! a topic that is not compacted. To *bury* is to drop an event that deletes its key:
//! a tombstone, or an event with a key that has expired.
//!
//! # Why
//!
//! Threads of maintenance decide, read and merge. Changes of the log go through the committer, a
//! small step at a time, so that there is one writer, and a publish waits for one step at the most.
//! After each step the thread rests for as long as the step kept the committer busy.

pub(super) mod config;
pub(crate) mod foresight;
pub(super) mod horizon;
pub(super) mod maintainer;
mod merging;
pub(super) mod retention;
mod rewriting;
mod superseded;
mod visit;
mod visitor;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tracing::{info, warn};

use self::maintainer::{Ask, Maintainer, MaintenanceReply, VISITORS, check_caller, ends_round};
use self::visit::Visit;
use self::visitor::Visitor;
use crate::broker::failure::PanicGuard;
use crate::broker::report::MaintenanceReport;
use crate::broker::topic::entry::Topic;
use crate::error::{Error, Result};
use crate::event::Timestamp;

/// One round over the topics.
struct Round<'a> {
    topics: Vec<Arc<Topic>>,
    /// The caller who has asked for the round; `None` for a round that the clock began.
    asked: Option<&'a MaintenanceReply>,
    /// The index of the next topic to visit.
    next: AtomicUsize,
    /// The time at which the thread last looked for events over a limit.
    retained: Mutex<Instant>,
}

impl Maintainer {
    /// Runs until it is told to stop, or until every handle is gone.
    pub(super) fn run(self, asks: Receiver<Ask>) {
        let _guard = PanicGuard::new(&self.failure, "maintenance");
        let (mut last_clock, mut last_changes) = (Timestamp::default(), 0);
        loop {
            self.heed_clock(&mut last_clock);
            self.heed_leadership(&mut last_changes);
            match asks.recv_timeout(self.interval()) {
                Ok(Ask::Now { topic, answer }) => {
                    let outcome = self.round(topic, Some(&answer));
                    let _nobody_waits = answer.send(outcome);
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.round(None, None)
                        && !matches!(error, Error::ShuttingDown | Error::NotLeading)
                    {
                        warn!(%error, "maintenance cannot go on for now");
                    }
                }
                Ok(Ask::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Has all topics looked at if the clock has gone back: a topic may then be due earlier than
    /// was known.
    fn heed_clock(&self, last: &mut Timestamp) {
        let now = (self.now)();
        if now < *last {
            self.topics.filtered(|_| true).iter().for_each(|topic| topic.upkeep.touch());
        }
        *last = now;
    }

    /// Has all topics looked at if this node did not lead all the time since the last call. Another
    /// node may then have done less than was due, and more than the notes here tell.
    fn heed_leadership(&self, last: &mut u64) {
        let changes = self.leadership.changes();
        if std::mem::replace(last, changes) != changes {
            self.topics.filtered(|_| true).iter().for_each(|topic| topic.upkeep.touch());
        }
    }

    /// Looks at the topics whose alarms are due; if somebody has `asked`, at `topic`, or at all
    /// topics.
    fn round(
        &self,
        topic: Option<Arc<Topic>>,
        asked: Option<&MaintenanceReply>,
    ) -> Result<MaintenanceReport> {
        check_caller(asked)?;
        if self.leadership.follows() {
            return Err(Error::NotLeading);
        }
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

    /// Visits the topics of a round, in this thread and in up to [`VISITORS`] - 1 others.
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

    /// Visits topics of a round until none is left.
    fn visit_some(&self, round: &Round<'_>) -> (Result<()>, MaintenanceReport) {
        let mut visitor = Visitor::default();
        while let Some(topic) = round.topics.get(round.next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(visit) = Visit::new(self, topic, round.asked) {
                visitor.visit(visit);
            }
            // Events over a limit do not wait until all rewriting is done.
            if round.asked.is_none()
                && let Ok(mut retained) = round.retained.try_lock()
                && retained.elapsed() >= self.interval()
            {
                let due = self.due(|upkeep| &upkeep.retention);
                let outcome = self.retain(&due, None, &mut visitor.report);
                visitor.keep_outcome(outcome);
                *retained = Instant::now();
            }
            let is_over = visitor.outcome.as_ref().is_err_and(ends_round);
            if is_over || check_caller(round.asked).is_err() {
                break;
            }
        }
        visitor.end()
    }
}
