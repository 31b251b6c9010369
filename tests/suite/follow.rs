//! `POST /v1/follow`: many subscriptions at once, as a stream and as long polls, with the messages
//! of a WebSocket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use leftoff::config::Config;
use leftoff::event::NewEvent;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::common::{
    Answer, Server, Sse, get, name, post, publish as publish_event, seed, send, soon, to,
};
use crate::websocket::Client;

/// The last event of each topic in the test that compares all ways.
const LAST: &str = "last";

/// Returns settings with which connections are listed.
fn listing() -> Config {
    let mut config = Config::default();
    config.follow.list_connections = true;
    config
}

/// A stream of messages.
pub(crate) struct Stream(Sse);

impl Stream {
    pub(crate) async fn open(request: http::request::Builder, subscriptions: &[Value]) -> Self {
        let body = json!({"subscriptions": subscriptions}).to_string();
        let stream = Sse::open_with(request, body).await.unwrap();
        assert_eq!(stream.status, 200, "{subscriptions:?}");
        assert_eq!(stream.headers["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(stream.headers["cache-control"], "no-store, no-transform");
        Self(stream)
    }

    pub(crate) async fn at(address: SocketAddr, subscriptions: &[Value]) -> Self {
        Self::open(to(address, "POST", "/v1/follow"), subscriptions).await
    }

    /// Returns the next message; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            let frame = self.0.next().await?;
            assert!(frame.id.is_none() && frame.event.is_none(), "{frame:?}");
            if frame.data.is_some() {
                return Some(frame.json());
            }
        }
    }

    /// Returns the next message of this type, and drops those before it.
    pub(crate) async fn find(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await.expect("the stream ended");
            if message["type"] == kind {
                return message;
            }
        }
    }
}

/// Polls once.
async fn poll(address: SocketAddr, wait: &str, subscriptions: &[Value]) -> Answer {
    let request = to(address, "POST", &format!("/v1/follow?wait={wait}"));
    let request = request.header("accept", "application/json");
    send(request, json!({"subscriptions": subscriptions}).to_string()).await
}

/// Returns the messages of a poll, and notes the places in them in `subscriptions`.
async fn polled(address: SocketAddr, wait: &str, subscriptions: &mut [Value]) -> Vec<Value> {
    let answer = poll(address, wait, subscriptions).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    for message in &messages {
        let is_its = |it: &&mut Value| it["subscription"] == message["subscription"];
        let Some(its) = subscriptions.iter_mut().find(is_its) else { continue };
        if message.get("cursor").is_some() {
            its["from"] = message["cursor"].clone();
        }
        if message["type"] == "marked" {
            its["marks_after"] = message["revision"].clone();
        }
    }
    messages
}

fn types(messages: &[Value]) -> Vec<&str> {
    messages.iter().map(|message| message["type"].as_str().unwrap()).collect()
}

/// What a client has heard of each of its subscriptions.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    /// The events, gaps and ends, each with the cursor.
    told: BTreeMap<String, Vec<Value>>,
    /// The last revision of the marks.
    revision: Value,
    count_of_last: usize,
}

