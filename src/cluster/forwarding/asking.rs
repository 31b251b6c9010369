//! Asking another node a question, mostly the leader. Questions need no order, so each is a call of
//! its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;

use super::failures::{error_of, unknown};
use super::link::MAX_MESSAGE_BYTES;
use crate::broker::LeaderAsker;
use crate::cluster::links::{LinkConfig, channel, with_proof};
use crate::cluster::proto::forwarding_client::ForwardingClient;
use crate::cluster::proto::{AskRequest, AskResponse};
use crate::cluster::record::FleetLeader;
use crate::cluster::status::NodeStatus;
use crate::error::{Error, Result, with_causes};

/// How long a former leader is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Whether a call failed before anything was sent.
fn is_of_connecting(status: &tonic::Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Asks the node at this address a question about itself. It has `patience` for the connection and,
/// once more, for the answer.
///
/// # Errors
///
/// Why there is no answer, for people.
pub(in crate::cluster) async fn ask_node(
    address: &str,
    links: &LinkConfig,
    patience: Duration,
    kind: &str,
    question: Bytes,
) -> std::result::Result<Bytes, String> {
    let channel = channel(address, links, patience)?;
    let (client, request) = prepared(channel, address, links, kind, question);
    match tokio::time::timeout(patience * 2, call(client, request)).await {
        Ok(Ok(answer)) => answer.map_err(|error| with_causes(&error)),
        Ok(Err(status)) => Err(with_causes(&status)),
        Err(_) => Err(format!("{address} has not answered for {:?}", patience * 2)),
    }
}

/// Returns a client and a question to the node at `address`, with the proof of the secret.
fn prepared(
    channel: Channel,
    address: &str,
    links: &LinkConfig,
    kind: &str,
    question: Bytes,
) -> (ForwardingClient<Channel>, tonic::Request<AskRequest>) {
    let client = ForwardingClient::new(channel);
    let request = AskRequest { kind: kind.to_owned(), request: question };
    let client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
    (client, with_proof(request, address, links))
}

/// Asks, and returns what the other node answers: the outer error is of the call.
async fn call(
    mut client: ForwardingClient<Channel>,
    request: tonic::Request<AskRequest>,
) -> std::result::Result<Result<Bytes>, tonic::Status> {
    let AskResponse { response, failure } = client.ask(request).await?.into_inner();
    Ok(failure.map_or(Ok(response), |failure| Err(error_of(failure))))
}

/// What asks the leader: the channel to the last one is kept.
struct LeaderAsking {
    status: watch::Receiver<NodeStatus>,
    incarnation: u64,
    links: LinkConfig,
    /// How long a leader is waited for, and a connection to it.
    patience: Duration,
    last: Mutex<Option<(FleetLeader, Channel)>>,
}

/// Returns what asks the leader, as the status tells it.
pub(in crate::cluster) fn leader_asker(
    status: watch::Receiver<NodeStatus>,
    incarnation: u64,
    links: LinkConfig,
    patience: Duration,
) -> LeaderAsker {
    let asking = LeaderAsking { status, incarnation, links, patience, last: Mutex::default() };
    let asking = Arc::new(asking);
    Arc::new(move |kind, question| {
        let asking = asking.clone();
        Box::pin(async move { asking.ask(kind, question).await })
    })
}

impl LeaderAsking {
    async fn ask(&self, kind: &str, question: Bytes) -> Result<Bytes> {
        let (leader, channel) = self.channel().await?;
        let refused = |problem: String| Error::NotWritten(std::io::Error::other(problem).into());
        let (client, request) = prepared(channel, &leader.address, &self.links, kind, question);
        let answered = tokio::select! {
            answered = call(client, request) => answered,
            () = self.is_lost(&leader) => return Err(unknown("another node leads")),
        };
        match answered {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::Unauthenticated => {
                Err(refused(with_causes(&status)))
            }
            // Nothing was sent.
            Err(status) if is_of_connecting(&status) => Err(Error::NotLeading),
            Err(status) => Err(unknown(with_causes(&status))),
        }
    }

    /// Waits until a leader leads no longer, and for what it may still have to say.
    async fn is_lost(&self, leader: &FleetLeader) {
        let mut status = self.status.clone();
        let is_another = |status: &NodeStatus| status.leader.as_ref() != Some(leader);
        if status.wait_for(is_another).await.map(drop).is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// Returns a channel to the leader; waits for one if there is none.
    async fn channel(&self) -> Result<(FleetLeader, Channel)> {
        let mut status = self.status.clone();
        let is_other = |leader: &FleetLeader| leader.incarnation != self.incarnation;
        let known = status.wait_for(|status| status.leader.as_ref().is_some_and(is_other));
        let known = tokio::time::timeout(self.patience, known).await;
        let leader = match known {
            Ok(Ok(status)) => status.leader.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        let leader = leader.ok_or(Error::NotLeading)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = &*last
            && *known == leader
        {
            return Ok((leader, channel.clone()));
        }
        let channel = channel(&leader.address, &self.links, self.patience)
            .map_err(|problem| Error::NotWritten(std::io::Error::other(problem).into()))?;
        *last = Some((leader.clone(), channel.clone()));
        Ok((leader, channel))
    }
}
