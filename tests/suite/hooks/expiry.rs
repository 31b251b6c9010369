//! The end of a grant: it is renewed, or what it proved ends, on every protocol.

use std::time::{Duration, SystemTime};

use leftoff::edge::hooks::Grant;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{PublishStreamRequest, SubscribeRequest, SubscribeResponse};
use leftoff::permission::Permission;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Status, Streaming};

use super::{CALLER, Host, by, call, everything, filter_of, to_be_asked};
use crate::common::{Sse, grpc, send, soon};
use crate::websocket::Client;

/// The time of a grant: long enough to open one reader on each protocol.
const GRANTED: Duration = Duration::from_secs(3);

/// A grant that ends soon, and when.
fn ending(permission: Permission) -> (Grant, tokio::time::Instant) {
    let until = SystemTime::now() + GRANTED;
    (Grant::new("guest", permission).until(until), tokio::time::Instant::now() + GRANTED)
}

/// One reader of the topic `t` on each protocol.
pub(super) struct Readers {
    pub(super) sse: Sse,
    pub(super) socket: Client,
    pub(super) grpc: Streaming<SubscribeResponse>,
}

impl Readers {
    pub(super) async fn open(host: &Host) -> Self {
        let path = "/v1/events?topic=t&topic=t.%3E";
        let sse = Sse::open(by("guest", host, "GET", path)).await.unwrap();
        let mut socket = Client::connect_as(host.address, "guest").await;
        socket.say(json!({"type": "subscribe", "subscription": "s", "topic": "t"})).await;
        socket.find("caught_up").await;
        let topics = vec!["t".to_owned(), "t.>".to_owned()];
        let request = SubscribeRequest { topics, ..SubscribeRequest::default() };
        let mut client = grpc(host.address).await;
        let grpc = client.subscribe(call("guest", request)).await.unwrap().into_inner();
        let mut readers = Self { sse, socket, grpc };
        readers.sse.find(|frame| frame.is_control("leftoff.caught-up")).await;
        readers
    }
}

/// Returns the error with which a stream of gRPC ends.
pub(super) async fn error_of<T>(responses: &mut Streaming<T>) -> Status {
    loop {
        match soon(responses.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => return status,
        }
    }
}

async fn end_of<T>(responses: &mut Streaming<T>) -> Code {
    error_of(responses).await.code()
}