impl Heard {
    fn take(&mut self, message: &Value) {
        let subscription = message["subscription"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str().unwrap() {
            "event" | "gap" | "denied" => {
                self.count_of_last += usize::from(message["event"]["data"] == LAST);
                self.told.entry(subscription).or_default().push(message.clone());
            }
            "marked" => self.revision = message["revision"].clone(),
            "subscribed" | "caught_up" | "cursor" | "hello" | "counts" => {}
            other => panic!("{other}: {message}"),
        }
    }

    /// Whether each subscription has its last event, and the marks are those of `revision`.
    fn is_whole(&self, revision: &Value) -> bool {
        self.count_of_last >= 5 && self.revision == *revision
    }
}

/// Goal: a WebSocket, a stream and one long poll after the other tell the same events, cursors and
/// gaps, each once and in order: of one topic and of many, through filters, and as a consumer.
/// Method: random publishes to three topics while all three follow, after a purge that is a gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_ways_to_follow_many_subscriptions_tell_the_same() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let mut config = Config::default();
    config.broker.max_page_bytes = 4 << 10; // Most polls are full.
    let server = Server::with(config).await;
    let at = server.address;
    let mut event = move |number: usize| NewEvent {
        event_type: if random.random_bool(0.4) { "even" } else { "odd" }.to_owned(),
        key: format!("k{}", random.random_range(0..5)),
        content_type: "application/json".to_owned(),
        // Line ends between tokens take several lines of a stream.
        ..NewEvent::new(format!("{{\n\"n\":{number},\"x\":\"{}\"\r\n}}", "x".repeat(number % 300)))
    };
    for number in 0..60 {
        publish_event(&server.broker, ["a", "b.one", "b.two"][number % 3], event(number)).await;
    }
    let purge = to(at, "DELETE", "/v1/topics/a/events?before=9");
    assert_eq!(send(purge, "").await.status, 200);
    let made = to(at, "PUT", "/v1/consumers/c?topic=a");
    assert!(send(made, json!({}).to_string()).await.status.is_success());
    let epoch = server.broker.epoch();
    let asked = vec![
        json!({"subscription": "one", "topic": "a", "from": format!("3-{epoch}")}),
        json!({"subscription": "many", "topics": ["a", "b.*"], "from": "earliest"}),
        json!({"subscription": "few", "topics": ["b.>"], "from": "earliest",
               "filter": {"types": ["even", "last"], "key_prefixes": ["k"]}}),
        json!({"subscription": "own", "topic": "a", "consumer": "c", "counts": true}),
    ];
    let mut socket = Client::connect(at).await;
    for asked in &asked {
        let mut subscribe = asked.clone();
        subscribe["type"] = json!("subscribe");
        socket.say(subscribe).await;
    }
    let mut stream = Stream::at(at, &asked).await;
    let broker = server.broker.clone();
    let publishing = tokio::spawn(async move {
        for number in 60..260 {
            publish_event(&broker, ["a", "b.one", "b.two"][number % 3], event(number)).await;
            if number % 50 == 0 {
                let marks = json!({"mark": ["read"], "events": [number / 10]}).to_string();
                post(at, "/v1/consumers/c/marks?topic=a", marks).await;
            }
        }
        for topic in ["a", "b.one"] {
            let event_type = "last".to_owned();
            let last = NewEvent { event_type, key: "k".to_owned(), ..NewEvent::new(LAST) };
            publish_event(&broker, topic, last).await;
        }
        let marks = json!({"mark": ["archived"], "events": [20]}).to_string();
        post(at, "/v1/consumers/c/marks?topic=a", marks).await.json()["revision"].clone()
    });
    let mut polls = asked.clone();
    let (mut by_polls, mut by_socket, mut by_stream) = <(Heard, Heard, Heard)>::default();
    // While the others publish, so that polls begin and end anywhere.
    for _ in 0..20 {
        polled(at, "5ms", &mut polls).await.iter().for_each(|message| by_polls.take(message));
    }
    let revision = soon(publishing).await.unwrap();
    assert!(revision.is_string(), "{revision}");
    while !by_polls.is_whole(&revision) {
        polled(at, "1s", &mut polls).await.iter().for_each(|message| by_polls.take(message));
    }
    while !by_socket.is_whole(&revision) {
        by_socket.take(&socket.hear().await);
    }
    while !by_stream.is_whole(&revision) {
        by_stream.take(&stream.next().await.expect("the stream ended"));
    }
    let count = by_socket.told.values().map(Vec::len).sum::<usize>();
    assert!(count > 400 && by_socket.told["one"][0]["type"] == "gap", "LEFTOFF_SEED={seed}");
    for (told, by) in [(&mut by_stream.told, "stream"), (&mut by_polls.told, "polls")] {
        for (subscription, told) in told {
            let expected = by_socket.told.get_mut(subscription).unwrap();
            for (message, expected) in told.iter_mut().zip(expected.iter_mut()) {
                // The tail when the gap was told, which is another one for each client.
                let gaps = [&mut *message, &mut *expected].map(|it| it.get_mut("gap"));
                for gap in gaps.into_iter().flatten() {
                    gap["tail"].take();
                }
                if by == "stream" {
                    // A stream cannot carry a carriage return: its client has the payload beside.
                    let event = message.get_mut("event").and_then(Value::as_object_mut);
                    let is_right = event.is_none_or(|event| {
                        event.remove("data_base64").is_some() == event["data"].is_object()
                    });
                    assert!(is_right, "LEFTOFF_SEED={seed}: {message}");
                }
                assert_eq!(message, expected, "LEFTOFF_SEED={seed}: {by}, {subscription}");
            }
            assert_eq!(told.len(), expected.len(), "LEFTOFF_SEED={seed}: {by}, {subscription}");
        }
    }
    server.stop().await;
}

