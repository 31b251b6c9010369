//! The end of a credential: by time, in the middle of whatever it reads, and by revocation.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use leftoff::NewEvent;
use leftoff::edge::proto;
use leftoff::edge::proto::subscribe_response::Message;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt;

use super::credentials::{
    OWN_ISSUER, Sent, all_of, claims, key_of, now_s, own_signed, own_token, with,
};
use super::{OWNER_KEY, SECRET, admin, config, revoke, ticket};
use crate::common::{Answer, Frame, Server, Sse, grpc, publish, send, soon};
use crate::websocket::Client;

/// Events of a replay that is longer than what waits in buffers, and the size of each.
const EVENTS: u64 = 400;
const EVENT_BYTES: usize = 64 << 10;

/// The time within which a revocation ends everything, with room for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Returns a token of the owner, and waits until it is over when it is told to.
struct Short {
    sent: Sent,
    ends: u64,
}

impl Short {
    fn new() -> Self {
        let ends = now_s() + 3;
        Self { sent: Sent::Bearer(own_token("owner", all_of("secret.>"), 3)), ends }
    }

    async fn until_over(&self) {
        let end = UNIX_EPOCH + Duration::from_secs(self.ends);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left).await;
    }
}

fn long() -> Sent {
    Sent::Bearer(own_token("owner", all_of("secret.>"), 3_600))
}

async fn full_server() -> Server {
    let server = Server::with(config()).await;
    for number in 1..=EVENTS {
        let mut payload = vec![b'.'; EVENT_BYTES];
        payload[..8].copy_from_slice(format!("{number:08}").as_bytes());
        publish(&server.broker, SECRET, NewEvent::new(payload)).await;
    }
    server
}

fn assert_each_once(sequences: &[u64], first: usize) {
    let expected: Vec<u64> = (1..=EVENTS).collect();
    assert_eq!(sequences, expected, "each event once, and in order");
    assert!(first < EVENTS as usize, "the token ended in the middle");
}

/// Goal: an event stream whose token ends in the middle of the replay ends with a place and a time
/// to come back, and goes on from there with a new token: no event is lost or comes twice.
#[tokio::test]
async fn an_event_stream_that_expires_in_the_middle_of_a_replay_goes_on_exactly() {
    let server = full_server().await;
    let token = Short::new();
    let path = format!("/v1/topics/{SECRET}/events?from=earliest");
    let mut stream = Sse::open(token.sent.to(server.address, "GET", &path)).await.unwrap();
    let mut sequences: Vec<u64> = Vec::new();
    sequences.extend(stream.events(5).await.iter().map(|(sequence, _)| *sequence));
    token.until_over().await;
    let expired = loop {
        let frame = stream.next().await.expect("the end is told");
        if frame.is_control("leftoff.expired") {
            break frame;
        }
        sequences.push(frame.sequence());
    };
    assert_eq!(expired.json()["status"], 401, "{expired:?}");
    assert_eq!(expired.sequence(), *sequences.last().unwrap(), "{expired:?}");
    assert!(expired.retry.is_some(), "{expired:?}");
    assert_eq!(stream.next().await, None);
    let first = sequences.len();
    let again = token.sent.to(server.address, "GET", &path);
    assert_eq!(Sse::open(again).await.unwrap().status, 401);
    let again = long().to(server.address, "GET", &path);
    let again = again.header("last-event-id", stream.last_id.unwrap());
    let mut stream = Sse::open(again).await.unwrap();
    let rest = stream.events(EVENTS as usize - first).await;
    sequences.extend(rest.iter().map(|(sequence, _)| *sequence));
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    assert_each_once(&sequences, first);
    server.stop().await;
}

