//! The readers of a broken fleet, on every transport, now at one node and now at another.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use leftoff::edge::proto::SubscribeRequest;
use leftoff::edge::proto::subscribe_response::Message;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;

use super::clients::{any, call};
use super::held::events_in;
use crate::common::{Frame, Sse, to};
use crate::grpc_client::Grpc;
use crate::websocket::Client as WebSocket;

/// The time in which a stream begins; a node that stands still is left.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

const PAUSE: Duration = Duration::from_millis(50);

/// How a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    EventStream,
    LongPoll,
    WebSocket,
    Grpc,
}

impl Transport {
    pub(super) const ALL: [Self; 4] =
        [Self::EventStream, Self::LongPoll, Self::WebSocket, Self::Grpc];
}

/// What a reader reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    Topic(String),
    /// The topics of all publishers.
    All,
}

/// What a reader got.
#[derive(Debug)]
pub(super) struct ToldReader {
    pub(super) transport: Transport,
    pub(super) selection: Selection,
    /// The events in the order in which they came, each with its sequence; of all topics with its
    /// position.
    pub(super) events: Vec<(u64, String)>,
}

/// A reader.
pub(super) struct Reader {
    selection: Selection,
    nodes: Vec<SocketAddr>,
    random: StdRng,
    /// The last place that it must read, once that is known.
    end: watch::Receiver<Option<u64>>,
    events: Vec<(u64, String)>,
    /// The place after which it goes on.
    cursor: String,
}

impl Reader {
    pub(super) fn new(
        selection: Selection,
        nodes: &[SocketAddr],
        random: StdRng,
        end: watch::Receiver<Option<u64>>,
    ) -> Self {
        let cursor = if selection == Selection::All { "@0" } else { "0" }.to_owned();
        Self { selection, nodes: nodes.to_vec(), random, end, events: Vec::new(), cursor }
    }

