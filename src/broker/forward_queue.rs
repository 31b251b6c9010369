//! Commands for the node that leads: while another node of the fleet decides, the committer puts
//! here what callers of this node ask for, and the forwarder takes it from here.
//!
//! ```text
//! queue ──▶ committer ── another node leads ──▶ forward queue ──▶ forwarder ──▶ the leader
//!               ▲                                     │
//!               └───── this node leads from now on ───┘
//! ```
//!
//! # Why
//!
//! The committer alone knows who decides at which place of the queue, so it alone puts commands
//! here. When this node begins to lead, the forwarder gives back what it has not finished, and the
//! committer decides all of it before anything else. So each publisher's order is kept, whoever
//! leads. The queue needs no bound of its own: each publish holds its room in the broker's queue
//! until it is answered, and each other command one of [`MAX_OTHERS`] places.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::command::Change;
use super::publish::PublisherId;
use super::queue::{QueuedChange, QueuedPublish};
use super::report::{Ack, Done};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::log::NewRecords;
use crate::topic::TopicName;

/// The most commands, besides publishes, that are not answered: here or with the forwarder.
const MAX_OTHERS: usize = 1_024;

/// A command for the node that leads.
#[derive(Debug)]
pub(crate) enum Forwarded {
    Publish(ForwardedPublish),
    Change(ForwardedChange),
    Purge(ForwardedPurge),
}

impl Forwarded {
    /// Refuses the command, of which nothing was done, or nothing that is known. Returns whether
    /// its caller is told that nobody knows.
    pub(crate) fn refuse(self, error: Error) -> bool {
        let error = match &self {
            Self::Publish(publish) => error.of_repeated(publish.0.may_be_stored),
            Self::Change(_) => error,
            Self::Purge(purge) => error.of_repeated(purge.may_be_done),
        };
        let is_unknown = error.outcome_unknown();
        match self {
            Self::Publish(publish) => publish.answer(Err(error)),
            Self::Change(change) => change.answer(Err(error)),
            Self::Purge(purge) => purge.answer(Err(error)),
        }
        is_unknown
    }

    /// Notes that nobody knows what became of an attempt to have it done.
    pub(crate) fn note_unknown(&mut self) {
        match self {
            Self::Publish(publish) => publish.0.may_be_stored = true,
            Self::Purge(purge) => purge.may_be_done = true,
            Self::Change(_) => {}
        }
    }

    /// Whether it is a publish after one of the same publisher that has failed.
    pub(crate) fn comes_after_failure(&self) -> bool {
        matches!(self, Self::Publish(publish) if publish.0.turn.check().is_err())
    }

    /// Returns the size of its events, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Publish(publish) => {
                publish.0.appends.iter().map(|(_, append)| append.records.size_bytes()).sum()
            }
            Self::Change(_) | Self::Purge(_) => 0,
        }
    }

    /// Returns when the command was left to another node first. A publish keeps that time, however
    /// often the leader changes.
    pub(crate) fn left(&self) -> Instant {
        match self {
            Self::Publish(publish) => publish.0.left.unwrap_or_else(Instant::now),
            Self::Change(_) | Self::Purge(_) => Instant::now(),
        }
    }

    /// Answers the caller of a command that was carried out: a publish with the acknowledgements of
    /// its appends.
    pub(crate) fn succeed(self, acks: Vec<Ack>) {
        match self {
            Self::Publish(publish) => publish.answer(Ok(acks)),
            Self::Change(change) => change.answer(Ok(())),
            Self::Purge(purge) => purge.answer(Ok(())),
        }
    }

    /// Whether the command may be sent again when nobody knows what became of it.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self {
            Self::Publish(publish) => publish.is_repeatable(),
            // Others may have changed the topic in between.
            Self::Change(_) => false,
            Self::Purge(_) => true,
        }
    }
}

impl From<QueuedPublish> for Forwarded {
    fn from(publish: QueuedPublish) -> Self {
        Self::Publish(ForwardedPublish(publish))
    }
}

impl From<QueuedChange> for Forwarded {
    fn from(change: QueuedChange) -> Self {
        Self::Change(ForwardedChange { change, place: None })
    }
}

/// A publish for the node that leads.
#[derive(Debug)]
pub(crate) struct ForwardedPublish(pub(super) QueuedPublish);

