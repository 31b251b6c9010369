//! Callers that ask for more than their rates allow: each refusal says when to come back, and the
//! time is true. No refused request changes anything, and no other caller is refused.
//!
//! The file is long, because each way to be over a rate has a test, and the tests share the code
//! that reads refusals.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{
    NewEvent, PublishRequest, PublishStreamRequest, PublishStreamResponse, SubscribeRequest,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::bystander::Bystander;
use super::descriptors;
use crate::common::{Answer, PATIENCE, Process, Sse, get, grpc, post, send, soon, to};
use crate::websocket::{Client as WebSocket, frame, raw, read_frame};

const EVENTS: &str = "/v1/topics/a/events";

/// The address of another caller than the rest of the tests: the loopback device has many
/// addresses.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Starts a broker with some of its settings.
fn serve(directory: &tempfile::TempDir, settings: &[&str]) -> Process {
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    Process::serve(directory.path(), &arguments)
}

/// Rates of three events at once, and one a second.
const THREE: [&str; 3] =
    ["rates.publishes_per_second=1", "rates.burst_ms=3000", "limits.max_batch_events=3"];

/// Sends a request from the address `local`.
async fn send_from(
    local: Ipv4Addr,
    request: http::request::Builder,
    body: impl Into<Bytes>,
) -> Answer {
    let mut connector = HttpConnector::new();
    connector.set_local_address(Some(IpAddr::V4(local)));
    let client = HttpClient::builder(TokioExecutor::new()).build(connector);
    let request = request.body(Full::new(body.into())).unwrap();
    let (head, body) = soon(client.request(request)).await.unwrap().into_parts();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    let trailers = http::HeaderMap::new();
    Answer { status: head.status, headers: head.headers, body, trailers }
}

/// Returns the sequence of the last event of the topic `a`.
async fn last_sequence(address: SocketAddr) -> u64 {
    get(address, "/v1/topics/a").await.json()["tail"].as_u64().unwrap() - 1
}

/// Returns the time to wait that a refusal states, in milliseconds.
#[track_caller]
fn retry_after_ms(problem: &Value, rate: &str) -> u64 {
    assert_eq!(problem["type"], "urn:leftoff:problem:rate-limited", "{problem}");
    assert_eq!((&problem["status"], &problem["rate"]), (&json!(429), &json!(rate)), "{problem}");
    problem["retry_after_ms"].as_u64().unwrap()
}

/// Waits for the time that a refusal stated.
async fn wait_ms(told_ms: u64) {
    tokio::time::sleep(Duration::from_millis(told_ms)).await;
}

