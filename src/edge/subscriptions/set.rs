//! All subscriptions of one client: opened, waited for, and ended.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::asked::Subscribe;
use super::subscription::{NamedFollowing, SubscriptionTurn, ended, held_bytes};
use super::told::{ToClient, begun, waited};
use crate::broker::Waited;
use crate::edge::Edge;
use crate::edge::budget::{Held, Share};
use crate::edge::clients::Peer;
use crate::edge::following::{FollowTurn, Following};
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::polls::{self, InTurn, in_turn};

/// One subscription that opens or waits. Subscriptions take turns: hundreds may be ready at once.
type Waiting = InTurn<Abortable<Pin<Box<dyn Future<Output = SubscriptionTurn> + Send>>>>;

/// The outcome of a subscription that opened or waited, unless it was ended meanwhile.
pub(in crate::edge) type TurnOutcome = Result<SubscriptionTurn, Aborted>;

/// The subscriptions of a client, by its names for them.
///
/// Each of them opens or waits, has an outcome that is not taken yet, or is in the hands of the
/// edge, which writes its messages and then lets it wait again.
pub(in crate::edge) struct Subscriptions {
    /// The name of the edge in the list of connections.
    protocol: &'static str,
    share: Share,
    names: HashMap<String, AbortHandle>,
    waiting: FuturesUnordered<Waiting>,
    /// Outcomes from while the edge waited for its client, with their memory.
    ready: VecDeque<(TurnOutcome, Held)>,
    /// Cancelled when nothing more is read, on an edge whose answer has an end.
    end: Option<CancellationToken>,
}

impl Subscriptions {
    /// Returns a client's subscriptions: none yet.
    pub(in crate::edge) fn new(protocol: &'static str, share: Share) -> Self {
        let (names, waiting, ready) = Default::default();
        Self { protocol, share, names, waiting, ready, end: None }
    }

    /// Returns a client's subscriptions, which read nothing more once `end` is cancelled.
    pub(in crate::edge) fn until(self, end: CancellationToken) -> Self {
        Self { end: Some(end), ..self }
    }

    /// Returns how many there are.
    pub(in crate::edge) fn len(&self) -> usize {
        self.names.len()
    }

    /// Begins to open a subscription.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is one with this name; [`Error::OverLimit`].
    pub(in crate::edge) fn open(
        &mut self,
        subscribe: Subscribe,
        (edge, peer, permit): (&Edge, Option<&Peer>, &Permit),
    ) -> Result<(), (String, Error)> {
        let Subscribe { subscription: name, wanted } = subscribe;
        let limit = edge.config.max_subscriptions as usize;
        let refused = match self.names.len() {
            _ if self.names.contains_key(&name) => {
                Some(Error::invalid("subscription", format!("{name:?} is open already")))
            }
            count if count >= limit => Some(Error::over("subscriptions", count + 1, limit)),
            _ => None,
        };
        if let Some(error) = refused {
            return Err((name, error));
        }
        let (edge, peer, permit) = (edge.clone(), peer.cloned(), permit.clone());
        let (named, protocol) = (name.clone(), self.protocol);
        let open = async move {
            let opening = Following::open(wanted, protocol, &edge, (peer.as_ref(), permit));
            let opened = opening
                .await
                .map(|following| Box::new(NamedFollowing { name: named.clone(), following }));
            SubscriptionTurn::Opened(named, opened)
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.names.insert(name, handle);
        self.waiting.push(in_turn(Abortable::new(Box::pin(open), registration)));
        Ok(())
    }

    /// Ends the subscription with this name. Returns whether there was one.
    pub(in crate::edge) fn close(&mut self, name: &str) -> bool {
        let handle = self.names.remove(name);
        handle.iter().for_each(AbortHandle::abort);
        handle.is_some()
    }

    /// Returns an outcome from while the edge waited for its client.
    pub(in crate::edge) fn ready(&mut self) -> Option<(TurnOutcome, Held)> {
        self.ready.pop_front()
    }

    /// Waits for the next outcome; `None` if no subscription opens or waits.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(in crate::edge) async fn next(&mut self) -> Option<TurnOutcome> {
        self.waiting.next().await
    }

