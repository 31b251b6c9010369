//! Server-sent events: the frames, and the stream of one subscription.
//!
//! ```text
//! retry: 2417                          with jitter; the first line of the first block
//! event: leftoff.gap                   only if events between the cursor and the next are gone
//! data: {"topic":"quakes.us","reason":"retention","requested":12,"earliest":42,"resume":42,…}
//! id: 41-9f3c2a1b                      the place after the gap
//!
//! event: quake
//! data: {"mag":5.3}
//! id: 42-9f3c2a1b
//!
//! event: leftoff.caught-up
//! data: {"topic":"quakes.us","earliest":1,"tail":43}
//! id: 42-9f3c2a1b
//!
//! : heartbeat                          a line between two blocks, and not a block
//! event: leftoff.cursor                the events since were not for this reader
//! data: {"cursor":"57-9f3c2a1b"}
//! id: 57-9f3c2a1b
//!
//! retry: 1630
//! event: leftoff.stopping              the broker stops; reconnect after `retry`
//! data: {"retry_ms":1630}
//! id: 57-9f3c2a1b
//! ```
//!
//! If the query has unknown names or unusable values, the stream begins with `leftoff.warning`,
//! which lists them; then comes `leftoff.denied`, if it names topics that are not permitted. Each
//! `leftoff.` type is described in `sse.md`.
//!
//! Every block has data. By the standard a block without data is no event. But widely used clients
//! hand it to the page as an empty message, on which `JSON.parse` throws: fetch-event-source does
//! so for each empty line, httpx-sse and sseclient for a block with only `id:` or `retry:`. Many
//! clients update their last id only from a block with data.
//!
//! The id is the last line of a block. By the standard its place does not matter. But some clients,
//! fetch-event-source among them, take the id when they read its line, and not at the end of the
//! block. If such a client were cut off after an early id, it would resume after an event that it
//! never delivered.
//!
//! The encoding of types and payloads is in `data.rs`. This file is long because all kinds of
//! frames are written here, in one place.
//!
//! # The chain that holds a slow reader back
//!
//! Nothing is queued for a client. Each link of this chain waits for the previous one:
//!
//! ```text
//! client does not read ─▶ its TCP window closes ─▶ the system's send buffer is full (`socket.rs`
//! bounds it) ─▶ `stream.rs` waits in its write; over HTTP/2 hyper waits for the stream's window
//! (`stalls.rs`) ─▶ the body is not polled ─▶ `Following::next` is not called ─▶ the reader reads
//! nothing, and falls back from the tail to the log
//! ```
//!
//! If the client takes nothing for `server.write_timeout_ms`, its connection is closed; over HTTP/2
//! the stream alone is ended. Then the reader is dropped. `src/docs/architecture.md` says what is
//! held until then, under "The memory of a slow client".

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

use self::data::encode_content;
pub(super) use self::data::encode_json;
use super::budget::WaitsForRoom;
use super::consumers::answers;
use super::consumers::telling::News;
use super::cut_topics::denied_json;
use super::following::{FollowTurn, Following};
use super::json::Carrier;
use super::selection_forms::Format;
use crate::broker::{Delivery, Ephemeral, EventRef, Patience, Reader, Run, Waited, WireForm};
use crate::cursor::Cursor;
use crate::edge::config::FollowConfig;
use crate::edge::http::ignored::Ignored;
use crate::edge::{cloudevents, forms, gaps, json, status};
use crate::error::Error;
use crate::polls;

/// The media type of the answer. The format has only one charset, but some clients read any text
/// without a named charset as ISO 8859-1.
const MEDIA_TYPE: &str = "text/event-stream; charset=utf-8";

/// Bytes up to which deliveries that are ready are joined into one write.
const MAX_WRITE_BYTES: usize = 8 << 10;

/// The longest wait for the first block, and so for the first id. With that id a client can resume
/// at its place, even before its first event.
const FIRST_BLOCK_WITHIN: Duration = Duration::from_millis(100);

/// The `retry` after an error that waiting does not solve, in milliseconds.
const ERROR_RETRY_MS: u64 = 30_000;

/// A comment without an empty line: after an empty line some clients hand an empty message to the
/// page.
pub(super) const HEARTBEAT: &[u8] = b": heartbeat\n";

