//! Server-sent events: the frames, and the stream of one subscription.
//!
//! ```text
//! retry: 2417                          jittered; a line of the first block, whatever that is
//! event: quake
//! data: {"mag":5.3}
//! id: 42-9f3c2a1b
//!
//! event: leftoff.caught-up
//! data: {"topic":"quakes.us","earliest":1,"tail":43}
//! id: 42-9f3c2a1b
//!
//! : heartbeat                          a line between two blocks, and no block
//! event: leftoff.cursor                what came meanwhile was not for this reader
//! data: {"cursor":"57-9f3c2a1b"}
//! id: 57-9f3c2a1b
//!
//! retry: 1630
//! event: leftoff.stopping              the broker stops; come back after `retry`
//! data: {"retry_ms":1630}
//! id: 57-9f3c2a1b
//! ```
//!
//! A stream whose query holds names that mean nothing begins with `leftoff.warning`: it names them.
//!
//! Every block has data. By the standard a block without data is no event, but widely used clients
//! hand it to the page as an empty message, on which `JSON.parse` throws: fetch-event-source each
//! empty line, httpx-sse and sseclient a block with nothing but `id:` or `retry:`. An event of many
//! clients moves their last id with its data alone.
//!
//! The id is the last line of a block. By the standard its place does not matter, but some clients,
//! fetch-event-source among them, take it over with its line and not with the end of the block: one
//! that is cut off in between would come back after an event that it never handed on.
//!
//! Types and payloads are in `data.rs`.
//!
//! # What holds a slow reader back
//!
//! Nothing is queued for a client. Each link of this chain waits for the one before it:
//!
//! ```text
//! client does not read ─▶ its TCP window closes ─▶ the system's send buffer is full (`socket.rs`
//! bounds it) ─▶ `stream.rs` waits in its write; over HTTP/2 hyper waits for the stream's window
//! (`stalls.rs`) ─▶ the body is not polled ─▶ `Following::next` is not called ─▶ the reader reads
//! nothing, and falls back from the tail to the log
//! ```
//!
//! A client that takes nothing for `server.write_timeout_ms` is ended. Then its reader is dropped.

#![doc = include_str!("sse.md")]

mod data;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use rand::RngExt;
use serde_json::{Value, json};

use self::data::{encode_content, encode_json};
use super::budget::WaitsForRoom;
use super::clients::{self, Peer};
use super::json::Carrier;
use super::selection::{Format, Kept};
use crate::broker::{Delivery, Ephemeral, EventRef, Patience, Reader, Run, Waited, WireForm};
use crate::cursor::Cursor;
use crate::edge::config::FollowConfig;
use crate::edge::http::ignored::{IGNORED_HEADER, Ignored};
use crate::edge::{cloudevents, forms, json, status};
use crate::error::Error;
use crate::polls;

/// The media type of the answer. The format has one charset, but some clients take any text whose
/// charset is not told for ISO 8859-1.
const MEDIA_TYPE: &str = "text/event-stream; charset=utf-8";

/// Bytes up to which deliveries that are ready are put into one write.
const MAX_WRITE_BYTES: usize = 8 << 10;

/// What a client has to wait for its first block, and so for the first id: with one it can come
/// back to its place though it has received no event yet.
const FIRST_BLOCK_WITHIN: Duration = Duration::from_millis(100);

/// How long a client is asked to wait after an error that time alone will not mend.
const ERROR_RETRY_MS: u64 = 30_000;

/// A comment and no block: after an empty line some clients hand an empty message to the page.
const HEARTBEAT: &[u8] = b": heartbeat\n";

