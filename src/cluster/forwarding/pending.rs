//! The commands of a node's callers that are not answered, in their order.

use std::collections::{BTreeMap, HashMap, VecDeque};

use tokio::time::Instant;

use super::failures::unknown;
use crate::broker::{Forwarded, PublisherId};
use crate::error::Error;

/// A command that is not answered.
#[derive(Debug)]
pub(super) struct PendingCommand {
    pub(super) command: Forwarded,
    /// The time at which its caller is told that it was not carried out, or that nobody knows.
    pub(super) deadline: Instant,
    /// When it was sent over the present link; `None` if it is still to be sent.
    pub(super) sent: Option<Instant>,
}

impl PendingCommand {
    /// Returns the error for a command that is given up. One that is still to be sent is told `why`
    /// nobody could be asked.
    fn given_up(&self, why: Option<&str>) -> Error {
        match (self.sent, why) {
            (Some(_), _) => unknown("it did not answer in time, or the connection to it ended"),
            (None, Some(why)) => Error::NoLeader(std::io::Error::other(why).into()),
            (None, None) => Error::NotLeading,
        }
    }
}

/// All commands that are not answered, by their places.
#[derive(Debug, Default)]
pub(super) struct PendingCommands {
    commands: BTreeMap<u64, PendingCommand>,
    next_place: u64,
    /// The places of the commands that are to be sent begin here.
    unsent_from: u64,
    /// The publishers of pending publishes, each with its number and the number of its publishes.
    publishers: HashMap<PublisherId, (u64, usize)>,
    next_publisher: u64,
}

impl PendingCommands {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Adds a command after all others.
    pub(super) fn push(&mut self, command: Forwarded, deadline: Instant) {
        if let Forwarded::Publish(publish) = &command {
            let next = &mut self.next_publisher;
            let (_, publishes) = self.publishers.entry(publish.publisher()).or_insert_with(|| {
                *next += 1;
                (*next, 0)
            });
            *publishes += 1;
        }
        let pending = PendingCommand { command, deadline, sent: None };
        self.commands.insert(self.next_place, pending);
        self.next_place += 1;
    }

    pub(super) fn get_mut(&mut self, place: u64) -> Option<&mut PendingCommand> {
        self.commands.get_mut(&place)
    }

    /// Returns a command that is sent now, with the number of its publisher; 0 if it is no publish.
    pub(super) fn next_sent(&mut self, place: u64) -> Option<(&Forwarded, u64)> {
        let pending = self.commands.get_mut(&place)?;
        pending.sent = Some(Instant::now());
        let publisher = match &pending.command {
            Forwarded::Publish(publish) => self.publishers.get(&publish.publisher())?.0,
            Forwarded::Change(_) | Forwarded::Purge(_) => 0,
        };
        Some((&pending.command, publisher))
    }

    /// Takes a command out, which is answered now.
    pub(super) fn remove(&mut self, place: u64) -> Option<PendingCommand> {
        let removed = self.commands.remove(&place)?;
        if let Forwarded::Publish(publish) = &removed.command {
            let publisher = publish.publisher();
            if let Some((_, publishes)) = self.publishers.get_mut(&publisher) {
                *publishes -= 1;
                if *publishes == 0 {
                    self.publishers.remove(&publisher);
                }
            }
        }
        Some(removed)
    }

    /// Returns the place of the first command that is to be sent.
    pub(super) fn first_unsent(&mut self) -> Option<u64> {
        let mut from = self.commands.range(self.unsent_from..);
        let first = from.find(|(_, pending)| pending.sent.is_none()).map(|(place, _)| *place);
        self.unsent_from = first.unwrap_or(self.next_place);
        first
    }

    /// Has a command sent again, which was surely not carried out by the last attempt unless
    /// `may_be_done`.
    pub(super) fn send_again(&mut self, place: u64, may_be_done: bool) {
        if let Some(pending) = self.commands.get_mut(&place) {
            pending.sent = None;
            if may_be_done {
                pending.command.note_unknown();
            }
            self.unsent_from = self.unsent_from.min(place);
        }
    }

    /// Returns the places of all commands that were sent and are not answered.
    pub(super) fn sent_places(&self) -> Vec<u64> {
        let sent = self.commands.iter().filter(|(_, pending)| pending.sent.is_some());
        sent.map(|(place, _)| *place).collect()
    }

    /// The link over which a command was sent is lost: has it sent again if it is repeatable, and
    /// answers it if not. Returns how many callers are told that nobody knows, 0 or 1; `None` if it
    /// is sent again.
    pub(super) fn lose_one(&mut self, place: u64) -> Option<u64> {
        if self.commands.get(&place)?.command.is_repeatable() {
            self.send_again(place, true);
            return None;
        }
        Some(self.give_up_one(place, None))
    }

    /// Answers a command with an error. Returns how many callers are told that nobody knows: 0 or
    /// 1.
    pub(super) fn refuse(&mut self, place: u64, error: Error) -> u64 {
        self.remove(place).map_or(0, |pending| u64::from(pending.command.refuse(error)))
    }

    /// Gives up a command. Returns how many callers are told that nobody knows, 0 or 1; others are
    /// told `why`.
    pub(super) fn give_up_one(&mut self, place: u64, why: Option<&str>) -> u64 {
        let error = self.commands.get(&place).map(|pending| pending.given_up(why));
        error.map_or(0, |error| self.refuse(place, error))
    }

    /// Takes all out, in their order. None of them was sent over a link that is still there.
    pub(super) fn take(&mut self) -> VecDeque<Forwarded> {
        self.publishers.clear();
        let all = std::mem::take(&mut self.commands);
        all.into_values().map(|pending| pending.command).collect()
    }

    /// Returns the place of the first command.
    pub(super) fn first(&self) -> Option<u64> {
        self.commands.first_key_value().map(|(place, _)| *place)
    }

    /// Returns the time at which the first command is given up.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.commands.first_key_value().map(|(_, pending)| pending.deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::broker::{FollowerConfig, ForwardQueue};
    use crate::event::NewEvent;
    use crate::log::MemoryLog;
    use crate::{Broker, OpenConfig, Publish};

    /// Goal: a publish that was sent to a leader who was lost, and then to nobody in time, counts
    /// as one of which nobody knows; one that was never sent does not.
    #[tokio::test]
    async fn a_command_that_was_sent_once_and_is_given_up_is_counted_as_unknown() {
        let queue = ForwardQueue::default();
        let follower =
            FollowerConfig { elsewhere: Some(queue.clone()), max_wait: Duration::from_secs(1) };
        let log = Arc::new(MemoryLog::default());
        let broker = Broker::following(log, &OpenConfig::default(), follower).unwrap();
        for is_sent in [true, false] {
            let event = NewEvent::new("an event").with_id("one");
            let publishing = {
                let broker = broker.clone();
                let publish = Publish::one("a".parse().unwrap(), event);
                tokio::spawn(async move { broker.publish(publish).await })
            };
            let (mut pending, now) = (PendingCommands::default(), Instant::now());
            for command in queue.take().await {
                pending.push(command, now);
            }
            if is_sent {
                pending.next_sent(0).unwrap();
                assert_eq!(pending.sent_places(), [0]);
                assert_eq!(pending.lose_one(0), None);
                assert!(pending.sent_places().is_empty(), "it is to be sent again");
            }
            assert_eq!(pending.give_up_one(0, None), u64::from(is_sent));
            assert_eq!(pending.first(), None);
            let error = publishing.await.unwrap().unwrap_err();
            assert_eq!(error.outcome_unknown(), is_sent, "{error}");
        }
        broker.close().await;
    }
}