/// Goal: a request over a rate is refused with all that its caller needs to know, and changes
/// nothing. At the stated time it is accepted, and another caller is not affected.
#[tokio::test]
async fn what_is_over_a_rate_is_refused_with_the_time_to_come_back_which_is_true() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &THREE);
    let address = process.address;
    for _ in 0..3 {
        assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    }
    let refused = post(address, EVENTS, "x").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{refused:?}");
    let told_ms = retry_after_ms(&refused.json(), "publishes");
    let retry_after = refused.header("retry-after").to_owned();
    assert_eq!(retry_after, told_ms.div_ceil(1_000).to_string());
    assert_eq!(refused.header("ratelimit-policy"), r#""publishes";q=3;w=3;qu="events""#);
    assert_eq!(refused.header("ratelimit"), format!(r#""publishes";r=0;t={retry_after}"#));
    assert_eq!(last_sequence(address).await, 3, "nothing was written");
    let other = send_from(ELSEWHERE, to(address, "POST", EVENTS), "x").await;
    assert_eq!(other.status, StatusCode::CREATED, "{other:?}");
    wait_ms(told_ms).await;
    assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    let metrics = String::from_utf8(get(address, "/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains(r#"leftoff_refused_by_rate_total{rate="publishes"} 1"#), "{metrics}");
}

fn events(count: usize) -> Vec<NewEvent> {
    vec![NewEvent { payload: Bytes::from_static(b"x"), ..NewEvent::default() }; count]
}

fn stream_request(count: usize) -> PublishStreamRequest {
    PublishStreamRequest {
        topic: "a".to_owned(),
        events: events(count),
        expected_sequence: None,
        in_order: false,
        topics: Vec::new(),
    }
}

#[track_caller]
fn assert_exhausted(status: &Status) -> u64 {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "RATE_LIMITED", "{status:?}");
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    u64::try_from(delay.as_millis()).unwrap()
}

/// Goal: a publish counts each of its events, over each protocol, and is stored whole or not at
/// all. A refused request of a stream is answered in its turn, and the stream goes on.
#[tokio::test]
async fn every_way_to_publish_counts_its_events_and_is_refused_in_its_own_words() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &THREE);
    let address = process.address;
    // NDJSON: the lines before the refused one are stored, and its line number is named.
    let lines = "{\"data\":1}\n".repeat(5);
    let request = to(address, "POST", EVENTS).header("content-type", "application/x-ndjson");
    let refused = send(request, lines).await;
    let problem = refused.json();
    let told_ms = retry_after_ms(&problem, "publishes");
    assert_eq!((&problem["stored_events"], &problem["line"]), (&json!(3), &json!(4)), "{problem}");
    assert_eq!(refused.header("retry-after"), told_ms.div_ceil(1_000).to_string());
    // CloudEvents: the whole batch is refused.
    let event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    let batch = json!([event, event]).to_string();
    let request = to(address, "POST", EVENTS);
    let request = request.header("content-type", "application/cloudevents-batch+json");
    retry_after_ms(&send(request, batch).await.json(), "publishes");
    // gRPC, with a call and with a stream, over a new connection.
    let mut client = grpc(address).await;
    let publish = |count: usize, ephemeral| PublishRequest {
        topic: "a".to_owned(),
        events: events(count),
        expected_sequence: None,
        ephemeral,
        topics: Vec::new(),
    };
    assert_exhausted(&client.publish(publish(3, false)).await.unwrap_err());
    assert_exhausted(&client.publish(publish(3, true)).await.unwrap_err());
    assert_eq!(last_sequence(address).await, 3, "a refused event was written");
    wait_ms(assert_exhausted(&client.publish(publish(3, false)).await.unwrap_err())).await;
    let (requests, sent) = tokio::sync::mpsc::channel(16);
    for count in [1, 3, 2] {
        requests.send(stream_request(count)).await.unwrap();
    }
    let responses = client.publish_stream(ReceiverStream::new(sent)).await.unwrap();
    let mut responses = responses.into_inner();
    let mut next = async || -> PublishStreamResponse {
        soon(responses.message()).await.unwrap().expect("the stream goes on")
    };
    assert!(matches!(next().await.outcome, Some(Outcome::Ack(_))));
    let Some(Outcome::Error(error)) = next().await.outcome else { panic!("3 over 2 are taken") };
    assert_eq!(error.code, Code::ResourceExhausted as i32);
    assert!(error.message.contains("the limit is 1 a second, and 3 at once"), "{error:?}");
    let types: Vec<&str> = error.details.iter().map(|any| any.type_url.as_str()).collect();
    assert!(types.contains(&"type.googleapis.com/google.rpc.RetryInfo"), "{types:?}");
    assert!(matches!(next().await.outcome, Some(Outcome::Ack(_))), "2 of 2 are refused");
    assert_eq!(last_sequence(address).await, 6);
}

/// Goal: a refused change is never answered with a stream and status 200, even if its client
/// accepts an event stream, in which a refused reader is told.
#[tokio::test]
async fn a_change_that_is_refused_is_no_stream_for_whoever_accepts_streams() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["rates.requests_per_second=1", "rates.burst_ms=2000"]);
    let address = process.address;
    let mut stored = 0;
    for (method, path) in [("POST", EVENTS), ("DELETE", "/v1/topics/b/events")] {
        let refused = loop {
            let request = to(address, method, path).header("accept", "text/event-stream");
            let answer = send(request, "x").await;
            match answer.status {
                StatusCode::CREATED => stored += 1,
                StatusCode::NOT_FOUND => {} // The rate allows it again.
                _ => break answer,
            }
        };
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS, "{method}");
        wait_ms(retry_after_ms(&refused.json(), "requests")).await;
    }
    assert_eq!(last_sequence(address).await, stored, "a refused event is stored");
}

