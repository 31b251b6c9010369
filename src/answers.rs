//! Answers, out of the memory for clients until they are sent.
//!
//! ```text
//! request ─▶ room for it? ─▶ answered ─▶ known to be large: room for it?  ─▶ sent, piece by piece;
//!            no: 503                     no: 503                             no room: it waits
//! ```
//!
//! # Why
//!
//! The client decides when an answer leaves memory. A stream makes its next piece when there is
//! room for it, so that whoever takes nothing holds one piece; and the piece counts until the last
//! of its bytes is written.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::edge::budget::{Held, Share, WaitsForRoom};
use crate::edge::intake::Intake;

/// What a request takes besides its head while it is served, in bytes: its task, and its buffers.
/// An idle event stream takes about as much. Source: `leftoff bench fanout`.
const REQUEST_BYTES: usize = 6 << 10;

/// What one field of a head takes besides its name and its value, in bytes.
const FIELD_BYTES: usize = 64;

/// A piece that is smaller is part of [`REQUEST_BYTES`].
const MIN_PIECE_BYTES: usize = 1 << 10;

/// An answer that is whole and as large as this needs room before it is sent.
const MIN_WHOLE_BYTES: usize = 16 << 10;

/// How long a body waits before it looks for room again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a request takes as long as it is served, with its head.
pub(crate) fn request_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len());
    let target = uri.path().len() + uri.query().map_or(0, str::len);
    REQUEST_BYTES + target + fields.sum::<usize>()
}

/// Has an answer hold what its request took, and what is to be sent, until it is sent; or refuses
/// it, where it is whole and there is no room for it.
pub(crate) fn counted(mut response: Response, share: &Share, request: Held) -> Response {
    let mut whole = response.extensions_mut().remove::<Arc<Held>>();
    let exact = response.body().size_hint().exact().unwrap_or(0) as usize;
    if whole.is_none() && exact >= MIN_WHOLE_BYTES {
        match share.take(exact) {
            Ok(held) => whole = Some(Arc::new(held)),
            Err(error) => return error.into_response(),
        }
    }
    let waits = response.extensions_mut().remove::<WaitsForRoom>().is_some();
    let share = share.clone();
    response.map(|body| {
        Body::new(Counted { body, share, _request: request, whole, waits, pause: None })
    })
}

/// Has an answer that somebody else counts hold what its request took.
pub(crate) fn holding(response: Response, request: Held) -> Response {
    response.map(|body| Body::new(Holding { body, _request: request }))
}

struct Counted {
    body: Body,
    share: Share,
    _request: Held,
    /// What the whole answer holds: its pieces are not counted then.
    whole: Option<Arc<Held>>,
    /// Whether it waits for room for its next piece.
    waits: bool,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Counted {
    /// Waits for room for more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.waits && !self.share.has_room(0) {
            let pause = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(PAUSE)));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        ready!(self.poll_room(cx));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx)?);
        Poll::Ready(frame.map(|frame| {
            Ok(frame.map_data(|data| match self.whole {
                None if data.len() >= MIN_PIECE_BYTES => self.share.count(data.len()).with(data),
                _ => data,
            }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Holding {
    body: Body,
    _request: Held,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request, whose bytes are unread until it gives them.
pub(crate) fn taken_from(body: Incoming, intake: Arc<Intake>) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    intake.body_begins();
    Body::new(Taken { body, intake })
}

struct Taken {
    body: Incoming,
    intake: Arc<Intake>,
}

impl HttpBody for Taken {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.intake.took(data.len());
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.intake.body_ends();
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::edge::budget::Budget;

    const MIB: usize = 1 << 20;

    fn streamed(pieces: usize) -> Response {
        let piece = || Ok::<_, std::convert::Infallible>(Bytes::from(vec![7; 100 << 10]));
        let pieces = (0..pieces).map(move |_| piece());
        Response::new(Body::from_stream(futures_util::stream::iter(pieces)))
    }

    #[tokio::test]
    async fn a_stream_waits_for_room_and_what_hears_its_client_does_not() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let full = share.count(4 * MIB);
        let mut waiting = streamed(2);
        waiting.extensions_mut().insert(WaitsForRoom);
        let mut waiting = counted(waiting, &share, share.nothing()).into_body();
        let next = tokio::time::timeout(3 * PAUSE, waiting.frame()).await;
        assert!(next.is_err(), "there is no room");
        let mut hearing = counted(streamed(1), &share, share.nothing()).into_body();
        let piece = hearing.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(budget.used_bytes(), 4 * MIB + piece.len(), "it is counted all the same");
        drop((full, piece));
        let first = waiting.frame().await.unwrap().unwrap().into_data().unwrap();
        let second = waiting.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(waiting.frame().await.is_none());
        drop(first);
        assert_eq!(budget.used_bytes(), second.len(), "until its last byte is written");
    }

    #[tokio::test]
    async fn an_answer_that_is_large_has_room_before_it_is_sent_or_is_refused() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let whole = || Response::new(Body::from(vec![7; MIB]));
        let sent = counted(whole(), &share, share.take(100).unwrap());
        assert_eq!((sent.status().as_u16(), budget.used_bytes()), (200, MIB + 100));
        let refused = counted(whole(), &share, share.take(100).unwrap());
        assert_eq!(refused.status().as_u16(), 503);
        assert!(refused.headers().contains_key(http::header::RETRY_AFTER));
        drop((sent, refused));
        assert_eq!(budget.used_bytes(), 0);
    }
}
