//! Clients that have closed their sending side: some wait for the answer, some are gone.
//!
//! ```text
//! request ─▶ end of the input ─▶ the answer is still sent ─▶ the connection ends
//!                             └▶ an event stream: `:`, and `:` again; if the client is gone,
//!                                the second one fails
//! ```
//!
//! # Why
//!
//! Both look the same until something is sent: the system of a client that is gone refuses the
//! bytes. An event stream may have nothing to send for a long time. Meanwhile the reader of a
//! client that is gone would stay listed, and its member present. A comment costs a connected
//! client nothing. Before an answer begins, `socket.rs` sends an interim response instead. An
//! answer that is not an event stream ends by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::edge::intake::Intake;

/// A comment of an event stream. Without an empty line after it, no client takes it for a message.
const COMMENT: &[u8] = b":\n";

/// The number of comments, and the time between two of them: long enough for a refusal to arrive.
const COMMENTS: u8 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// Returns an event stream that sends comments once its client has ended its input.
pub(crate) fn probing(body: Body, intake: Arc<Intake>) -> Body {
    Body::new(Probing { body, intake, pause: None, left: COMMENTS })
}

struct Probing {
    body: Body,
    intake: Arc<Intake>,
    /// The wait for the next comment.
    pause: Option<Pin<Box<Sleep>>>,
    left: u8,
}

impl Probing {
    /// Returns the next comment, when its time has come.
    fn poll_comment(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.left == 0 {
            return Poll::Pending;
        }
        match &mut self.pause {
            Some(pause) => ready!(pause.as_mut().poll(cx)),
            None => ready!(self.intake.poll_ended(cx)),
        }
        self.left -= 1;
        self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
        Poll::Ready(Bytes::from_static(COMMENT))
    }
}

impl HttpBody for Probing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        // A frame has only whole messages, so a comment may stand between any two frames.
        self.poll_comment(cx).map(|comment| Some(Ok(Frame::data(comment))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