/// Returns the answer that streams the events of `following`.
pub(super) fn response(
    mut following: Following,
    format: Format,
    config: &FollowConfig,
    ignored: Ignored,
) -> Response {
    let gap = following.gap().cloned();
    let warning = ignored.json().map(|warning| ("leftoff.warning", warning));
    let denied = following.left_out().map(|it| &it.denied).filter(|denied| !denied.is_empty());
    let denied = denied.map(|topics| ("leftoff.denied", denied_json(topics)));
    let first = warning.into_iter().chain(denied).collect();
    following.forget_left_out();
    following.set_patience(Patience::new(FIRST_BLOCK_WITHIN));
    // Boxed, because it is moved with each write.
    let stream = Box::new(EventStream {
        following,
        format,
        config: config.clone(),
        first,
        phase: Phase::New,
    });
    let writes = stream::unfold(stream, |mut stream| async move {
        Some((Ok::<Bytes, Infallible>(stream.next().await?), stream))
    });
    let mut response = stream_response(Body::from_stream(writes));
    response.extensions_mut().insert(WaitsForRoom);
    response.headers_mut().extend(ignored.headers());
    gaps::tell(&mut response, gap.as_slice());
    response
}

/// Returns the answer to a client that connects while the broker stops. A browser gives up for good
/// on any status but 200, so the stream asks it to come back.
pub(super) fn come_back(config: &FollowConfig) -> Response {
    stream_response(Body::from(stopping(config.jittered_retry_ms(), None)))
}

/// Returns the answer to a temporary refusal. Its status is 200, for the same reason; the stream
/// and the headers have the error. `None` if waiting does not help.
pub(super) fn refused(error: &Error) -> Option<Response> {
    let after = status::retry_after(error)?;
    let mut response = refused_for(after, &status::problem_json(error));
    status::tell_retry(&mut response, error);
    Some(response)
}

/// Returns the answer to a temporary refusal that no [`Error`] fits.
pub(super) fn refused_for(after: Duration, problem: &Value) -> Response {
    let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
    // Never before `after`, and spread over half of that time.
    let retry_ms = rand::rng().random_range(after_ms..=after_ms.saturating_add(after_ms / 2));
    let block = control_block(None, "leftoff.error", problem);
    stream_response(Body::from(format!("{}{block}", retry_line(retry_ms))))
}

/// Returns the answer with this stream as its body.
pub(super) fn stream_response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform")),
        // Otherwise nginx buffers answers.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was written yet.
    New,
    /// The first block has begun. The client has no id yet.
    Opening,
    Open,
    Ended,
}

