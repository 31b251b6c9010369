//! Every way to read, behind one interface: the promises to readers are tested for each of them.

use std::collections::VecDeque;

use leftoff::broker::Filter;
use leftoff::edge::proto;
use leftoff::edge::proto::subscribe_response::Message;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::common::{Grpc, Server, Sse, send, send_h2c, soon, to};
use crate::websocket::Client;

/// A protocol with which events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Sse,
    SseHttp2,
    Page,
    PageHttp2,
    WebSocket,
    Follow,
    FollowPolls,
    GrpcSubscribe,
    GrpcRead,
}

/// Each way, and whether it reads the topic `a` alone; otherwise it reads all topics.
pub(crate) const WAYS: [(Way, bool); 18] = [
    (Way::Sse, true),
    (Way::Sse, false),
    (Way::SseHttp2, true),
    (Way::SseHttp2, false),
    (Way::Page, true),
    (Way::Page, false),
    (Way::PageHttp2, true),
    (Way::PageHttp2, false),
    (Way::WebSocket, true),
    (Way::WebSocket, false),
    (Way::Follow, true),
    (Way::Follow, false),
    (Way::FollowPolls, true),
    (Way::FollowPolls, false),
    (Way::GrpcSubscribe, true),
    (Way::GrpcSubscribe, false),
    (Way::GrpcRead, true),
    (Way::GrpcRead, false),
];

/// The request of a reader.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) from: String,
    pub(crate) on_gap: &'static str,
    pub(crate) filter: Filter,
    /// The consumer as which the reader reads; empty for none.
    pub(crate) consumer: &'static str,
}

impl Ask {
    pub(crate) fn new(from: impl Into<String>, on_gap: &'static str) -> Self {
        Self { from: from.into(), on_gap, filter: Filter::default(), consumer: "" }
    }

    /// Returns the request of a reader that begins at the checkpoint of a consumer.
    pub(crate) fn as_consumer(consumer: &'static str, on_gap: &'static str) -> Self {
        Self { consumer, ..Self::new("", on_gap) }
    }

    fn on_gap(&self) -> i32 {
        let on_gap = match self.on_gap {
            "resume" => proto::OnGap::Resume,
            "earliest" => proto::OnGap::Earliest,
            "latest" => proto::OnGap::Latest,
            "fail" => proto::OnGap::Fail,
            other => panic!("{other}"),
        };
        on_gap.into()
    }

    fn proto_filter(&self) -> Option<proto::Filter> {
        let Filter { types, keys, key_prefixes, headers } = self.filter.clone();
        Some(proto::Filter {
            types: types.into_iter().collect(),
            keys: keys.into_iter().collect(),
            key_prefixes: key_prefixes.into_iter().collect(),
            headers: headers.into_iter().collect(),
        })
    }

    /// Returns the subscription that a client with many of them asks for, after `cursor` if there
    /// is one.
    fn subscription(&self, is_one: bool, cursor: Option<&str>) -> Value {
        let mut asked = json!({
            "subscription": "s", "on_gap": self.on_gap, "filter": self.filter,
        });
        let from = cursor.unwrap_or(&self.from);
        if !from.is_empty() {
            asked["from"] = json!(from);
        }
        if !self.consumer.is_empty() {
            asked["consumer"] = json!(self.consumer);
        }
        match is_one {
            true => asked["topic"] = json!("a"),
            false => asked["topics"] = json!([">"]),
        }
        asked
    }

    /// Returns the path of an HTTP request that begins after `cursor`, if there is one.
    fn path(&self, is_one: bool, cursor: Option<&str>) -> String {
        let text = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let topics = if is_one { "topics/a/events?" } else { "events?topic=%3E&" };
        let from = text(cursor.unwrap_or(&self.from));
        let mut path = format!("/v1/{topics}on_gap={}", self.on_gap);
        if !from.is_empty() {
            path += &format!("&from={from}");
        }
        if !self.consumer.is_empty() {
            path += &format!("&consumer={}", self.consumer);
        }
        let Filter { types, keys, key_prefixes, headers } = &self.filter;
        for (name, texts) in [("type", types), ("key", keys), ("key_prefix", key_prefixes)] {
            texts.iter().for_each(|wanted| path += &format!("&{name}={}", text(wanted)));
        }
        for (name, value) in headers {
            path += &format!("&header={}", text(&format!("{name}:{value}")));
        }
        path
    }
}

