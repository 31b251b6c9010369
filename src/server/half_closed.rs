//! Clients that have shut their sending side: some wait for the answer, some are gone.
//!
//! ```text
//! request ─▶ end of what comes in ─▶ the answer is sent all the same ─▶ the connection ends
//!                                 └▶ an event stream: `:`, and `:` again; a client that is gone
//!                                    has the second one fail
//! ```
//!
//! # Why
//!
//! Both look the same from here until something is sent: a system that has nobody any more for what
//! comes refuses it. An event stream may have nothing to send for long, and its reader would be
//! listed, and its member present, all the while. A comment costs a client that is there nothing.
//! Before an answer there is another word for it (`socket.rs`), and one that is not an event stream
//! ends by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::edge::intake::Intake;

/// A comment of an event stream. Without an empty line after it no client takes it for a message.
const COMMENT: &[u8] = b":\n";

/// How many are sent, and the time between two of them, in which a refusal arrives.
const COMMENTS: u8 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// An event stream that finds out whether its client is gone, once that sends nothing any more.
pub(crate) fn probing(body: Body, intake: Arc<Intake>) -> Body {
    Body::new(Probing { body, intake, pause: None, left: COMMENTS })
}

struct Probing {
    body: Body,
    intake: Arc<Intake>,
    /// Until the next comment.
    pause: Option<Pin<Box<Sleep>>>,
    left: u8,
}

impl Probing {
    /// The next comment, when it is time for it.
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
        // Each frame is some whole messages, so a comment may stand between any two.
        self.poll_comment(cx).map(|comment| Some(Ok(Frame::data(comment))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
