//! WebSocket: the promises of the subprotocol, and the rules of RFC 6455.
//!
//! The file is long, because its tests share the client at its top.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use leftoff::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::common::{Server, get, post, send, send_h2c, soon, to};

/// A client of the subprotocol.
pub(crate) struct Client(WebSocketStream<TcpStream>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, "nobody").await
    }

    /// Connects with the header that names the caller in the tests of hooks.
    pub(crate) async fn connect_as(address: SocketAddr, caller: &str) -> Self {
        let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("x-caller", caller.parse().unwrap());
        let spoken = http::HeaderValue::from_static("other, leftoff.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", spoken);
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "leftoff.v1.json");
        Self(socket)
    }

    /// Connects, unless the broker is gone.
    pub(crate) async fn connect_if_up(address: SocketAddr) -> Option<Self> {
        let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
        let spoken = http::HeaderValue::from_static("leftoff.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", spoken);
        let stream = TcpStream::connect(address).await.ok()?;
        let (socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await.ok()?;
        Some(Self(socket))
    }

    /// Connects at `path` with a header, or returns the status of the refusal.
    pub(crate) async fn try_connect(
        address: SocketAddr,
        path: &str,
        header: Option<(&'static str, String)>,
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let spoken = http::HeaderValue::from_static("leftoff.v1.json");
        request.headers_mut().insert("sec-websocket-protocol", spoken);
        let stream = TcpStream::connect(address).await.unwrap();
        match soon(tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub(crate) async fn say(&mut self, message: Value) {
        self.say_text(message.to_string()).await;
    }

    /// Says a message that may have more levels than a [`Value`] can be parsed from.
    pub(crate) async fn say_text(&mut self, message: String) {
        self.0.send(Message::text(message)).await.unwrap();
    }

    /// Says a message, and returns whether the connection took it.
    pub(crate) async fn try_say(&mut self, message: Value) -> bool {
        self.0.send(Message::text(message.to_string())).await.is_ok()
    }

    /// Returns the next message, parsed as JSON.
    pub(crate) async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    /// Returns the text of the next message.
    pub(crate) async fn hear_text(&mut self) -> String {
        soon(async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Text(text) => return text.to_string(),
                    Message::Ping(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        })
        .await
    }

    /// Returns the next message, or `None` when the connection has ended.
    pub(crate) async fn try_hear(&mut self) -> Option<Value> {
        loop {
            if let Message::Text(text) = soon(self.0.next()).await?.ok()? {
                return Some(serde_json::from_str(&text).unwrap());
            }
        }
    }

    /// Returns the next message, or the code with which the broker closes.
    pub(crate) async fn hear_or_close(&mut self) -> Result<Value, u16> {
        loop {
            match soon(self.0.next()).await.unwrap().unwrap() {
                Message::Text(text) => return Ok(serde_json::from_str(&text).unwrap()),
                Message::Close(frame) => return Err(frame.map_or(0, |frame| frame.code.into())),
                _ => {}
            }
        }
    }

    /// Returns the next message of this type, and drops those before it.
    pub(crate) async fn find(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear().await;
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Waits until `count` subscriptions have begun.
    pub(crate) async fn until_subscribed(&mut self, count: usize) {
        let mut begun = 0;
        while begun < count {
            let message = self.hear().await;
            let kind = message["type"].as_str().unwrap();
            assert!(!matches!(kind, "ended" | "error"), "{message}");
            begun += usize::from(kind == "subscribed");
        }
    }

    /// Returns subscription, sequence and data of the next `count` events.
    async fn events(&mut self, count: usize) -> Vec<(String, u64, Value)> {
        let mut events = Vec::new();
        while events.len() < count {
            let message = self.find("event").await;
            let event = &message["event"];
            let (name, sequence) = (&message["subscription"], event["sequence"].as_u64());
            let data = event["data"].clone();
            events.push((name.as_str().unwrap().to_owned(), sequence.unwrap(), data));
        }
        events
    }

    /// Reads until the connection ends, with a close or without.
    pub(crate) async fn cut(&mut self) {
        while let Some(Ok(_)) = self.0.next().await {}
    }

    /// Returns the code and the reason with which the broker closes.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        soon(async {
            loop {
                match self.0.next().await.unwrap().unwrap() {
                    Message::Close(Some(frame)) => {
                        return (frame.code.into(), frame.reason.to_string());
                    }
                    Message::Close(None) => panic!("closed without a code"),
                    _ => {}
                }
            }
        })
        .await
    }
}

async fn publish(server: &Server, topic: &str, data: u64) {
    let request = to(server.address, "POST", &format!("/v1/topics/{topic}/events"));
    let request = request.header("content-type", "application/json");
    assert_eq!(send(request, data.to_string()).await.status, 201);
}

fn event(name: &str, sequence: u64, data: u64) -> (String, u64, Value) {
    (name.to_owned(), sequence, json!(data))
}

#[tokio::test]
async fn a_client_subscribes_publishes_unsubscribes_and_resumes() {
    let server = Server::start().await;
    let epoch = server.broker.epoch();
    for data in 1..=3 {
        publish(&server, "a", data).await;
    }
    let mut client = Client::connect(server.address).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": "a", "from": "1"})).await;
    let subscribed = client.hear().await;
    let expected = json!({
        "type": "subscribed", "subscription": "s", "cursor": format!("1-{epoch}"), "earliest": 1,
        "tail": 4,
    });
    assert_eq!(subscribed, expected);
    let first = client.hear().await;
    assert_eq!(first["cursor"], format!("2-{epoch}"));
    assert_eq!((&first["event"]["topic"], &first["event"]["position"]), (&json!("a"), &json!(2)));
    assert_eq!(client.events(1).await, [event("s", 3, 3)]);
    assert_eq!(client.hear().await["type"], "caught_up");
    // A second subscription, of many topics: both continue, each at its own place.
    let many = json!({
        "type": "subscribe", "subscription": "t", "topics": ["*"], "from": "@3",
        "filter": {"keys": ["k"]},
    });
    client.say(many).await;
    assert_eq!(client.find("subscribed").await["cursor"], format!("@3-{epoch}"));
    let new = json!({"key": "k", "data": 4});
    client.say(json!({"type": "publish", "ref": "p", "topic": "b", "event": new})).await;
    let mut seen = [client.hear().await, client.hear().await, client.hear().await];
    seen.sort_by_key(|message| message["type"].as_str().unwrap().to_owned());
    let [ack, caught_up, delivered] = &seen;
    assert_eq!(
        (&ack["ref"], &ack["sequence"], &ack["position"]),
        (&json!("p"), &json!(1), &json!(4))
    );
    assert_eq!(caught_up["subscription"], "t");
    assert_eq!((&delivered["subscription"], &delivered["event"]["data"]), (&json!("t"), &json!(4)));
    assert_eq!(delivered["cursor"], format!("@4-{epoch}"));
    publish(&server, "a", 5).await;
    assert_eq!(client.events(1).await, [event("s", 4, 5)]);
    client.say(json!({"type": "unsubscribe", "subscription": "s"})).await;
    assert_eq!(client.find("unsubscribed").await["subscription"], "s");
    publish(&server, "a", 6).await;
    let again = json!({"type": "subscribe", "subscription": "s", "topic": "a", "from": "4"});
    client.say(again).await;
    assert_eq!(client.events(1).await, [event("s", 5, 6)], "an event came after the unsubscribe");
    client.0.close(None).await.unwrap();
    while client.0.next().await.is_some_and(|message| message.is_ok()) {}
}

#[tokio::test]
async fn gaps_and_ends_are_told_of_the_subscription_that_has_them_and_others_go_on() {
    let server = Server::start().await;
    for data in 1..=6 {
        publish(&server, "a", data).await;
    }
    let purge = to(server.address, "DELETE", "/v1/topics/a/events?before=4");
    assert_eq!(send(purge, "").await.status, 200);
    let mut client = Client::connect(server.address).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": "a", "from": "1"})).await;
    let gap = client.find("gap").await;
    let told = ["requested", "earliest", "tail", "lost", "reason"].map(|key| &gap["gap"][key]);
    assert_eq!(json!(told), json!([2, 4, 7, 2, "purged"]));
    let expected: Vec<_> = (4..=6).map(|number| event("s", number, number)).collect();
    assert_eq!(client.events(3).await, expected);
    let fails = json!({
        "type": "subscribe", "subscription": "f", "topic": "a", "from": "1", "on_gap": "fail",
    });
    client.say(fails).await;
    let ended = client.find("ended").await;
    assert_eq!((&ended["subscription"], &ended["error"]["status"]), (&json!("f"), &json!(410)));
    client.say(json!({"type": "subscribe", "subscription": "d", "topic": "b"})).await;
    client.find("subscribed").await;
    publish(&server, "b", 1).await;
    client.events(1).await;
    assert_eq!(send(to(server.address, "DELETE", "/v1/topics/b"), "").await.status, 204);
    assert_eq!(client.find("ended").await["subscription"], "d");
    publish(&server, "a", 7).await;
    assert_eq!(client.events(1).await, [event("s", 7, 7)]);
}

#[tokio::test]
async fn what_is_wrong_is_answered_and_the_connection_lives_on_unless_there_is_too_much_of_it() {
    let mut config = Config::default();
    config.follow.max_subscriptions = 2;
    let server = Server::with(config).await;
    let mut client = Client::connect(server.address).await;
    let subscribe = |name: &str| json!({"type": "subscribe", "subscription": name, "topic": "a"});
    client.say(subscribe("s")).await;
    client.say(subscribe("s")).await;
    let error = client.find("error").await;
    assert_eq!((&error["subscription"], &error["error"]["status"]), (&json!("s"), &json!(400)));
    client.say(subscribe("t")).await;
    client.say(subscribe("u")).await;
    let error = client.find("error").await["error"]["detail"].as_str().unwrap().to_owned();
    assert!(error.contains("subscriptions: 3 is over the limit of 2"), "{error}");
    client.0.send(Message::text("no json")).await.unwrap();
    client.find("error").await;
    client.0.send(Message::binary(vec![1, 2])).await.unwrap();
    let error = client.find("error").await["error"]["detail"].as_str().unwrap().to_owned();
    assert!(error.contains("is binary"), "{error}");
    let publish = json!({"type": "publish", "ref": "p", "topic": "a b", "event": {"data": 1}});
    client.say(publish).await;
    assert_eq!(client.find("error").await["ref"], "p");
    let publish = json!({
        "type": "publish", "ref": "q", "topic": "a", "expected_sequence": 7, "event": {"data": 1},
    });
    client.say(publish).await;
    let error = client.find("error").await;
    assert_eq!((&error["ref"], &error["error"]["actual_sequence"]), (&json!("q"), &json!(0)));
    let publish = json!({"type": "publish", "topic": "a", "events": [{"data": 1}, {"data": 2}]});
    client.say(publish).await;
    assert_eq!(client.find("ack").await["sequence"], 2);
    for _ in 0..16 {
        client.say(json!({"type": "dance"})).await;
    }
    let (code, reason) = client.closed().await;
    assert_eq!(code, 1008, "{reason}");
}

#[tokio::test]
async fn a_stop_says_to_come_back_and_a_dead_peer_is_ended_and_counted() {
    let mut config = Config::default();
    // Long enough that a client that reads answers in time beside other tests.
    config.follow.heartbeat_ms = 400;
    let server = Server::with(config).await;
    // A client that never answers, because it does not read.
    let mut dead = TcpStream::connect(server.address).await.unwrap();
    dead.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut client = Client::connect(server.address).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": "a"})).await;
    let ended = async {
        loop {
            let metrics = get(server.address, "/metrics").await;
            let metrics = crate::common::text(&metrics.body);
            let dead = metrics.lines().find_map(|l| l.strip_prefix("leftoff_dead_peers_total "));
            if dead.is_some_and(|count| count != "0") {
                return;
            }
            // A client that reads also answers its pings, and stays connected.
            let _silence = tokio::time::timeout(Duration::from_millis(10), client.0.next()).await;
        }
    };
    soon(ended).await;
    assert_eq!(post(server.address, "/v1/topics/a/events", "1").await.status, 201);
    client.events(1).await;
    let stopping = tokio::spawn(server.stop());
    let (code, reason) = client.closed().await;
    assert_eq!(code, 4109);
    assert!(reason.starts_with("retry_ms="), "{reason}");
    drop(client);
    soon(stopping).await.unwrap();
}

pub(crate) const HANDSHAKE: &str = "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\n\
    connection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Returns a client's frame, masked with zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0];
    bytes.extend_from_slice(payload);
    bytes
}

