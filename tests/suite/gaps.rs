//! What readers are told of that they have lost: all of it, and nothing else.

use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{OnGap, ReadRequest, SubscribeRequest};
use leftoff::{Config, NewEvent};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::common::{Server, Sse, get, post, publish as publish_event, send, soon, to};
use crate::websocket::Client;

/// Has topic `topic` hold events with these numbers for payloads.
async fn publish(server: &Server, topic: &str, numbers: std::ops::Range<u64>) {
    for number in numbers {
        server.publish(topic, number.to_string()).await;
    }
}

async fn purge(server: &Server, topic: &str, before: u64) {
    let path = format!("/v1/topics/{topic}/events?before={before}");
    assert_eq!(send(to(server.address, "DELETE", &path), "").await.status, 200);
}

fn topics_of(gaps: &Value) -> Vec<&str> {
    gaps.as_array().unwrap().iter().map(|gap| gap["topic"].as_str().unwrap()).collect()
}

/// Goal: a page of many topics tells all that they have lost: in its body, in its header, and in
/// the answer that refuses it.
#[tokio::test]
async fn a_page_over_http_tells_every_gap_that_it_holds() {
    let server = Server::start().await;
    for topic in ["a", "b", "c"] {
        publish(&server, topic, 0..4).await;
        purge(&server, topic, 3).await;
    }
    publish(&server, "whole", 0..1).await;
    let first = "reason=purged, requested=1, earliest=3, tail=5, resume=3";
    let path = "/v1/events?topic=%3E&from=@0";
    let page = get(server.address, path).await;
    assert_eq!(page.header("leftoff-gap"), format!("{first}, more=2"));
    let body = page.json();
    assert_eq!(topics_of(&body["gaps"]), ["a", "b", "c"]);
    assert_eq!(body["events"].as_array().unwrap().len(), 7);

    let refused = get(server.address, &format!("{path}&on_gap=fail")).await;
    assert_eq!(refused.status, 410);
    assert_eq!(refused.header("leftoff-gap"), format!("{first}, more=2"));
    let problem = refused.json();
    assert_eq!(topics_of(&problem["gaps"]), ["a", "b", "c"]);
    let named = ["type", "topic", "topics", "earliest"].map(|name| problem[name].clone());
    assert_eq!(json!(named), json!(["urn:leftoff:problem:gap", "a", 3, 3]));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("3 topics have lost events"), "{detail}");

    let one = get(server.address, "/v1/events?topic=b&topic=whole&from=@0&on_gap=fail").await;
    assert_eq!((one.status.as_u16(), one.header("leftoff-gap")), (410, first));
    assert_eq!((&one.json()["gaps"], &one.json()["topic"]), (&Value::Null, &json!("b")));
}

/// Goal: a client that polls with the tag of what it has is told of a gap all the same.
#[tokio::test]
async fn a_page_with_a_gap_is_never_answered_as_not_modified() {
    let server = Server::start().await;
    publish(&server, "a", 0..9).await;
    purge(&server, "a", 6).await;
    let path = "/v1/topics/a/events?after=2&on_gap=latest";
    let page = get(server.address, path).await;
    assert_eq!((page.status.as_u16(), page.json()["gap"]["lost"].clone()), (200, json!(3)));
    let tag = page.header("etag").to_owned();
    for tag in [tag.as_str(), "*"] {
        let again = send(to(server.address, "GET", path).header("if-none-match", tag), "").await;
        assert_eq!(again.status, 200, "{tag}");
        assert_eq!(again.json()["gap"]["lost"], 3, "{tag}");
        assert!(again.header("leftoff-gap").starts_with("reason=purged"), "{tag}");
    }
    let path = "/v1/topics/a/events?after=9";
    let known = send(to(server.address, "GET", path).header("if-none-match", tag), "").await;
    assert_eq!(known.status, 304);
}

/// The events of a page, and its cursor, where nothing is told to be lost.
async fn whole_page(server: &Server, path: &str, cursor: &str) -> (Vec<Value>, String) {
    let page = get(server.address, &format!("{path}&after={cursor}&on_gap=fail")).await;
    assert_eq!(page.status, 200, "{:?}", page.json());
    let page = page.json();
    assert_eq!((&page["gap"], &page["gaps"]), (&Value::Null, &Value::Null));
    let data = page["events"].as_array().unwrap().iter().map(|event| event["data"].clone());
    (data.collect(), page["cursor"].as_str().unwrap().to_owned())
}

