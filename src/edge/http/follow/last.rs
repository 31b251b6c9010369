//! What streams and long polls share: their name, and their last message, when the broker stops or
//! the permission of the caller is over.

use std::pin::Pin;

use serde_json::{Value, json};

use crate::edge::Edge;
use crate::edge::clients::Peer;
use crate::edge::config::FollowConfig;
use crate::edge::permit::Permit;
use crate::edge::status;
use crate::edge::subscriptions::subscription::message;
use crate::error::Error;

/// The names of streams and of long polls in the list of connections.
pub(super) const STREAM: &str = "follow";
pub(super) const POLL: &str = "poll";

/// The wait for the end of an answer, with the last message.
pub(super) type UntilLast = Pin<Box<dyn Future<Output = String> + Send>>;

/// Waits until the answer has to end, and returns its last message.
pub(super) fn until_last((edge, peer, permit): (&Edge, Option<&Peer>, &Permit)) -> UntilLast {
    let (broker, config) = (edge.broker.clone(), edge.config.clone());
    let clients = peer.map(|peer| peer.clients.clone());
    let over = permit.clone().over();
    Box::pin(async move {
        let stopping = async {
            broker.draining().await;
            let connections = clients.map_or(0, |clients| clients.count());
            config.turn_to_end(connections).await;
        };
        tokio::select! {
            error = over => expired(&error),
            () = stopping => come_back(&config, None),
        }
    })
}

/// Returns the message that the caller's permission is over.
pub(super) fn expired(error: &Error) -> String {
    let mut message = message("expired");
    message.insert("error".to_owned(), status::problem_json(error));
    Value::Object(message).to_string()
}

/// Returns the message that asks the client to come back: the broker stops, or this is in the way.
pub(super) fn come_back(config: &FollowConfig, reason: Option<&Error>) -> String {
    let mut message = message("stopping");
    message.insert("retry_ms".to_owned(), json!(config.jittered_retry_ms()));
    message.extend(reason.map(|error| ("error".to_owned(), status::problem_json(error))));
    Value::Object(message).to_string()
}