/// Returns a connection after its handshake.
pub(crate) async fn raw(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon(stream.read_u8()).await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    stream
}

/// Returns the first byte and the payload of the broker's next frame.
pub(crate) async fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let first = soon(stream.read_u8()).await.ok()?;
    let size = match stream.read_u8().await.ok()? {
        126 => stream.read_u16().await.ok()?.into(),
        127 => panic!("a very large frame"),
        size => usize::from(size),
    };
    let mut payload = vec![0; size];
    stream.read_exact(&mut payload).await.ok()?;
    Some((first, payload))
}

/// Goal: a ping is answered at once with the length of a heartbeat, and counts as a request of the
/// rates.
#[tokio::test]
async fn a_ping_is_answered_with_a_pong_and_counts_as_a_request() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 7_000;
    config.rates.requests_per_second = Some(1);
    config.rates.burst_ms = 5_000;
    let server = Server::with(config).await;
    let mut client = Client::connect(server.address).await;
    client.say(json!({"type": "ping", "ref": "first"})).await;
    let pong = client.hear().await;
    assert_eq!(pong, json!({"type": "pong", "ref": "first", "heartbeat_ms": 7_000}));
    for _ in 0..20 {
        client.say(json!({"type": "ping"})).await;
    }
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.hear().await);
    }
    let refused: Vec<_> = answers.iter().filter(|answer| answer["type"] == "error").collect();
    assert!(!refused.is_empty(), "{answers:?}");
    assert!(refused.iter().all(|it| it["error"]["status"] == 429), "{refused:?}");
    assert!(answers.contains(&json!({"type": "pong", "heartbeat_ms": 7_000})), "{answers:?}");
    server.stop().await;
}

