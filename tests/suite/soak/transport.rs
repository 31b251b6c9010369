//! One cycle of a reader on each way to read: it connects, and takes events until it is cut, or
//! gets nothing for a while.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use leftoff::edge::proto::subscribe_response::Message as Told;
use leftoff::edge::proto::{Event, Filter, Gap, ReadRequest, SubscribeRequest};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::ledger::{Cycle, Got, Scope, ToldGap};
use crate::common::{Grpc, Sse, to};
use crate::ways::Way;

/// The silence after which a reader leaves, and the time limit of a connection. Messages without an
/// event or a gap, such as heartbeats, count as silence.
const SILENCE: Duration = Duration::from_millis(400);
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest number of events in one cycle: readers change the transport also without a cut.
const MAX_EVENTS: usize = 400;

/// Reads over one connection. Returns `None` if there was no answer at all.
pub(super) async fn cycle(
    way: Way,
    address: SocketAddr,
    scope: &Scope,
    cursor: Option<String>,
) -> Option<Cycle> {
    let (events, gaps) = (Vec::new(), Vec::new());
    let first = cursor.clone();
    let scope = scope.clone();
    let mut cycle = Cycle { way, scope, first, last: cursor, events, gaps, is_cut: true };
    let read = async {
        match way {
            Way::Sse => sse(address, &mut cycle, false).await,
            Way::SseHttp2 => sse(address, &mut cycle, true).await,
            Way::WebSocket => websocket(address, &mut cycle).await,
            Way::Follow => follow(address, &mut cycle).await,
            Way::FollowPolls => follow_polls(address, &mut cycle).await,
            Way::Page => pages(address, &mut cycle, false).await,
            Way::PageHttp2 => pages(address, &mut cycle, true).await,
            Way::GrpcSubscribe => subscribe(address, &mut cycle).await,
            Way::GrpcRead => read_pages(address, &mut cycle).await,
        }
    };
    let silent = tokio::time::timeout(3 * PATIENCE, read).await;
    let silent = silent.unwrap_or_else(|_| {
        panic!("{way:?} never ends after {:?}: {:?}", cycle.last, cycle.scope)
    })?;
    cycle.is_cut = !silent;
    Some(cycle)
}

impl Cycle {
    fn is_full(&self) -> bool {
        self.events.len() >= MAX_EVENTS
    }

    /// Returns the number of events and gaps so far.
    fn count(&self) -> usize {
        self.events.len() + self.gaps.len()
    }

    /// Returns the selection as a query string that continues after the last cursor.
    fn query(&self, cursor_name: &str) -> String {
        let mut query = match &self.last {
            Some(cursor) => format!("{cursor_name}={cursor}"),
            None => "from=earliest".to_owned(),
        };
        if let Some(event_type) = self.scope.event_type {
            query += &format!("&type={event_type}");
        }
        if self.scope.is_of_many {
            for topic in &self.scope.topics {
                query += &format!("&topic={}", topic.replace('>', "%3E"));
            }
        }
        query
    }

    fn path(&self) -> String {
        match self.scope.is_of_many {
            true => "/v1/events".to_owned(),
            false => format!("/v1/topics/{}/events", self.scope.topics[0]),
        }
    }

    fn take_json(&mut self, event: &Value) {
        self.events.push(Got {
            topic: event["topic"].as_str().unwrap_or(&self.scope.topics[0]).to_owned(),
            sequence: event["sequence"].as_u64().unwrap(),
            position: event["position"].as_u64().unwrap(),
            payload: event["data"].as_str().unwrap().to_owned(),
        });
    }

    fn take_gap_json(&mut self, gap: &Value) {
        self.gaps.push(ToldGap {
            topic: gap["topic"].as_str().map(str::to_owned),
            earliest: gap["earliest"].as_u64().unwrap(),
            reason: gap["reason"].as_str().unwrap().to_owned(),
        });
    }

    fn take_proto(&mut self, event: &Event) {
        let topic = if event.topic.is_empty() { &self.scope.topics[0] } else { &event.topic };
        self.events.push(Got {
            topic: topic.clone(),
            sequence: event.sequence,
            position: event.position,
            payload: String::from_utf8(event.payload.clone().into()).unwrap(),
        });
    }

    fn take_gap(&mut self, gap: &Gap) {
        let topic = Some(gap.topic.clone()).filter(|topic| !topic.is_empty());
        self.gaps.push(ToldGap { topic, earliest: gap.earliest, reason: gap.reason.clone() });
    }

    /// Returns the selection as a subscription that continues after the last cursor.
    fn subscription(&self) -> Value {
        let from = self.last.clone().unwrap_or("earliest".to_owned());
        let mut asked = json!({"subscription": "s", "from": from});
        match self.scope.is_of_many {
            true => asked["topics"] = json!(self.scope.topics),
            false => asked["topic"] = json!(self.scope.topics[0]),
        }
        if let Some(event_type) = self.scope.event_type {
            asked["filter"] = json!({"types": [event_type]});
        }
        asked
    }

