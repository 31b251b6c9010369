//! Bodies that are expensive to decode, and answers that are expensive to encode: whoever sends or
//! asks for them, other clients are served as before.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use leftoff::edge::proto;
use prost::Message;
use serde_json::{Value, json};
use tonic::codegen::http::uri::PathAndQuery;

use super::bystander::Bystander;
use super::fairness::{
    ATTACK, BREATH, assert_no_worker_was_held_for, peak_kib_since_last, publish_many,
};
use crate::common::{Process, Sse, get, grpc, send, to};
use crate::grpc_client::path_of;
use crate::websocket::Client;

/// The number of clients that attack at the same time. Without optimisation, one alone keeps a core
/// busy.
const CLIENTS: usize = if cfg!(debug_assertions) { 1 } else { 4 };

/// The longest time for which a task may hold its worker.
const HOLD: Duration = Duration::from_millis(if cfg!(debug_assertions) { 40 } else { 10 });

/// The same while one event is encoded that is as large, and as slow to encode, as any.
const HOLD_FOR_ONE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 70 } else { 10 });

/// The number of events in the largest batch.
const EVENTS: usize = 10_000;

/// Runs the attack of some clients again and again, until [`ATTACK`] is over.
async fn again_and_again<F: Future<Output = ()>>(mut attack: impl FnMut() -> F) {
    let until = Instant::now() + ATTACK;
    while Instant::now() < until {
        join_all((0..CLIENTS).map(|_| attack())).await;
        tokio::time::sleep(BREATH).await; // The clients need the machine, too.
    }
}

fn event(headers: usize, payload_bytes: usize) -> proto::NewEvent {
    let headers = (0..headers).map(|number| (format!("h{number}"), "v".to_owned()));
    proto::NewEvent {
        r#type: "type".to_owned(),
        key: "key".to_owned(),
        headers: headers.collect(),
        payload: vec![b'x'; payload_bytes].into(),
        ..proto::NewEvent::default()
    }
}

/// Returns an event that is a CloudEvent, with its attributes as headers.
fn carried() -> proto::NewEvent {
    let attributes = [("id", "i"), ("source", "/s"), ("type", "t"), ("specversion", "1.0")];
    let more = [("x", "v"), ("y", "v")];
    let header = |(name, value): (&str, &str)| (format!("ce-{name}"), value.to_owned());
    let headers = attributes.into_iter().chain(more).map(header).collect();
    proto::NewEvent { headers, payload: vec![b'x'; 200].into(), ..proto::NewEvent::default() }
}

fn publish(topic: &str, events: &[proto::NewEvent], ephemeral: bool) -> proto::PublishRequest {
    let (topic, events) = (topic.to_owned(), events.to_vec());
    proto::PublishRequest { topic, events, ephemeral, ..proto::PublishRequest::default() }
}

/// Goal: batches of many events, or of events with many headers, are decoded away from the workers,
/// by each publishing call of gRPC.
#[tokio::test]
async fn batches_of_many_events_and_headers_over_grpc_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let batches = [event(36, 3), event(0, 340), carried()];
    let batches = batches.map(|event| vec![event; EVENTS]);
    for batch in &batches {
        let attack = async || {
            let mut client = grpc(process.address).await;
            let answer = client.publish(publish("many", batch, false)).await.unwrap().into_inner();
            assert_eq!(answer.ack.unwrap().count as usize, EVENTS);
            client.publish(publish("many", batch, true)).await.unwrap();
            let stream = proto::PublishStreamRequest {
                topic: "streamed".to_owned(),
                events: batch.clone(),
                ..proto::PublishStreamRequest::default()
            };
            let requests = tokio_stream::iter([stream.clone(), stream]);
            let mut answers = client.publish_stream(requests).await.unwrap().into_inner();
            while let Some(answer) = answers.message().await.unwrap() {
                let outcome = answer.outcome.unwrap();
                assert!(matches!(outcome, proto::publish_stream_response::Outcome::Ack(_)));
            }
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_no_worker_was_held_for(HOLD, &process).await;
    let page = get(process.address, "/v1/topics/many/events?limit=1").await.json();
    assert_eq!(page["events"][0]["headers"].as_object().unwrap().len(), 36);
}

/// Goal: events are decoded one by one, so a batch takes about the memory of its bytes, and not the
/// memory that all of its headers would take as texts of their own.
#[tokio::test]
async fn batches_of_many_headers_take_little_more_memory_than_they_are_sent_in() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let batch = vec![event(36, 3); EVENTS];
    let follower = Sse::follow(process.address, "room", "").await;
    let before = peak_kib_since_last(&process);
    let attack = async || {
        let mut client = grpc(process.address).await;
        let answer = client.publish(publish("room", &batch, true)).await.unwrap();
        assert_eq!(answer.into_inner().receivers, 1);
    };
    join_all((0..4).map(|_| attack())).await;
    let peak = peak_kib_since_last(&process);
    println!("from {before} KiB to {peak} KiB");
    assert!(peak < before + (64 << 10), "from {before} KiB to {peak} KiB");
    drop(follower);
}