/// Goal: a client that does not read is disconnected, and told so if it reads again in time.
#[tokio::test]
async fn a_client_that_takes_nothing_is_told_that_it_is_too_slow() {
    let mut config = Config::default();
    config.server.write_timeout_ms = 300;
    let server = Server::with(config).await;
    let mut client = Client::connect(server.address).await;
    client.say(json!({"type": "subscribe", "subscription": "s", "topic": "a"})).await;
    client.find("caught_up").await;
    let is_slow = async {
        // Publishes far more than the system buffers for the client, until the broker notices.
        loop {
            let body = vec![b'x'; 500_000];
            assert_eq!(post(server.address, "/v1/topics/a/events", body).await.status, 201);
            let metrics = get(server.address, "/metrics").await;
            if crate::common::text(&metrics.body).contains("leftoff_slow_peers_total 1\n") {
                return;
            }
        }
    };
    soon(is_slow).await;
    assert_eq!(client.closed().await.0, 4108);
}

/// Goal: incomplete messages take bounded memory, over all clients, and other clients can publish.
#[tokio::test]
async fn messages_that_are_never_whole_take_bounded_memory() {
    let mut config = Config::default();
    (config.limits.max_payload_bytes, config.limits.max_batch_bytes) = (1 << 20, 1 << 20);
    config.server.max_client_bytes = 8_700_000;
    let server = Server::with(config).await;
    let mut first = raw(server.address).await;
    let mut begun = vec![0x01, 0xff];
    begun.extend_from_slice(&2_100_000_u64.to_be_bytes());
    begun.extend_from_slice(&[0; 4 + 2_100_000]); // A fragment, not the last one.
    first.write_all(&begun).await.unwrap();
    let held = async || {
        let metrics = crate::common::text(&get(server.address, "/metrics").await.body);
        let line = metrics.lines().find_map(|line| line.strip_prefix("leftoff_client_bytes "));
        line.unwrap().parse::<u64>().unwrap()
    };
    soon(async { while held().await < 2_100_000 {} }).await;
    // A ping in between frees none of the memory.
    first.write_all(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
    while read_frame(&mut first).await.unwrap().0 != 0x8a {}
    assert!(held().await > 2_090_000);
    // With this memory in use, a body of 1.5 MB is refused.
    let lines = to(server.address, "POST", "/v1/topics/b/events?atomic=true");
    let lines = lines.header("content-type", "application/x-ndjson");
    let refused = send(lines, vec![b' '; 1_500_000]).await;
    assert_eq!(refused.status, 503);
    let mut second = raw(server.address).await;
    // The broker closes the connection while the client is still sending.
    let _cut = second.write_all(&begun).await;
    let (closed, payload) = read_frame(&mut second).await.unwrap();
    assert_eq!((closed, u16::from_be_bytes([payload[0], payload[1]])), (0x88, 1013));
    let mut third = Client::connect(server.address).await;
    let publish = json!({"type": "publish", "topic": "a", "event": {"data": 1}});
    third.say(publish).await;
    assert_eq!(third.find("ack").await["sequence"], 1);
}

/// Goal: framing, fragments, control frames, UTF-8 and closing follow RFC 6455. The numbers are the
/// sections of the Autobahn test suite with such cases.
#[tokio::test]
async fn frames_are_taken_and_refused_as_the_rfc_has_them() {
    let server = Server::start().await;
    let bad = br#"{"type":"dance"}"#;
    let (half, rest) = bad.split_at(7);
    // 5: fragments form one message, and control frames may come between them. 2: a ping is
    // answered with its own payload.
    let mut stream = raw(server.address).await;
    for bytes in [frame(0x01, half), frame(0x89, b"ping"), frame(0x00, b""), frame(0x80, rest)] {
        stream.write_all(&bytes).await.unwrap();
    }
    assert_eq!(read_frame(&mut stream).await.unwrap(), (0x8a, b"ping".to_vec()));
    let (first, answer) = read_frame(&mut stream).await.unwrap();
    assert!(first == 0x81 && String::from_utf8_lossy(&answer).contains("not one of subscribe"));
    // 2.7: an unsolicited pong is ignored. 1: an empty message is a message.
    stream.write_all(&frame(0x8a, b"pong")).await.unwrap();
    stream.write_all(&frame(0x81, b"")).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap().0, 0x81);
    // 7: a close is answered with its code, and the connection ends.
    stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await.unwrap();
    assert_eq!(read_frame(&mut stream).await.unwrap(), (0x88, 1000_u16.to_be_bytes().to_vec()));
    assert_eq!(read_frame(&mut stream).await, None);
    let unmasked = vec![0x81, 0x00];
    let mut large = vec![0x81, 0xff];
    large.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    large.extend_from_slice(&[0; 4]);
    let close = |code: u16| frame(0x88, &code.to_be_bytes());
    for (what, bytes, code) in [
        ("3: a reserved bit", frame(0xc1, b"{}"), 1002),
        ("4: a reserved opcode", frame(0x83, b""), 1002),
        ("4: a reserved control opcode", frame(0x8b, b""), 1002),
        ("2.5: a long ping", [&[0x89, 0xfe, 0, 126][..], &[0; 130]].concat(), 1002),
        ("5.1: a ping in fragments", frame(0x09, b"x"), 1002),
        ("5.9: a fragment of nothing", frame(0x80, b"x"), 1002),
        ("5.18: two messages at once", [frame(0x01, b"x"), frame(0x01, b"y")].concat(), 1002),
        ("6: no UTF-8", frame(0x81, &[0xce, 0xba, 0xe1, 0xbd, 0xed, 0xa0, 0x80]), 1007),
        ("7.9: a code that is none", close(1005), 1002),
        ("7.3: half a code", frame(0x88, &[3]), 1002),
        ("not masked", unmasked, 1002),
        ("9: far too large", large, 1009),
    ] {
        let mut stream = raw(server.address).await;
        stream.write_all(&bytes).await.unwrap();
        let (first, payload) = read_frame(&mut stream).await.unwrap_or_else(|| panic!("{what}"));
        let given = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
        assert_eq!((first, given), (0x88, Some(code)), "{what}");
        assert_eq!(read_frame(&mut stream).await, None, "{what}");
    }
}