    /// Takes a message of a subscription. Returns whether the subscription goes on.
    fn take_message(&mut self, message: &Value) -> bool {
        match message["type"].as_str().unwrap() {
            "event" => self.take_json(&message["event"]),
            "gap" => self.take_gap_json(&message["gap"]),
            "hello" | "subscribed" | "caught_up" | "cursor" => {}
            "ended" | "stopping" => return false,
            other => panic!("{other}: {message}"),
        }
        self.last = message["cursor"].as_str().map(str::to_owned).or(self.last.take());
        true
    }

    fn filter(&self) -> Option<Filter> {
        let of =
            |event_type: &str| Filter { types: vec![event_type.to_owned()], ..Filter::default() };
        self.scope.event_type.map(of)
    }
}

/// The time at which a reader without events leaves.
struct Silence {
    ends: Instant,
    count: usize,
}

impl Silence {
    fn new() -> Self {
        Self { ends: Instant::now() + SILENCE, count: 0 }
    }

    /// Waits for `next`, and returns `None` after enough silence.
    async fn hear<T>(&mut self, cycle: &Cycle, next: impl Future<Output = T>) -> Option<T> {
        if self.count != cycle.count() {
            *self = Self { count: cycle.count(), ..Self::new() };
        }
        tokio::time::timeout_at(self.ends, next).await.ok()
    }
}

/// Follows over SSE. Returns whether the cycle ended by silence or was full, rather than by a cut.
async fn sse(address: SocketAddr, cycle: &mut Cycle, over_http2: bool) -> Option<bool> {
    let path = format!("{}?format=envelope&{}", cycle.path(), cycle.query("last_event_id"));
    let opening = Sse::try_open(to(address, "GET", &path), over_http2);
    let mut stream = tokio::time::timeout(PATIENCE, opening).await.ok()?.ok()?;
    assert_eq!(stream.status, 200, "{path}");
    let mut silence = Silence::new();
    while !cycle.is_full() {
        let Some(frame) = silence.hear(cycle, stream.next()).await else {
            return Some(true);
        };
        let Some(frame) = frame else { return Some(false) };
        if frame.is_control("leftoff.gap") {
            cycle.take_gap_json(&frame.json());
        } else if frame.is_event() {
            cycle.take_json(&frame.json());
        }
        cycle.last = frame.id.clone().or(cycle.last.take());
    }
    Some(true)
}

async fn websocket(address: SocketAddr, cycle: &mut Cycle) -> Option<bool> {
    let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
    let spoken = http::HeaderValue::from_static("leftoff.v1.json");
    request.headers_mut().insert("sec-websocket-protocol", spoken);
    let stream = TcpStream::connect(address).await.ok()?;
    let connecting = tokio_tungstenite::client_async(request, stream);
    let (mut socket, _) = tokio::time::timeout(PATIENCE, connecting).await.ok()?.ok()?;
    let mut message = cycle.subscription();
    message["type"] = json!("subscribe");
    socket.send(Message::text(message.to_string())).await.ok()?;
    let mut silence = Silence::new();
    while !cycle.is_full() {
        let Some(heard) = silence.hear(cycle, socket.next()).await else {
            return Some(true);
        };
        let text = match heard {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            _ => return Some(false),
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        if !cycle.take_message(&message) {
            return Some(false);
        }
    }
    Some(true)
}

async fn follow(address: SocketAddr, cycle: &mut Cycle) -> Option<bool> {
    let asked = json!({"subscriptions": [cycle.subscription()]});
    let opening = Sse::open_with(to(address, "POST", "/v1/follow"), asked.to_string());
    let mut stream = tokio::time::timeout(PATIENCE, opening).await.ok()?.ok()?;
    if stream.status == 503 {
        return None;
    }
    assert_eq!(stream.status, 200, "{asked}");
    let mut silence = Silence::new();
    while !cycle.is_full() {
        let Some(frame) = silence.hear(cycle, stream.next()).await else {
            return Some(true);
        };
        let Some(frame) = frame else { return Some(false) };
        if frame.data.is_some() && !cycle.take_message(&frame.json()) {
            return Some(false);
        }
    }
    Some(true)
}

async fn follow_polls(address: SocketAddr, cycle: &mut Cycle) -> Option<bool> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let mut has_answered = false;
    while !cycle.is_full() {
        let asked = json!({"subscriptions": [cycle.subscription()]}).to_string();
        let request = to(address, "POST", "/v1/follow?wait=300ms");
        let request = request.header("accept", "application/json");
        let polled = async {
            let answer = client.request(request.body(asked.into()).unwrap()).await.ok()?;
            let status = answer.status();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some((status, body))
        };
        let Some((status, body)) = tokio::time::timeout(PATIENCE, polled).await.ok().flatten()
        else {
            return has_answered.then_some(false);
        };
        has_answered = true;
        if status == 503 {
            return Some(false);
        }
        assert_eq!(status, 200, "{body:?}");
        let answer: Value = serde_json::from_slice(&body).unwrap();
        let before = cycle.count();
        for message in answer["messages"].as_array().unwrap() {
            if !cycle.take_message(message) {
                return Some(false);
            }
        }
        if cycle.count() == before {
            return Some(true);
        }
    }
    Some(true)
}