/// Goal: a poll is answered when there is something, and not before; at the end of its wait it says
/// where each subscription is, also past events of others.
#[tokio::test]
async fn a_poll_is_answered_by_news_or_at_its_end_with_all_places() {
    let server = Server::with(listing()).await;
    let at = server.address;
    server.publish("a", "1").await;
    let wanted = json!({"types": ["wanted"]});
    let mut asked = vec![
        json!({"subscription": "s", "topic": "a"}),
        json!({"subscription": "f", "topics": ["b", "a"], "from": "earliest", "filter": wanted}),
    ];
    let started = Instant::now();
    let messages = polled(at, "100ms", &mut asked).await;
    assert!(started.elapsed() >= Duration::from_millis(100), "{messages:?}");
    assert!(types(&messages).iter().all(|it| ["subscribed", "caught_up", "cursor"].contains(it)));
    let epoch = server.broker.epoch();
    let places = |asked: &[Value]| asked.iter().map(|it| it["from"].clone()).collect::<Vec<_>>();
    assert_eq!(places(&asked), [json!(format!("1-{epoch}")), json!(format!("@1-{epoch}"))]);

    let waiting = {
        let mut asked = asked.clone();
        tokio::spawn(async move {
            let messages = polled(at, "30s", &mut asked).await;
            (messages, asked)
        })
    };
    listed(at, 2).await;
    server.publish("a", "2").await;
    let (messages, mut asked) = soon(waiting).await.unwrap();
    let events = messages.iter().filter(|message| message["type"] == "event");
    assert_eq!(events.map(|it| it["event"]["sequence"].clone()).collect::<Vec<_>>(), [2]);
    assert_eq!(places(&asked)[0], json!(format!("2-{epoch}")));
    listed(at, 0).await;

    // Events of others alone are no reason to answer, and the place moves past them.
    let waiting = {
        let mut few = vec![asked[1].clone()];
        tokio::spawn(async move {
            let messages = polled(at, "300ms", &mut few).await;
            (messages, few[0]["from"].clone())
        })
    };
    listed(at, 1).await;
    server.publish("a", "not wanted").await;
    let (messages, place) = soon(waiting).await.unwrap();
    assert_eq!(place, format!("@3-{epoch}"), "{messages:?}");

    // Without a wait the answer has what there is, and a subscription that is refused is told.
    asked.push(json!({"subscription": "old", "topic": "a", "from": "9", "on_gap": "fail"}));
    let messages = polled(at, "0s", &mut asked).await;
    let of = |name: &str, kind: &str| {
        messages.iter().filter(|it| it["subscription"] == name && it["type"] == kind).count()
    };
    assert_eq!((of("s", "event"), of("old", "ended"), of("f", "event")), (1, 1, 0), "{messages:?}");
    let refused = messages.iter().find(|it| it["type"] == "ended").unwrap();
    assert_eq!(refused["error"]["status"], 410, "{refused}");
    server.stop().await;
}

