//! Slow clients: each wait for a client has a time limit, which is reported and counted; and an
//! honest slow client is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use leftoff::edge::proto::{
    NewEvent, PublishRequest, PublishStreamRequest, PublishStreamResponse, SubscribeRequest,
};
use prost::Message;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::raw_http2::{RawHttp2, initial_window};
use crate::common::{Process, get, grpc, post, soon, text, to};
use crate::grpc_client::path_of;
use crate::websocket::{Client as WebSocket, frame, raw, read_frame};

const EVENTS: &str = "/v1/topics/a/events";

/// The pause of a client between two pieces.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts a broker with some of its settings.
fn serve(directory: &tempfile::TempDir, settings: &[&str]) -> Process {
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    Process::serve(directory.path(), &arguments)
}

/// Returns the number of times that a time limit was reached.
async fn struck(address: SocketAddr, limit: &str) -> u64 {
    let metrics = get(address, "/metrics").await;
    let name = format!("leftoff_time_limits_total{{limit=\"{limit}\"}} ");
    let metrics = text(&metrics.body);
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Waits until a time limit was reached `count` times.
async fn until_struck(address: SocketAddr, limit: &str, count: u64) {
    soon(async {
        while struck(address, limit).await < count {
            tokio::time::sleep(PAUSE / 10).await;
        }
    })
    .await;
}

/// Sends pieces with a pause before each, until the other end closes. Returns all that it answered.
async fn trickle(socket: &mut TcpStream, pieces: impl IntoIterator<Item = &[u8]>) -> String {
    let (mut reading, mut writing) = socket.split();
    let write = async {
        for piece in pieces {
            tokio::time::sleep(PAUSE).await;
            if writing.write_all(piece).await.is_err() {
                return;
            }
        }
        std::future::pending().await
    };
    let mut said = Vec::new();
    let read = async {
        let mut chunk = [0; 4_096];
        while let Ok(count @ 1..) = reading.read(&mut chunk).await {
            said.extend_from_slice(&chunk[..count]);
        }
    };
    tokio::select! {
        () = soon(read) => {}
        () = write => {}
    }
    String::from_utf8(said).unwrap()
}

/// Returns the next answer of a connection that stays open.
async fn answer(socket: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"ok\n") {
        assert!(soon(socket.read_buf(&mut said)).await.unwrap() > 0, "{}", text(&said));
    }
    String::from_utf8(said).unwrap()
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Goal: a head that is not complete in time is answered with 408, whether it is the first of its
/// connection or a later one. A silent connection is closed without an answer, and a client that is
/// slow but in time is served.
#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_answered_with_408() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["server.header_read_ms=2000"]);
    let address = process.address;
    let begun = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: ";
    let byte = [&b"y"[..]; 300];
    let head = async |beginning: &[u8]| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        trickle(&mut socket, [beginning].into_iter().chain(byte)).await
    };
    let later = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(HEALTH).await.unwrap();
        answer(&mut socket).await;
        trickle(&mut socket, [&begun[..]].into_iter().chain(byte)).await
    };
    let silent = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut said = String::new();
        soon(socket.read_to_string(&mut said)).await.unwrap();
        said
    };
    // Half of the HTTP/2 preface, and nothing else.
    let undecided = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        trickle(&mut socket, [&b"PRI * HT"[..]]).await
    };
    let (first, later, silent, undecided) = tokio::join!(head(begun), later, silent, undecided);
    for told in [first, later, undecided] {
        assert!(told.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{told}");
        assert!(told.contains("\r\nconnection: close\r\n"), "{told}");
        assert!(told.contains("the head of a request was not complete after 2000 ms"), "{told}");
    }
    assert_eq!(silent, "");
    until_struck(address, "head", 4).await;
    let mut honest = TcpStream::connect(address).await.unwrap();
    for piece in HEALTH.chunks(8) {
        tokio::time::sleep(PAUSE / 2).await;
        honest.write_all(piece).await.unwrap();
    }
    assert!(answer(&mut honest).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(struck(address, "head").await, 4);
}

/// Goal: a connection without a request is closed in order when its time is over, and not before. A
/// connection that is used, or has a call open, is not closed.
#[tokio::test]
async fn a_connection_that_is_not_used_is_closed_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["server.idle_ms=1500"]);
    let address = process.address;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(HEALTH).await.unwrap();
    answer(&mut idle).await;
    let since = Instant::now();
    // HTTP/2 says goodbye: GOAWAY without an error, after all other frames.
    let goodbye = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
        socket.write_all(preface).await.unwrap();
        loop {
            let mut head = [0; 9];
            soon(socket.read_exact(&mut head)).await.unwrap();
            let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; size];
            soon(socket.read_exact(&mut payload)).await.unwrap();
            if head[3] == 7 {
                return payload[4..8].to_vec();
            }
        }
    };
    // One connection has an open call and sends nothing else, and another one is used.
    let served = async {
        let mut client = grpc(address).await;
        let subscribe = SubscribeRequest { topic: "a".to_owned(), ..Default::default() };
        let mut stream = client.subscribe(subscribe).await.unwrap().into_inner();
        let until = Instant::now() + 3 * Duration::from_millis(1_500);
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if let Ok(message) = tokio::time::timeout(left, stream.message()).await {
                assert!(message.unwrap().is_some(), "the stream ended");
            }
        }
    };
    let used = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        for _ in 0..30 {
            socket.write_all(HEALTH).await.unwrap();
            assert!(answer(&mut socket).await.starts_with("HTTP/1.1 200 "));
            tokio::time::sleep(PAUSE).await;
        }
    };
    let closed = async {
        let mut said = Vec::new();
        soon(idle.read_to_end(&mut said)).await.unwrap();
        assert_eq!(text(&said), "", "an answer without a request");
        since.elapsed()
    };
    let (closed, goodbye, (), ()) = tokio::join!(closed, goodbye, served, used);
    assert!(closed > Duration::from_millis(1_400), "the connection was closed after {closed:?}");
    assert_eq!(goodbye, [0, 0, 0, 0], "the goodbye has an error");
    assert!(struck(address, "idle").await >= 2);
}