/// Fields that no message of the broker has, each of two bytes.
#[derive(Clone, PartialEq, Message)]
struct UnknownFields {
    #[prost(uint32, repeated, packed = "false", tag = "15")]
    fields: Vec<u32>,
}

/// Goal: a message of millions of fields, or with one huge field, is refused before it is decoded.
#[tokio::test]
async fn messages_of_millions_of_fields_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let fields = UnknownFields { fields: vec![1; 2_500_000] };
    for method in ["Publish", "Subscribe", "Read", "GetTopic", "CreateTopic", "Maintain"] {
        let attack = async || {
            let endpoint =
                format!("http://{}", process.address).parse::<tonic::transport::Endpoint>();
            let channel = endpoint.unwrap().connect().await.unwrap();
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.unwrap();
            let path = PathAndQuery::try_from(path_of(method)).unwrap();
            let codec = tonic_prost::ProstCodec::<UnknownFields, ()>::default();
            let request = tonic::Request::new(fields.clone());
            let refused = client.unary(request, path, codec).await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused:?}");
            let limit = "fields: 26385 is over the limit of 26384";
            assert!(refused.message().contains(limit), "{refused:?}");
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    let keys = vec!["x".repeat(4_900_000)];
    let filter = Some(proto::Filter { keys, ..proto::Filter::default() });
    let read = proto::ReadRequest { filter, ..proto::ReadRequest::default() };
    let attack = async || {
        let refused = grpc(process.address).await.read(read.clone()).await.unwrap_err();
        assert_eq!(refused.message(), "message bytes: 4900010 is over the limit of 1048576");
    };
    bystander.assert_unhurt(|| again_and_again(attack)).await;
    assert_no_worker_was_held_for(HOLD, &process).await;
}

/// A batch of CloudEvents in protobuf, each with an id and a payload.
#[derive(Clone, PartialEq, Message)]
struct CloudEvents {
    #[prost(message, repeated, tag = "1")]
    events: Vec<CloudEvent>,
}

#[derive(Clone, PartialEq, Message)]
struct CloudEvent {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    source: String,
    #[prost(string, tag = "3")]
    spec_version: String,
    #[prost(string, tag = "4")]
    r#type: String,
    #[prost(bytes = "bytes", tag = "6")]
    binary_data: Bytes,
}

fn cloudevent(extensions: usize, data: Value) -> Value {
    let mut event = json!({
        "specversion": "1.0", "id": "i", "source": "/s", "type": "t", "subject": "key",
        "data": data,
    });
    for number in 0..extensions {
        event[format!("ext{number}")] = json!("some value of it");
    }
    event
}

/// Returns a megabyte of JSON that is slow to parse.
fn nested() -> String {
    format!("[{}]", ["[[[[[[[[[[0]]]]]]]]]]"; 40_000].join(","))
}

