//! Order: the committer, the one writer, which decides who gets which sequence.
//!
//! ```text
//! queue ──▶ gathered: commands and the time ──▶ draft: sequences, positions
//!                                                  │
//!           tails, signals, window ◀── durable ── log.commit: one batch, one sync
//!                    └──▶ replies
//! ```
//!
//! `committer.rs` is the committer's state. `gathered.rs` takes commands out of the queue.
//! `draft.rs` gives each publish of a group its sequences, and then all events of the group their
//! positions. `placed.rs` gives out no numbers: it finds the repeated events of a publish, and,
//! once the draft has given the numbers, builds the blocks and the acknowledgement. `changes.rs`
//! creates, changes and deletes topics, `steps.rs` does the steps of maintenance, and `window.rs`
//! remembers ids. `visible.rs` shows a group that the log has. In a fleet, `siblings.rs` waits a
//! moment for publishers, and `apply.rs` takes groups that another node has decided.
//!
//! # Why
//!
//! The committer is a thread, not a task, because a commit blocks. Grouping needs no timer: while
//! one group is synced, the next one queues up. All changes of a group are drafted first, and
//! become visible only when the log has them, so a refused group leaves no trace.

pub(super) mod apply;
mod changes;
pub(super) mod committer;
mod draft;
mod gathered;
mod placed;
pub(super) mod siblings;
mod steps;
#[cfg(test)]
mod tests;
mod visible;
pub(super) mod window;

use std::time::Instant;

use tracing::error;

use self::committer::{Committer, stored};
use self::draft::Draft;
use self::siblings::Siblings;
use crate::broker::failure::PanicGuard;
use crate::broker::queue::{Queued, QueuedPublish};
use crate::broker::report::LogReached;
use crate::cursor::Position;
use crate::error::Error;
use crate::event::Timestamp;

/// The time, in milliseconds, after which maintenance removes the blocks that a publish has
/// trimmed.
const RECLAIM_MS: u64 = 5_000;

impl Committer {
    /// Runs until it is told to stop, or until every handle is gone. Each accepted request is
    /// answered.
    pub(super) fn run(self) {
        let _guard = PanicGuard::new(&self.failure, "committer");
        let mut committer = self; // Dropped before the guard, which tells others of a panic.
        committer.obey_all();
    }

    fn obey_all(&mut self) {
        let mut next = None;
        loop {
            if next.is_none() && self.steps.is_empty() {
                next = self.next_returned().or_else(|| self.commands.blocking_recv());
                match &next {
                    None => return, // Every handle is gone.
                    Some(Queued::Publish(_)) => self.siblings.wait(|| 1 + self.commands.len()),
                    Some(_) => {}
                }
            }
            let mut gathered = self.gather(next.take());
            self.leave_to_leader(&mut gathered);
            self.change_all(gathered.changes);
            let appended_blocks = match gathered.requests.is_empty() {
                true => 0,
                false => self.publish(gathered.requests, gathered.now),
            };
            self.take_steps(appended_blocks, gathered.now);
            for answer in gathered.barriers {
                let _nobody_waits = answer.send(self.reached());
            }
            match gathered.next {
                // Commands that entered the queue before it closed are still answered.
                Some(Queued::Stop) => self.commands.close(),
                Some(Queued::Apply { group, reply }) => {
                    let _nobody_waits = reply.send(self.apply(*group));
                }
                Some(Queued::Lead { leadership, reply }) => {
                    self.set_leadership(leadership);
                    let _nobody_waits = reply.send(());
                }
                other => next = other,
            }
        }
    }

    /// Commits `requests` as one group, and answers them. Returns the number of appended blocks.
    fn publish(&mut self, requests: Vec<QueuedPublish>, now: Timestamp) -> usize {
        self.window.expire(now);
        let count = requests.len();
        let mut draft = Draft::new(self.next_id);
        for request in requests {
            draft.place(self, request, now);
        }
        if draft.is_empty() {
            // Nothing is new, so nothing is synced, and nobody waits for it.
            self.siblings = Siblings::default();
            self.failure.count_refused(draft.answer(Ok(()), None, now, None));
            return 0;
        }
        draft.number(Position::new(self.announced.position()).next());
        draft.build(self.max_block_bytes);
        draft.retain(self, now);
        let mut group = draft.finish(now);
        let durability = self.log.durability(group.durability);
        let began = Instant::now();
        let outcome = self.commit(&mut group);
        if self.elsewhere.is_some() {
            let came = self.commands.len();
            self.siblings = Siblings::after(count, came, began.elapsed());
        }
        let appended = group.appended.len();
        match &outcome {
            Ok(()) => {
                self.take_over(group, &draft.topics_by_id());
                self.take_over_retained(&mut draft, now);
            }
            Err(error) => {
                if !matches!(error, Error::NotLeading) {
                    error!(%error, "cannot commit a group");
                }
                self.note_failure(error);
            }
        }
        let elsewhere = self.elsewhere.as_ref().filter(|_| match &outcome {
            Err(Error::NotLeading) => true,
            // A broker that takes nothing more hands nothing on, either.
            Err(error) => error.outcome_unknown() && self.log.goes_on_after(error),
            Ok(()) => false,
        });
        self.failure.count_refused(draft.answer(outcome, Some(durability), now, elsewhere));
        appended
    }

    /// Returns how far the log is, between two groups.
    fn reached(&self) -> LogReached {
        let position = Position::new(self.announced.position());
        let applied = self.log.applied();
        let topics = match &applied {
            Ok(Some(_)) => {
                let all = self.topics.filtered(|topic| topic.state().id.is_some());
                all.iter().filter_map(|topic| stored(topic).ok()).collect()
            }
            _ => Vec::new(),
        };
        LogReached { position, applied, topics }
    }

    /// Notes what the group has found out about the fronts of its topics.
    fn take_over_retained(&mut self, draft: &mut Draft, now: Timestamp) {
        for topic in draft.topics() {
            let Some(retained) = topic.retained.take() else { continue };
            // Trimmed blocks are removed with the next publish to the topic, or after a while.
            let more = retained.has_more.then(|| now.plus_ms(RECLAIM_MS));
            let due = more.into_iter().chain(retained.quiet.due());
            due.for_each(|due| topic.topic.upkeep.retained(due));
            self.remember_quiet(topic.id, retained.quiet);
            self.count(&retained.report);
        }
    }
}