/// Goal: an HTTP/2 stream whose window stays closed is ended alone, also if it never was open. An
/// answer that is never taken is dropped with its connection, once that is idle for too long.
#[tokio::test]
async fn what_is_never_taken_over_http2_is_given_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["server.write_timeout_ms=500", "server.idle_ms=2000"]);
    let address = process.address;
    assert_eq!(post(address, EVENTS, "x".repeat(1_000)).await.status, 201);
    // The answer is made when there is a window for one byte of it, and is complete then.
    let mut unread = RawHttp2::connect(address).await;
    unread.send(&initial_window(1)).await.unwrap();
    unread.ask(address, &format!("{EVENTS}?limit=1"), "*/*").await;
    unread.ended().await;
    assert_eq!(struck(address, "write").await, 0, "the broker waits for the stream");
    assert!(struck(address, "idle").await >= 1);
    let mut closed = RawHttp2::connect(address).await;
    closed.send(&initial_window(0)).await.unwrap();
    closed.follow(address, &format!("{EVENTS}?from=earliest")).await;
    until_struck(address, "write", 1).await;
    assert!(closed.is_open(), "the connection was ended");
}

/// Settings: a time of one second, and a least rate above which slow clients are served.
const SLOW: [&str; 2] = ["follow.body_read_ms=1000", "follow.min_body_bytes_per_second=100"];

/// Returns a body of pieces, with a pause before each. Without an end, it stays open after them.
fn slow_body(
    pieces: impl IntoIterator<Item = Vec<u8>> + Send + 'static,
    has_end: bool,
) -> impl hyper::body::Body<Data = Bytes, Error = std::io::Error> + Unpin + Send {
    let (sender, receiver) = mpsc::channel(1);
    let pieces: Vec<Vec<u8>> = pieces.into_iter().collect();
    tokio::spawn(async move {
        for piece in pieces {
            tokio::time::sleep(PAUSE).await;
            let frame = Ok::<_, std::io::Error>(Frame::data(Bytes::from(piece)));
            if sender.send(frame).await.is_err() {
                return;
            }
        }
        if !has_end {
            sender.closed().await;
        }
    });
    StreamBody::new(ReceiverStream::new(receiver))
}

async fn send_slowly(
    request: http::request::Builder,
    over_http2: bool,
    pieces: impl IntoIterator<Item = Vec<u8>> + Send + 'static,
    has_end: bool,
) -> Response<Incoming> {
    let client = HttpClient::builder(TokioExecutor::new()).http2_only(over_http2).build_http();
    let request = request.body(slow_body(pieces, has_end)).unwrap();
    soon(client.request(request)).await.unwrap()
}