/// Goal: batches of CloudEvents, and large CloudEvents, are decoded away from the workers.
#[tokio::test]
async fn cloudevents_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let protobuf = CloudEvent {
        source: "/s".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "t".to_owned(),
        binary_data: vec![b'x'; 250].into(),
        id: "i".to_owned(),
    };
    let protobuf = CloudEvents { events: vec![protobuf; EVENTS] }.encode_to_vec();
    let nested: Value = serde_json::from_str(&nested()).unwrap();
    let bodies: [(&str, Bytes); 4] = [
        (
            "-batch+json",
            json!(vec![cloudevent(0, json!("x".repeat(200))); EVENTS]).to_string().into(),
        ),
        ("-batch+json", json!(vec![cloudevent(40, json!(1)); 2_000]).to_string().into()),
        ("-batch+protobuf", protobuf.into()),
        ("+json", cloudevent(0, nested).to_string().into()),
    ];
    for (form, body) in &bodies {
        let attack = async || {
            let request = to(process.address, "POST", "/v1/topics/a/events");
            let request = request.header("content-type", format!("application/cloudevents{form}"));
            let answer = send(request, body.clone()).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_no_worker_was_held_for(HOLD, &process).await;
}

/// Goal: a message of a WebSocket is decoded away from the workers, whatever makes it expensive.
#[tokio::test]
async fn messages_of_a_websocket_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let nested: Value = serde_json::from_str(&nested()).unwrap();
    let headers: Value = (0..36).map(|number| (format!("h{number}"), json!("v"))).collect();
    let publish = |events: Value, ephemeral: bool| {
        let mut message = json!({"type": "publish", "topic": "a", "events": events});
        message["ephemeral"] = json!(ephemeral);
        message
    };
    let messages = [
        publish(json!(vec![json!({"data": nested}); 4]), false),
        publish(json!([{"content_type": "text/plain", "data": "\u{1}".repeat(300_000)}]), false),
        publish(json!(vec![json!({"key": "key", "data": "x".repeat(330)}); EVENTS]), false),
        publish(json!(vec![json!({"headers": headers}); 8_000]), false),
        publish(json!(vec![json!({"headers": headers}); 8_000]), true),
    ];
    for message in &messages {
        let attack = async || {
            let mut client = Client::connect(process.address).await;
            client.say(message.clone()).await;
            assert_eq!(client.hear().await["type"], "ack");
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_no_worker_was_held_for(HOLD, &process).await;
}

/// Goal: long lines of NDJSON are decoded away from the workers, and many short lines in steps.
#[tokio::test]
async fn lines_of_ndjson_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let headers: Value = (0..36).map(|number| (format!("h{number}"), json!("v"))).collect();
    let escapes = "\u{1}".repeat(340_000); // Each takes six bytes of JSON.
    let bodies = [
        vec![format!("{{\"data\":{}}}", nested()); 4],
        vec![json!({"content_type": "text/plain", "data": escapes}).to_string(); 4],
        vec![json!({"key": "key", "data": "x".repeat(330)}).to_string(); EVENTS],
        vec![json!({"headers": headers}).to_string(); EVENTS],
    ];
    for lines in &bodies {
        let body = Bytes::from(lines.join("\n"));
        let attack = async || {
            let request = to(process.address, "POST", "/v1/topics/a/events");
            let request = request.header("content-type", "application/x-ndjson");
            let answer = send(request, body.clone()).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            assert_eq!(answer.json()["count"], lines.len());
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_no_worker_was_held_for(HOLD, &process).await;
}

/// Goal: pages of history and of a state are encoded in steps, and are complete.
#[tokio::test]
async fn pages_over_grpc_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    publish_many(&process, "long", 10).await;
    let mut client = grpc(process.address).await;
    for batch in 0..5 {
        let keyed = |number: usize| proto::NewEvent {
            key: format!("key {batch} {number}"),
            ..event(5, 30)
        };
        let (topic, events) = ("state".to_owned(), (0..2_000).map(keyed).collect());
        let request = proto::PublishRequest { topic, events, ..proto::PublishRequest::default() };
        client.publish(request).await.unwrap();
    }
    let bystander = Bystander::start(process.address).await;
    let read = proto::ReadRequest {
        topic: "long".to_owned(),
        page_size: EVENTS as u32,
        ..proto::ReadRequest::default()
    };
    let attack = async || {
        let mut client = grpc(process.address).await;
        let page = client.read(read.clone()).await.unwrap().into_inner();
        let sequences = page.events.iter().map(|event| event.sequence);
        assert!(sequences.eq(1..=EVENTS as u64), "{} events", page.events.len());
        assert!(page.events.iter().all(|event| event.payload == vec![b'x'; 100]));
        let (mut keys, mut page_token) = (0, String::new());
        loop {
            let topic = "state".to_owned();
            let page_size = EVENTS as u32;
            let request =
                proto::ReadStateRequest { topic, page_size, page_token, ..Default::default() };
            let page = client.read_state(request).await.unwrap().into_inner();
            assert!(page.events.iter().all(|event| event.headers.len() == 5));
            (keys, page_token) = (keys + page.events.len(), page.next_page_token);
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(keys, 10_000);
    };
    bystander.assert_unhurt(|| again_and_again(attack)).await;
    assert_no_worker_was_held_for(HOLD, &process).await;
}

/// Goal: the largest events that are expensive to encode are encoded one by one, with a pause
/// between them, in every form that readers get.
#[tokio::test]
async fn large_events_hold_nobody_up_when_they_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let lines = [
        format!("{{\"data\":{}}}", nested()),
        json!({"content_type": "text/plain", "data": "\u{1}".repeat(340_000)}).to_string(),
        json!({"content_type": "image/png", "data_base64": "AP8A".repeat(340_000)}).to_string(),
    ];
    for (topic, line) in (0..).zip(&lines) {
        let request = to(process.address, "POST", &format!("/v1/topics/large.{topic}/events"));
        let request = request.header("content-type", "application/x-ndjson");
        let answer = send(request, [line.as_str(); 4].join("\n")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let bystander = Bystander::start(process.address).await;
    let address = process.address;
    for topic in (0..lines.len()).map(|number| format!("large.{number}")) {
        let attack = async || {
            for format in ["data", "envelope", "cloudevents"] {
                let query = format!("?from=earliest&format={format}");
                Sse::follow(address, &topic, &query).await.events(4).await;
            }
            let mut client = Client::connect(address).await;
            let mut subscribe = json!({"type": "subscribe", "subscription": "s", "topic": topic});
            subscribe["from"] = json!("earliest");
            client.say(subscribe).await;
            client.find("caught_up").await;
            let page = get(address, &format!("/v1/topics/{topic}/events?from=earliest")).await;
            assert!(!page.json()["events"].as_array().unwrap().is_empty());
            let topic = topic.clone();
            let read = proto::ReadRequest { topic, ..proto::ReadRequest::default() };
            let page = grpc(address).await.read(read).await.unwrap().into_inner();
            assert!(!page.events.is_empty());
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_no_worker_was_held_for(HOLD_FOR_ONE, &process).await;
}
