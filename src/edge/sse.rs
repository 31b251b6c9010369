//! Server-sent events: the frames, and the stream of one subscription.
//!
//! ```text
//! retry: 2417                          jittered
//!
//! id: 41-9f3c2a1b                      the priming frame: an id and no data, so that a client that
//!                                      has received nothing yet can resume all the same
//! id: 42-9f3c2a1b
//! event: quake
//! data: {"mag":5.3}
//!
//! id: 42-9f3c2a1b
//! event: leftoff.caught-up
//! data: {"topic":"quakes.us","earliest":1,"tail":43}
//!
//! : heartbeat
//! ```
//!
//! A payload goes out as it is when SSE can carry it exactly: UTF-8 without carriage returns, which
//! the format turns into line feeds. Any other goes out as a `data:` URL in base64 with its content
//! type; so that the two cannot be mistaken for one another, a text that begins with `data:` does
//! as well. Source: WHATWG HTML, server-sent events, 9.2.5 and 9.2.6; RFC 2397.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use super::{FollowConfig, status};
use crate::broker::{Delivery, EventRef, Form, Patience, Run, Subscription, Waited};
use crate::cursor::{Cursor, Epoch};
use crate::error::Error;

/// Bytes up to which deliveries that are ready are put into one write.
const MAX_WRITE_BYTES: usize = 64 << 10;

/// How long a client is asked to wait after an error that time alone will not mend.
const ERROR_RETRY_MS: u64 = 30_000;

/// Begins every payload that is encoded, and no other.
const ENCODED: &str = "data:";

/// The answer that streams `subscription`.
pub(super) fn response(subscription: Subscription, config: FollowConfig) -> Response {
    let gap = subscription.gap().map(status::gap_header);
    let patience = config.patience();
    // In a box, for it is moved with each write.
    let following = Box::new(Following { subscription, config, patience, phase: Phase::Opening });
    let writes = stream::unfold(following, |mut following| async move {
        Some((Ok::<Bytes, Infallible>(following.next().await?), following))
    });
    let mut response = stream_response(Body::from_stream(writes));
    if let Some(gap) = gap {
        response.headers_mut().insert(status::GAP_HEADER, gap);
    }
    response
}

/// The answer to a client that comes while the broker stops: a browser gives up for good on any
/// status but 200, so it is asked to come back in the stream.
pub(super) fn come_back(config: &FollowConfig) -> Response {
    stream_response(Body::from(retry_frame(config.jittered_retry_ms())))
}

fn stream_response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        // nginx buffers answers otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Ended,
}

struct Following {
    subscription: Subscription,
    config: FollowConfig,
    /// With silence, up to the next heartbeat.
    patience: Patience,
    phase: Phase,
}

impl Following {
    /// The bytes of the next write.
    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Ended => return None,
            Phase::Opening => {
                self.phase = Phase::Open;
                let retry = retry_frame(self.config.jittered_retry_ms());
                return Some(format!("{retry}id: {}\n\n", self.subscription.cursor()).into());
            }
            Phase::Open => {}
        }
        Some(match self.subscription.next_within(&mut self.patience).await {
            Ok(Waited::Silence) => Bytes::from_static(b": heartbeat\n\n"),
            Ok(Waited::Delivery(Delivery::Events(run))) => self.gather(&run),
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                let data = status::gap_json(&gap);
                control_frame(self.subscription.cursor(), "leftoff.gap", &data).into()
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => self.caught_up().into(),
            Ok(Waited::Stopping) => {
                self.phase = Phase::Ended;
                retry_frame(self.config.jittered_retry_ms()).into()
            }
            Err(error) => self.failed(&error).into(),
        })
    }

    /// The frames of `run`, and of what follows it that is in memory already.
    fn gather(&mut self, run: &Run) -> Bytes {
        let epoch = self.subscription.epoch();
        let first = frames(run, epoch);
        if first.len() >= MAX_WRITE_BYTES {
            return first;
        }
        let mut more: Option<Vec<u8>> = None;
        loop {
            let size_bytes = more.as_ref().map_or(first.len(), Vec::len);
            if size_bytes >= MAX_WRITE_BYTES {
                break;
            }
            let Some(Delivery::Events(run)) = self.subscription.next_in_memory() else { break };
            more.get_or_insert_with(|| first.to_vec()).extend_from_slice(&frames(&run, epoch));
        }
        more.map_or(first, Bytes::from) // One block alone is shared with every other reader.
    }

    fn caught_up(&self) -> String {
        let (earliest, tail) = self.subscription.bounds();
        let data = json!({"topic": self.subscription.topic(), "earliest": earliest, "tail": tail});
        control_frame(self.subscription.cursor(), "leftoff.caught-up", &data)
    }

    fn failed(&mut self, error: &Error) -> String {
        self.phase = Phase::Ended;
        let data = status::problem_json(error);
        let frame = control_frame(self.subscription.cursor(), "leftoff.error", &data);
        format!("{}{frame}", retry_frame(ERROR_RETRY_MS))
    }
}

fn retry_frame(retry_ms: u64) -> String {
    format!("retry: {retry_ms}\n\n")
}

/// A frame of the broker's own, with the id of the place it speaks of.
fn control_frame(cursor: Cursor, event_type: &str, data: &Value) -> String {
    format!("id: {cursor}\nevent: {event_type}\ndata: {data}\n\n")
}

/// The frames of the events of `run`.
fn frames(run: &Run, epoch: Epoch) -> Bytes {
    run.encoded(Form::Sse, |event, bytes| encode_event(event, epoch, bytes))
}

fn encode_event(event: &EventRef<'_>, epoch: Epoch, bytes: &mut Vec<u8>) {
    let mut head = String::with_capacity(64 + event.event_type.len());
    let cursor = Cursor::after(event.sequence, epoch);
    let _never_fails = write!(head, "id: {cursor}\n");
    if !event.event_type.is_empty() {
        let _never_fails = write!(head, "event: {}\n", event.event_type);
    }
    bytes.extend_from_slice(head.as_bytes());
    match plain_text(event.payload) {
        Some(text) => {
            for line in text.split(|byte| *byte == b'\n') {
                bytes.extend_from_slice(b"data: ");
                bytes.extend_from_slice(line);
                bytes.push(b'\n');
            }
        }
        None => {
            let media = match event.content_type {
                "" => "application/octet-stream",
                media => media,
            };
            let data = BASE64.encode(event.payload);
            bytes.extend_from_slice(format!("data: {ENCODED}{media};base64,{data}\n").as_bytes());
        }
    }
    bytes.push(b'\n');
}

/// The payload, if SSE carries it exactly as it is.
fn plain_text(payload: &[u8]) -> Option<&[u8]> {
    let is_plain = !payload.contains(&b'\r')
        && !payload.starts_with(ENCODED.as_bytes())
        && std::str::from_utf8(payload).is_ok();
    is_plain.then_some(payload)
}
