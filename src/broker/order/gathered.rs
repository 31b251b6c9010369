//! The commands that the committer takes out of its queue in one go, as one group.
//!
//! # Why
//!
//! A sync costs the same for one publish and for a thousand, so all that is queued goes into one
//! group. Other commands join the group, too: thousands of recalls after a restart, or of changes
//! of settings, must not each end a group. Changes of topics are committed before the publishes of
//! the same group. So a change of a topic that has a publish in the group ends the group, and the
//! order of the two is kept. A change after a deletion of the same topic ends the group, too: the
//! commit says how the topic is after it, and must show that the topic was deleted. The changes are
//! a commit of their own, because a full disk may refuse events and still allow the deletion that
//! makes room.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::committer::Committer;
use crate::broker::command::Change;
use crate::broker::queue::{COMMAND_BYTES, Queued, QueuedChange, QueuedPublish};
use crate::broker::report::LogReached;
use crate::broker::topic::entry::Topic;
use crate::event::Timestamp;

/// The commands of one group.
#[derive(Default)]
pub(super) struct Gathered {
    /// The time at which the group is decided. The clock is read once, so that every decision
    /// depends only on what was gathered.
    pub(super) now: Timestamp,
    /// The publishes, in their order.
    pub(super) requests: Vec<QueuedPublish>,
    /// The changes of topics, in their order. No topic among them has a publish in the group before
    /// its change, or a deletion.
    pub(super) changes: Vec<QueuedChange>,
    /// The callers that are told when the group is done.
    pub(super) barriers: Vec<oneshot::Sender<LogReached>>,
    /// The command after the group, if it was taken out of the queue already.
    pub(super) next: Option<Queued>,
}

impl Committer {
    /// Takes one group of commands out of the queue, beginning with `next`. Steps of maintenance
    /// are put aside in `steps`.
    pub(super) fn gather(&mut self, next: Option<Queued>) -> Gathered {
        let now = self.read_clock();
        let mut gathered = Gathered { now, ..Gathered::default() };
        // The topics that take no more changes in this group.
        let mut closed: HashSet<*const Topic> = HashSet::new();
        let mut size_bytes = 0;
        let mut next = next.or_else(|| self.try_next());
        while size_bytes < self.max_group_bytes {
            match next {
                Some(Queued::Publish(request)) => {
                    for (topic, append) in &request.appends {
                        size_bytes += append.records.size_bytes();
                        closed.insert(Arc::as_ptr(topic));
                    }
                    gathered.requests.push(request);
                }
                Some(Queued::Step(step)) => self.steps.push_back(step),
                Some(Queued::Change(asked)) if !closed.contains(&Arc::as_ptr(&asked.topic)) => {
                    size_bytes += COMMAND_BYTES;
                    if matches!(asked.change, Change::Delete) {
                        closed.insert(Arc::as_ptr(&asked.topic));
                    }
                    gathered.changes.push(asked);
                }
                Some(Queued::Recall { topic, recalled, reply }) => {
                    let first = topic.state().extent.purged;
                    for block in &recalled.blocks {
                        size_bytes += block.bytes().len();
                        self.window.remember_stored(recalled.id, block, first, now);
                    }
                    let _nobody_waits = reply.send(());
                }
                Some(Queued::Barrier { reply }) => {
                    size_bytes += COMMAND_BYTES;
                    gathered.barriers.push(reply);
                }
                Some(
                    Queued::Change(_) | Queued::Apply { .. } | Queued::Lead { .. } | Queued::Stop,
                )
                | None => break,
            }
            next = self.try_next();
        }
        gathered.next = next;
        gathered
    }
}