/// Goal: what was purged before a reader began is told on none of its pages; what is purged since,
/// is, also of topics that came later.
#[tokio::test]
async fn a_purge_from_before_the_reader_began_is_no_gap_on_its_next_page() {
    let server = Server::start().await;
    publish(&server, "b", 0..3).await;
    publish(&server, "a", 0..3).await;
    purge(&server, "a", 4).await;
    let path = "/v1/events?topic=%3E&limit=1";
    let first = get(server.address, &format!("{path}&from=earliest&on_gap=fail")).await;
    assert_eq!(first.status, 200);
    let mut cursor = first.json()["cursor"].as_str().unwrap().to_owned();
    let epoch = server.broker.epoch();
    assert_eq!(cursor, format!("@1~1-{epoch}"));
    let (events, next) = whole_page(&server, path, &cursor).await;
    assert_eq!(events, ["1"]);
    // A typed place says nothing of when its reader began.
    let typed = get(server.address, &format!("{path}&after=@1&on_gap=fail")).await;
    assert_eq!((typed.status.as_u16(), &typed.json()["topic"]), (410, &json!("a")));
    cursor = next;
    publish(&server, "later", 0..2).await;
    purge(&server, "later", 2).await;
    let refused = get(server.address, &format!("{path}&after={cursor}&on_gap=fail")).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["topic"]), (410, &json!("later")));
    let told = get(server.address, &format!("{path}&after={cursor}")).await.json();
    assert_eq!(topics_of(&told["gaps"]), ["later"]);
    let mut cursor = told["cursor"].as_str().unwrap().to_owned();
    let (events, next) = whole_page(&server, path, &cursor).await;
    assert_eq!(events, ["1"]);
    cursor = next;
    assert_eq!(cursor, format!("@8-{epoch}"), "it has passed what was dropped");
}

/// Goal: a stream of many topics from the earliest event comes back by the id of any of its events,
/// and is not told of what was trimmed before it began.
#[tokio::test]
async fn a_feed_from_the_earliest_is_not_told_on_return_what_was_trimmed_before_it_began() {
    let server = Server::start().await;
    for number in 0..4 {
        publish(&server, "a", number..number + 1).await;
        publish(&server, "b", number..number + 1).await;
    }
    purge(&server, "b", 4).await;
    let open = async |query: &str, id: &str| {
        let request = to(server.address, "GET", &format!("/v1/events?topic=%3E{query}"));
        Sse::open(request.header("last-event-id", id)).await.unwrap()
    };
    for format in ["data", "envelope", "cloudevents"] {
        let query = format!("&from=earliest&format={format}");
        let mut whole = open(&query, "").await;
        let mut ids = Vec::new();
        while ids.len() < 5 {
            let frame = whole.next().await.unwrap();
            assert!(!frame.is_control("leftoff.gap"), "{format}: {frame:?}");
            ids.extend(Some(&frame).filter(|frame| frame.is_event()).and_then(|f| f.id.clone()));
        }
        let epoch = server.broker.epoch();
        let expected = [1, 3, 5].map(|position| format!("@{position}~1-{epoch}"));
        assert_eq!(ids[..3], expected, "{format}");
        assert_eq!(ids[3..], [7, 8].map(|position| format!("@{position}-{epoch}")), "{format}");
        for (index, id) in ids.iter().enumerate() {
            let mut back = open(&query, id).await;
            let mut seen = Vec::new();
            loop {
                let frame = back.next().await.unwrap();
                assert!(!frame.is_control("leftoff.gap"), "{format}, {id}: {frame:?}");
                if frame.is_control("leftoff.caught-up") {
                    break;
                }
                seen.extend(Some(&frame).filter(|f| f.is_event()).and_then(|f| f.id.clone()));
            }
            assert_eq!(seen, ids[index + 1..], "{format}: the same ids, whoever comes back");
        }
        // Whoever has no number of its own shares what is encoded, and is told.
        let mut typed = open(&query, "@1").await;
        let gap = typed.find(|frame| frame.is_control("leftoff.gap")).await;
        assert_eq!(gap.json()["topic"], "b", "{format}");
        let frame = typed.find(|frame| frame.id == Some(format!("@8-{epoch}"))).await;
        assert!(frame.is_event(), "{frame:?}");
    }
}