/// Goal: when a grant is over and the host grants no more, each stream ends and says why, and an
/// upload that goes on is refused from there on.
#[tokio::test]
async fn streams_and_uploads_end_with_the_grant() {
    let host = Host::start().await;
    let (grant, end) = ending(Permission::all());
    host.decisions.grant(grant);
    let Readers { mut sse, mut socket, mut grpc } = Readers::open(&host).await;
    let mut client = crate::common::grpc(host.address).await;
    let requests = futures_util::stream::pending::<PublishStreamRequest>();
    let answers = client.publish_stream(call("guest", requests)).await.unwrap();
    let mut upload = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "POST /v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\n{CALLER}: guest\r\n\
         content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    upload.write_all(b"b\r\n{\"data\":1}\n\r\n").await.unwrap();
    sse.find(|frame| frame.is_event()).await;
    host.decisions.refuse("guest");
    tokio::time::sleep_until(end).await;

    let expired = sse.find(|frame| frame.is_control("leftoff.expired")).await;
    assert_eq!(expired.json()["status"], 401, "{expired:?}");
    assert!(expired.id.unwrap().starts_with('@'), "the client can resume");
    assert!(sse.next().await.is_none());
    assert_eq!(soon(socket.closed()).await.0, 4001);
    assert_eq!(end_of(&mut grpc).await, Code::Unauthenticated);
    assert_eq!(end_of(&mut answers.into_inner()).await, Code::Unauthenticated);
    // The upload ends although its sender says no more.
    let mut answer = String::new();
    while !answer.contains("stored_events") {
        let mut bytes = [0; 4096];
        let count = soon(upload.read(&mut bytes)).await.unwrap();
        assert!(count > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("\"stored_events\":1"), "{answer}");
    let tail = host.broker.topic(&"t".parse().unwrap()).unwrap().extent.tail;
    assert_eq!(tail.get(), 2);
    host.stop().await;
}

/// Goal: a page about whose topics no more can be asked, because the grant is over, is refused. It
/// must not seem to be complete, and lead past the events that were not asked about.
#[tokio::test]
async fn a_page_whose_grant_ends_while_it_is_read_is_refused_and_loses_nothing() {
    let host = Host::start().await;
    for topic in ["other.one", "secret.slow", "other.two"] {
        host.publish(topic, topic).await;
    }
    let (grant, _) = ending(to_be_asked());
    host.decisions.grant(grant);
    let page = || {
        let request = by("guest", &host, "GET", "/v1/events?topic=%3E");
        send(request.header("accept", "application/json"), "")
    };
    let refused = tokio::spawn(page());
    let asked = || host.decisions.told.lock().unwrap().contains(&"allow secret.slow".to_owned());
    soon(async {
        while !asked() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    host.decisions.refuse("guest");
    let refused = soon(refused).await.unwrap();
    assert_eq!(refused.status, 401, "{refused:?}");
    host.decisions.grant(Grant::new("guest", to_be_asked()));
    let whole = page().await.json();
    let topics: Vec<_> =
        whole["events"].as_array().unwrap().iter().map(|it| &it["topic"]).collect();
    assert_eq!(topics, ["other.one", "other.two"], "{whole}");
    host.stop().await;
}

/// Goal: with a new grant the readers go on, and miss and repeat nothing.
#[tokio::test]
async fn readers_go_on_with_a_new_grant() {
    let host = Host::start().await;
    let (grant, end) = ending(everything(">"));
    host.decisions.grant(grant);
    let Readers { mut sse, mut socket, mut grpc } = Readers::open(&host).await;
    host.publish("t", "before").await;
    host.decisions.grant(Grant::new("guest", everything(">")));
    tokio::time::sleep_until(end).await;
    host.publish("t", "after").await;
    for payload in ["before", "after"] {
        let frame = soon(sse.find(|frame| frame.is_event())).await;
        assert_eq!(frame.json()["data"], payload);
        assert_eq!(socket.find("event").await["event"]["data"], payload);
    }
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let response = soon(grpc.message()).await.unwrap().unwrap().message.unwrap();
        if let Message::Events(batch) = response {
            heard.extend(batch.events.into_iter().map(|event| event.payload));
        }
    }
    assert_eq!(heard, ["before", "after"]);
    let told = host.decisions.told();
    let renewals = |path: &str| told.iter().filter(|it| **it == format!("renewal {path}")).count();
    let of_streams = [renewals("/v1/events?topic=t&topic=t.%3E"), renewals("/v1/ws")];
    assert_eq!(of_streams, [1, 1], "one question for each connection: {told:?}");
    host.stop().await;
}

/// Goal: a reader ends if the new grant has another filter: it would go on through the former one.
#[tokio::test]
async fn a_reader_ends_if_the_new_grant_has_another_filter() {
    let host = Host::start().await;
    let (grant, end) = ending(everything(">"));
    host.decisions.grant(grant);
    let path = "/v1/events?topic=t";
    let mut sse = Sse::open(by("guest", &host, "GET", path)).await.unwrap();
    sse.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let narrower = Grant::new("guest", everything(">")).filter(filter_of("mine"));
    host.decisions.grant(narrower);
    tokio::time::sleep_until(end).await;
    let ended = soon(sse.find(|frame| frame.is_control("leftoff.error"))).await;
    assert_eq!(ended.json()["status"], 403, "{ended:?}");
    host.stop().await;
}

/// Goal: a reader of topics that the new grant does not permit ends, and others go on.
#[tokio::test]
async fn a_reader_ends_if_the_new_grant_permits_less() {
    let host = Host::start().await;
    let (grant, end) = ending(everything(">"));
    host.decisions.grant(grant);
    let Readers { mut sse, mut socket, mut grpc } = Readers::open(&host).await;
    host.decisions.grant(Grant::new("guest", everything("t")));
    tokio::time::sleep_until(end).await;
    let ended = soon(sse.find(|frame| frame.is_control("leftoff.error"))).await;
    assert_eq!(ended.json()["status"], 403, "{ended:?}");
    assert_eq!(end_of(&mut grpc).await, Code::PermissionDenied);
    host.publish("t.other", "of nobody").await;
    host.publish("t", "still permitted").await;
    assert_eq!(socket.find("event").await["event"]["data"], "still permitted");
    host.stop().await;
}
