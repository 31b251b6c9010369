//! Gaps: readers are told of all events that they have lost, and of no others.

use leftoff::{Config, NewEvent};
use serde_json::{Value, json};

use crate::common::{Server, Sse, get, post, publish as publish_event, send, to};
use crate::ways::{Ask, WAYS, read as read_by};

/// Publishes these numbers as payloads.
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

/// Goal: a page of many topics reports every gap: in its body, in its header, and in the answer
/// that refuses it.
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

/// Goal: a client that sends the entity tag of a page is told of a gap all the same.
#[tokio::test]
async fn a_page_with_a_gap_is_never_answered_as_not_modified() {
    let server = Server::start().await;
    publish(&server, "a", 0..9).await;
    purge(&server, "a", 6).await;
    let path = "/v1/topics/a/events?after=2&on_gap=latest";
    let page = get(server.address, path).await;
    assert_eq!((page.status.as_u16(), page.json()["gap"]["lost"].clone()), (200, json!(3)));
    assert_eq!((page.header("etag"), page.header("cache-control")), ("", "no-store"));
    let tag = get(server.address, "/v1/topics/a/events?after=9").await.header("etag").to_owned();
    for tag in [tag.as_str(), "*"] {
        let again = send(to(server.address, "GET", path).header("if-none-match", tag), "").await;
        assert_eq!(again.status, 200, "{tag}");
        assert_eq!(again.json()["gap"]["lost"], 3, "{tag}");
        assert!(again.header("leftoff-gap").starts_with("reason=purged"), "{tag}");
    }
}

/// Returns the events of a page and its cursor, and asserts that it reports no gap.
async fn whole_page(server: &Server, path: &str, cursor: &str) -> (Vec<Value>, String) {
    let page = get(server.address, &format!("{path}&after={cursor}&on_gap=fail")).await;
    assert_eq!(page.status, 200, "{:?}", page.json());
    let page = page.json();
    assert_eq!((&page["gap"], &page["gaps"]), (&Value::Null, &Value::Null));
    let data = page["events"].as_array().unwrap().iter().map(|event| event["data"].clone());
    (data.collect(), page["cursor"].as_str().unwrap().to_owned())
}

/// Goal: a purge from before a reader began is reported on none of its pages. A later purge is
/// reported, also of a topic that was created later.
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
    // A position that a user typed does not say when its reader began.
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
    assert_eq!(cursor, format!("@8-{epoch}"), "the cursor is not past the purge");
}

/// Goal: a stream of many topics from the earliest event can be resumed from the id of any of its
/// events, and is not told of events that were trimmed before it began.
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
            assert_eq!(seen, ids[index + 1..], "{format}: other ids after a resume");
        }
        // This cursor does not say when its reader began. The reader gets events in the encoding
        // that others share, and is told of the gap.
        let mut typed = open(&query, "@1").await;
        let gap = typed.find(|frame| frame.is_control("leftoff.gap")).await;
        assert_eq!(gap.json()["topic"], "b", "{format}");
        let frame = typed.find(|frame| frame.id == Some(format!("@8-{epoch}"))).await;
        assert!(frame.is_event(), "{frame:?}");
    }
}

/// Goal: a reader that resumes from before a deletion whose tombstone is gone is told that it may
/// hold a deleted key: over every transport, of one topic and of many, and with each choice of
/// `on_gap`. A reader from the earliest event is not told, wherever it resumes.
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
    for way in WAYS {
        let is_one = way.1;
        let read = async |from: &str, on_gap| read_by(&server, way, Ask::new(from, on_gap)).await;
        let place = |number: u64| if is_one { number.to_string() } else { format!("@{number}") };
        for (on_gap, gap, sequences) in &ways {
            let told = read(&place(2), on_gap).await;
            assert_eq!(told.gap.as_deref(), Some(*gap), "{way:?}, {on_gap}");
            assert_eq!(told.sequences, *sequences, "{way:?}, {on_gap}");
            // A reader that was told is not told again when it resumes.
            if let Some(cursor) = told.cursors.first() {
                let again = read(cursor, "fail").await;
                assert_eq!(again.gap, None, "{way:?}, {on_gap}, {cursor}");
            }
        }
        let whole = read("earliest", "fail").await;
        assert_eq!((whole.gap, &*whole.sequences), (None, &[2, 4][..]), "{way:?}");
        for cursor in &whole.cursors {
            let again = read(cursor, "fail").await;
            assert_eq!(again.gap, None, "{way:?}, {cursor}");
        }
        // A reader at 0 has no key yet, and a reader at 3 or later has received the deletion.
        for (from, sequences) in [(0, &[2, 4][..]), (3, &[4]), (4, &[])] {
            let told = read(&place(from), "fail").await;
            assert_eq!((told.gap, &*told.sequences), (None, sequences), "{way:?}");
        }
    }
}