/// A message that a reader received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    Event {
        topic: String,
        sequence: u64,
        position: u64,
        /// The cursor after the event. Over gRPC and in pages, the cursor after the last event of
        /// the batch or page.
        cursor: String,
    },
    Gap {
        reason: String,
        cursor: String,
    },
    CaughtUp(String),
    /// The cursor of a reader without new events.
    Place(String),
    /// The reader ended, or was refused, because of a gap with this reason.
    Refused(String),
}

enum Open {
    Sse(Sse),
    Pages { over_http2: bool, cursor: Option<String> },
    WebSocket(Client),
    Follow(Sse),
    FollowPolls { cursor: Option<String> },
    Subscribed(tonic::Streaming<proto::SubscribeResponse>),
    GrpcPages { client: Box<Grpc>, cursor: Option<String> },
    Over,
}

/// A reader on one of the ways.
pub(crate) struct Reading<'a> {
    server: &'a Server,
    is_one: bool,
    ask: Ask,
    open: Open,
    heard: VecDeque<Heard>,
    is_caught_up: bool,
}

impl<'a> Reading<'a> {
    pub(crate) async fn begin(
        server: &'a Server,
        (way, is_one): (Way, bool),
        ask: Ask,
    ) -> Reading<'a> {
        let mut heard = VecDeque::new();
        let open = match way {
            Way::Sse | Way::SseHttp2 => {
                let path = format!("{}&format=envelope", ask.path(is_one, None));
                let request = to(server.address, "GET", &path);
                let stream = Sse::try_open(request, way == Way::SseHttp2).await.unwrap();
                if stream.status == 200 {
                    Open::Sse(stream)
                } else {
                    assert_eq!(stream.status, 410, "{path}");
                    let told = stream.headers["leftoff-gap"].to_str().unwrap();
                    heard.push_back(Heard::Refused(reason_in(told)));
                    Open::Over
                }
            }
            Way::Page => Open::Pages { over_http2: false, cursor: None },
            Way::PageHttp2 => Open::Pages { over_http2: true, cursor: None },
            Way::WebSocket => {
                let mut client = Client::connect(server.address).await;
                let mut subscribe = ask.subscription(is_one, None);
                subscribe["type"] = json!("subscribe");
                client.say(subscribe).await;
                Open::WebSocket(client)
            }
            Way::Follow => {
                let asked = json!({"subscriptions": [ask.subscription(is_one, None)]});
                let request = to(server.address, "POST", "/v1/follow");
                let stream = Sse::open_with(request, asked.to_string()).await.unwrap();
                assert_eq!(stream.status, 200, "{asked}");
                Open::Follow(stream)
            }
            Way::FollowPolls => Open::FollowPolls { cursor: None },
            Way::GrpcSubscribe => {
                let (topic, topics) = match is_one {
                    true => ("a".to_owned(), Vec::new()),
                    false => (String::new(), vec![">".to_owned()]),
                };
                let request = proto::SubscribeRequest {
                    topic,
                    topics,
                    from: ask.from.clone(),
                    on_gap: ask.on_gap(),
                    filter: ask.proto_filter(),
                    consumer: ask.consumer.to_owned(),
                    ..Default::default()
                };
                match soon(server.grpc().await.subscribe(request)).await {
                    Ok(answer) => Open::Subscribed(answer.into_inner()),
                    Err(status) => {
                        heard.push_back(refused(&status));
                        Open::Over
                    }
                }
            }
            Way::GrpcRead => Open::GrpcPages { client: server.grpc().await.into(), cursor: None },
        };
        Self { server, is_one, ask, open, heard, is_caught_up: false }
    }

    /// Waits for the next message, and returns it.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            let heard = soon(self.hear()).await;
            self.heard.extend(heard);
        }
    }

    async fn hear(&mut self) -> Vec<Heard> {
        match &mut self.open {
            Open::Over => panic!("the reader is over"),
            Open::Sse(stream) => {
                let frame = stream.next().await.expect("the stream ended");
                let id = frame.id.clone();
                let heard = match frame.event.as_deref() {
                    Some("leftoff.gap") => gap(&frame.json(), id.unwrap()),
                    Some("leftoff.caught-up") => Heard::CaughtUp(id.unwrap()),
                    Some("leftoff.error") => Heard::Refused(text(&frame.json()["reason"])),
                    _ if frame.is_event() => event(&frame.json(), id.unwrap()),
                    _ => return id.map(Heard::Place).into_iter().collect(),
                };
                vec![heard]
            }
            Open::WebSocket(client) => {
                let message = client.hear().await;
                of_message(&message).into_iter().collect()
            }
            Open::Follow(stream) => {
                let frame = stream.next().await.expect("the stream ended");
                let message = frame.data.is_some().then(|| frame.json());
                message.as_ref().and_then(of_message).into_iter().collect()
            }
            Open::Subscribed(stream) => match stream.message().await {
                Ok(message) => of_grpc(message.expect("the stream ended").message.unwrap()),
                Err(status) => vec![refused(&status)],
            },
            Open::FollowPolls { .. } => self.follow_poll().await,
            Open::Pages { .. } => self.page().await,
            Open::GrpcPages { .. } => self.grpc_page().await,
        }
    }

    /// Reads the next page over HTTP. Waits a while for events if the reader has caught up.
    async fn page(&mut self) -> Vec<Heard> {
        let Open::Pages { over_http2, cursor } = &mut self.open else { panic!("no pages") };
        let wait = if self.is_caught_up { "200ms" } else { "0ms" };
        let path = self.ask.path(self.is_one, cursor.as_deref());
        let path = format!("{path}&limit=100&wait={wait}");
        let request = to(self.server.address, "GET", &path).header("accept", "application/json");
        let page = match over_http2 {
            true => send_h2c(request, "").await,
            false => send(request, "").await,
        };
        if page.status == 410 {
            return vec![Heard::Refused(text(&page.json()["reason"]))];
        }
        assert_eq!(page.status, 200, "{path}: {page:?}");
        let page = page.json();
        let next = text(&page["cursor"]);
        *cursor = Some(next.clone());
        let gaps = page["gaps"].as_array().cloned().unwrap_or_default();
        let gaps = gaps.iter().chain(page.get("gap").filter(|gap| !gap.is_null()));
        let events = page["events"].as_array().unwrap();
        let heard = gaps.map(|told| gap(told, next.clone()));
        let heard = heard.chain(events.iter().map(|told| event(told, next.clone())));
        let heard: Vec<Heard> = heard.collect();
        self.ended(heard, page["caught_up"].as_bool().unwrap(), next)
    }

    /// Polls all subscriptions. Waits a while if the reader has caught up, which it says once.
    async fn follow_poll(&mut self) -> Vec<Heard> {
        let Open::FollowPolls { cursor } = &mut self.open else { panic!("no polls") };
        let asked = self.ask.subscription(self.is_one, cursor.as_deref());
        let wait = if self.is_caught_up { "200ms" } else { "0ms" };
        let request = to(self.server.address, "POST", &format!("/v1/follow?wait={wait}"));
        let request = request.header("accept", "application/json");
        let answer = send(request, json!({"subscriptions": [asked]}).to_string()).await;
        assert_eq!(answer.status, 200, "{asked}: {answer:?}");
        let answer = answer.json();
        let messages = answer["messages"].as_array().unwrap();
        let mut places = messages.iter().filter_map(|message| message["cursor"].as_str());
        *cursor = places.next_back().map(str::to_owned).or(cursor.take());
        let heard = messages.iter().filter_map(of_message).map(|heard| match heard {
            Heard::CaughtUp(cursor) if self.is_caught_up => Heard::Place(cursor),
            heard => {
                self.is_caught_up |= matches!(heard, Heard::CaughtUp(_));
                heard
            }
        });
        heard.collect()
    }

    /// Reads the next page over gRPC.
    async fn grpc_page(&mut self) -> Vec<Heard> {
        let Open::GrpcPages { client, cursor } = &mut self.open else { panic!("no pages") };
        let (topic, topics) = match self.is_one {
            true => ("a".to_owned(), Vec::new()),
            false => (String::new(), vec![">".to_owned()]),
        };
        let request = proto::ReadRequest {
            topic,
            topics,
            from: cursor.clone().unwrap_or(self.ask.from.clone()),
            page_size: 100,
            wait_ms: if self.is_caught_up { 200 } else { 0 },
            on_gap: self.ask.on_gap(),
            filter: self.ask.proto_filter(),
            consumer: self.ask.consumer.to_owned(),
            ..Default::default()
        };
        let page = match client.read(request).await {
            Ok(page) => page.into_inner(),
            Err(status) => return vec![refused(&status)],
        };
        *cursor = Some(page.cursor.clone());
        let gap = |gap: proto::Gap| Heard::Gap { reason: gap.reason, cursor: gap.cursor };
        let gaps = page.gaps.into_iter().map(gap);
        let events = page.events.iter().map(|event| of_proto(event, &page.cursor));
        let heard = gaps.chain(events).collect();
        self.ended(heard, page.caught_up, page.cursor)
    }

    /// Returns the messages of a page, with its end.
    fn ended(&mut self, mut heard: Vec<Heard>, is_caught_up: bool, cursor: String) -> Vec<Heard> {
        match is_caught_up && !std::mem::replace(&mut self.is_caught_up, is_caught_up) {
            true => heard.push(Heard::CaughtUp(cursor)),
            false if heard.is_empty() => heard.push(Heard::Place(cursor)),
            false => {}
        }
        heard
    }
}

