//! The gRPC service: publishing with calls and streams, following, and the answers to bad input.
//!
//! The file is long, because it has a test for each promise of the service, and they share
//! requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use leftoff::Config;
use leftoff::cursor::Sequence;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{
    Durability, GetTopicRequest, ListTopicsRequest, NewEvent, OnGap, PublishRequest,
    PublishStreamRequest, PublishStreamResponse, ReadRequest, SubscribeRequest, SubscribeResponse,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::common::{Server, get, name, run, send_h2c, soon, text, to};
use crate::grpc_client::{SERVICES, path_of};

fn event(payload: &str) -> NewEvent {
    NewEvent { payload: Bytes::copy_from_slice(payload.as_bytes()), ..NewEvent::default() }
}

fn request(topic: &str, payloads: &[&str]) -> PublishRequest {
    let events = payloads.iter().map(|payload| event(payload)).collect();
    PublishRequest {
        topic: topic.to_owned(),
        events,
        expected_sequence: None,
        ephemeral: false,
        topics: Vec::new(),
    }
}

fn stream_request(topic: &str, payloads: &[&str]) -> PublishStreamRequest {
    let PublishRequest { topic, events, expected_sequence, .. } = request(topic, payloads);
    PublishStreamRequest { topic, events, expected_sequence, in_order: false, topics: Vec::new() }
}

async fn next(stream: &mut Streaming<SubscribeResponse>) -> Message {
    soon(stream.message()).await.unwrap().expect("the stream ended").message.unwrap()
}

#[tokio::test]
async fn a_publish_is_acknowledged_with_places_and_read_back_whole() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let full = NewEvent {
        id: "i".into(),
        r#type: "t".into(),
        key: "k".into(),
        headers: [("h".to_owned(), "v".to_owned())].into(),
        content_type: "text/plain".into(),
        payload: Bytes::from_static(b"\xff\x00payload"),
        publisher_time_ms: Some(1_517_363_399_650),
        ttl_ms: Some(3_600_000),
    };
    let events = vec![full.clone(), event("two"), NewEvent { id: "i".into(), ..event("again") }];
    let publish = PublishRequest {
        topic: "a".into(),
        events,
        expected_sequence: Some(0),
        ephemeral: false,
        topics: Vec::new(),
    };
    let ack = client.publish(publish).await.unwrap().into_inner().ack.unwrap();
    let first = ack.first.unwrap();
    assert_eq!((first.sequence, first.position, ack.count), (1, 1, 3));
    assert_eq!((ack.duplicates[0].index, ack.duplicates[0].receipt), (2, Some(first)));
    assert_eq!((ack.last, ack.first_appended), (Some(first), Some(first)));
    assert_eq!(ack.durability(), Durability::Fsync);

    let read = ReadRequest { topic: "a".into(), ..ReadRequest::default() };
    let page = client.read(read).await.unwrap().into_inner();
    assert_eq!((page.earliest, page.tail, page.caught_up), (1, 3, true));
    let stored = &page.events[0];
    assert_eq!((stored.sequence, stored.position, stored.time_ms), (1, 1, first.time_ms));
    let back = NewEvent {
        id: stored.id.clone(),
        r#type: stored.r#type.clone(),
        key: stored.key.clone(),
        headers: stored.headers.clone(),
        content_type: stored.content_type.clone(),
        payload: stored.payload.clone(),
        publisher_time_ms: stored.publisher_time_ms,
        ttl_ms: stored.ttl_ms,
    };
    assert_eq!(back, full);

    let topic = client.get_topic(GetTopicRequest { topic: "a".into() }).await.unwrap();
    let topic = topic.into_inner().topic.unwrap();
    assert_eq!((topic.earliest, topic.tail, topic.last_position), (1, 3, 2));
    for other in ["c", "b"] {
        client.publish(request(other, &["x"])).await.unwrap();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let list = ListTopicsRequest { page_size: 2, page_token };
        let page = client.list_topics(list).await.unwrap().into_inner();
        names.extend(page.topics.into_iter().map(|topic| topic.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_stream_of_publishes_is_answered_in_order_and_goes_on_after_a_refusal() {
    let server = Server::start().await;
    let mut requests: Vec<_> = (0..200).map(|_| stream_request("a", &["x", "y"])).collect();
    requests[50] = stream_request("a..b", &["x"]);
    requests[100].expected_sequence = Some(7);
    let responses = server.grpc().await.publish_stream(tokio_stream::iter(requests)).await;
    let mut responses = responses.unwrap().into_inner();
    let (mut index, mut expected) = (0, 1);
    while let Some(response) = soon(responses.message()).await.unwrap() {
        match (index, response.outcome.unwrap()) {
            (50, Outcome::Error(error)) => {
                assert_eq!(
                    (error.code, error.outcome_unknown),
                    (Code::InvalidArgument as i32, false)
                );
                assert!(error.message.contains("empty token"), "{error:?}");
            }
            (100, Outcome::Error(error)) => {
                assert_eq!(error.code, Code::FailedPrecondition as i32);
                assert_eq!(error.actual_sequence, Some(expected - 1));
            }
            (_, Outcome::Ack(ack)) => {
                assert_eq!(ack.first.unwrap().sequence, expected, "request {index}");
                assert_eq!(ack.last.unwrap().sequence, expected + 1);
                expected += 2;
            }
            (_, other) => panic!("request {index}: {other:?}"),
        }
        index += 1;
    }
    assert_eq!((index, expected), (200, 397));
}

/// Goal: the broker stops reading from a client that stops reading acknowledgements, and no publish
/// is lost.
/// Method: open a window for few acknowledgements only, and let the client send as much as it can.
/// Count the requests once no more are taken.
#[tokio::test]
async fn a_client_that_stops_reading_acknowledgements_stops_being_read() {
    const ENOUGH: usize = 50_000;
    let mut config = Config::default();
    config.follow.max_in_flight = 4;
    let server = Server::with(config).await;
    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc_address));
    let endpoint = endpoint.unwrap().initial_stream_window_size(1_000);
    let channel = endpoint.connect().await.unwrap();
    let mut client = crate::common::Grpc::new(channel);
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let payload = "x".repeat(10_000);
    let requests = (0..ENOUGH).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        stream_request("a", &[&payload])
    });
    let responses = client.publish_stream(tokio_stream::iter(requests)).await;
    let mut responses = responses.unwrap().into_inner();
    let mut seen = usize::MAX;
    while taken.load(Ordering::Relaxed) != seen {
        seen = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(seen < 2_000, "{seen} requests were taken from a client that read no answer");
    for expected in 1..=5_000 {
        let response = soon(responses.message()).await.unwrap().unwrap();
        let Some(Outcome::Ack(ack)) = response.outcome else { panic!("{response:?}") };
        assert_eq!(ack.last.unwrap().sequence, expected);
    }
}

#[tokio::test]
async fn a_subscription_starts_replays_catches_up_follows_and_beats() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 50;
    let server = Server::with(config).await;
    let epoch = server.broker.epoch();
    for number in 1..=3 {
        server.publish("a", format!("event {number}")).await;
    }
    let subscribe = SubscribeRequest {
        topic: "a".into(),
        from: format!("1-{epoch}"),
        ..SubscribeRequest::default()
    };
    let mut stream = server.grpc().await.subscribe(subscribe).await.unwrap().into_inner();
    let Message::Started(started) = next(&mut stream).await else { panic!("no start") };
    assert_eq!((started.cursor, started.earliest, started.tail), (format!("1-{epoch}"), 1, 4));
    let mut seen = Vec::new();
    let caught_up = loop {
        match next(&mut stream).await {
            Message::Events(batch) => {
                seen.extend(batch.events.iter().map(|event| event.sequence));
                let last = seen.last().unwrap();
                assert_eq!(batch.cursor, format!("{last}-{epoch}"));
            }
            Message::CaughtUp(caught_up) => break caught_up,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((seen, caught_up.cursor), (vec![2, 3], format!("3-{epoch}")));
    let Message::Heartbeat(heartbeat) = next(&mut stream).await else { panic!("no heartbeat") };
    assert_eq!(heartbeat.cursor, format!("3-{epoch}"));
    server.publish("a", "event 4").await;
    loop {
        match next(&mut stream).await {
            Message::Heartbeat(_) => {}
            Message::Events(batch) => {
                assert_eq!(
                    (batch.events[0].sequence, &batch.events[0].payload[..]),
                    (4, &b"event 4"[..])
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_gap_is_a_message_with_numbers_or_an_error_as_the_reader_asks() {
    let server = Server::start().await;
    for number in 1..=9 {
        server.publish("a", number.to_string()).await;
    }
    server.broker.purge(&name("a"), Sequence::new(6)).await.unwrap();
    let mut client = server.grpc().await;
    let from = |on_gap: OnGap| SubscribeRequest {
        topic: "a".into(),
        from: "2".into(),
        on_gap: on_gap.into(),
        ..SubscribeRequest::default()
    };
    for (on_gap, next_after) in [(OnGap::Unspecified, 5), (OnGap::Earliest, 5), (OnGap::Latest, 9)]
    {
        let mut stream = client.subscribe(from(on_gap)).await.unwrap().into_inner();
        let Message::Started(started) = next(&mut stream).await else { panic!("no start") };
        assert_eq!(started.cursor, "2", "the cursor is already past the gap");
        let Message::Gap(gap) = next(&mut stream).await else { panic!("no gap") };
        assert_eq!((gap.requested, gap.earliest, gap.tail, gap.lost), (3, 6, 10, Some(3)));
        assert_eq!(gap.reason, "purged");
        assert_eq!(gap.cursor, format!("{next_after}-{}", server.broker.epoch()));
    }
    let refused = client.subscribe(from(OnGap::Fail)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let info = refused.get_details_error_info().unwrap();
    let numbers =
        ["reason", "requested", "earliest", "tail", "lost"].map(|key| &*info.metadata[key]);
    assert_eq!((info.reason.as_str(), numbers), ("GAP", ["purged", "3", "6", "10", "3"]));
    let read = ReadRequest { topic: "a".into(), from: "2".into(), ..ReadRequest::default() };
    assert_eq!(client.read(read.clone()).await.unwrap_err().code(), Code::OutOfRange);
    let page = client.read(ReadRequest { on_gap: OnGap::Earliest.into(), ..read }).await.unwrap();
    assert_eq!(page.get_ref().gaps[0].lost, Some(3));
    assert_eq!(page.get_ref().events[0].sequence, 6);
}

/// Returns the fields that a status complains about.
fn violations(status: &Status) -> Vec<String> {
    let bad = status.get_details_bad_request().expect("a BadRequest");
    bad.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn bad_input_is_refused_by_field_and_nothing_is_written() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let long = "x".repeat(256);
    let of = |event: NewEvent| PublishRequest {
        topic: "a".into(),
        events: vec![event],
        expected_sequence: None,
        ephemeral: false,
        topics: Vec::new(),
    };
    let text = |text: &str| text.to_owned();
    let header = |name: &str| [(text(name), text("v"))].into();
    let plain = NewEvent::default;
    let many = (0..101).map(|number| (number.to_string(), String::new())).collect();
    let cases = [
        (request(&long, &["x"]), "topic name bytes"),
        (request("a b", &["x"]), "topic"),
        (request("", &["x"]), "topic"),
        (request("a\0", &["x"]), "topic"),
        (request("leftoff.a", &["x"]), "topic"),
        (request("a", &[]), "events"),
        (request("a", &["x"; 10_001]), "events in a batch"),
        (of(NewEvent { id: long.clone(), ..plain() }), "id bytes"),
        (of(NewEvent { id: text("a\n"), ..plain() }), "id"),
        (of(NewEvent { r#type: text("a\0"), ..plain() }), "type"),
        (of(NewEvent { r#type: text("leftoff.gap"), ..plain() }), "type"),
        (of(NewEvent { r#type: long.clone(), ..plain() }), "type bytes"),
        (of(NewEvent { key: long.clone(), ..plain() }), "key bytes"),
        (of(NewEvent { content_type: text("\n"), ..plain() }), "content_type"),
        (of(NewEvent { headers: header(""), ..plain() }), "headers"),
        (of(NewEvent { headers: many, ..plain() }), "headers"),
        (of(NewEvent { headers: header(&"h".repeat(16 << 10)), ..plain() }), "header bytes"),
        (of(NewEvent { payload: vec![0; (1 << 20) + 1].into(), ..plain() }), "payload bytes"),
        (of(NewEvent { publisher_time_ms: Some(u64::MAX), ..plain() }), "publisher_time_ms"),
        (request("a", &[&*"x".repeat(900_000); 5]), "batch bytes"),
        (request("a", &[&*"x".repeat(900_000); 9]), "message"), // Too large to be received.
        (of(NewEvent { key: text("a\u{1}"), ..plain() }), "key"),
        (of(NewEvent { content_type: long.clone(), ..plain() }), "content_type bytes"),
        (of(NewEvent { headers: header("a\n"), ..plain() }), "headers"),
    ];
    for (bad, field) in cases {
        let status = client.publish(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert_eq!(violations(&status), [field], "{status:?}");
    }
    let second =
        PublishRequest { events: vec![plain(), NewEvent { id: long, ..plain() }], ..of(plain()) };
    let status = client.publish(second).await.unwrap_err();
    assert_eq!(violations(&status), ["events[1] id bytes"]);
    assert!(status.message().contains("256 is over the limit of 255"), "{status:?}");

    let read =
        |from: &str| ReadRequest { topic: "a".into(), from: from.into(), ..ReadRequest::default() };
    let reads = [
        (read("x"), "start point"),
        (ReadRequest { topic: "a b".into(), ..read("") }, "topic"),
        (ReadRequest { page_size: 10_001, ..read("") }, "page_size"),
        (ReadRequest { wait_ms: 60_001, ..read("") }, "wait_ms"),
        (ReadRequest { on_gap: 99, ..read("") }, "on_gap"),
    ];
    for (bad, field) in reads {
        assert_eq!(violations(&client.read(bad).await.unwrap_err()), [field]);
    }
    let subscribe = |topic: &str, from: &str, on_gap| SubscribeRequest {
        topic: topic.into(),
        from: from.into(),
        on_gap,
        ..SubscribeRequest::default()
    };
    for (bad, field) in [
        (subscribe("a..b", "", 0), "topic"),
        (subscribe("a", "1-zz", 0), "start point"),
        (subscribe("a", "", -1), "on_gap"),
    ] {
        assert_eq!(violations(&client.subscribe(bad).await.unwrap_err()), [field]);
    }
    let unknown = client.get_topic(GetTopicRequest { topic: "a".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound, "an event was stored");
    let resource = unknown.get_details_resource_info().unwrap();
    assert_eq!((&*resource.resource_type, &*resource.resource_name), ("topic", "a"));
    let listing = ListTopicsRequest { page_size: 10_001, page_token: String::new() };
    assert_eq!(violations(&client.list_topics(listing).await.unwrap_err()), ["page_size"]);
    let listing = ListTopicsRequest { page_size: 1, page_token: "a b".into() };
    assert_eq!(violations(&client.list_topics(listing).await.unwrap_err()), ["page_token"]);
    let unnamed = client.get_topic(GetTopicRequest { topic: "a b".into() }).await.unwrap_err();
    assert_eq!(violations(&unnamed), ["topic"]);
    assert_eq!(client.read(read("")).await.unwrap_err().code(), Code::NotFound);
}

/// Goal: publishes with `in_order` keep their order through a failure, whatever was in flight.
#[tokio::test]
async fn nothing_is_stored_in_order_after_what_was_refused() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let in_order = |payload: &str, expected_sequence| PublishStreamRequest {
        expected_sequence,
        in_order: true,
        ..stream_request("a", &[payload])
    };
    let requests = [
        in_order("1", None),
        stream_request("a b", &["refused, and in no order"]),
        in_order("2", None),
        in_order("refused", Some(7)),
        in_order("3", None),
        stream_request("a", &["4"]),
        in_order("5", None),
    ];
    let responses = client.publish_stream(tokio_stream::iter(requests)).await.unwrap();
    let mut responses = responses.into_inner();
    let mut codes = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        codes.push(match response.outcome.unwrap() {
            Outcome::Ack(_) | Outcome::Acks(_) => Code::Ok,
            Outcome::Error(error) => {
                let details = ["ErrorInfo", "BadRequest"].map(|kind| {
                    let name = format!("type.googleapis.com/google.rpc.{kind}");
                    error.details.iter().any(|detail| detail.type_url == name)
                });
                let code = Code::from(error.code);
                assert_eq!(details, [true, code == Code::InvalidArgument], "{error:?}");
                code
            }
        });
    }
    let (bad, refused) = (Code::InvalidArgument, Code::FailedPrecondition);
    let expected = [Code::Ok, bad, Code::Ok, refused, Code::Aborted, Code::Ok, Code::Aborted];
    assert_eq!(codes, expected);
    let page = client.read(ReadRequest { topic: "a".into(), ..ReadRequest::default() }).await;
    let events = page.unwrap().into_inner().events;
    let payloads: Vec<_> = events.iter().map(|event| &event.payload[..]).collect();
    assert_eq!(payloads, [b"1", b"2", b"4"]);
}

/// Makes a call with bytes that no client library would send. Returns its status and its message.
async fn raw_call(
    server: &Server,
    method: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> (String, String) {
    let (status, message, _) = raw_answer(server, method, headers, message).await;
    (status, message)
}

/// Does the same as [`raw_call`], and also returns the body of the answer.
async fn raw_answer(
    server: &Server,
    method: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> (String, String, Bytes) {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    let request = to(server.grpc_address, "POST", &path_of(method));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    let request = headers.iter().fold(request, add);
    let answer = send_h2c(request, body.freeze()).await;
    let said = |name: &str| {
        let value = answer.trailers.get(name).or(answer.headers.get(name));
        value.map_or("", |value| value.to_str().unwrap()).to_owned()
    };
    (said("grpc-status"), said("grpc-message"), answer.body.clone())
}

#[tokio::test]
async fn text_that_is_not_utf_8_and_messages_that_are_none_are_the_clients_mistake() {
    let server = Server::start().await;
    let invalid = (Code::InvalidArgument as i32).to_string();
    // Field 1 of every request here is its topic. Field 2 of a publish is an event, with id, type,
    // key and content type in its fields 1, 2, 3 and 5.
    let topic = b"\x0a\x01a";
    for case in [&b"\x0a\x01\xff"[..], b"\x0a\x7f", b"\xff"] {
        for method in ["Publish", "PublishStream"] {
            let (status, message) = raw_call(&server, method, &[], case).await;
            assert_eq!(status, invalid, "{method} {case:?}: {message}");
        }
    }
    for tag in [b"\x0a", b"\x12", b"\x1a", b"\x2a"] {
        let case = [&topic[..], b"\x12\x03", tag, b"\x01\xff"].concat();
        let (status, message) = raw_call(&server, "Publish", &[], &case).await;
        assert_eq!(status, invalid, "{case:?}: {message}");
        // A stream goes on after a request whose events cannot be decoded.
        let (status, _, body) = raw_answer(&server, "PublishStream", &[], &case).await;
        assert_eq!(status, "0", "{case:?}");
        let answer = PublishStreamResponse::decode(&body[5..]).unwrap();
        let Some(Outcome::Error(error)) = answer.outcome else { panic!("{case:?}: {answer:?}") };
        assert_eq!(error.code, Code::InvalidArgument as i32, "{error:?}");
    }
    for method in ["Subscribe", "Read", "GetTopic"] {
        assert_eq!(raw_call(&server, method, &[], b"\x0a\x01\xff").await.0, invalid, "{method}");
    }
    let unknown = raw_call(&server, "Nothing", &[], b"").await.0;
    assert_eq!(unknown, (Code::Unimplemented as i32).to_string());
    let topics = get(server.address, "/v1/topics").await.json();
    assert_eq!(topics, serde_json::json!({"topics": []}), "a topic was created");
}

#[tokio::test]
async fn a_batch_up_to_the_limits_is_taken_whole() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let largest = "x".repeat(1 << 20);
    let ack = client.publish(request("a", &[&largest, &largest, &largest])).await.unwrap();
    assert_eq!(ack.into_inner().ack.unwrap().count, 3);
    let ack = client.publish(request("b", &["x"; 10_000])).await.unwrap();
    assert_eq!(ack.into_inner().ack.unwrap().last.unwrap().sequence, 10_000);
    let read = ReadRequest { topic: "a".into(), from: "2".into(), ..ReadRequest::default() };
    let page = client.read(read).await.unwrap().into_inner();
    assert_eq!((page.events.len(), page.events[0].payload.len()), (1, 1 << 20));
}

#[tokio::test]
async fn deadlines_end_what_waits() {
    let server = Server::start().await;
    let mut client = server.grpc().await;
    let timed = |timeout: Duration, subscribe: SubscribeRequest| {
        let mut request = Request::new(subscribe);
        request.set_timeout(timeout);
        request
    };
    let subscribe = SubscribeRequest { topic: "a".into(), ..SubscribeRequest::default() };
    let stream = client.subscribe(timed(Duration::from_millis(100), subscribe)).await.unwrap();
    let mut stream = stream.into_inner();
    let status = loop {
        match soon(stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // A client library would give up by itself, so this is a raw call: topic "a", and wait_ms
    // 60,000.
    let wait = b"\x0a\x01a\x28\xe0\xd4\x03";
    let (status, message) = raw_call(&server, "Read", &[("grpc-timeout", "50m")], wait).await;
    let expected = (Code::DeadlineExceeded as i32).to_string();
    assert_eq!((status, message.contains("50")), (expected, true), "{message}");
    let (status, _) = raw_call(&server, "Read", &[("grpc-timeout", "soon")], wait).await;
    assert_eq!(status, (Code::InvalidArgument as i32).to_string());
}

/// Goal: a stream whose client leaves its window closed is ended, and other streams on its
/// connection go on.
#[tokio::test]
async fn a_stream_that_takes_nothing_is_given_up_alone() {
    let mut config = Config::default();
    config.server.write_timeout_ms = 300;
    config.follow.list_connections = true;
    let server = Server::with(config).await;
    let mut client = server.grpc().await;
    let subscribe = |topic: &str| SubscribeRequest { topic: topic.into(), ..Default::default() };
    let mut stalled = client.subscribe(subscribe("a")).await.unwrap().into_inner();
    let mut healthy = client.subscribe(subscribe("b")).await.unwrap().into_inner();
    soon(stalled.message()).await.unwrap();
    next(&mut healthy).await;
    // The number of gRPC streams, for each connection that has any.
    let streams = async || {
        let listed = crate::common::get(server.address, "/v1/connections").await.json();
        let connections = listed["connections"].as_array().unwrap().clone();
        let counts = connections.iter().map(|it| it.to_string().matches("\"grpc\"").count());
        counts.filter(|count| *count > 0).collect::<Vec<_>>()
    };
    assert_eq!(streams().await, [2]);
    let given_up = async {
        while streams().await == [2] {
            server.publish("a", vec![b'x'; 100_000]).await;
        }
    };
    soon(given_up).await;
    assert_eq!(streams().await, [1]);
    let ended = async {
        loop {
            match stalled.message().await {
                Ok(Some(_sent_before)) => {}
                other => return other,
            }
        }
    };
    assert_eq!(soon(ended).await.unwrap_err().code(), Code::Cancelled);
    for number in 1..=3 {
        server.publish("b", "x").await;
        let heard = soon(async {
            loop {
                if let Message::Events(batch) = next(&mut healthy).await {
                    return batch.events[0].sequence;
                }
            }
        });
        assert_eq!(heard.await, number);
    }
    client.publish(request("b", &["x"])).await.unwrap();
    assert_eq!(streams().await, [1], "on another connection");
}

/// Goal: a cancelled subscription gives back its place among the limits.
/// Method: allow one followed topic that does not exist yet, and follow another one after the first
/// is cancelled.
#[tokio::test]
async fn a_cancelled_subscription_holds_nothing() {
    let mut config = Config::default();
    config.limits.max_unborn_topics = 1;
    let server = Server::with(config).await;
    let mut client = server.grpc().await;
    let subscribe = |topic: &str| SubscribeRequest { topic: topic.into(), ..Default::default() };
    let mut stream = client.subscribe(subscribe("followed")).await.unwrap().into_inner();
    next(&mut stream).await;
    let refused = client.subscribe(subscribe("other")).await.unwrap_err();
    assert_eq!(violations(&refused), ["topics that do not exist yet and are followed"]);
    drop(stream);
    soon(async {
        while client.subscribe(subscribe("other")).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn grpc_can_have_an_address_of_its_own() {
    let mut config = Config::default();
    config.server.grpc_listen = Some(config.server.listen);
    let server = Server::with(config).await;
    assert_ne!(server.address, server.grpc_address);
    server.grpc().await.publish(request("a", &["x"])).await.unwrap();
    assert_eq!(get(server.address, "/v1/topics/a/events").await.status, 200);
    let over_http = send_h2c(to(server.grpc_address, "GET", "/healthz"), "").await;
    assert_ne!(over_http.status, 200, "HTTP is served on gRPC's own address");
    let mut misplaced = crate::common::grpc(server.address).await;
    let status = misplaced.publish(request("a", &["x"])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    // The commands, which are asked at the address of HTTP, say what to do.
    let asked = run(&["topics", "--server", &format!("http://{}", server.address)]).await;
    let said = text(&asked.stderr);
    assert!(said.contains("(is gRPC at another address? see --grpc-listen)"), "{said}");
    let asked = run(&["topics", "--server", &format!("http://{}", server.grpc_address)]).await;
    assert_eq!(asked.status.code(), Some(0), "{}", text(&asked.stderr));
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let server = Server::start().await;
    let url = format!("http://{}", server.grpc_address);
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    for service in [""].into_iter().chain(SERVICES.map(|(name, _)| name)) {
        let check = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(check).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let mut reflection = ServerReflectionClient::new(channel);
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    let (questions, asked) = tokio::sync::mpsc::channel(2);
    questions.send(ask(MessageRequest::ListServices(String::new()))).await.unwrap();
    let symbol = "leftoff.v1.SubscriberService".to_owned();
    questions.send(ask(MessageRequest::FileContainingSymbol(symbol.clone()))).await.unwrap();
    let answers = reflection.server_reflection_info(ReceiverStream::new(asked)).await.unwrap();
    let mut answers = answers.into_inner();
    let answer = soon(answers.message()).await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let served: Vec<&str> = services.service.iter().map(|service| &*service.name).collect();
    assert!(SERVICES.iter().all(|(name, _)| served.contains(name)), "{served:?}");
    let answer = soon(answers.message()).await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, MessageResponse::FileDescriptorResponse(files)
        if !files.file_descriptor_proto.is_empty()));
}
