//! The commands to a dispatcher, and the leases that it gives away.

use tokio::sync::{mpsc, oneshot};

use super::lease_id::LeaseId;
use super::requests::{Leased, PullRequest, Settled, Settlement};
use super::shared::SharedConsumer;
use crate::error::{Error, Result};

/// Leases on their way to the worker. Dropped on the way, they are taken back.
#[derive(Debug)]
pub(super) struct GrantedLeases {
    pub(super) leases: Vec<Leased>,
    pub(super) commands: mpsc::WeakSender<Command>,
}

impl GrantedLeases {
    /// Returns the leases, which the worker has from now on.
    pub(super) fn take(mut self) -> Vec<Leased> {
        std::mem::take(&mut self.leases)
    }
}

impl Drop for GrantedLeases {
    fn drop(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let leases = self.leases.iter().map(|leased| leased.lease).collect();
        if let Some(commands) = self.commands.upgrade() {
            // If the queue is full, the leases run out.
            let _full = commands.try_send(Command::Undelivered(leases));
        }
    }
}

/// A command to a dispatcher.
#[derive(Debug)]
pub(super) enum Command {
    Pull {
        consumer: SharedConsumer,
        request: PullRequest,
        reply: oneshot::Sender<Result<GrantedLeases>>,
    },
    Settle {
        consumer: SharedConsumer,
        settlement: Settlement,
        reply: oneshot::Sender<Result<Settled>>,
    },
    /// Ends the delays of events that failed.
    Hasten { consumer: SharedConsumer, reply: oneshot::Sender<Result<()>> },
    /// Leases that no worker has heard of.
    Undelivered(Vec<LeaseId>),
    /// The consumer is deleted.
    End(oneshot::Sender<()>),
}

/// Answers commands with an error.
pub(super) fn refuse(commands: &mut Vec<Command>, error: &Error) {
    let rest = std::mem::take(commands);
    for command in rest {
        match command {
            Command::Pull { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Settle { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Hasten { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Undelivered(_) => {} // What is stored of them is read again.
            end @ Command::End(_) => commands.push(end),
        }
    }
}

/// Returns who waits for the end of the dispatcher.
pub(super) fn ended(commands: Vec<Command>) -> Option<oneshot::Sender<()>> {
    commands.into_iter().find_map(|command| match command {
        Command::End(ended) => Some(ended),
        _ => None,
    })
}