struct EventStream {
    following: Following,
    format: Format,
    config: FollowConfig,
    /// What is told first: ignored names of the query, and topics that are not permitted.
    first: Vec<(&'static str, Value)>,
    phase: Phase,
}

impl EventStream {
    /// Returns the bytes of the next write; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        match self.phase {
            Phase::Ended => return None,
            Phase::New => {
                self.phase = Phase::Opening;
                let mut write = retry_line(self.config.jittered_retry_ms());
                for (event_type, data) in std::mem::take(&mut self.first) {
                    // Before a gap is told, these have no id: a client that resumed with it would
                    // miss the gap.
                    write.push_str(&match self.reader().gap() {
                        Some(_) => control_block(None, event_type, &data),
                        None => self.control_frame(event_type, &data),
                    });
                }
                return Some(write.into());
            }
            Phase::Opening | Phase::Open => {}
        }
        let waited = match self.following.next().await {
            // Without an id: the state of a consumer moves no cursor of events.
            Ok(FollowTurn::News(news)) => return Some(news_block(&news).into()),
            Ok(FollowTurn::Waited(waited)) => Ok(waited),
            Err(error) => Err(error),
        };
        let is_first = self.phase == Phase::Opening;
        if is_first {
            self.phase = Phase::Open;
            self.following.set_patience(self.config.patience());
        }
        Some(match waited {
            Ok(Waited::Silence) if !self.following.has_moved() && !is_first => {
                Bytes::from_static(HEARTBEAT)
            }
            // The new events were not for this client. With the cursor, it need not skip them
            // again.
            Ok(Waited::Silence) => {
                let data = json!({"cursor": self.reader().cursor().to_string()});
                self.control_frame("leftoff.cursor", &data).into()
            }
            Ok(Waited::Delivery(Delivery::Events(run))) => {
                let frames = self.gather(&run);
                polls::rest().await;
                frames
            }
            Ok(Waited::Delivery(Delivery::Gap(gap))) => {
                self.control_frame("leftoff.gap", &gaps::json(&gap)).into()
            }
            Ok(Waited::Delivery(Delivery::CaughtUp)) => self.caught_up().into(),
            Ok(Waited::Delivery(Delivery::Ephemeral(event))) => self.ephemeral(&event),
            Ok(Waited::Stopping) => {
                self.phase = Phase::Ended;
                // Boxed: it runs once, and a waiting client needs no memory for it.
                Box::pin(self.following.turn_to_end(&self.config)).await;
                let told = self.reader().gap().is_none().then_some(self.following.told());
                stopping(self.config.jittered_retry_ms(), told).into()
            }
            Err(error) => self.failed(&error).into(),
        })
    }

    /// Returns the frames of `run`, and of the next runs that are in memory already.
    fn gather(&mut self, run: &Run) -> Bytes {
        let first = self.frames(run);
        if first.len() >= MAX_WRITE_BYTES {
            self.following.show_place();
            return first;
        }
        let mut more: Option<Vec<u8>> = None;
        loop {
            let size_bytes = more.as_ref().map_or(first.len(), Vec::len);
            if size_bytes >= MAX_WRITE_BYTES {
                break;
            }
            let Some(run) = self.following.next_in_memory() else { break };
            more.get_or_insert_with(|| first.to_vec()).extend_from_slice(&self.frames(&run));
        }
        self.following.show_place();
        more.map_or(first, Bytes::from) // A single block is shared among readers.
    }

    /// Returns the frame of an ephemeral event. The frame has no id, so no cursor moves.
    fn ephemeral(&self, ephemeral: &Ephemeral) -> Bytes {
        let (form, format, epoch) = (self.form(), self.format, self.reader().epoch());
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

    fn reader(&self) -> &Reader {
        self.following.reader()
    }

    fn form(&self) -> WireForm {
        match (self.format, self.reader().is_of_many()) {
            (Format::Data, false) => forms::SSE_DATA,
            (Format::Envelope, false) => forms::SSE_ENVELOPE,
            (Format::CloudEvents, false) => forms::SSE_CLOUD_EVENTS,
            (Format::Data, true) => forms::SSE_DATA_OF_MANY,
            (Format::Envelope, true) => forms::SSE_ENVELOPE_OF_MANY,
            (Format::CloudEvents, true) => forms::SSE_CLOUD_EVENTS_OF_MANY,
        }
    }

    /// Returns the frames of the events of `run`.
    fn frames(&mut self, run: &Run) -> Bytes {
        let epoch = self.reader().epoch();
        self.following.tell_events(run);
        let is_own = self.reader().has_own_cursors(run);
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
                    true => self.reader().cursor_after(event),
                    false => self.reader().shared_cursor_after(event),
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
        let (earliest, tail) = self.reader().bounds();
        let data = match self.reader().topic() {
            Some(topic) => json!({"topic": topic, "earliest": earliest, "tail": tail}),
            None => json!({"topics": self.reader().patterns(), "tail": tail}),
        };
        self.control_frame("leftoff.caught-up", &data)
    }

    fn failed(&mut self, error: &Error) -> String {
        self.phase = Phase::Ended;
        if let Error::Unauthenticated { .. } = error {
            // With another credential the client can come back at once, to the place that it was
            // told: the reader may be past events that were not delivered.
            let told = self.reader().gap().is_none().then_some(self.following.told());
            let block = control_block(told, "leftoff.expired", &status::problem_json(error));
            return format!("{}{block}", retry_line(self.config.jittered_retry_ms()));
        }
        let frame = self.control_frame("leftoff.error", &status::problem_json(error));
        format!("{}{frame}", retry_line(ERROR_RETRY_MS))
    }

    /// Returns a frame of the broker's own, with the id of the reader's place.
    fn control_frame(&mut self, event_type: &str, data: &Value) -> String {
        control_block(Some(self.following.tell()), event_type, data)
    }
}

/// Returns the block with news of the reader's consumer.
fn news_block(news: &News) -> String {
    let event_type = match news {
        News::Marked(_) => "leftoff.marked",
        News::Counts(..) => "leftoff.counts",
    };
    control_block(None, event_type, &answers::news(news).1)
}

fn control_block(told: Option<Cursor>, event_type: &str, data: &Value) -> String {
    let id = told.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
    format!("event: {event_type}\ndata: {data}\n{id}\n")
}

/// Returns the line with the time to reconnect. A block must follow.
fn retry_line(retry_ms: u64) -> String {
    format!("retry: {retry_ms}\n")
}

/// Returns the last block of a stream that ends because the broker stops.
fn stopping(retry_ms: u64, told: Option<Cursor>) -> String {
    let block = control_block(told, "leftoff.stopping", &json!({"retry_ms": retry_ms}));
    format!("{}{block}", retry_line(retry_ms))
}