/// Waits until this many subscriptions are listed with this protocol.
async fn listed(address: SocketAddr, count: usize) {
    soon(async {
        loop {
            let page = get(address, "/v1/connections").await;
            assert_eq!(page.status, 200, "{page:?}");
            let page = page.json().to_string();
            if page.matches("\"follow\"").count() + page.matches("\"poll\"").count() == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Goal: a stream shows its subscriptions and its members, and ends when all of them have ended; a
/// single one that is refused ends alone.
#[tokio::test]
async fn a_stream_is_listed_and_present_and_ends_with_its_last_subscription() {
    let server = Server::with(listing()).await;
    let at = server.address;
    server.publish("a", "1").await;
    let member = json!({"id": "m", "info": {"name": "M"}});
    let asked = [
        json!({"subscription": "s", "topic": "a", "from": "earliest", "member": member}),
        json!({"subscription": "old", "topic": "a", "from": "9", "on_gap": "fail"}),
    ];
    let mut stream = Stream::at(at, &asked).await;
    let hello = stream.next().await.unwrap();
    assert_eq!((&hello["type"], &hello["heartbeat_ms"]), (&json!("hello"), &json!(15_000)));
    assert!((1_000..=3_000).contains(&hello["retry_ms"].as_u64().unwrap()), "{hello}");
    let mut first: Vec<Value> = Vec::new();
    while types(&first).iter().filter(|it| ["ended", "caught_up"].contains(*it)).count() < 2 {
        first.push(stream.next().await.unwrap());
    }
    let ended = first.iter().find(|it| it["type"] == "ended").unwrap();
    assert_eq!((&ended["subscription"], &ended["error"]["status"]), (&json!("old"), &json!(410)));
    listed(at, 1).await;
    let members = get(at, "/v1/topics/a/presence").await.json();
    assert_eq!(members["members"][0]["id"], "m", "{members}");
    server.publish("a", "2").await;
    assert_eq!(stream.find("event").await["event"]["sequence"], 2);
    let deleted = send(to(at, "DELETE", "/v1/topics/a"), "").await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    assert_eq!(stream.find("ended").await["subscription"], "s");
    assert_eq!(stream.next().await, None);
    listed(at, 0).await;

    let asked = json!({"subscription": "s", "topic": "a", "member": member});
    let stream = Stream::at(at, &[asked]).await;
    listed(at, 1).await;
    drop(stream); // A client that is gone is present no longer.
    listed(at, 0).await;
    let members = get(at, "/v1/topics/a/presence").await.json();
    assert_eq!(members["members"], json!([]), "{members}");
    server.stop().await;
}

/// Goal: when the broker stops, a stream and a poll say when to come back.
#[tokio::test]
async fn a_stop_ends_streams_and_polls_with_the_time_to_come_back() {
    let server = Server::with(listing()).await;
    let at = server.address;
    let asked = [json!({"subscription": "s", "topic": "a"})];
    let mut stream = Stream::at(at, &asked).await;
    stream.find("caught_up").await;
    let polling = tokio::spawn(async move { poll(at, "30s", &asked).await });
    listed(at, 2).await;
    server.stop().await;
    let stopping = stream.find("stopping").await;
    assert!((1_000..=3_000).contains(&stopping["retry_ms"].as_u64().unwrap()), "{stopping}");
    assert_eq!(stream.next().await, None);
    let answer = soon(polling).await.unwrap().json();
    let last = answer["messages"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], last["retry_ms"].is_u64()), (&json!("stopping"), true), "{answer}");
}

/// Goal: a request that is wrong is refused as a whole, with the status of its reason and the name
/// of the subscription that is wrong, and opens nothing; so is one of a page of another origin.
#[tokio::test]
async fn a_request_that_is_wrong_is_refused_as_a_whole() {
    let mut config = listing();
    config.follow.max_subscriptions = 2;
    let server = Server::with(config).await;
    let at = server.address;
    let asked = |name: &str| json!({"subscription": name, "topic": "a"});
    let of = |list: &[Value]| json!({"subscriptions": list}).to_string();
    let padded = |bytes: usize| {
        let body = of(&[asked("s")]);
        let spaces = " ".repeat(bytes - body.len());
        body + &spaces
    };
    let member = json!({"subscription": "s", "topic": "a", "member": {"id": "m"}});
    let (page, stream, one) = ("application/json", "text/event-stream", of(&[asked("s")]));
    let cases = [
        ("/v1/follow", "text/html", one.clone(), 406, "this resource comes as"),
        ("/v1/follow?wait=61s", page, one.clone(), 413, "wait ms: 61000 is over the limit"),
        ("/v1/follow?wait=soon", page, one.clone(), 400, "write 30s"),
        ("/v1/follow?wait=1s", stream, one.clone(), 400, "wait"),
        ("/v1/follow?limit=1", page, one, 400, "limit"),
        ("/v1/follow", page, String::new(), 400, "body"),
        ("/v1/follow", page, of(&[]), 400, "at least one"),
        ("/v1/follow", stream, of(&[asked("s"), asked("s")]), 400, "given twice"),
        ("/v1/follow", stream, of(&[asked("s"), asked("t"), asked("u")]), 413, "limit of 2"),
        ("/v1/follow", page, of(&[member]), 400, "needs a stream"),
        ("/v1/follow", page, padded((1 << 20) + 1), 413, "limit of 1048576"),
        ("/v1/follow", page, padded(1 << 20), 200, "subscribed"),
    ];
    for (path, accept, body, status, reason) in cases {
        let shown: String = body.chars().take(80).collect();
        let answer = send(to(at, "POST", path).header("accept", accept), body).await;
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{path} {accept} {shown}: {told}");
        assert!(told.contains(reason), "{path} {accept} {shown}: {told}");
    }
    let bad = json!({"subscription": "bad", "topic": "a b"});
    let member = json!({"subscription": "m", "topic": "a", "member": {"id": "m"}});
    for (accept, list, culprit, detail) in [
        (page, [asked("s"), bad.clone()], "bad", "topic: holds ' '"),
        (stream, [bad, asked("s")], "bad", "topic: holds ' '"),
        (page, [asked("s"), member], "m", "member: needs a stream"),
        (
            stream,
            [asked("s"), json!({"subscription": "x", "topic": 5})],
            "x",
            "subscriptions: 5 is",
        ),
    ] {
        let answer = send(to(at, "POST", "/v1/follow").header("accept", accept), of(&list)).await;
        let problem = answer.json();
        assert_eq!(answer.status, 400, "{problem}");
        assert_eq!(problem["subscription"], culprit, "{problem}");
        assert!(problem["detail"].as_str().unwrap().starts_with(detail), "{problem}");
    }
    for accept in [page, stream] {
        let request = to(at, "POST", "/v1/follow").header("origin", "https://other.example");
        let answer = send(request.header("accept", accept), of(&[asked("s")])).await;
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    listed(at, 0).await;
    assert!(server.broker.topic(&name("a")).is_err(), "nothing was made");
    server.stop().await;
}