/// Goal: a client that slows down when it is refused stays connected. A client that does not is
/// disconnected: a WebSocket with code 4029, a gRPC stream with a status.
#[tokio::test]
async fn a_client_that_goes_on_with_what_is_refused_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [&THREE[..], &["rates.max_refused=5"]].concat();
    let process = serve(&directory, &settings);
    let address = process.address;
    let mut client = WebSocket::connect(address).await;
    let publish = |number: usize| {
        let reference = number.to_string();
        json!({"type": "publish", "ref": reference, "topic": "a", "event": {"data": 1}})
    };
    for number in 0..3 {
        client.say(publish(number)).await;
        assert_eq!(client.hear().await["type"], "ack");
    }
    for number in 3..5 {
        client.say(publish(number)).await;
        let refused = client.hear().await;
        assert_eq!(
            (&refused["type"], &refused["ref"]),
            (&json!("error"), &json!(number.to_string()))
        );
        wait_ms(retry_after_ms(&refused["error"], "publishes")).await;
        client.say(publish(number)).await;
        assert_eq!(client.hear().await["type"], "ack", "the stated time is too short");
    }
    for number in 5..30 {
        client.say(publish(number)).await;
    }
    let (code, reason) = client.closed().await;
    assert_eq!(code, 4029, "{reason}");
    assert!(reason.contains("6 messages more were refused by a rate than were taken"), "{reason}");
    let requests = (0..30).map(|_| stream_request(1));
    let responses = grpc(address).await.publish_stream(tokio_stream::iter(requests)).await;
    let mut responses = responses.unwrap().into_inner();
    let mut answered = 0;
    let status = loop {
        match soon(responses.message()).await {
            Ok(response) => assert!(response.is_some(), "no status"),
            Err(status) => break status,
        }
        answered += 1;
    };
    assert!((6..12).contains(&answered), "{answered} were answered");
    assert_exhausted(&status);
    assert!(status.message().contains("messages more were refused by a rate"), "{status:?}");
}

/// Checks that a stream holds nothing but the refusal, with the time to come back. A browser that
/// gets a status other than 200 never comes back.
async fn told_in_the_stream(stream: &mut Sse, rate: &str) {
    assert_eq!(stream.status, StatusCode::OK);
    let retry_after: u64 = stream.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let frames = soon(stream.rest()).await;
    let [frame] = &frames[..] else { panic!("{frames:?}") };
    assert!(frame.is_control("leftoff.error") && frame.id.is_none(), "{frame:?}");
    let told_ms = retry_after_ms(&frame.json(), rate);
    let retry_ms = frame.retry.unwrap();
    assert!((told_ms..=told_ms + told_ms / 2 + 1).contains(&retry_ms), "{retry_ms}, {told_ms}");
    assert_eq!(retry_after, told_ms.div_ceil(1_000));
}

/// Goal: a browser whose stream is refused for a rate, of subscriptions or of requests, comes back.
#[tokio::test]
async fn a_stream_that_is_refused_for_a_rate_says_so_in_the_stream_and_asks_to_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["rates.requests_per_second=1", "rates.burst_ms=2000"]);
    let address = process.address;
    let mut whole = Sse::follow(address, "a", "").await;
    soon(whole.find(|frame| frame.is_control("leftoff.caught-up"))).await;
    assert_eq!(get(address, "/healthz").await.status, StatusCode::OK);
    let mut refused = Sse::follow(address, "a", "").await;
    told_in_the_stream(&mut refused, "requests").await;
    let page = get(address, "/v1/topics/a/events").await;
    assert_eq!(page.status, StatusCode::TOO_MANY_REQUESTS, "a page is no stream");
}

#[tokio::test]
async fn subscriptions_are_counted_on_every_way_to_follow() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["rates.subscriptions_per_second=1", "rates.burst_ms=3000"]);
    let address = process.address;
    let stream = Sse::follow(address, "a", "").await;
    assert_eq!(stream.status, StatusCode::OK);
    let mut client = grpc(address).await;
    let subscribe = || SubscribeRequest { topic: "a".to_owned(), ..SubscribeRequest::default() };
    let _subscribed = client.subscribe(subscribe()).await.unwrap();
    let mut socket = WebSocket::connect(address).await;
    let ask = |name: &str| json!({"type": "subscribe", "subscription": name, "topic": "a"});
    socket.say(ask("s")).await;
    assert_eq!(socket.find("subscribed").await["subscription"], "s");
    socket.say(ask("t")).await;
    let refused = socket.find("error").await;
    assert_eq!(refused["subscription"], "t");
    retry_after_ms(&refused["error"], "subscriptions");
    let mut refused = Sse::follow(address, "a", "").await;
    assert_eq!(
        refused.headers["ratelimit-policy"],
        r#""subscriptions";q=3;w=3;qu="subscriptions""#
    );
    told_in_the_stream(&mut refused, "subscriptions").await;
    wait_ms(assert_exhausted(&client.subscribe(subscribe()).await.unwrap_err())).await;
    socket.say(ask("t")).await;
    assert_eq!(socket.find("subscribed").await["subscription"], "t");
}