/// Appends the last line of a block, and its end.
fn encode_id(cursor: Cursor, bytes: &mut Vec<u8>) {
    let mut line = String::with_capacity(40);
    let _never_fails = write!(line, "id: {cursor}\n\n");
    bytes.extend_from_slice(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::BodyDataStream;
    use futures_util::StreamExt;

    use super::super::hooks::{Connecting, Grant, HookAnswer, Hooks, Revoker};
    use super::super::selection::{Kept, TopicSelection, Wanted};
    use super::*;
    use crate::broker::{Broker, OpenConfig, Publish};
    use crate::cursor::{OnGap, StartPoint};
    use crate::edge::Edge;
    use crate::edge::permit::Permit;
    use crate::event::NewEvent;
    use crate::permission::Permission;

    /// Goal: deliveries that are ready are written together, up to the bytes of one write and one
    /// block. A larger block is written alone.
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
            let reader = broker.subscribe(&topic, start, OnGap::Fail).await.unwrap();
            let config = FollowConfig::default();
            let opened = (reader, Kept::default());
            let following = Following::new(opened, "sse", config.patience(), Default::default());
            let mut writes = response(following, Format::Data, &config, Ignored::default())
                .into_body()
                .into_data_stream();
            let (mut events, mut sizes) = (0, Vec::new());
            while events < COUNT {
                let write = tokio::time::timeout(Duration::from_secs(30), writes.next());
                let write = write.await.expect("a write in time").unwrap().unwrap();
                let text = std::str::from_utf8(&write).unwrap();
                let count = text.matches("data: x").count();
                if count > 0 {
                    sizes.push(write.len());
                }
                events += count;
            }
            assert_eq!(events, COUNT);
            assert!(sizes.iter().all(|size| *size <= most_bytes), "{sizes:?}");
            // All writes but the last are full.
            let (_, full) = sizes.split_last().unwrap();
            assert!(full.iter().all(|size| *size >= MAX_WRITE_BYTES), "{sizes:?}");
        }
    }
    /// Hooks that give all callers one grant, as those of access control do.
    struct OneGrant(Grant);

    impl Hooks for OneGrant {
        fn connect<'a>(&'a self, _: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
            Box::pin(async move { Ok(self.0.clone()) })
        }
    }

    /// Opens a stream, and reads it until it waits.
    async fn idle(edge: &Edge) -> BodyDataStream {
        let request = http::Request::get("/v1/topics/a/events?from=latest");
        let request = request.header("authorization", "x".repeat(800)).body(()).unwrap();
        let permit = Permit::ask(edge, &request.into_parts().0).await.unwrap();
        let wanted = Wanted {
            topics: TopicSelection::One("a".parse().unwrap()),
            start: Some(StartPoint::Latest),
            on_gap: OnGap::Resume,
            filter: Default::default(),
            member: None,
            is_strict: false,
            consumer: None,
        };
        let following = Following::open(wanted, "sse", edge, (None, permit)).await.unwrap();
        let response = response(following, Format::Data, &edge.config, Ignored::default());
        let mut stream = response.into_body().into_data_stream();
        for _ in ["retry", "caught-up"] {
            stream.next().await.unwrap().unwrap();
        }
        assert!(futures_util::poll!(stream.next()).is_pending());
        stream
    }

    /// Goal: an idle stream whose caller has a final grant, which ends and may be revoked, takes
    /// little more memory than a stream without hooks: no head of a request, no timer of its own.
    #[test]
    fn a_grant_costs_an_idle_stream_little_memory() {
        const STREAMS: i64 = 64;
        /// 0.3 KiB, less what an allocator rounds up.
        const MOST_BYTES: i64 = 256;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let end = std::time::SystemTime::now() + Duration::from_secs(3_600);
        let grant = Grant::new("user-42", Permission::all()).until(end).without_renewal();
        let grant = grant.revoked_by(Revoker::default());
        let (open, authorised) = runtime.block_on(async {
            let edge = || Edge::new(Broker::in_memory(&OpenConfig::default()).unwrap());
            (edge(), edge().hooks(OneGrant(grant)))
        });
        let of_one = |edge: &Edge| {
            let _first = runtime.block_on(idle(edge)); // Leaves out what only the first one needs.
            let mut streams = Vec::with_capacity(STREAMS as usize);
            let taken = allocation_counter::measure(|| {
                streams.extend((0..STREAMS).map(|_| runtime.block_on(idle(edge))));
            });
            taken.bytes_current / STREAMS
        };
        let (open, authorised) = (of_one(&open), of_one(&authorised));
        assert!(open > 500, "{open}: the streams are measured");
        assert!(authorised - open <= MOST_BYTES, "{open} without hooks, {authorised} with a grant");
    }
}