/// The events of a publish for one topic.
#[derive(Debug)]
pub(crate) struct ForwardedAppend {
    pub(crate) topic: TopicName,
    pub(crate) expected_sequence: Option<u64>,
    pub(crate) records: Arc<NewRecords>,
}

impl ForwardedPublish {
    /// Returns the publisher. While a publish of it is here, no other publisher has the same.
    pub(crate) fn publisher(&self) -> PublisherId {
        self.0.turn.publisher()
    }

    /// Whether the publish is stored even if an earlier one of its publisher fails.
    pub(crate) fn is_independent(&self) -> bool {
        self.0.turn.is_independent()
    }

    /// Whether each event has an id, by which it is recognised if it is stored already.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.0.appends.iter().all(|(_, append)| append.records.all_have_ids())
    }

    /// Returns the events, topic by topic.
    pub(crate) fn appends(&self) -> impl Iterator<Item = ForwardedAppend> {
        self.0.appends.iter().map(|(topic, append)| ForwardedAppend {
            topic: topic.name.clone(),
            expected_sequence: append.expected_sequence,
            records: append.records.clone(),
        })
    }

    /// Answers the publisher.
    pub(crate) fn answer(self, outcome: Result<Vec<Ack>>) {
        let outcome = outcome.map_err(|error| error.of_repeated(self.0.may_be_stored));
        if outcome.is_err() {
            self.0.turn.fail();
        }
        let _publisher_is_gone = self.0.reply.send(outcome);
    }
}

/// A change of a topic for the node that leads.
#[derive(Debug)]
pub(crate) struct ForwardedChange {
    pub(super) change: QueuedChange,
    /// Its place among the commands that are not answered.
    place: Option<OwnedSemaphorePermit>,
}

impl ForwardedChange {
    pub(crate) fn topic(&self) -> &TopicName {
        &self.change.topic.name
    }

    pub(crate) fn change(&self) -> &Change {
        &self.change.change
    }

    pub(crate) fn answer(self, outcome: Result<()>) {
        let _nobody_waits = self.change.reply.send(outcome);
    }
}

/// A purge for the node that leads.
#[derive(Debug)]
pub(crate) struct ForwardedPurge {
    pub(crate) topic: TopicName,
    pub(crate) earliest: Sequence,
    /// Whether nobody knows what became of an earlier attempt.
    may_be_done: bool,
    pub(super) reply: oneshot::Sender<Result<Done>>,
    /// Its place among the commands that are not answered; `None` until it is in the queue.
    place: Option<OwnedSemaphorePermit>,
}

impl ForwardedPurge {
    pub(super) fn new(
        topic: TopicName,
        earliest: Sequence,
        reply: oneshot::Sender<Result<Done>>,
    ) -> Self {
        Self { topic, earliest, may_be_done: false, reply, place: None }
    }

    pub(crate) fn answer(self, outcome: Result<()>) {
        let outcome = outcome.map_err(|error| error.of_repeated(self.may_be_done));
        let _nobody_waits = self.reply.send(outcome.map(|()| Done::default()));
    }
}

/// The queue. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ForwardQueue(Arc<ForwardState>);

#[derive(Debug)]
struct ForwardState {
    waiting: Mutex<WaitingCommands>,
    changed: Notify,
    /// The places of commands that are no publishes.
    places: Arc<Semaphore>,
}

impl Default for ForwardState {
    fn default() -> Self {
        let (waiting, changed) = Default::default();
        Self { waiting, changed, places: Arc::new(Semaphore::new(MAX_OTHERS)) }
    }
}

#[derive(Debug, Default)]
struct WaitingCommands {
    commands: VecDeque<Forwarded>,
    /// Whether the forwarder may take commands.
    is_open: bool,
    /// Whether there is no forwarder any more.
    has_ended: bool,
}

impl ForwardQueue {
    fn waiting(&self) -> MutexGuard<'_, WaitingCommands> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a command. It is refused if there is no forwarder any more, or no room for more
    /// changes.
    pub(super) fn push(&self, mut command: Forwarded) {
        let place = match &mut command {
            Forwarded::Publish(publish) => {
                publish.0.left.get_or_insert_with(Instant::now);
                None
            }
            Forwarded::Change(ForwardedChange { place, .. })
            | Forwarded::Purge(ForwardedPurge { place, .. }) => Some(place),
        };
        if let Some(place) = place {
            *place = self.0.places.clone().try_acquire_owned().ok();
            if place.is_none() {
                let what = "another node of the fleet to change topics";
                command.refuse(Error::crowded(what, MAX_OTHERS as u64));
                return;
            }
        }
        let mut waiting = self.waiting();
        if waiting.has_ended {
            drop(waiting);
            command.refuse(Error::NotLeading);
            return;
        }
        waiting.commands.push_back(command);
        drop(waiting);
        self.0.changed.notify_one();
    }