/// Goal: requests of all kinds count, and so do received bytes: by the stated length of a body
/// before it is read, and otherwise as the bytes arrive.
#[tokio::test]
async fn requests_and_received_bytes_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["rates.requests_per_second=1", "rates.burst_ms=2000"]);
    let address = process.address;
    assert_eq!(get(address, "/healthz").await.status, StatusCode::OK);
    assert_eq!(get(address, "/nowhere").await.status, StatusCode::NOT_FOUND);
    let refused = get(address, "/v1/topics").await;
    let told_ms = retry_after_ms(&refused.json(), "requests");
    let mut client = grpc(address).await;
    let subscribe = SubscribeRequest { topic: "a".to_owned(), ..SubscribeRequest::default() };
    assert_exhausted(&client.subscribe(subscribe).await.unwrap_err());
    wait_ms(told_ms).await;
    assert_eq!(get(address, "/v1/topics").await.status, StatusCode::OK);
    drop(process);

    let directory = tempfile::tempdir().unwrap();
    let small = ["limits.max_payload_bytes=4096", "limits.max_batch_bytes=8192"];
    let process =
        serve(&directory, &[&small[..], &["rates.receive_bytes_per_second=1000"]].concat());
    let address = process.address;
    // The largest request is always accepted if nothing was received before it.
    let burst = 1_056_768;
    let body = vec![b'x'; 4_000];
    for _ in 0..burst / 4_000 {
        assert_eq!(post(address, EVENTS, body.clone()).await.status, StatusCode::CREATED);
    }
    // This request is refused for its stated length alone: no byte of its body is sent.
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {EVENTS} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 4000\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let count = soon(socket.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.contains(r#"ratelimit-policy: "bytes";q="#), "{answer}");
    // A body of unknown length, a message of a gRPC stream, and a message of a WebSocket.
    let stored = last_sequence(address).await;
    let request = to(address, "POST", EVENTS);
    let answer = send_chunked(request, &[vec![b'x'; 2_000], vec![b'x'; 2_000]]).await;
    retry_after_ms(&answer, "bytes");
    let event = NewEvent { payload: vec![b'x'; 4_000].into(), ..NewEvent::default() };
    let request = PublishStreamRequest { events: vec![event], ..stream_request(0) };
    let mut client = grpc(address).await;
    let responses = client.publish_stream(tokio_stream::iter([request])).await.unwrap();
    let Some(Outcome::Error(error)) =
        soon(responses.into_inner().message()).await.unwrap().unwrap().outcome
    else {
        panic!("the message was accepted")
    };
    assert_eq!(error.code, Code::ResourceExhausted as i32);
    let mut client = WebSocket::connect(address).await;
    let data = "x".repeat(4_000);
    client.say(json!({"type": "publish", "topic": "a", "event": {"data": data}})).await;
    retry_after_ms(&client.hear().await["error"], "bytes");
    assert_eq!(last_sequence(address).await, stored, "a refused event was written");
}

/// Goal: pings count as requests, and a client that floods the broker with them is disconnected.
#[tokio::test]
async fn a_flood_of_pings_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["rates.requests_per_second=1", "rates.burst_ms=5000", "rates.max_refused=5"];
    let process = serve(&directory, &settings);
    let mut socket = raw(process.address).await;
    for _ in 0..20 {
        socket.write_all(&frame(0x89, b"x")).await.unwrap();
    }
    let mut pongs = 0;
    loop {
        let (first, payload) = read_frame(&mut socket).await.expect("closed without a code");
        match first & 0x0f {
            8 => {
                assert_eq!(payload[..2], 4029_u16.to_be_bytes());
                break;
            }
            _ => pongs += 1,
        }
    }
    assert!((4..12).contains(&pongs), "{pongs} pongs");
}