#[tokio::test]
async fn a_handshake_that_is_wrong_is_refused_with_the_reason() {
    let server = Server::start().await;
    let upgrade = || {
        to(server.address, "GET", "/v1/ws")
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
    };
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    let refusals = [
        (to(server.address, "GET", "/v1/ws"), 426, "is a WebSocket"),
        (upgrade().header("sec-websocket-key", key), 426, "version"),
        (upgrade().header("sec-websocket-version", "13"), 400, "Key"),
        (
            upgrade()
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", key)
                .header("sec-websocket-protocol", "mqtt"),
            400,
            "leftoff.v1.json",
        ),
    ];
    for (request, status, words) in refusals {
        let answer = send(request, "").await;
        let problem = answer.json();
        assert_eq!(answer.status, status, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(words), "{problem}");
        let told =
            ["sec-websocket-version", "upgrade", "connection"].map(|name| answer.header(name));
        // Source: RFC 9110, 15.5.22: a 426 must say which protocol to upgrade to.
        let expected = if status == 426 { ["13", "websocket", "upgrade"] } else { [""; 3] };
        assert_eq!(told, expected, "{problem}");
    }
    let answer = send_h2c(to(server.address, "GET", "/v1/ws"), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("upgrade")), (400, ""));
    assert!(answer.json()["detail"].as_str().unwrap().contains("HTTP/1.1"));
}