    /// Lets the forwarder take commands from now on.
    pub(super) fn open(&self) {
        self.waiting().is_open = true;
        self.0.changed.notify_one();
    }

    /// Takes all commands, in their order, for this node to decide.
    pub(super) fn take_back(&self) -> VecDeque<Forwarded> {
        let mut waiting = self.waiting();
        waiting.is_open = false;
        std::mem::take(&mut waiting.commands)
    }

    /// Waits for commands, and takes all of them, in their order. One forwarder takes.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(crate) async fn take(&self) -> VecDeque<Forwarded> {
        loop {
            if let Some(taken) = self.try_take() {
                return taken;
            }
            self.0.changed.notified().await;
        }
    }

    fn try_take(&self) -> Option<VecDeque<Forwarded>> {
        let mut waiting = self.waiting();
        if !waiting.is_open || waiting.commands.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut waiting.commands))
    }

    /// Puts commands, in their order, before all that wait, and takes none until the committer
    /// opens the queue again.
    pub(crate) fn give_back(&self, mut commands: VecDeque<Forwarded>) {
        let mut waiting = self.waiting();
        waiting.is_open = false;
        commands.append(&mut waiting.commands); // Few wait, and they are moved as they are.
        waiting.commands = commands;
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting().commands.is_empty()
    }

    /// Refuses all that waits, and all that comes: there is no forwarder any more.
    pub(crate) fn end(&self) {
        let mut waiting = self.waiting();
        waiting.has_ended = true;
        let commands = std::mem::take(&mut waiting.commands);
        drop(waiting);
        for command in commands {
            command.refuse(Error::NotLeading);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(topic: &str) -> (Forwarded, oneshot::Receiver<Result<Done>>) {
        let (reply, answered) = oneshot::channel();
        let (topic, earliest) = (topic.parse().unwrap(), Sequence::FIRST);
        (Forwarded::Purge(ForwardedPurge::new(topic, earliest, reply)), answered)
    }

    fn topics(commands: VecDeque<Forwarded>) -> Vec<String> {
        let topic = |command| match command {
            Forwarded::Purge(purge) => purge.topic.to_string(),
            other => panic!("{other:?}"),
        };
        commands.into_iter().map(topic).collect()
    }

    /// Goal: what was given back keeps its place before all else, nothing is taken while the node
    /// is about to lead, and nobody waits for a forwarder that is gone.
    #[tokio::test]
    async fn changes_have_bounded_room_and_what_is_given_back_comes_first() {
        let queue = ForwardQueue::default();
        let mut answers = Vec::new();
        let mut push = |topic: &str| {
            let (command, answered) = purge(topic);
            queue.push(command);
            answers.push(answered);
        };
        push("a");
        assert!(queue.try_take().is_none(), "it is not open");
        queue.open();
        push("b");
        let taken = queue.take().await;
        push("c");
        queue.give_back(taken);
        push("d");
        assert!(queue.try_take().is_none(), "the committer takes back");
        assert_eq!(topics(queue.take_back()), ["a", "b", "c", "d"]);
        (0..MAX_OTHERS).for_each(|_| push("e"));
        let (one_more, refused) = purge("f");
        queue.push(one_more);
        assert!(matches!(refused.await.unwrap(), Err(Error::Crowded { limit: 1_024, .. })));
        // Those that the forwarder has taken count until they are answered.
        queue.open();
        let mut taken = queue.take().await;
        let (one_more, refused) = purge("f");
        queue.push(one_more);
        assert!(matches!(refused.await.unwrap(), Err(Error::Crowded { limit: 1_024, .. })));
        taken.pop_back().unwrap().succeed(Vec::new());
        let (one_more, waits) = purge("f");
        queue.push(one_more);
        queue.give_back(taken);
        *answers.last_mut().unwrap() = waits;
        queue.end();
        let (late, refused_late) = purge("g");
        queue.push(late); // There is room again, and nobody who takes it.
        for answered in answers.into_iter().skip(4).chain([refused_late]) {
            assert!(matches!(answered.await.unwrap(), Err(Error::NotLeading)));
        }
    }
}