/// Goal: the same over a WebSocket, which closes with 4001.
#[tokio::test]
async fn a_web_socket_that_expires_in_the_middle_of_a_replay_goes_on_exactly() {
    let server = full_server().await;
    let token = Short::new();
    let open = async |sent: &Sent, from: &str| {
        let opened = Client::try_connect(server.address, "/v1/ws", sent.header()).await;
        let mut client = opened.unwrap();
        let subscribe =
            json!({"type": "subscribe", "subscription": "s", "topic": SECRET, "from": from});
        client.say(subscribe).await;
        client
    };
    let mut client = open(&token.sent, "earliest").await;
    let (mut sequences, mut cursor) = (Vec::new(), String::new());
    while sequences.len() < 5 {
        let event = client.find("event").await;
        sequences.push(event["event"]["sequence"].as_u64().unwrap());
        cursor = event["cursor"].as_str().unwrap().to_owned();
    }
    token.until_over().await;
    let code = loop {
        match client.hear_or_close().await {
            Ok(message) if message["type"] == "event" => {
                sequences.push(message["event"]["sequence"].as_u64().unwrap());
                cursor = message["cursor"].as_str().unwrap().to_owned();
            }
            Ok(_) => {}
            Err(code) => break code,
        }
    };
    assert_eq!(code, 4001);
    let first = sequences.len();
    let mut client = open(&long(), &cursor).await;
    while sequences.len() < EVENTS as usize {
        let event = client.find("event").await;
        sequences.push(event["event"]["sequence"].as_u64().unwrap());
    }
    client.find("caught_up").await;
    assert_each_once(&sequences, first);
    server.stop().await;
}

/// Goal: the same over gRPC, where the end has the place in its details.
#[tokio::test]
async fn a_call_of_grpc_that_expires_in_the_middle_of_a_replay_goes_on_exactly() {
    let server = full_server().await;
    let token = Short::new();
    let open = async |sent: &Sent, from: &str| {
        let (topic, from) = (SECRET.to_owned(), from.to_owned());
        let request = proto::SubscribeRequest { topic, from, ..Default::default() };
        let mut client = grpc(server.grpc_address).await;
        client.subscribe(sent.call(request)).await.unwrap().into_inner()
    };
    let mut responses = open(&token.sent, "earliest").await;
    let (mut sequences, mut cursor) = (Vec::new(), String::new());
    let mut is_over = false;
    let status = loop {
        match soon(responses.message()).await {
            Ok(response) => {
                if let Some(Message::Events(batch)) = response.unwrap().message {
                    sequences.extend(batch.events.iter().map(|event| event.sequence));
                    cursor = batch.cursor;
                }
            }
            Err(status) => break status,
        }
        if sequences.len() >= 5 && !is_over {
            token.until_over().await;
            is_over = true;
        }
    };
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let details = status.get_error_details();
    let place = details.error_info().and_then(|info| info.metadata.get("cursor"));
    assert_eq!(place, Some(&cursor), "{details:?}");
    let first = sequences.len();
    let mut responses = open(&long(), &cursor).await;
    loop {
        let response = soon(responses.message()).await.unwrap().unwrap();
        match response.message.unwrap() {
            Message::Events(batch) => {
                sequences.extend(batch.events.iter().map(|event| event.sequence));
            }
            Message::CaughtUp(_) => break,
            _ => {}
        }
    }
    assert_each_once(&sequences, first);
    server.stop().await;
}

/// Everything that a caller may have open.
struct Open {
    streams: Vec<Sse>,
    socket: Client,
    grpc: tonic::Streaming<proto::SubscribeResponse>,
    publishing: tonic::Streaming<proto::PublishStreamResponse>,
    waiting: tokio::task::JoinHandle<Answer>,
}

impl Open {
    async fn of(server: &Server, sub: &str) -> Self {
        let sent = Sent::Bearer(own_token(sub, all_of("secret.>"), 3_600));
        let reusable = Sent::ticket(
            &ticket(server, &sent, json!({"kind": "stream", "subscribe": ["secret.>"]})).await,
        );
        let one = format!("/v1/topics/{SECRET}/events");
        let many = "/v1/events?topic=secret.%3E";
        let mut streams = Vec::new();
        for (sent, path) in [(&sent, &*one), (&sent, many), (&reusable, &*one), (&reusable, many)] {
            let request = sent.to(server.address, "GET", path);
            let mut stream = Sse::open(request).await.unwrap();
            stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
            streams.push(stream);
        }
        let opened = Client::try_connect(server.address, "/v1/ws", sent.header()).await;
        let mut socket = opened.unwrap();
        for topics in [json!([SECRET]), json!(["secret.*"])] {
            let name = topics[0].clone();
            socket.say(json!({"type": "subscribe", "subscription": name, "topics": topics})).await;
            socket.find("caught_up").await;
        }
        let mut client = grpc(server.grpc_address).await;
        let request = proto::SubscribeRequest { topic: SECRET.to_owned(), ..Default::default() };
        let answer = client.subscribe(sent.call(request)).await.unwrap();
        let pending = futures_util::stream::pending::<proto::PublishStreamRequest>();
        let publishing = client.publish_stream(sent.call(pending)).await.unwrap().into_inner();
        let path = format!("{one}?from=latest&wait=60s");
        let request = sent.to(server.address, "GET", &path).header("accept", "application/json");
        let waiting = tokio::spawn(async move { send(request, "").await });
        Self { streams, socket, grpc: answer.into_inner(), publishing, waiting }
    }