/// Returns what a message of a subscription says; `None` if it says nothing about a reader.
fn of_message(message: &Value) -> Option<Heard> {
    let cursor = message["cursor"].as_str().unwrap_or_default().to_owned();
    Some(match message["type"].as_str().unwrap() {
        "event" => event(&message["event"], cursor),
        "gap" => gap(&message["gap"], cursor),
        "caught_up" => Heard::CaughtUp(cursor),
        "cursor" | "subscribed" => Heard::Place(cursor),
        "ended" => Heard::Refused(text(&message["error"]["reason"])),
        "hello" | "marked" => return None,
        other => panic!("{other}: {message}"),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Returns the reason in the header that reports a gap.
fn reason_in(header: &str) -> String {
    header.strip_prefix("reason=").unwrap().split(',').next().unwrap().to_owned()
}

fn refused(status: &tonic::Status) -> Heard {
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    Heard::Refused(status.get_details_error_info().unwrap().metadata["reason"].clone())
}

fn event(event: &Value, cursor: String) -> Heard {
    Heard::Event {
        topic: event["topic"].as_str().unwrap_or("a").to_owned(),
        sequence: event["sequence"].as_u64().unwrap(),
        position: event["position"].as_u64().unwrap(),
        cursor,
    }
}

fn of_proto(event: &proto::Event, cursor: &str) -> Heard {
    let topic = if event.topic.is_empty() { "a" } else { &event.topic };
    let (topic, cursor) = (topic.to_owned(), cursor.to_owned());
    Heard::Event { topic, sequence: event.sequence, position: event.position, cursor }
}

fn gap(gap: &Value, cursor: String) -> Heard {
    Heard::Gap { reason: text(&gap["reason"]), cursor }
}

fn of_grpc(message: Message) -> Vec<Heard> {
    match message {
        Message::Events(batch) => {
            batch.events.iter().map(|event| of_proto(event, &batch.cursor)).collect()
        }
        Message::Gap(gap) => vec![Heard::Gap { reason: gap.reason, cursor: gap.cursor }],
        Message::CaughtUp(caught_up) => vec![Heard::CaughtUp(caught_up.cursor)],
        Message::Started(started) => vec![Heard::Place(started.cursor)],
        Message::Heartbeat(heartbeat) => vec![Heard::Place(heartbeat.cursor)],
        Message::Ephemeral(_) | Message::Denied(_) | Message::Marked(_) | Message::Counts(_) => {
            Vec::new()
        }
    }
}

/// The messages of a reader until it had caught up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The reason of the gap, after `refused: ` if the reader was refused.
    pub(crate) gap: Option<String>,
    /// The sequences of the events of `a`, and the cursor after each event of any topic.
    pub(crate) sequences: Vec<u64>,
    pub(crate) cursors: Vec<String>,
    /// The number of events of topics other than `a`.
    pub(crate) others: usize,
}

impl Told {
    pub(crate) fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Event { topic, sequence, cursor, .. } if topic == "a" => {
                self.sequences.push(sequence);
                self.cursors.push(cursor);
            }
            Heard::Event { cursor, .. } => {
                self.others += 1;
                self.cursors.push(cursor);
            }
            Heard::Gap { reason, .. } => {
                assert_eq!(self.gap, None, "told twice: {reason}");
                self.gap = Some(reason);
            }
            Heard::Refused(reason) => self.gap = Some(format!("refused: {reason}")),
            Heard::CaughtUp(_) | Heard::Place(_) => {}
        }
    }
}

/// Reads all events that there are.
pub(crate) async fn read(server: &Server, way: (Way, bool), ask: Ask) -> Told {
    let mut told = Told::default();
    let mut reading = Reading::begin(server, way, ask).await;
    loop {
        let heard = reading.next().await;
        let is_over = matches!(heard, Heard::CaughtUp(_) | Heard::Refused(_));
        told.take(heard);
        if is_over {
            return told;
        }
    }
}