/// Sends a body without stating its length, and returns the problem of the answer.
async fn send_chunked(request: http::request::Builder, chunks: &[Vec<u8>]) -> Value {
    let frames = chunks.iter().map(|chunk| Ok::<_, std::io::Error>(chunk.clone().into()));
    let frames = frames.map(|chunk| chunk.map(hyper::body::Frame::data)).collect::<Vec<_>>();
    let body: http_body_util::StreamBody<_> =
        http_body_util::StreamBody::new(tokio_stream::iter(frames));
    let body: http_body_util::combinators::BoxBody<Bytes, std::io::Error> = BodyExt::boxed(body);
    let client = HttpClient::builder(TokioExecutor::new()).build_http();
    let answer = soon(client.request(request.body(body).unwrap())).await.unwrap();
    let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

/// Returns all bytes that a connection answers to `sent`, until its end.
async fn told(address: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(sent).await.unwrap();
    let mut told = Vec::new();
    let _reset_or_closed = soon(socket.read_to_end(&mut told)).await;
    told
}

/// Goal: connections that come faster than the rate are refused in the protocol that they speak,
/// and leave nothing behind. Open connections and other callers are not affected.
#[tokio::test]
async fn connections_that_come_too_often_are_refused_and_leave_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["rates.connections_per_second=1", "rates.burst_ms=100000"]);
    let address = process.address;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let mut honest = TcpStream::connect(address).await.unwrap();
    // The broker counts this connection's descriptor once it has answered, and not before.
    honest.write_all(request.as_bytes()).await.unwrap();
    let mut whole = Vec::new();
    while !whole.ends_with(b"ok\n") {
        whole.push(soon(honest.read_u8()).await.unwrap());
    }
    let before = descriptors(process.id());
    // Connects until a connection is refused.
    let started = Instant::now();
    let mut open = Vec::new();
    let refused = loop {
        open.extend(TcpStream::connect(address).await);
        let answer = told(
            address,
            &[request.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes()].concat(),
        )
        .await;
        let answer = String::from_utf8(answer).unwrap();
        if !answer.starts_with("HTTP/1.1 200 ") {
            break answer;
        }
        assert!(started.elapsed() < PATIENCE, "no connection is refused");
    };
    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
    for told in [
        "\r\nretry-after: ",
        "\r\nratelimit-policy: \"connections\";q=100;w=100;qu=\"connections\"\r\n",
        "\r\nconnection: close\r\n",
        "too many connections from this address: the limit is 1 a second, and 100 at once",
    ] {
        assert!(refused.contains(told), "{refused}");
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    let goodbye = loop {
        // An accepted connection is pinged, or waits; a refused one is closed at once.
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(preface).await.unwrap();
        let mut told = Vec::new();
        let wait = Duration::from_millis(500);
        if tokio::time::timeout(wait, socket.read_to_end(&mut told)).await.is_ok() {
            break told;
        }
        open.push(socket);
        assert!(started.elapsed() < 2 * PATIENCE, "no connection is refused");
    };
    // SETTINGS, and then GOAWAY with ENHANCE_YOUR_CALM and the reason.
    assert_eq!(goodbye[..9], [0, 0, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!((goodbye[12], &goodbye[22..26]), (7, &[0, 0, 0, 11][..]), "{goodbye:?}");
    assert!(String::from_utf8_lossy(&goodbye[26..]).contains("come back in"), "{goodbye:?}");
    honest.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    soon(honest.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((ELSEWHERE, 0).into()).unwrap();
    let mut other = soon(socket.connect(address)).await.unwrap();
    other.write_all(request.as_bytes()).await.unwrap();
    soon(other.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200", "another address is refused");
    drop((open, other));
    soon(async {
        while descriptors(process.id()) > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Goal: a caller that floods the broker is held to its rates, and a publisher and a follower at
/// another address are served as before.
#[tokio::test]
async fn a_flood_from_one_address_hurts_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["rates.publishes_per_second=1000", "rates.requests_per_second=1000"];
    let process = serve(&directory, &[&settings[..], &["rates.burst_ms=1000"]].concat());
    let address = process.address;
    let bystander = Bystander::start(address).await;
    let flood = async || {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(IpAddr::V4(ELSEWHERE)));
        let client = HttpClient::builder(TokioExecutor::new()).build(connector);
        let until = Instant::now() + Duration::from_secs(2);
        let clients = (0..4).map(|_| async {
            let (mut taken, mut refused) = (0_u32, 0_u32);
            while Instant::now() < until {
                let request =
                    to(address, "POST", EVENTS).body(Full::new(Bytes::from_static(b"x"))).unwrap();
                let answer = soon(client.request(request)).await.unwrap();
                match answer.status() {
                    StatusCode::CREATED => taken += 1,
                    StatusCode::TOO_MANY_REQUESTS => refused += 1,
                    other => panic!("{other}"),
                }
                soon(answer.into_body().collect()).await.unwrap();
            }
            (taken, refused)
        });
        let counts = futures_util::future::join_all(clients).await;
        counts.into_iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let (taken, refused) = bystander.assert_unhurt(flood).await;
    // A burst of one second, and the rate of two seconds. A slow machine sends less.
    assert!(taken <= 3_500, "{taken} were taken, {refused} refused");
}