    /// Waits until everything has ended, and checks that each end says why.
    async fn until_ended(mut self) {
        for stream in &mut self.streams {
            let expired = stream.find(|frame| frame.is_control("leftoff.expired")).await;
            assert_eq!(expired.json()["status"], 401, "{expired:?}");
            assert_eq!(stream.next().await, None);
        }
        assert_eq!(self.socket.closed().await.0, 4001);
        for status in [end_of(&mut self.grpc).await, end_of(&mut self.publishing).await] {
            assert_eq!(status, Code::Unauthenticated);
        }
        assert_eq!(soon(self.waiting).await.unwrap().status, 401, "a page that waits");
    }

    /// Checks that everything goes on: each reader gets the next event.
    async fn goes_on(mut self, payload: &str) {
        for stream in &mut self.streams {
            let frame = stream.find(Frame::is_event).await;
            assert!(frame.data.unwrap().contains(payload));
        }
        for _ in 0..2 {
            assert_eq!(self.socket.find("event").await["event"]["data"], payload);
        }
        loop {
            let response = soon(self.grpc.message()).await.unwrap().unwrap();
            if let Some(Message::Events(batch)) = response.message {
                assert_eq!(batch.events[0].payload, payload);
                break;
            }
        }
        assert_eq!(soon(self.waiting).await.unwrap().status, 200);
    }
}

/// Returns the error with which a stream of gRPC ends.
async fn end_of<T>(responses: &mut tonic::Streaming<T>) -> Code {
    loop {
        match soon(responses.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => return status.code(),
        }
    }
}

async fn status_of(server: &Server, sent: &Sent) -> u16 {
    let path = format!("/v1/topics/{SECRET}/events");
    let request = sent.to(server.address, "GET", &path).header("accept", "application/json");
    send(request, "").await.status.as_u16()
}

