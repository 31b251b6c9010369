//! The memory of answers, taken from the memory for clients until they are sent.
//!
//! ```text
//! request ─▶ room for it? ─▶ answered ─▶ known to be large: room for it?  ─▶ sent, piece by piece;
//!            no: 503                     no: 503                             no room: it waits
//! ```
//!
//! # Why
//!
//! The client decides when an answer leaves memory. A stream makes its next piece only when there
//! is room, and each piece is counted until its last byte is written. `src/docs/architecture.md`
//! lists everything that a client that does not read holds.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::edge::bounds::head_bytes;
use crate::edge::budget::{Held, Share, WaitsForRoom};
use crate::edge::intake::Intake;

/// The memory of a request besides its head while it is served, in bytes: its task and its buffers.
/// An idle event stream takes about as much. Source: `leftoff bench fanout`.
const REQUEST_BYTES: usize = 4 << 10;

/// The smallest piece that is counted, in bytes. Smaller pieces are part of [`REQUEST_BYTES`].
const MIN_PIECE_BYTES: usize = 1 << 10;

/// A complete answer of at least this size needs room before it is sent, in bytes.
const MIN_WHOLE_BYTES: usize = 16 << 10;

/// Returns the memory of a request while it is served, with its head, in bytes.
pub(crate) fn request_bytes<B>(request: &Request<B>) -> usize {
    REQUEST_BYTES + head_bytes(request.uri(), request.headers())
}

/// Returns the answer, which holds the memory of its request and its own until it is sent. A
/// complete answer is refused if there is no room for it.
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
        let request = Arc::new(request);
        Body::new(Counted { body, share, request, whole, waits, room: None })
    })
}

/// Returns a body that keeps a value as long as it exists.
pub(crate) fn keeping<T: Send + Unpin + 'static>(body: Body, kept: T) -> Body {
    Body::new(Keeping { body, _kept: kept })
}

struct Counted {
    body: Body,
    share: Share,
    request: Arc<Held>,
    /// The memory of the whole answer, if it is counted at once instead of by piece.
    whole: Option<Arc<Held>>,
    /// Whether the body waits for room for its next piece.
    waits: bool,
    room: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Counted {
    /// Waits for room for the next piece.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waits && (self.room.is_some() || !self.share.has_room(0)) {
            let share = self.share.clone();
            let room = self.room.get_or_insert_with(|| Box::pin(async move { share.room().await }));
            ready!(room.as_mut().poll(cx));
            self.room = None;
        }
        Poll::Ready(())
    }

    /// Returns a piece that holds its memory, and the answer's, until the last byte of the piece is
    /// written, which may be long after the end of the body.
    fn holding(&self, data: Bytes) -> Bytes {
        let piece = match &self.whole {
            None if data.len() < MIN_PIECE_BYTES => return data,
            None => self.share.count(data.len()),
            Some(_) => self.share.nothing(),
        };
        let (request, whole) = (self.request.clone(), self.whole.clone());
        Bytes::from_owner(Piece { data, _held: (piece, request, whole) })
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
        Poll::Ready(frame.map(|frame| Ok(frame.map_data(|data| self.holding(data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes that are being sent.
struct Piece {
    data: Bytes,
    _held: (Held, Arc<Held>, Option<Arc<Held>>),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

struct Keeping<T> {
    body: Body,
    _kept: T,
}

impl<T: Unpin> HttpBody for Keeping<T> {
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

/// Returns the body of a request. Its bytes count as unread until it returns them.
pub(crate) fn taken_from(body: Incoming, intake: Arc<Intake>) -> Body {
    if body.is_end_stream() {
        return Body::empty();
    }
    intake.body_begins();
    Body::new(CountedBody { body, intake })
}

struct CountedBody {
    body: Incoming,
    intake: Arc<Intake>,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Poll::Ready(polled) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.intake.misses_more(cx);
            return Poll::Pending;
        };
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

impl Drop for CountedBody {
    fn drop(&mut self) {
        // Nobody will take the received bytes of this body.
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut self.body).poll_frame(&mut cx) {
            self.intake.took(frame.data_ref().map_or(0, Bytes::len));
        }
        self.intake.body_ends(self.body.is_end_stream());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let next = tokio::time::timeout(Duration::from_millis(300), waiting.frame()).await;
        assert!(next.is_err(), "there is no room");
        let mut hearing = counted(streamed(1), &share, share.nothing()).into_body();
        let piece = hearing.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(budget.used_bytes(), 4 * MIB + piece.len(), "counted without room, too");
        drop((full, piece));
        let first = waiting.frame().await.unwrap().unwrap().into_data().unwrap();
        let second = waiting.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(waiting.frame().await.is_none());
        drop(first);
        assert_eq!(budget.used_bytes(), second.len(), "the piece counts until it is written");
    }

    #[tokio::test]
    async fn an_answer_that_is_large_has_room_before_it_is_sent_or_is_refused() {
        let budget = Budget::new(4 * MIB as u64);
        let share = budget.address().connection();
        let whole = || Response::new(Body::from(vec![7; MIB]));
        let sent = counted(whole(), &share, share.take(100).unwrap());
        assert_eq!((sent.status().as_u16(), budget.used_bytes()), (200, MIB + 100));
        // An answer is counted until its bytes are freed, not only until they are handed over.
        let data = sent.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(budget.used_bytes(), MIB + 100);
        let refused = counted(whole(), &share, share.take(100).unwrap());
        assert_eq!(refused.status().as_u16(), 503);
        assert!(refused.headers().contains_key(http::header::RETRY_AFTER));
        drop((data, refused));
        assert_eq!(budget.used_bytes(), 0);
    }
}