/// The ways to read.
const TRANSPORTS: [&str; 5] = ["sse", "page", "websocket", "subscribe", "read"];

/// What a reader was told until it had read all there was.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// The reason of the gap, or that it was refused for one.
    gap: Option<String>,
    /// The sequences of the events, and the cursor after each, as far as the transport tells them.
    sequences: Vec<u64>,
    cursors: Vec<String>,
}

impl Told {
    fn gap(&mut self, reason: &Value) {
        assert_eq!(self.gap, None, "told twice: {reason}");
        self.gap = Some(reason.as_str().unwrap().to_owned());
    }

    fn event(&mut self, event: &Value, cursor: &str) {
        self.sequences.push(event["sequence"].as_u64().unwrap());
        self.cursors.push(cursor.to_owned());
    }

    fn refused(reason: &Value) -> Self {
        let gap = Some(format!("refused: {}", reason.as_str().unwrap()));
        Self { gap, ..Self::default() }
    }
}

/// Reads topic `a`, alone or as one of many, from `from` to the end.
async fn read(server: &Server, transport: &str, is_one: bool, from: &str, on_gap: &str) -> Told {
    let mut told = Told::default();
    let topics = if is_one { "topics/a/events?" } else { "events?topic=%3E&" };
    let path = format!("/v1/{topics}from={from}&on_gap={on_gap}");
    let spoken = match on_gap {
        "resume" => OnGap::Resume,
        "earliest" => OnGap::Earliest,
        "latest" => OnGap::Latest,
        _ => OnGap::Fail,
    };
    match transport {
        "sse" => {
            let request = to(server.address, "GET", &format!("{path}&format=envelope"));
            let mut stream = Sse::open(request).await.unwrap();
            if stream.status != 200 {
                assert_eq!(stream.status, 410);
                return Told::refused(&json!(reason(
                    stream.headers["leftoff-gap"].to_str().unwrap()
                )));
            }
            loop {
                let frame = soon(stream.next()).await.unwrap();
                match frame.event.as_deref() {
                    Some("leftoff.gap") => told.gap(&frame.json()["reason"]),
                    Some("leftoff.caught-up") => return told,
                    _ if frame.is_event() => told.event(&frame.json(), &frame.id.clone().unwrap()),
                    _ => {}
                }
            }
        }
        "page" => {
            let page = get(server.address, &format!("{path}&limit=100")).await;
            if page.status == 410 {
                return Told::refused(&page.json()["reason"]);
            }
            let page = page.json();
            let gaps = if is_one { &page["gap"] } else { &page["gaps"][0] };
            (!gaps.is_null()).then(|| told.gap(&gaps["reason"]));
            let cursor = page["cursor"].as_str().unwrap();
            page["events"].as_array().unwrap().iter().for_each(|e| told.event(e, cursor));
            told
        }
        "websocket" => {
            let mut client = Client::connect(server.address).await;
            let mut ask = json!({
                "type": "subscribe", "subscription": "s", "from": from, "on_gap": on_gap,
            });
            match is_one {
                true => ask["topic"] = json!("a"),
                false => ask["topics"] = json!([">"]),
            }
            client.say(ask).await;
            loop {
                let message = client.hear().await;
                match message["type"].as_str().unwrap() {
                    "event" => told.event(&message["event"], message["cursor"].as_str().unwrap()),
                    "gap" => told.gap(&message["gap"]["reason"]),
                    "ended" => return Told::refused(&message["error"]["reason"]),
                    "caught_up" => return told,
                    _ => {}
                }
            }
        }
        "subscribe" => {
            let (topic, topics) = match is_one {
                true => ("a".to_owned(), Vec::new()),
                false => (String::new(), vec![">".to_owned()]),
            };
            let (from, on_gap) = (from.to_owned(), spoken.into());
            let request = SubscribeRequest { topic, topics, from, on_gap, ..Default::default() };
            let mut responses = match server.grpc().await.subscribe(request).await {
                Ok(responses) => responses.into_inner(),
                Err(status) => return Told::refused(&refusal(&status)),
            };
            loop {
                match soon(responses.message()).await.unwrap().unwrap().message.unwrap() {
                    Message::Gap(gap) => told.gap(&json!(gap.reason)),
                    Message::CaughtUp(_) => return told,
                    Message::Events(batch) => batch.events.iter().for_each(|event| {
                        told.event(&json!({"sequence": event.sequence}), &batch.cursor);
                    }),
                    _ => {}
                }
            }
        }
        _ => {
            let (topic, from, on_gap) = ("a".to_owned(), from.to_owned(), spoken.into());
            let request = ReadRequest { topic, from, on_gap, ..Default::default() };
            let page = match server.grpc().await.read(request).await {
                Ok(page) => page.into_inner(),
                Err(status) => return Told::refused(&refusal(&status)),
            };
            page.gap.iter().for_each(|gap| told.gap(&json!(gap.reason)));
            let events = page.events.iter().map(|event| json!({"sequence": event.sequence}));
            events.for_each(|event| told.event(&event, &page.cursor));
            told
        }
    }
}

