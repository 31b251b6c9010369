//! What the committer takes out of its queue in one go.
//!
//! # Why
//!
//! A sync costs the same for one publish and for a thousand, so as much as is queued goes with it.
//! Whatever else is asked for joins, too: thousands of recalls after a restart, or of settings that
//! are changed, must not each end a group. Changes of topics are committed before the publishes
//! that were gathered with them, so one of a topic that is published to before it ends the group:
//! the order of those two is kept. They are a commit of their own, since a disk may be too full for
//! events and not for the deletion that makes room.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::changes::Asked;
use super::{Command, Committer, Request};
use crate::broker::shared::REQUEST_BYTES;
use crate::broker::topic::topics::Topic;

/// Commands that are obeyed together.
#[derive(Default)]
pub(super) struct Gathered {
    /// Publishes, in their order.
    pub(super) requests: Vec<Request>,
    /// Changes of topics, in their order; of none that is published to before it.
    pub(super) changes: Vec<Asked>,
    /// Who is told when all of it is done.
    pub(super) barriers: Vec<oneshot::Sender<()>>,
    /// The command that comes after all of it, if one was taken out.
    pub(super) next: Option<Command>,
}

impl Committer {
    /// Takes what is queued, from `next` on, as much as is one group, and puts the steps that it
    /// comes across aside.
    pub(super) fn gather(&mut self, next: Option<Command>) -> Gathered {
        let mut gathered = Gathered::default();
        let mut published: HashSet<*const Topic> = HashSet::new();
        let mut size_bytes = 0;
        let mut next = next.or_else(|| self.commands.try_recv().ok());
        while size_bytes < self.max_group_bytes {
            match next {
                Some(Command::Publish(request)) => {
                    size_bytes += request.records.size_bytes();
                    published.insert(Arc::as_ptr(&request.topic));
                    gathered.requests.push(request);
                }
                Some(Command::Step(step)) => self.steps.push_back(step),
                Some(Command::Configure(asked))
                    if !published.contains(&Arc::as_ptr(&asked.topic)) =>
                {
                    size_bytes += REQUEST_BYTES;
                    gathered.changes.push(asked);
                }
                Some(Command::Recall { topic, id, blocks, answer }) => {
                    let (first, now) = (topic.state().extent.purged, (self.now)());
                    for block in &blocks {
                        size_bytes += block.bytes().len();
                        self.window.note_block(id, block, first, now);
                    }
                    let _nobody_waits = answer.send(());
                }
                Some(Command::Barrier { answer }) => {
                    size_bytes += REQUEST_BYTES;
                    gathered.barriers.push(answer);
                }
                Some(Command::Configure(_) | Command::Stop) | None => break,
            }
            next = self.commands.try_recv().ok();
        }
        gathered.next = next;
        gathered
    }
}