    /// Reads until it has all that was acknowledged.
    pub(super) async fn run(mut self, transport: Transport) -> ToldReader {
        while !self.has_all() {
            let node = any(&self.nodes, &mut self.random);
            // Some stay longer and some shorter.
            let until =
                Instant::now() + Duration::from_millis(self.random.random_range(200..3_000));
            let reading = async {
                match transport {
                    Transport::EventStream => self.read_stream(node, until).await,
                    Transport::LongPoll => self.poll(node).await,
                    Transport::WebSocket => self.read_socket(node, until).await,
                    Transport::Grpc => self.read_call(node, until).await,
                }
            };
            if reading.await.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        ToldReader { transport, selection: self.selection, events: self.events }
    }

    fn has_all(&self) -> bool {
        let reached = self.events.last().map_or(0, |(place, _)| *place);
        self.end.borrow().is_some_and(|end| reached >= end)
    }

    fn topic(&self) -> &str {
        match &self.selection {
            Selection::Topic(topic) => topic,
            Selection::All => "broken.*",
        }
    }

    /// Notes an event in JSON.
    fn note(&mut self, event: &Value) {
        let place = if self.selection == Selection::All { "position" } else { "sequence" };
        let payload = event["data"].as_str().unwrap_or_default().to_owned();
        self.events.push((event[place].as_u64().unwrap(), payload));
    }

    fn note_frame(&mut self, frame: Frame) {
        if let Some(id) = &frame.id {
            self.cursor.clone_from(id);
        }
        if !frame.is_event() {
            return;
        }
        if self.selection == Selection::All {
            self.note(&frame.json());
        } else {
            self.events.push((frame.sequence(), frame.data.unwrap_or_default()));
        }
    }

    /// Follows as a browser does. Returns `None` where no stream begins.
    async fn read_stream(&mut self, node: SocketAddr, until: Instant) -> Option<()> {
        let path = match &self.selection {
            Selection::Topic(topic) => format!("/v1/topics/{topic}/events"),
            Selection::All => format!("/v1/events?topic={}", self.topic()),
        };
        let request = to(node, "GET", &path).header("last-event-id", &self.cursor);
        let opened = tokio::time::timeout(OPEN_TIMEOUT, Sse::open(request)).await;
        let mut stream = opened.ok()?.ok().filter(|stream| stream.status == 200)?;
        while !self.has_all() {
            let next = tokio::time::timeout(left(until), stream.next()).await;
            let Ok(Some(frame)) = next else { break };
            assert!(!frame.is_control("leftoff.gap"), "{}: {frame:?} at {node}", self.topic());
            self.note_frame(frame);
        }
        Some(())
    }

    /// Asks for one page.
    async fn poll(&mut self, node: SocketAddr) -> Option<()> {
        let (topic, after) = (self.topic(), &self.cursor);
        let path = format!("/v1/topics/{topic}/events?after={after}&wait=1s");
        let told = call(to(node, "GET", &path), "", Duration::from_secs(10)).await;
        let (status, body) = told.ok()?;
        assert_ne!(status, StatusCode::GONE, "{topic}: {body:?}");
        if status != 200 {
            return None;
        }
        let mut page: Value = serde_json::from_slice(&body).unwrap();
        let gaps = page["gaps"].as_array().is_none_or(Vec::is_empty);
        assert!(gaps && page["gap"].is_null(), "{topic}: {page}");
        events_in(&body).iter().for_each(|event| self.note(event));
        match page["cursor"].take() {
            Value::String(cursor) => self.cursor = cursor,
            other => panic!("no cursor: {other}"),
        }
        Some(())
    }

    async fn read_socket(&mut self, node: SocketAddr, until: Instant) -> Option<()> {
        let connecting = WebSocket::connect_if_up(node);
        let mut socket = tokio::time::timeout(OPEN_TIMEOUT, connecting).await.ok()??;
        let asked = json!({
            "type": "subscribe", "subscription": "s", "topic": self.topic(), "from": self.cursor,
        });
        if !socket.try_say(asked).await {
            return None;
        }
        while !self.has_all() {
            let next = tokio::time::timeout(left(until), socket.try_hear()).await;
            let Ok(Some(mut message)) = next else { break };
            let kind = message["type"].as_str().unwrap();
            assert_ne!(kind, "gap", "{}: {message}", self.topic());
            if matches!(kind, "ended" | "error") {
                assert_ne!(message["error"]["status"], 410, "{}: {message}", self.topic());
                return None;
            }
            if kind == "event" {
                self.note(&message["event"]);
            }
            if let Value::String(cursor) = message["cursor"].take() {
                self.cursor = cursor;
            }
        }
        Some(())
    }

    async fn read_call(&mut self, node: SocketAddr, until: Instant) -> Option<()> {
        let topic = self.topic().to_owned();
        let asked = SubscribeRequest {
            topic: topic.clone(),
            from: self.cursor.clone(),
            ..SubscribeRequest::default()
        };
        let opening = async {
            let mut grpc = Grpc::connect(format!("http://{node}")).await.ok()?;
            let opened = grpc.subscribe(asked).await;
            opened.inspect_err(|status| assert_is_away(&topic, status.code())).ok()
        };
        let opened = tokio::time::timeout(OPEN_TIMEOUT, opening).await.ok()??;
        let mut stream = opened.into_inner();
        while !self.has_all() {
            let next = tokio::time::timeout(left(until), stream.message()).await;
            let Ok(told) = next else { break };
            if let Err(status) = &told {
                assert_is_away(&topic, status.code());
            }
            let Some(message) = told.ok()?.and_then(|told| told.message) else { break };
            match message {
                Message::Started(started) => self.cursor = started.cursor,
                Message::CaughtUp(caught_up) => self.cursor = caught_up.cursor,
                Message::Heartbeat(heartbeat) => self.cursor = heartbeat.cursor,
                Message::Events(batch) => {
                    for event in batch.events {
                        let payload = String::from_utf8(event.payload.to_vec()).unwrap();
                        self.events.push((event.sequence, payload));
                    }
                    self.cursor = batch.cursor;
                }
                other => panic!("{topic}: {other:?}"),
            }
        }
        Some(())
    }
}

/// Checks that a call did not end for a reason that the reader cannot help.
fn assert_is_away(topic: &str, code: Code) {
    assert!(!matches!(code, Code::OutOfRange | Code::DataLoss), "{topic}: {code:?}");
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}