    /// Completes `write`, which waits for the client, and lets the subscriptions go on meanwhile. A
    /// subscription that holds a turn at the disk would otherwise keep the turn for as long as the
    /// client takes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] for the outcomes of the subscriptions.
    pub(in crate::edge) async fn beside<T>(
        &mut self,
        write: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let mut write = pin!(write);
        let written = poll_fn(|cx| {
            if let Poll::Ready(written) = write.as_mut().poll(cx) {
                return Poll::Ready(Ok(written));
            }
            while let Poll::Ready(Some(outcome)) = self.waiting.poll_next_unpin(cx) {
                match self.share.take(held_bytes(&outcome)) {
                    Ok(held) => self.ready.push_back((outcome, held)),
                    Err(no_room) => return Poll::Ready(Err(no_room)),
                }
            }
            Poll::Pending
        });
        written.await
    }

    /// Returns what the client is told of an outcome.
    pub(in crate::edge) fn told(&mut self, outcome: TurnOutcome) -> ToClient {
        let Ok(turn) = outcome else {
            return ToClient::Nothing; // It was ended, and the client knows.
        };
        match turn {
            SubscriptionTurn::Opened(_, Err(error @ Error::Unauthenticated { .. }))
            | SubscriptionTurn::Waited(_, Err(error @ Error::Unauthenticated { .. })) => {
                ToClient::Expired(error)
            }
            SubscriptionTurn::Opened(name, Err(error)) => self.ended(name, &error),
            SubscriptionTurn::Opened(_, Ok(subscription)) => begun(subscription),
            SubscriptionTurn::Waited(subscription, Err(error)) => {
                self.ended(subscription.name, &error)
            }
            SubscriptionTurn::Waited(subscription, Ok(turn))
                if subscription.following.is_outdated() =>
            {
                self.look_again(subscription, turn);
                ToClient::Nothing
            }
            SubscriptionTurn::Waited(subscription, Ok(turn)) => waited(subscription, turn),
        }
    }

    fn ended(&mut self, name: String, error: &Error) -> ToClient {
        self.names.remove(&name);
        let message = Value::Object(ended(&name, error)).to_string();
        ToClient::Ended(name, message)
    }

    /// Begins to wait for the next delivery of a subscription, beside all others.
    pub(in crate::edge) fn wait(&mut self, mut subscription: Box<NamedFollowing>) {
        // The subscription may have been ended while its delivery was written.
        let Some(known) = self.names.get_mut(&subscription.name) else { return };
        let (handle, registration) = AbortHandle::new_pair();
        *known = handle;
        let wait: Pin<Box<dyn Future<Output = SubscriptionTurn> + Send>> = match &self.end {
            None => Box::pin(async move {
                let turn = subscription.following.next().await;
                SubscriptionTurn::Waited(subscription, turn)
            }),
            Some(end) => Box::pin(until(end.clone(), subscription)),
        };
        self.waiting.push(in_turn(Abortable::new(wait, registration)));
    }

    /// Looks again whether the client may have a delivery. Its grant has changed since the delivery
    /// was read.
    fn look_again(&mut self, mut subscription: Box<NamedFollowing>, turn: FollowTurn) {
        // The subscription may have been ended meanwhile.
        let Some(known) = self.names.get_mut(&subscription.name) else { return };
        let (handle, registration) = AbortHandle::new_pair();
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

    /// Drops the subscriptions one by one, with pauses: hundreds of them may each hold much memory.
    pub(in crate::edge) async fn let_go(&mut self) {
        self.names.values().for_each(AbortHandle::abort);
        while self.waiting.next().await.is_some() {}
        while self.ready.pop_front().is_some() {
            polls::rest().await;
        }
    }
}

/// Waits for the next delivery of a subscription, or until nothing more is to be read: then the
/// subscription is silent, and its place is the last one that the client may be told.
async fn until(end: CancellationToken, mut subscription: Box<NamedFollowing>) -> SubscriptionTurn {
    let turn = tokio::select! {
        biased;
        () = end.cancelled() => Ok(FollowTurn::Waited(Waited::Silence)),
        turn = subscription.following.next() => turn,
    };
    SubscriptionTurn::Waited(subscription, turn)
}
