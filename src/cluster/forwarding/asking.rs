//! Asking the leader a question. Questions need no order, so each is a call of its own.

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
use crate::cluster::proto::AskRequest;
use crate::cluster::proto::forwarding_client::ForwardingClient;
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
        let client = ForwardingClient::new(channel);
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = AskRequest { kind: kind.to_owned(), request: question };
        let refused = |problem: String| Error::NotWritten(std::io::Error::other(problem).into());
        let request = with_proof(request, &leader.address, &self.links);
        let answered = tokio::select! {
            answered = client.ask(request) => answered,
            () = self.is_lost(&leader) => return Err(unknown("another node leads")),
        };
        match answered {
            Ok(answer) => {
                let answer = answer.into_inner();
                answer.failure.map_or(Ok(answer.response), |failure| Err(error_of(failure)))
            }
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
