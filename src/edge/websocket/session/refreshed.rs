//! What follows from a new grant of a session's client.

use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Session;
use crate::edge::subscriptions::subscription::message;
use crate::edge::websocket::ending::SessionEnd;
use crate::edge::websocket::reference::Reference;
use crate::timestamp::Timestamp;

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Tells the client that its token is taken. Its subscriptions have noticed by themselves.
    pub(super) async fn refreshed(
        &mut self,
        reference: Option<Reference>,
        until: Option<SystemTime>,
    ) -> Result<(), SessionEnd> {
        let mut message = message("refreshed");
        message.extend(reference.map(|own| ("ref".to_owned(), json!(own))));
        let until = until.map(|end| Timestamp::from(end).to_string());
        message.insert("until".to_owned(), until.map_or(Value::Null, Value::from));
        self.send(message).await
    }
}