/// The answer that streams what `reader` reads.
pub(super) fn response(
    (reader, kept): (Reader, Kept),
    format: Format,
    config: &FollowConfig,
    peer: Option<&Peer>,
    ignored: Ignored,
) -> Response {
    let config = config.clone();
    let gap = reader.gap().cloned();
    let (patience, told) = (Patience::new(FIRST_BLOCK_WITHIN), reader.cursor());
    let listed = clients::Following::new(peer, "sse", &reader);
    // In a box, for it is moved with each write.
    let following = Following {
        reader,
        format,
        config,
        patience,
        told,
        listed,
        _kept: kept,
        warning: ignored.json(),
        phase: Phase::New,
    };
    let following = Box::new(following);
    let writes = stream::unfold(following, |mut following| async move {
        Some((Ok::<Bytes, Infallible>(following.next().await?), following))
    });
    let mut response = stream_response(Body::from_stream(writes));
    response.extensions_mut().insert(WaitsForRoom);
    response.headers_mut().extend(ignored.header().map(|names| (IGNORED_HEADER, names)));
    status::tell_gaps(&mut response, gap.as_slice());
    response
}

/// The answer to a client that comes while the broker stops: a browser gives up for good on any
/// status but 200, so it is asked to come back in the stream.
pub(super) fn come_back(config: &FollowConfig) -> Response {
    stream_response(Body::from(stopping(config.jittered_retry_ms(), None)))
}

/// The answer to a client that is refused for a while, for the same reason: what it is refused for
/// is told in the stream, and in the headers. `None` where no time mends what it is refused for.
pub(super) fn refused(error: &Error) -> Option<Response> {
    let after = status::retry_after(error)?;
    let mut response = refused_for(after, &status::problem_json(error));
    status::tell_retry(&mut response, error);
    Some(response)
}

/// The same, for a problem that is none of the broker's.
pub(super) fn refused_for(after: Duration, problem: &Value) -> Response {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
    // Not before, and not all at once.
    let retry_ms = rand::rng().random_range(after_ms..=after_ms.saturating_add(after_ms / 2));
    let block = control_block(None, "leftoff.error", problem);
    stream_response(Body::from(format!("{}{block}", retry_line(retry_ms))))
}

fn stream_response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        // nginx buffers answers otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was written.
    New,
    /// The first block has begun, and its client knows no id yet.
    Opening,
    Open,
    Ended,
}

struct Following {
    reader: Reader,
    format: Format,
    config: FollowConfig,
    /// With silence, up to the first block, and then up to the next heartbeat.
    patience: Patience,
    /// The place that the client knows of, once it has the first block.
    told: Cursor,
    listed: clients::Following,
    _kept: Kept,
    /// What the client is to be told of its query, as the first block.
    warning: Option<Value>,
    phase: Phase,
}