async fn pages(address: SocketAddr, cycle: &mut Cycle, over_http2: bool) -> Option<bool> {
    let client =
        Client::builder(TokioExecutor::new()).http2_only(over_http2).build_http::<Full<Bytes>>();
    let mut has_answered = false;
    while !cycle.is_full() {
        let path = format!(
            "{}?limit=37&wait=300ms&on_gap=earliest&{}",
            cycle.path(),
            cycle.query("after")
        );
        let request = to(address, "GET", &path).header("accept", "application/json");
        let asked = async {
            let answer = client.request(request.body(Full::default()).unwrap()).await.ok()?;
            let status = answer.status();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some((status, body))
        };
        let Some((status, body)) = tokio::time::timeout(PATIENCE, asked).await.ok().flatten()
        else {
            return has_answered.then_some(false);
        };
        has_answered = true;
        if status == 503 {
            return Some(false);
        }
        assert_eq!(status, 200, "{path}: {body:?}");
        let page: Value = serde_json::from_slice(&body).unwrap();
        let gaps = page["gaps"].as_array().cloned().unwrap_or_default();
        gaps.iter().chain(page.get("gap")).for_each(|gap| cycle.take_gap_json(gap));
        let events = page["events"].as_array().unwrap();
        events.iter().for_each(|event| cycle.take_json(event));
        cycle.last = Some(page["cursor"].as_str().unwrap().to_owned());
        if events.is_empty() {
            return Some(true);
        }
    }
    Some(true)
}

async fn grpc(address: SocketAddr) -> Option<Grpc> {
    let connecting = Grpc::connect(format!("http://{address}"));
    tokio::time::timeout(PATIENCE, connecting).await.ok()?.ok()
}

/// Returns the topic, or the patterns, of a gRPC request.
fn named(scope: &Scope) -> (String, Vec<String>) {
    match scope.is_of_many {
        true => (String::new(), scope.topics.clone()),
        false => (scope.topics[0].clone(), Vec::new()),
    }
}

async fn subscribe(address: SocketAddr, cycle: &mut Cycle) -> Option<bool> {
    let mut client = grpc(address).await?;
    let (topic, topics) = named(&cycle.scope);
    let from = cycle.last.clone().unwrap_or("earliest".to_owned());
    let filter = cycle.filter();
    let request = SubscribeRequest { topic, topics, from, filter, ..SubscribeRequest::default() };
    let subscribing = client.subscribe(request);
    let mut stream = tokio::time::timeout(PATIENCE, subscribing).await.ok()?.ok()?.into_inner();
    let mut silence = Silence::new();
    while !cycle.is_full() {
        let Some(heard) = silence.hear(cycle, stream.message()).await else {
            return Some(true);
        };
        let Ok(Some(response)) = heard else { return Some(false) };
        let cursor = match response.message {
            Some(Told::Events(batch)) => {
                batch.events.iter().for_each(|event| cycle.take_proto(event));
                batch.cursor
            }
            Some(Told::Gap(gap)) => {
                cycle.take_gap(&gap);
                gap.cursor
            }
            Some(Told::Started(started)) => started.cursor,
            Some(Told::CaughtUp(caught_up)) => caught_up.cursor,
            Some(Told::Heartbeat(heartbeat)) => heartbeat.cursor,
            other => panic!("{other:?}"),
        };
        cycle.last = Some(cursor);
    }
    Some(true)
}

async fn read_pages(address: SocketAddr, cycle: &mut Cycle) -> Option<bool> {
    let mut client = grpc(address).await?;
    let mut has_answered = false;
    let (topic, topics) = named(&cycle.scope);
    while !cycle.is_full() {
        let request = ReadRequest {
            topic: topic.clone(),
            topics: topics.clone(),
            from: cycle.last.clone().unwrap_or("earliest".to_owned()),
            page_size: 23,
            wait_ms: 300,
            filter: cycle.filter(),
            ..ReadRequest::default()
        };
        let Ok(Ok(page)) = tokio::time::timeout(PATIENCE, client.read(request)).await else {
            return has_answered.then_some(false);
        };
        has_answered = true;
        let page = page.into_inner();
        page.gaps.iter().for_each(|gap| cycle.take_gap(gap));
        page.events.iter().for_each(|event| cycle.take_proto(event));
        cycle.last = Some(page.cursor);
        if page.events.is_empty() {
            return Some(true);
        }
    }
    Some(true)
}
