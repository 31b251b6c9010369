//! Waiting for a client's next message, and for the outcome of the one that is being handled.

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::task::AbortOnDropHandle;

use super::hearing::Heard;
use crate::polls;

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