impl Following {
    /// The bytes of the next write.
    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Ended => return None,
            Phase::New => {
                self.phase = Phase::Opening;
                let retry = retry_line(self.config.jittered_retry_ms());
                let Some(warning) = self.warning.take() else { return Some(retry.into()) };
                // Its id is not told before its gap is, which would be forgotten otherwise.
                let block = match self.reader.gap() {
                    Some(_) => control_block(None, "leftoff.warning", &warning),
                    None => self.control_frame("leftoff.warning", &warning),
                };
                return Some(format!("{retry}{block}").into());
            }
            Phase::Opening | Phase::Open => {}
        }
        polls::rest().await; // What was written may have been large.
        let waited = self.reader.next_within(&mut self.patience).await;
        let is_first = self.phase == Phase::Opening;
        if is_first {
            (self.phase, self.patience) = (Phase::Open, self.config.patience());
        }
        Some(match waited {
            Ok(Waited::Silence) if self.told == self.reader.cursor() && !is_first => {
                Bytes::from_static(HEARTBEAT)
            }
            // What was published is not for this client, and need not be passed over again.
            Ok(Waited::Silence) => {
                let data = json!({"cursor": self.reader.cursor().to_string()});
                self.control_frame("leftoff.cursor", &data).into()
            }
            Ok(Waited::Delivery(Delivery::Events(run))) => {
                let frames = self.gather(&run);
                polls::rest().await;
                frames
            }
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                self.control_frame("leftoff.gap", &status::gap_json(&gap)).into()
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => self.caught_up().into(),
            Ok(Waited::Delivery(Delivery::Ephemeral(event))) => self.ephemeral(&event),
            Ok(Waited::Stopping) => {
                self.phase = Phase::Ended;
                // In a box: it is done once, and a client that waits needs no room for it.
                Box::pin(self.config.turn_to_end(self.listed.connections())).await;
                let told = self.reader.gap().is_none().then_some(self.told);
                stopping(self.config.jittered_retry_ms(), told).into()
            }
            Err(error) => self.failed(&error).into(),
        })
    }

    /// The frames of `run`, and of what follows it that is in memory already.
    fn gather(&mut self, run: &Run) -> Bytes {
        let first = self.frames(run);
        if first.len() >= MAX_WRITE_BYTES {
            self.listed.note(&self.reader);
            return first;
        }
        let mut more: Option<Vec<u8>> = None;
        loop {
            let size_bytes = more.as_ref().map_or(first.len(), Vec::len);
            if size_bytes >= MAX_WRITE_BYTES {
                break;
            }
            let Some(Delivery::Events(run)) = self.reader.next_in_memory() else { break };
            more.get_or_insert_with(|| first.to_vec()).extend_from_slice(&self.frames(&run));
        }
        self.listed.note(&self.reader);
        more.map_or(first, Bytes::from) // One block alone is shared with every other reader.
    }

    /// The frame of an event that is not stored: it has no id, so it moves no cursor.
    fn ephemeral(&self, ephemeral: &Ephemeral) -> Bytes {
        let (form, format, epoch) = (self.form(), self.format, self.reader.epoch());
        ephemeral.encoded(form, |ephemeral| {
            let mut bytes = Vec::new();
            let event = &ephemeral.event;
            match format {
                Format::Data => {
                    encode_content(
                        &event.event_type,
                        &event.payload,
                        &event.content_type,
                        &mut bytes,
                    );
                }
                Format::Envelope => {
                    encode_json(&mut bytes, |line| {
                        json::write_ephemeral(ephemeral, Carrier::DataLines, line)
                    });
                }
                Format::CloudEvents => encode_json(&mut bytes, |line| {
                    let topic = ephemeral.topic.as_str();
                    cloudevents::append(topic, epoch, &ephemeral.into(), line);
                }),
            }
            bytes.push(b'\n');
            bytes.into()
        })
    }

    fn form(&self) -> WireForm {
        match (&self.reader, self.format) {
            (Reader::One(_), Format::Data) => forms::SSE_DATA,
            (Reader::One(_), Format::Envelope) => forms::SSE_ENVELOPE,
            (Reader::One(_), Format::CloudEvents) => forms::SSE_CLOUD_EVENTS,
            (Reader::Many(_), Format::Data) => forms::SSE_DATA_OF_MANY,
            (Reader::Many(_), Format::Envelope) => forms::SSE_ENVELOPE_OF_MANY,
            (Reader::Many(_), Format::CloudEvents) => forms::SSE_CLOUD_EVENTS_OF_MANY,
        }
    }

    /// The frames of the events of `run`.
    fn frames(&mut self, run: &Run) -> Bytes {
        let epoch = self.reader.epoch();
        if let Some(last) = run.events().last() {
            self.told = self.reader.cursor_after(&last);
        }
        let is_own = self.reader.has_own_cursors(run);
        let encode = |event: &EventRef<'_>, bytes: &mut Vec<u8>| {
            match self.format {
                Format::Data => {
                    encode_content(event.event_type, event.payload, event.content_type, bytes);
                }
                Format::Envelope => encode_json(bytes, |line| {
                    json::write_event(run.topic(), event, Carrier::DataLines, line);
                }),
                Format::CloudEvents => encode_json(bytes, |line| {
                    cloudevents::append(run.topic().as_str(), epoch, &event.into(), line);
                }),
            }
            encode_id(
                match is_own {
                    true => self.reader.cursor_after(event),
                    false => self.reader.shared_cursor_after(event),
                },
                bytes,
            );
        };
        match is_own {
            true => run.encoded_alone(encode).collect::<Vec<_>>().concat().into(),
            false => run.encoded(self.form(), encode),
        }
    }

    fn caught_up(&mut self) -> String {
        let (earliest, tail) = self.reader.bounds();
        let data = match &self.reader {
            Reader::One(one) => json!({"topic": one.topic(), "earliest": earliest, "tail": tail}),
            Reader::Many(many) => json!({"topics": many.patterns(), "tail": tail}),
        };
        self.control_frame("leftoff.caught-up", &data)
    }

    fn failed(&mut self, error: &Error) -> String {
        self.phase = Phase::Ended;
        let frame = self.control_frame("leftoff.error", &status::problem_json(error));
        format!("{}{frame}", retry_line(ERROR_RETRY_MS))
    }

    /// A frame of the broker's own, with the id of the place it speaks of.
    fn control_frame(&mut self, event_type: &str, data: &Value) -> String {
        self.told = self.reader.cursor();
        control_block(Some(self.told), event_type, data)
    }
}

