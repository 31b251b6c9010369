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
//! remembers ids.
//!
//! # Why
//!
//! The committer is a thread, not a task, because a commit blocks. Grouping needs no timer: while
//! one group is synced, the next one queues up. All changes of a group are drafted first, and
//! become visible only when the log has them, so a refused group leaves no trace.

mod changes;
pub(super) mod committer;
mod draft;
mod gathered;
mod placed;
mod steps;
#[cfg(test)]
mod tests;
pub(super) mod window;

use std::sync::atomic::Ordering;

use tracing::error;

use self::committer::Committer;
use self::draft::Draft;
use crate::broker::failure::PanicGuard;
use crate::broker::queue::{Queued, QueuedPublish};
use crate::broker::topic::state::TopicState;
use crate::cursor::Position;
use crate::event::{Durability, Timestamp};
use crate::log::Group;

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
                next = self.commands.blocking_recv();
                if next.is_none() {
                    return; // Every handle is gone.
                }
            }
            let gathered = self.gather(next.take());
            self.change_all(gathered.changes);
            let appended_blocks = match gathered.requests.is_empty() {
                true => 0,
                false => self.publish(gathered.requests, gathered.now),
            };
            self.take_steps(appended_blocks, gathered.now);
            for answer in gathered.barriers {
                let _nobody_waits = answer.send(());
            }
            match gathered.next {
                // Commands that entered the queue before it closed are still answered.
                Some(Queued::Stop) => self.commands.close(),
                other => next = other,
            }
        }
    }

    /// Commits `requests` as one group, and answers them. Returns the number of appended blocks.
    fn publish(&mut self, requests: Vec<QueuedPublish>, now: Timestamp) -> usize {
        self.window.expire(now);
        let mut draft = Draft::new(self.next_id);
        for request in requests {
            draft.place(self, request, now);
        }
        if draft.is_empty() {
            // Nothing is new, so nothing is synced.
            self.failure.count_refused(draft.answer(Ok(()), None, now));
            return 0;
        }
        draft.number(Position::new(self.announced.position()).next());
        draft.build(self.max_block_bytes);
        draft.retain(self, now);
        let mut group = draft.finish(now);
        let durability = if self.log.is_durable() { group.durability } else { Durability::Memory };
        let outcome = self.commit(&mut group);
        let appended = group.appended.len();
        match &outcome {
            Ok(()) => self.take_over(&mut draft, group, now),
            Err(error) => {
                error!(%error, "cannot commit a group");
                self.failure.stop_writes_after(error);
            }
        }
        self.failure.count_refused(draft.answer(outcome, Some(durability), now));
        appended
    }

    /// Makes a durable group visible. Readers see its events from now on.
    fn take_over(&mut self, draft: &mut Draft, group: Group, now: Timestamp) {
        draft.each_new_id(now, |topic, id, receipt| self.window.remember(topic, id, receipt, now));
        let mut blocks = group.appended.into_iter().peekable();
        let (mut last_position, mut newest_drop) = (Position::BEFORE_ALL, 0);
        for topic in draft.topics() {
            let mut extent = topic.state.extent;
            let mut expires = None;
            while let Some((_, block)) = blocks.next_if(|(id, _)| *id == topic.id) {
                extent = extent.with(&block);
                expires = block.first_expiry().into_iter().chain(expires).min();
                topic.topic.upkeep.appended(&block, self.max_block_bytes);
                self.tails.push(&topic.topic.tail, block);
            }
            self.window.advance(topic.id, extent.tail);
            last_position = last_position.max(extent.last_position);
            newest_drop = newest_drop.max(extent.newest_drop());
            let was_empty = !topic.state.exists() || topic.state.extent.is_empty();
            let (id, is_deleted) = (Some(topic.id), false);
            topic.topic.set_state(TopicState { id, extent, is_deleted, ..topic.state });
            // The alarm is set after the state: a visit that takes the alarm sees the event.
            expires.into_iter().for_each(|time| topic.topic.upkeep.expires(time));
            if was_empty {
                topic.topic.upkeep.has_front(); // When it gets too old is not known yet.
            }
            if let Some(retained) = topic.retained.take() {
                // Trimmed blocks are removed with the next publish to the topic, or after a while.
                let more = retained.has_more.then(|| now.plus_ms(RECLAIM_MS));
                let due = more.into_iter().chain(retained.quiet.due());
                due.for_each(|due| topic.topic.upkeep.retained(due));
                self.remember_quiet(topic.id, retained.quiet);
                self.count(&retained.report);
            }
        }
        self.next_id = draft.next_id();
        // The numbers are raised last: a reader that knows of a position, or of a drop, sees all up
        // to it.
        self.drops.fetch_max(newest_drop, Ordering::Release);
        self.announced.announce(last_position.get());
        let topics = draft.topics().iter().map(|topic| &topic.topic);
        self.waker.wake_all(topics, Some(last_position));
    }
}
