//! Calls whose messages must come in fast enough once they have begun (`edge/pace.rs` says why).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use tonic::Status;

use crate::edge::grpc::paths::{CLIENT_STREAMS, FLEET_STREAM};
use crate::edge::pace::{Pace, Wait};
use crate::error::Result;

/// The beginning of the paths of the calls for reflection, which are streams of a client, too.
const REFLECTION: &str = "/grpc.reflection.";

/// The size of the head of each gRPC message: a flag, and the message's length in 4 bytes.
const GRPC_HEAD_BYTES: usize = 5;

/// Ends a gRPC call whose messages come in too slowly, with `DEADLINE_EXCEEDED`.
pub(crate) fn paced(request: Request, pace: &Pace) -> Request {
    let path = request.uri().path();
    let is_of_others = path == FLEET_STREAM || path.starts_with(REFLECTION);
    let is_stream = CLIENT_STREAMS.contains(&path) || is_of_others;
    let (pace, parts) = (pace.clone(), MessageParts::default());
    request.map(|body| Body::new(Paced { body, pace, parts, is_stream, wait: None }))
}

/// The body of a call.
struct Paced {
    body: Body,
    pace: Pace,
    parts: MessageParts,
    /// Whether there may be any time between two messages.
    is_stream: bool,
    wait: Option<Wait>,
}

/// The position of the body within its messages.
#[derive(Debug, Default)]
struct MessageParts {
    head: [u8; GRPC_HEAD_BYTES],
    head_bytes: usize,
    /// Missing bytes of the message whose head is complete.
    left_bytes: u64,
}

impl MessageParts {
    /// Advances by `chunk`. Returns how many bytes at its end belong to an incomplete message;
    /// `None` if no message has ended in this chunk.
    fn add(&mut self, mut chunk: &[u8]) -> Option<usize> {
        let mut rest = None;
        while !chunk.is_empty() {
            if self.head_bytes < GRPC_HEAD_BYTES {
                let count = chunk.len().min(GRPC_HEAD_BYTES - self.head_bytes);
                self.head[self.head_bytes..][..count].copy_from_slice(&chunk[..count]);
                self.head_bytes += count;
                chunk.advance(count);
                if self.head_bytes < GRPC_HEAD_BYTES {
                    break;
                }
                self.left_bytes = (&self.head[1..]).get_u32().into();
            }
            let count = usize::try_from(self.left_bytes).unwrap_or(usize::MAX).min(chunk.len());
            self.left_bytes -= count as u64;
            chunk.advance(count);
            if self.left_bytes == 0 {
                self.head_bytes = 0;
                rest = Some(chunk.len());
            }
        }
        rest
    }

    /// Whether a message has begun and is not whole.
    fn is_within(&self) -> bool {
        self.head_bytes > 0
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            let waited = Wait::end(&mut this.wait);
            if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                this.pace.received(waited, data.len());
                let rest = this.parts.add(data);
                if let Some(rest) = rest.filter(|_| this.is_stream) {
                    this.pace.restart(rest);
                }
            }
            return Poll::Ready(frame);
        }
        if this.is_stream && !this.parts.is_within() {
            return Poll::Pending;
        }
        ready!(Wait::poll(&mut this.wait, this.pace.patience(), cx));
        let error = this.pace.too_slow("the message");
        Poll::Ready(Some(Err(axum::Error::new(Status::from(error)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_followed_through_chunks_of_any_size() {
        let message = |size: u32| {
            let mut bytes = vec![0];
            bytes.extend_from_slice(&size.to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, size as usize));
            bytes
        };
        let all: Vec<u8> = [0, 1, 300, 0, 7].into_iter().flat_map(message).collect();
        let ends = [5, 11, 316, 321, 333];
        for size in [1, 2, 3, 5, 64, all.len()] {
            let mut parts = MessageParts::default();
            let mut at = 0;
            for chunk in all.chunks(size) {
                let rest = parts.add(chunk);
                let last_end =
                    ends.iter().rev().find(|end| **end > at && **end <= at + chunk.len());
                at += chunk.len();
                assert_eq!(rest, last_end.map(|end| at - end), "chunks of {size}, at {at}");
                assert_eq!(parts.is_within(), !ends.contains(&at), "chunks of {size}, at {at}");
            }
        }
    }

    /// Goal: a client may be silent between two messages of its stream, however long; a call of one
    /// message has to come.
    #[tokio::test]
    async fn only_a_call_of_one_message_ends_in_a_silence() {
        let config = crate::edge::config::FollowConfig { body_read_ms: 5, ..Default::default() };
        let pace = Pace::new(&config, Default::default());
        let call = |path: &str| {
            let silent = Body::from_stream(futures_util::stream::pending::<Result<Bytes>>());
            paced(Request::builder().uri(path).body(silent).unwrap(), &pace).into_body()
        };
        let reflection = format!("{REFLECTION}v1.ServerReflection/ServerReflectionInfo");
        let mut streams: Vec<_> = CLIENT_STREAMS.into_iter().map(call).collect();
        streams.push(call(&reflection));
        let mut look = async || {
            for stream in &mut streams {
                let frame = futures_util::poll!(http_body_util::BodyExt::frame(stream));
                assert!(frame.is_pending(), "{frame:?}");
            }
        };
        look().await;
        let mut publish = call(crate::edge::grpc::paths::PUBLISH);
        let ended = http_body_util::BodyExt::frame(&mut publish).await;
        let told = ended.unwrap().unwrap_err().to_string();
        assert!(told.contains("nothing more came for 5 ms"), "{told}");
        look().await;
    }
}