/// Goal: a revocation ends everything that its caller has open, at once, and nothing of others; it
/// refuses the tokens and tickets from before, and no later ones.
#[tokio::test]
async fn a_revocation_ends_everything_of_its_caller_and_nothing_of_others() {
    let server = Server::with(config()).await;
    let before = Sent::Bearer(own_token("owner", all_of("secret.>"), 3_600));
    let of_owner = Sent::ticket(
        &ticket(&server, &before, json!({"kind": "stream", "subscribe": ["secret.>"]})).await,
    );
    let (owner, other) = (Open::of(&server, "owner").await, Open::of(&server, "other").await);
    let begun = Instant::now();
    revoke(server.address, "owner").await;
    owner.until_ended().await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    for sent in [&before, &of_owner] {
        assert_eq!(status_of(&server, sent).await, 401, "{sent:?}");
    }
    let refused = super::ask_ticket(&server, &before, json!({"kind": "once"})).await;
    assert_eq!(refused.status, 401, "{refused:?}");
    server.publish(SECRET, "after the revocation").await;
    other.goes_on("after the revocation").await;
    // Times of tokens are whole seconds: one of the next second is from after the revocation.
    soon(async {
        while status_of(&server, &long()).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(status_of(&server, &before).await, 401);
    let list = admin().to(server.address, "GET", "/v1/access/revocations");
    let list = send(list, "").await;
    assert!(String::from_utf8_lossy(&list.body).contains("\"owner\""), "{list:?}");
    server.stop().await;
}

/// Goal: a static key is revoked by the name of its caller, with the streams that it opened.
#[tokio::test]
async fn a_revocation_ends_the_streams_of_a_static_key() {
    let server = Server::with(config()).await;
    server.publish(SECRET, "one").await;
    let key = Sent::Bearer(key_of(OWNER_KEY));
    let path = format!("/v1/topics/{SECRET}/events");
    let mut stream = Sse::open(key.to(server.address, "GET", &path)).await.unwrap();
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    revoke(server.address, "owner-svc").await;
    stream.find(|frame| frame.is_control("leftoff.expired")).await;
    assert_eq!(status_of(&server, &key).await, 401);
    assert_eq!(status_of(&server, &long()).await, 200, "another caller");
    server.stop().await;
}

/// Goal: a credential is explained as the broker takes or refuses it: also whether it is revoked,
/// or over.
#[tokio::test]
async fn a_credential_that_is_revoked_or_over_is_explained_as_refused() {
    let server = Server::with(config()).await;
    let explained = async |credential: &str| {
        let request = admin().to(server.address, "POST", "/v1/access/explain");
        let answer = send(request, json!({ "credential": credential }).to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let told = answer.json();
        let lines = told["lines"].as_array().unwrap().iter();
        let lines: Vec<String> = lines.map(|line| line.as_str().unwrap().to_owned()).collect();
        (told["refused"] == true, lines)
    };
    let key = key_of(OWNER_KEY);
    let token = own_token("owner", all_of("secret.>"), 3_600);
    for credential in [&key, &token] {
        let (is_refused, lines) = explained(credential).await;
        assert!(!is_refused && lines[0].starts_with("caller: owner"), "{lines:?}");
    }
    revoke(server.address, "owner-svc").await;
    revoke(server.address, "owner").await;
    for (credential, caller) in [(&key, "owner-svc"), (&token, "owner")] {
        let (is_refused, lines) = explained(credential).await;
        let begin = format!("refused: the credential is revoked: those of {caller} up to ");
        assert!(is_refused && lines[0].starts_with(&begin), "{lines:?}");
        assert!(lines[0].contains(" are refused, and this one is of 20"), "{lines:?}");
        assert!(lines[1].starts_with("caller: owner"), "{lines:?}");
        assert!(!lines.concat().contains(credential), "{lines:?}");
    }
    let own = json!({"iss": OWN_ISSUER, "aud": null, "exp": now_s() - 600});
    let over = own_signed(&with(claims("owner", all_of("secret.>")), own));
    assert_eq!(explained(&over).await, (true, vec!["refused: the token has expired".to_owned()]));
    server.stop().await;
}

/// Goal: the tolerance of the clock is as it is set, on both sides, and a stream lives no longer.
#[tokio::test]
async fn a_token_holds_up_to_the_edge_of_the_leeway_and_no_longer() {
    let mut config = config();
    config.access.issuers[1].leeway_s = 3;
    let server = Server::with(config).await;
    server.publish(SECRET, "one").await;
    let token = |others: serde_json::Value| {
        let own = json!({"iss": OWN_ISSUER, "aud": null});
        let claims = with(with(claims("owner", all_of("secret.>")), own), others);
        Sent::Bearer(own_signed(&claims))
    };
    let now = now_s();
    for (others, status) in [
        (json!({"exp": now - 1}), 200),
        (json!({"exp": now - 4}), 401),
        (json!({"nbf": now + 2}), 200),
        (json!({"nbf": now + 20}), 401),
    ] {
        let begun = now_s();
        let answered = status_of(&server, &token(others.clone())).await;
        let is_late = now_s() > begun + 1;
        assert!(answered == status || is_late, "{others}: {answered}");
    }
    let path = format!("/v1/topics/{SECRET}/events");
    let exp = now_s() - 1;
    let sent = token(json!({"exp": exp}));
    let mut stream = Sse::open(sent.to(server.address, "GET", &path)).await.unwrap();
    stream.find(|frame| frame.is_control("leftoff.expired")).await;
    let over = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(over >= Duration::from_secs(exp + 3), "not before the end of the tolerance");
    assert!(over < Duration::from_secs(exp + 3) + AT_ONCE, "{over:?} {exp}");
    assert_eq!(status_of(&server, &sent).await, 401);
    server.stop().await;
}