/// The reason in the header that tells of a gap.
fn reason(header: &str) -> &str {
    header.strip_prefix("reason=").unwrap().split(',').next().unwrap()
}

fn refusal(status: &tonic::Status) -> Value {
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    json!(status.get_details_error_info().unwrap().metadata["reason"])
}

/// Goal: a reader that comes back from before a deletion of a key that is gone past its grace is
/// told that it may hold what is deleted: on every transport, of one topic and of many, with each
/// way to go on. One that begins is not, wherever it comes back.
#[tokio::test]
async fn whoever_comes_from_before_a_deletion_that_was_dropped_is_told() {
    let mut config: Config =
        toml::from_str("[topics.a]\ncompact = true\ntombstone_grace_ms = 0").unwrap();
    config.maintenance.interval_ms = 3_600_000;
    let server = Server::with(config).await;
    for (key, payload) in [("k", "1"), ("", "2"), ("k", ""), ("", "4")] {
        let event = NewEvent { key: key.to_owned(), ..NewEvent::new(payload) };
        publish_event(&server.broker, "a", event).await;
    }
    for _ in 0..2 {
        let answer = post(server.address, "/v1/maintenance?topic=a", "").await;
        assert_eq!(answer.status, 200);
    }
    let ways = [
        ("resume", "tombstones", vec![4]),
        ("earliest", "tombstones", vec![2, 4]),
        ("latest", "tombstones", vec![]),
        ("fail", "refused: tombstones", vec![]),
    ];
    for (transport, is_one) in TRANSPORTS.iter().flat_map(|t| [(*t, true), (*t, false)]) {
        if (transport, is_one) == ("read", false) {
            continue; // It reads one topic.
        }
        let read = async |from: &str, on_gap| read(&server, transport, is_one, from, on_gap).await;
        let place = |number: u64| if is_one { number.to_string() } else { format!("@{number}") };
        for (on_gap, gap, sequences) in &ways {
            let told = read(&place(2), on_gap).await;
            assert_eq!(told.gap.as_deref(), Some(*gap), "{transport}, {is_one}, {on_gap}");
            assert_eq!(told.sequences, *sequences, "{transport}, {is_one}, {on_gap}");
            // Told once, it is not told again to whoever comes back.
            if let Some(cursor) = told.cursors.first() {
                let again = read(cursor, "fail").await;
                assert_eq!(again.gap, None, "{transport}, {is_one}, {on_gap}, {cursor}");
            }
        }
        let whole = read("earliest", "fail").await;
        assert_eq!((whole.gap, &*whole.sequences), (None, &[2, 4][..]), "{transport}, {is_one}");
        for cursor in &whole.cursors {
            let again = read(cursor, "fail").await;
            assert_eq!(again.gap, None, "{transport}, {is_one}, {cursor}");
        }
        // Whoever has read nothing has no key; whoever is past the deletion has got it.
        for (from, sequences) in [(0, &[2, 4][..]), (3, &[4]), (4, &[])] {
            let told = read(&place(from), "fail").await;
            assert_eq!((told.gap, &*told.sequences), (None, sequences), "{transport}, {is_one}");
        }
    }
}
