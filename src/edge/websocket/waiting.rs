//! Waiting for a client and for its subscriptions at the same time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use futures_util::future::{Abortable, Aborted};
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::task::AbortOnDropHandle;

use super::ending::SessionEnd;
use super::hearing::Heard;
use super::subscription::{SubscriptionTurn, held_bytes};
use crate::edge::budget::{Held, Share};
use crate::error::Result;
use crate::polls::{self, InTurn};

/// One subscription that opens or waits. Subscriptions take turns: hundreds may be ready at once.
pub(super) type Waiting = InTurn<Abortable<Pin<Box<dyn Future<Output = SubscriptionTurn> + Send>>>>;

/// Writes, and lets the subscriptions go on meanwhile. A subscription that holds a turn at the disk
/// would otherwise keep the turn for as long as the client takes nothing.
///
/// # Errors
///
/// The write failed, or there is no room for the outcomes of the subscriptions.
pub(super) async fn beside(
    write: impl Future<Output = tungstenite::Result<()>>,
    waiting: &mut FuturesUnordered<Waiting>,
    ready: &mut VecDeque<(Result<SubscriptionTurn, Aborted>, Held)>,
    share: &Share,
) -> Result<(), SessionEnd> {
    let mut write = pin!(write);
    let written = poll_fn(|cx| {
        if let Poll::Ready(written) = write.as_mut().poll(cx) {
            return Poll::Ready(written.map_err(SessionEnd::from));
        }
        while let Poll::Ready(Some(turn)) = waiting.poll_next_unpin(cx) {
            let Ok(held) = share.take(held_bytes(&turn)) else {
                let reason = "the memory for clients has no room";
                return Poll::Ready(Err(SessionEnd::Close(CloseCode::Again, reason.to_owned())));
            };
            ready.push_back((turn, held));
        }
        Poll::Pending
    });
    written.await
}

/// Returns the next message, after all answers are written: a client that takes no answers is not
/// read either.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(super) async fn next<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Option<tungstenite::Result<Message>> {
    if let Err(error) = socket.flush().await {
        return Some(Err(error));
    }
    socket.next().await
}

/// Returns the outcome of the message that is being handled.
///
/// # Cancel safety
///
/// Nothing is lost.
pub(super) async fn done(heard: &mut Option<AbortOnDropHandle<Heard>>) -> Heard {
    let Some(doing) = heard else { return std::future::pending().await };
    let done = polls::joined(doing).await;
    *heard = None;
    done
}
