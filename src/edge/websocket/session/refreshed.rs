//! What follows from a new grant of a session's client.

use std::time::SystemTime;

use futures_util::future::{AbortHandle, Abortable};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Session;
use crate::broker::Waited;
use crate::edge::following::FollowTurn;
use crate::edge::websocket::ending::SessionEnd;
use crate::edge::websocket::reference::Reference;
use crate::edge::websocket::subscription::{NamedFollowing, SubscriptionTurn, message};
use crate::polls::in_turn;
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

    /// Looks again whether the client may have a delivery. Its grant has changed since the delivery
    /// was read.
    pub(super) fn look_again(&mut self, mut subscription: Box<NamedFollowing>, turn: FollowTurn) {
        let (handle, registration) = AbortHandle::new_pair();
        // The subscription may have been ended meanwhile.
        let Some(known) = self.names.get_mut(&subscription.name) else { return };
        *known = handle;
        let look = async move {
            let turn = match subscription.following.tells(&turn).await {
                Ok(true) => Ok(turn),
                Ok(false) => Ok(FollowTurn::Waited(Waited::Silence)),
                Err(error) => Err(error),
            };
            SubscriptionTurn::Waited(subscription, turn)
        };
        self.waiting.push(in_turn(Abortable::new(Box::pin(look), registration)));
    }
}
