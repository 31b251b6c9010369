//! One connection to the node that leads.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::proto::forwarding_client::ForwardingClient;
use super::proto::{CommandOutcome, CommandOutcomes, ForwardedCommands};
use crate::client::{ClientConfig, endpoint};
use crate::cluster::record::FleetLeader;
use crate::secret::Secret;

/// The name of the metadata with the secret of a fleet.
pub(super) const SECRET_METADATA: &str = "leftoff-fleet";

/// The messages that may wait to be sent: what the leader does not take stays with the forwarder.
const MAX_QUEUED_MESSAGES: usize = 4;

/// The largest message of a node, in bytes: far above what a group may have.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// The silence after which a leader is asked for a sign of life, and the time in which it must
/// come. The stream tells of another leader sooner.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// How a node reaches others.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct LinkConfig {
    /// The secret that the nodes of a fleet share.
    pub(in crate::cluster) secret: Option<Secret>,
    /// The certificates in PEM that sign those of the nodes. `None`: those that the system trusts.
    pub(in crate::cluster) ca_pem: Option<Vec<u8>>,
}

/// A connection to a leader, with the commands that were sent over it and are not answered.
pub(super) struct Link {
    pub(super) leader: FleetLeader,
    /// Messages wait here for the connection.
    pub(super) sends: mpsc::Sender<ForwardedCommands>,
    outcomes: Streaming<CommandOutcomes>,
    next_number: u64,
    /// The commands that are not answered: their places with the forwarder, by their numbers here.
    sent: BTreeMap<u64, u64>,
    /// Whether nothing more is sent: a command is to be repeated, and must not be overtaken.
    pub(super) is_ending: bool,
}

/// Returns a channel to a node, which connects when it is used.
///
/// # Errors
///
/// What is wrong with the address.
pub(super) fn channel(
    address: &str,
    config: &LinkConfig,
    wait: Duration,
) -> Result<Channel, String> {
    let mut settings = ClientConfig::new(address);
    settings.ca_pem = config.ca_pem.clone();
    (settings.connect_timeout, settings.keep_alive) = (wait, KEEP_ALIVE);
    let endpoint = endpoint(&settings).map_err(|error| format!("{address}: {error}"))?;
    Ok(endpoint.http2_adaptive_window(true).connect_lazy())
}

/// Returns a request with the secret of the fleet.
pub(super) fn with_secret<T>(message: T, config: &LinkConfig) -> Result<tonic::Request<T>, String> {
    let mut request = tonic::Request::new(message);
    if let Some(secret) = &config.secret {
        let value = MetadataValue::try_from(secret.expose());
        let mut value = value.map_err(|_| "the secret of the fleet has other signs than ASCII")?;
        value.set_sensitive(true);
        request.metadata_mut().insert(SECRET_METADATA, value);
    }
    Ok(request)
}

impl Link {
    /// Connects to a leader, and waits until it listens.
    ///
    /// # Errors
    ///
    /// Why that did not come to be within `wait`.
    ///
    /// # Cancel safety
    ///
    /// The connection is closed.
    pub(super) async fn connect(
        leader: FleetLeader,
        config: LinkConfig,
        wait: Duration,
    ) -> Result<Self, String> {
        let address = leader.address.clone();
        let told =
            |status: tonic::Status| format!("{address}: {}", crate::error::with_causes(&status));
        let connecting = async {
            let channel = channel(&leader.address, &config, wait)?;
            let client = ForwardingClient::new(channel);
            let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
            let (sends, sent) = mpsc::channel(MAX_QUEUED_MESSAGES);
            let request = with_secret(ReceiverStream::new(sent), &config)?;
            let mut outcomes = client.forward(request).await.map_err(told)?.into_inner();
            let first = outcomes.message().await.map_err(told)?;
            first.ok_or_else(|| format!("{address} does not listen"))?;
            Ok((sends, outcomes))
        };
        let timed_out = |_| Err(format!("{address} does not answer within {wait:?}"));
        let (sends, outcomes) =
            tokio::time::timeout(wait, connecting).await.unwrap_or_else(timed_out)?;
        let (next_number, is_ending) = (1, false);
        Ok(Self { leader, sends, outcomes, next_number, sent: BTreeMap::new(), is_ending })
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
