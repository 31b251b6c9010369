//! One connection to the node that leads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;

use crate::cluster::links::{LinkConfig, channel, with_proof};
use crate::cluster::proto::forwarding_client::ForwardingClient;
use crate::cluster::proto::{CommandOutcome, CommandOutcomes, ForwardedCommands};
use crate::cluster::record::FleetLeader;

/// The messages that may wait to be sent: what the leader does not take stays with the forwarder.
const MAX_QUEUED_MESSAGES: usize = 4;

/// The largest message of a node, in bytes: far above what a group may have.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// Why there is no connection to a leader.
#[derive(Debug)]
pub(super) struct NoLink {
    /// For people, with the leader's address.
    pub(super) problem: String,
    /// Whether the leader answers and refuses this node, so that trying again soon is of no use.
    pub(super) is_refused: bool,
}

impl NoLink {
    fn away(problem: String) -> Self {
        Self { problem, is_refused: false }
    }
}

/// A connection to a leader, with the commands that were sent over it and are not answered.
pub(super) struct LeaderLink {
    /// Messages wait here for the connection.
    pub(super) sends: mpsc::Sender<ForwardedCommands>,
    outcomes: Streaming<CommandOutcomes>,
    next_number: u64,
    /// The commands that are not answered: their places with the forwarder, by their numbers here.
    sent: BTreeMap<u64, u64>,
    /// Whether nothing more is sent: a command is to be repeated, and must not be overtaken.
    pub(super) is_ending: bool,
}

impl LeaderLink {
    /// Connects to a leader, and waits until it listens.
    ///
    /// # Errors
    ///
    /// [`NoLink`]: that did not come to be within `wait`.
    ///
    /// # Cancel safety
    ///
    /// The connection is closed.
    pub(super) async fn connect(
        leader: FleetLeader,
        config: LinkConfig,
        wait: Duration,
    ) -> Result<Self, NoLink> {
        let address = leader.address.clone();
        let told = |status: tonic::Status| NoLink {
            is_refused: status.code() == tonic::Code::Unauthenticated,
            problem: format!("{address}: {}", crate::error::with_causes(&status)),
        };
        let connecting = async {
            let channel = channel(&leader.address, &config, wait).map_err(NoLink::away)?;
            let client = ForwardingClient::new(channel);
            let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
            let (sends, sent) = mpsc::channel(MAX_QUEUED_MESSAGES);
            let request = with_proof(ReceiverStream::new(sent), &leader.address, &config);
            let mut outcomes = client.forward(request).await.map_err(told)?.into_inner();
            let first = outcomes.message().await.map_err(told)?;
            first.ok_or_else(|| NoLink::away(format!("{address} does not listen")))?;
            Ok((sends, outcomes))
        };
        let timed_out = |_| Err(NoLink::away(format!("{address} does not answer within {wait:?}")));
        let (sends, outcomes) =
            tokio::time::timeout(wait, connecting).await.unwrap_or_else(timed_out)?;
        let (next_number, is_ending) = (1, false);
        Ok(Self { sends, outcomes, next_number, sent: BTreeMap::new(), is_ending })
    }

    /// Gives a command with this place the number under which it is sent.
    pub(super) fn number(&mut self, place: u64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.sent.insert(number, place);
        number
    }

    /// Returns the number below which all commands are answered.
    pub(super) fn answered_below(&self) -> u64 {
        self.sent.first_key_value().map_or(self.next_number, |(number, _)| *number)
    }

    /// Waits for outcomes, each with the place of its command; `None` if the connection is lost.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn outcomes(&mut self) -> Option<Vec<(u64, CommandOutcome)>> {
        let outcomes = self.outcomes.message().await.ok().flatten()?.outcomes;
        let placed = outcomes.into_iter().filter_map(|outcome| {
            let place = self.sent.remove(&outcome.number)?;
            Some((place, outcome))
        });
        Some(placed.collect())
    }

    /// Whether commands are not answered yet.
    pub(super) fn has_sent(&self) -> bool {
        !self.sent.is_empty()
    }
}
