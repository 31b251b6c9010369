//! The commands that the committer takes out of its queue in one go.
//!
//! # Why
//!
//! A sync costs the same for one publish and for a thousand, so as much as is queued goes with it.
//! Other commands join the group, too: thousands of recalls after a restart, or of changes of
//! settings, must not each end a group. Changes of topics are committed before the publishes that
//! were gathered with them, so a change of a topic that is published to before it ends the group:
//! the order of the two is kept. They are a commit of their own, since a disk may be too full for
//! events and not for the deletion that makes room.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::committer::Committer;
use crate::broker::queue::{COMMAND_BYTES, Queued, QueuedChange, QueuedPublish};
use crate::broker::topic::entry::Topic;
use crate::event::Timestamp;

/// Commands that are obeyed together.
#[derive(Default)]
pub(super) struct Gathered {
    /// The time at which all of it is decided: the clock is read once, for no decision may depend
    /// on anything but what was gathered.
    pub(super) now: Timestamp,
    /// Publishes, in their order.
    pub(super) requests: Vec<QueuedPublish>,
    /// Changes of topics, in their order; of none that is published to before it.
    pub(super) changes: Vec<QueuedChange>,
    /// The callers that are told when all of it is done.
    pub(super) barriers: Vec<oneshot::Sender<()>>,
    /// The command that comes after all of it, if one was taken out.
    pub(super) next: Option<Queued>,
}

impl Committer {
    /// Takes what is queued, from `next` on, as much as is one group, and puts the steps that it
    /// comes across aside.
    pub(super) fn gather(&mut self, next: Option<Queued>) -> Gathered {
        let now = self.read_clock();
        let mut gathered = Gathered { now, ..Gathered::default() };
        let mut published: HashSet<*const Topic> = HashSet::new();
        let mut size_bytes = 0;
        let mut next = next.or_else(|| self.commands.try_recv().ok());
        while size_bytes < self.max_group_bytes {
            match next {
                Some(Queued::Publish(request)) => {
                    size_bytes += request.append.records.size_bytes();
                    published.insert(Arc::as_ptr(&request.topic));
                    gathered.requests.push(request);
                }
                Some(Queued::Step(step)) => self.steps.push_back(step),
                Some(Queued::Change(asked)) if !published.contains(&Arc::as_ptr(&asked.topic)) => {
                    size_bytes += COMMAND_BYTES;
                    gathered.changes.push(asked);
                }
                Some(Queued::Recall { topic, recalled, reply }) => {
                    let first = topic.state().extent.purged;
                    for block in &recalled.blocks {
                        size_bytes += block.bytes().len();
                        self.window.remember_block(recalled.id, block, first, now);
                    }
                    let _nobody_waits = reply.send(());
                }
                Some(Queued::Barrier { reply }) => {
                    size_bytes += COMMAND_BYTES;
                    gathered.barriers.push(reply);
                }
                Some(Queued::Change(_) | Queued::Stop) | None => break,
            }
            next = self.commands.try_recv().ok();
        }
        gathered.next = next;
        gathered
    }
}