fn control_block(told: Option<Cursor>, event_type: &str, data: &Value) -> String {
    let id = told.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
    format!("event: {event_type}\ndata: {data}\n{id}\n")
}

/// The line that says when to come back. A block has to follow.
fn retry_line(retry_ms: u64) -> String {
    format!("retry: {retry_ms}\n")
}

/// The last block of a stream that ends because the broker stops.
fn stopping(retry_ms: u64, told: Option<Cursor>) -> String {
    let block = control_block(told, "leftoff.stopping", &json!({"retry_ms": retry_ms}));
    format!("{}{block}", retry_line(retry_ms))
}

/// The last line of a block, and its end.
fn encode_id(cursor: Cursor, bytes: &mut Vec<u8>) {
    let mut line = String::with_capacity(40);
    let _never_fails = write!(line, "id: {cursor}\n\n");
    bytes.extend_from_slice(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;

    use super::*;
    use crate::broker::{Broker, OpenConfig, Publish};
    use crate::cursor::{OnGap, StartPoint};
    use crate::event::NewEvent;

    /// Goal: what is ready goes out together, up to the bytes of one write and one block; a block
    /// that is larger goes out alone.
    #[tokio::test]
    async fn what_is_ready_goes_out_in_writes_of_bounded_size() {
        const COUNT: usize = 60;
        for (payload_bytes, most_bytes) in [(500, MAX_WRITE_BYTES + 700), (20_000, 20_200)] {
            let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
            let topic: crate::TopicName = "a".parse().unwrap();
            for _ in 0..COUNT {
                let events = vec![NewEvent::new("x".repeat(payload_bytes))];
                let publish = Publish { topic: topic.clone(), events, expected_sequence: None };
                broker.publish(publish).await.unwrap();
            }
            let start = StartPoint::Earliest;
            let reader = Reader::One(broker.subscribe(&topic, start, OnGap::Fail).await.unwrap());
            let config = FollowConfig::default();
            let opened = (reader, Kept::default());
            let mut writes = response(opened, Format::Data, &config, None, Ignored::default())
                .into_body()
                .into_data_stream();
            let (mut events, mut sizes) = (0, Vec::new());
            while events < COUNT {
                let write = tokio::time::timeout(Duration::from_secs(30), writes.next());
                let write = write.await.expect("it takes too long").unwrap().unwrap();
                let text = std::str::from_utf8(&write).unwrap();
                let count = text.matches("data: x").count();
                if count > 0 {
                    sizes.push(write.len());
                }
                events += count;
            }
            assert_eq!(events, COUNT);
            assert!(sizes.iter().all(|size| *size <= most_bytes), "{sizes:?}");
            // All but the last are full.
            let (_, full) = sizes.split_last().unwrap();
            assert!(full.iter().all(|size| *size >= MAX_WRITE_BYTES), "{sizes:?}");
        }
    }
}