/// Goal: a client finds its answer by its own `ref`, whatever type of value that is.
#[tokio::test]
async fn a_ref_that_is_a_number_is_answered_with_itself() {
    let server = Server::start().await;
    let mut client = Client::connect(server.address).await;
    let refs = [
        json!(7),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(u64::MAX),
        json!("7"),
        json!("größe"),
        Value::Null,
    ];
    for own in refs {
        for topic in ["a", "not a topic"] {
            let message = json!({"type": "publish", "ref": own, "topic": topic, "event": {}});
            client.say(message).await;
            let answer = client.find(if topic == "a" { "ack" } else { "error" }).await;
            assert_eq!(answer["ref"], own, "{answer}");
        }
        let whisper =
            json!({"type": "publish", "ephemeral": true, "ref": own, "topic": "a", "event": {}});
        client.say(whisper).await;
        assert_eq!(client.find("ack").await["ref"], own);
    }
    for own in [json!([1]), json!({}), json!(true), json!("")] {
        client.say(json!({"type": "publish", "ref": own, "topic": "a", "event": {}})).await;
        let answer = client.find("error").await;
        assert!(answer["error"]["detail"].as_str().unwrap().starts_with("ref: is"), "{answer}");
        assert_eq!(answer.get("ref"), None);
    }
    let page = get(server.address, "/v1/topics/a/events").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 8, "a refused event is stored");
}

/// Goal: the answer repeats the subprotocol as the client spelled it, because clients such as `ws`
/// compare it letter by letter.
#[tokio::test]
async fn a_subprotocol_is_answered_in_the_letters_of_the_client() {
    let server = Server::start().await;
    for (asked, expected) in [
        ("leftoff.v1.json", "leftoff.v1.json"),
        ("Leftoff.V1.JSON", "Leftoff.V1.JSON"),
        ("mqtt, LEFTOFF.v1.json , leftoff.v1.json", "LEFTOFF.v1.json"),
    ] {
        let upgrade = to(server.address, "GET", "/v1/ws")
            .header("connection", "Upgrade")
            .header("upgrade", "WebSocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-protocol", asked);
        let answer = send(upgrade, "").await;
        let told = (answer.status.as_u16(), answer.header("sec-websocket-protocol"));
        assert_eq!(told, (101, expected), "{asked}");
    }
}