async fn problem(answer: Response<Incoming>) -> Value {
    let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

/// Goal: a body that arrives byte by byte, never silent for long, is answered with 408 and none of
/// it is stored, whether it is one event or a line of many. A body that is slow, but above the
/// least rate, is accepted, however long it takes.
#[tokio::test]
async fn a_body_that_trickles_is_answered_with_408_and_a_slow_one_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &SLOW);
    let address = process.address;
    let post = || to(address, "POST", EVENTS);
    let ndjson = || post().header("content-type", "application/x-ndjson");
    let one = send_slowly(post(), false, vec![vec![b'x']; 300], true).await;
    assert_eq!(one.status(), StatusCode::REQUEST_TIMEOUT);
    let told = problem(one).await;
    assert_eq!(told["type"], "urn:leftoff:problem:too-slow");
    let detail = "the body came too slowly: less than 100 bytes a second, after 1000 ms";
    assert_eq!(told["detail"], detail);
    assert_eq!(get(address, "/v1/topics/a").await.status, StatusCode::NOT_FOUND);
    let silent = send_slowly(post(), false, vec![vec![b'x'; 1_000]], false).await;
    assert_eq!(silent.status(), StatusCode::REQUEST_TIMEOUT);
    let detail = "the body came too slowly: nothing more came for 1000 ms";
    assert_eq!(problem(silent).await["detail"], detail);
    let pieces = [b"{\"data\":1}\n{\"data\":".to_vec()].into_iter();
    let lines = send_slowly(ndjson(), false, pieces.chain(vec![vec![b' ']; 300]), true).await;
    assert_eq!(lines.status(), StatusCode::REQUEST_TIMEOUT);
    let told = problem(lines).await;
    assert_eq!((&told["line"], &told["stored_events"]), (&json!(2), &json!(1)), "{told}");
    until_struck(address, "body", 3).await;
    // Bodies of three seconds, at 2.5 times the least rate, and lines of which each arrives whole.
    let slow = send_slowly(post(), false, vec![vec![b'x'; 25]; 30], true).await;
    assert_eq!(slow.status(), StatusCode::CREATED);
    let slow = send_slowly(ndjson(), false, vec![b"{\"data\":1}\n".to_vec(); 30], true).await;
    assert_eq!(slow.status(), StatusCode::CREATED);
    assert_eq!(problem(slow).await["count"], 30);
    assert_eq!(struck(address, "body").await, 3);
}

/// Returns a gRPC message as it is on the wire.
fn grpc_bytes(message: &impl Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Goal: a message that has begun, and a call with a single message, must end in time, or fail with
/// `DEADLINE_EXCEEDED`. Between the messages of a stream, any time may pass.
#[tokio::test]
async fn a_message_of_grpc_that_does_not_come_to_its_end_fails() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &SLOW);
    let address = process.address;
    let call = |name: &str| {
        to(address, "POST", &path_of(name))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    };
    let event = NewEvent { payload: vec![b'x'; 400].into(), ..NewEvent::default() };
    let events = vec![event];
    let topic = "a".to_owned();
    let request =
        PublishStreamRequest { topic: topic.clone(), events: events.clone(), ..Default::default() };
    let publish = PublishRequest { topic, events, ..Default::default() };
    let one = grpc_bytes(&publish);
    let many = grpc_bytes(&request);
    let bytes_of = |bytes: &[u8], size: usize| -> Vec<Vec<u8>> {
        bytes.chunks(size).map(<[u8]>::to_vec).collect()
    };
    let status = async |answer: Response<Incoming>| {
        let headers = answer.headers().clone();
        let body = soon(answer.into_body().collect()).await.unwrap();
        let trailers = body.trailers().cloned().unwrap_or_default();
        let code = headers.get("grpc-status").or(trailers.get("grpc-status"));
        (code.unwrap().to_str().unwrap().to_owned(), body.to_bytes())
    };
    // Byte by byte, with a call and with a stream; and a call that does not end.
    let (trickling, streamed, endless) = tokio::join!(
        send_slowly(call("Publish"), true, bytes_of(&one, 1), true),
        send_slowly(call("PublishStream"), true, bytes_of(&many, 1), true),
        send_slowly(call("Publish"), true, bytes_of(&one, one.len()), false),
    );
    for answer in [trickling, streamed, endless] {
        assert_eq!(status(answer).await.0, "4");
    }
    assert_eq!(get(address, "/v1/topics/a").await.status, StatusCode::NOT_FOUND);
    assert_eq!(struck(address, "body").await, 3);
    // Just above the least rate, and with a long time between two messages.
    let slow = send_slowly(call("Publish"), true, bytes_of(&one, 20), true).await;
    assert_eq!(status(slow).await.0, "0");
    let mut pieces = vec![many.clone()];
    pieces.extend(vec![Vec::new(); 25]);
    pieces.extend(bytes_of(&many, 20));
    let (code, body) = status(send_slowly(call("PublishStream"), true, pieces, true).await).await;
    assert_eq!(code, "0");
    let size = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    PublishStreamResponse::decode(&body[5..5 + size]).unwrap();
    assert_eq!(body.len(), 2 * (5 + size), "a request without an answer");
    assert_eq!(struck(address, "body").await, 3);
}

