//! The commands of a node's callers that are not answered, in their order.

use std::collections::{BTreeMap, HashMap};

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
    /// Returns the error for a command that is given up.
    fn given_up(&self) -> Error {
        match self.sent {
            Some(_) => unknown("it did not answer in time, or the connection to it ended"),
            None => Error::NotLeading,
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

    /// The link is lost: has all commands that were sent over it sent again, if they are
    /// repeatable, and answers the others. Returns how many are sent again, and how many callers
    /// are told that nobody knows.
    pub(super) fn link_lost(&mut self) -> (u64, u64) {
        let sent = self.commands.iter().filter(|(_, pending)| pending.sent.is_some());
        let places: Vec<u64> = sent.map(|(place, _)| *place).collect();
        let (mut again, mut lost) = (0, 0);
        for place in places {
            if self.commands[&place].command.is_repeatable() {
                self.send_again(place, true);
                again += 1;
            } else if let Some(pending) = self.remove(place) {
                let error = pending.given_up();
                pending.command.refuse(error);
                lost += 1;
            }
        }
        (again, lost)
    }

    /// Takes all out, in their order. None of them was sent over a link that is still there.
    pub(super) fn take(&mut self) -> Vec<Forwarded> {
        self.publishers.clear();
        let all = std::mem::take(&mut self.commands);
        all.into_values().map(|pending| pending.command).collect()
    }

    /// Gives up all commands. None of them was sent over a link that is still there.
    pub(super) fn refuse_all(&mut self) {
        while let Some((&place, _)) = self.commands.first_key_value() {
            if let Some(pending) = self.remove(place) {
                let error = pending.given_up();
                pending.command.refuse(error);
            }
        }
    }

    /// Gives up the commands whose time is over.
    pub(super) fn give_up(&mut self, now: Instant) {
        // All wait for the same time, so the oldest are the first.
        while let Some((&place, first)) = self.commands.first_key_value()
            && first.deadline <= now
        {
            if let Some(pending) = self.remove(place) {
                let error = pending.given_up();
                pending.command.refuse(error);
            }
        }
    }

    /// Returns the time at which the first command is given up.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.commands.first_key_value().map(|(_, pending)| pending.deadline)
    }
}