/// Reads frames until the broker closes, and answers pings if `answers`. Returns the close code and
/// reason.
async fn closed(socket: &mut TcpStream, answers: bool) -> (u16, String) {
    loop {
        let (first, payload) = read_frame(socket).await.expect("closed without a code");
        match first & 0x0f {
            8 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8(payload[2..].to_vec()).unwrap());
            }
            9 if answers => socket.write_all(&frame(0x8a, &payload)).await.unwrap(),
            _ => {}
        }
    }
}

/// Goal: a WebSocket client that does not end a message is told so, even if it answers pings, and
/// so is a client that answers no ping. A message in parts, and silence, are allowed.
#[tokio::test]
async fn a_websocket_that_does_not_end_what_it_began_or_answers_no_ping_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let settings = [&SLOW[..], &["follow.heartbeat_ms=400"]].concat();
    let process = serve(&directory, &settings);
    let address = process.address;
    let mut parts = raw(address).await;
    parts.write_all(&frame(0x01, b"{\"type\":")).await.unwrap();
    let mut half = raw(address).await;
    let begun = frame(0x81, b"{\"type\":\"publish\"}");
    half.write_all(&begun[..begun.len() - 5]).await.unwrap();
    let mut mute = raw(address).await;
    let ((parts, parts_reason), (half, _), (mute, mute_reason)) =
        tokio::join!(closed(&mut parts, true), closed(&mut half, false), closed(&mut mute, false));
    assert_eq!(parts, 4108, "{parts_reason}");
    let reason = "the message came too slowly: ";
    assert!(parts_reason.starts_with(reason), "{parts_reason}");
    assert!([4108, 4110].contains(&half), "an unfinished frame leaves no room for a pong: {half}");
    assert_eq!((mute, &*mute_reason), (4110, "no ping was answered for 600 ms"));
    assert!(struck(address, "ping").await >= 1);
    assert!(struck(address, "body").await >= 1);
    // Above the least rate, and longer than any limit; then silent for as long, except for pongs.
    let mut slow = raw(address).await;
    let data = "x".repeat(600);
    let publish = json!({"type": "publish", "topic": "a", "event": {"data": data}}).to_string();
    for (number, piece) in publish.as_bytes().chunks(25).enumerate() {
        let is_last = (number + 1) * 25 >= publish.len();
        let first = if number == 0 { 0x01 } else { u8::from(is_last) << 7 };
        slow.write_all(&frame(first, piece)).await.unwrap();
        slow.write_all(&frame(0x8a, b"")).await.unwrap(); // An unsolicited pong.
        tokio::time::sleep(PAUSE).await;
    }
    let acknowledged = async {
        loop {
            let (first, payload) = read_frame(&mut slow).await.expect("the connection goes on");
            if first & 0x0f == 1 {
                return serde_json::from_slice::<Value>(&payload).unwrap();
            }
        }
    };
    assert_eq!(soon(acknowledged).await["type"], "ack");
    let mut silent = WebSocket::connect(address).await;
    let subscribe = json!({"type": "subscribe", "subscription": "s", "topic": "b"});
    silent.say(subscribe).await;
    silent.find("caught_up").await;
    let quiet = tokio::time::timeout(Duration::from_secs(3), silent.hear()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    silent.say(json!({"type": "unsubscribe", "subscription": "s"})).await;
    assert_eq!(silent.hear().await["type"], "unsubscribed");
}

/// Goal: an HTTP/2 connection whose client answers no ping is ended, and counted.
#[tokio::test]
async fn an_http2_connection_that_answers_no_ping_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let process = serve(&directory, &["server.keep_alive_ms=300"]);
    let mut socket = TcpStream::connect(process.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";
    socket.write_all(preface).await.unwrap();
    let mut said = Vec::new();
    let _reset_or_closed = soon(socket.read_to_end(&mut said)).await;
    until_struck(process.address, "ping", 1).await;
}
