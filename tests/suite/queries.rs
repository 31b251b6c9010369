//! Queries as libraries and people write them: names that defeat caches, times in every spelling,
//! and the format of a page.

use leftoff::NewEvent;
use serde_json::{Value, json};

use crate::common::{Server, Sse, get, post, publish, send, soon, to};

const EVENTS: &str = "/v1/topics/a/events";

fn sequences(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}"));
    events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

/// Goal: names that jQuery, Ext JS and many users append to a URL are ignored when reading, and a
/// name that may be a typing error is refused.
#[tokio::test]
async fn names_that_defeat_caches_are_passed_over_on_what_is_read() {
    let server = Server::start().await;
    let busters = ["_=1764160000000", "_dc=5&_=%ff", "cb=1", "nocache", "rnd=0.5"];
    for (stored, buster) in (1..).zip(busters) {
        let path = format!("{EVENTS}?id={stored}&_={stored}");
        assert_eq!(post(server.address, &path, "x").await.status, 201, "{path}");
        let state = "/v1/topics/a/state";
        for path in [EVENTS, "/v1/events", "/v1/topics", "/v1/topics/a", state] {
            let topic = if path == "/v1/events" { "topic=a&" } else { "" };
            let answer = get(server.address, &format!("{path}?{topic}{buster}")).await;
            assert_eq!(answer.status, 200, "{path} {buster}: {}", answer.json());
        }
        let page = get(server.address, &format!("{EVENTS}?{buster}&limit=2&after=0")).await;
        assert_eq!(sequences(&page.json()).len(), stored.min(2));
    }
    let slip = get(server.address, &format!("{EVENTS}?form=earliest&_=1")).await;
    assert_eq!((slip.status.as_u16(), &slip.json()["field"]), (400, &json!("form")));
    server.stop().await;
}

/// Goal: a request that changes something ignores no name. A misspelled bound or condition is
/// refused, and nothing is dropped or stored.
#[tokio::test]
async fn a_name_that_is_not_known_never_vanishes_from_what_changes_something() {
    let server = Server::start().await;
    for number in 1..=3 {
        server.publish("a", number.to_string()).await;
    }
    let names =
        ["ts=5", "t=5", "_before=2", "timestamp=5", "_expected_sequence=9", "cb=1", "_dc=1"];
    let changes = [
        ("DELETE", EVENTS),
        ("DELETE", "/v1/topics/a"),
        ("PUT", "/v1/topics/a"),
        ("PATCH", "/v1/topics/a"),
        ("POST", "/v1/maintenance"),
    ];
    let publishes = names.map(|name| ("POST", EVENTS, name));
    let others = changes.into_iter().flat_map(|(method, path)| {
        names.into_iter().chain(["_=1"]).map(move |name| (method, path, name))
    });
    for (method, path, query) in publishes.into_iter().chain(others) {
        let body = if matches!(method, "PUT" | "PATCH") { r#"{"retention_events":1}"# } else { "" };
        let refused = send(to(server.address, method, &format!("{path}?{query}")), body).await;
        let name = query.split('=').next().unwrap();
        assert_eq!(refused.status, 400, "{method} {path} {query}");
        assert_eq!(refused.json()["field"], name, "{method} {path}");
    }
    let page = get(server.address, EVENTS).await;
    assert_eq!(sequences(&page.json()), [1, 2, 3]);
    let slip = get(server.address, &format!("{EVENTS}?timestamp=5")).await;
    assert_eq!((slip.status.as_u16(), &slip.json()["field"]), (400, &json!("timestamp")));
    server.stop().await;
}

/// Goal: a time is the same start in every spelling, and no number is taken for a time in 1970.
#[tokio::test]
async fn a_start_by_time_is_understood_in_every_spelling() {
    let server = Server::start().await;
    for number in 1..=3 {
        server.publish("a", number.to_string()).await;
    }
    let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap();
    let now_ms = since_1970.as_millis() as u64;
    let (seconds, later) = (now_ms / 1_000 - 3_600, now_ms + 30_000);
    for time in [
        format!("{seconds}"),
        format!("{}", seconds * 1_000),
        "2020-02-29T23:59:59.5%2B05:30".to_owned(),
        "2020-02-29T23:59:59+05:30".to_owned(), // In a query, `+` is a blank.
        "2020-02-29T23:59:59-08:00".to_owned(),
        "2020-02-29t23:59:59z".to_owned(),
        "2020-02-29+23:59:59Z".to_owned(),
        "1999-12-31T00:00:00Z".to_owned(),
    ] {
        let page = get(server.address, &format!("{EVENTS}?from=time:{time}")).await.json();
        assert_eq!(sequences(&page), [1, 2, 3], "{time}: {page}");
    }
    // A client's clock may be half a minute ahead.
    let page = get(server.address, &format!("{EVENTS}?from=time:{later}")).await.json();
    assert_eq!((sequences(&page), &page["caught_up"]), (vec![], &json!(true)));
    for (time, words) in [
        ("1000", "is not a time from the year 2000"),
        ("946684799", "is not a time from the year 2000"),
        ("yesterday", "is neither RFC 3339"),
        ("2026-01-31T00:00:00", "is neither RFC 3339"),
    ] {
        let refused = get(server.address, &format!("{EVENTS}?from=time:{time}")).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{time}");
        assert!(detail.contains(words), "{time}: {detail}");
    }
    server.stop().await;
}

/// Goal: a reader from a time in the future is not given today's events. A page is refused; a
/// stream warns, since a browser would give up for good, and begins with the next event.
#[tokio::test]
async fn a_start_by_a_time_that_has_not_come_is_refused_or_told_and_gives_nothing_older() {
    let server = Server::start().await;
    server.publish("a", "now").await;
    let from = "from=time:2999-01-01T00:00:00Z";
    for path in [format!("{EVENTS}?{from}"), format!("/v1/events?topic=a&{from}")] {
        let words = "2999-01-01T00:00:00.000Z has not come yet";
        let refused = get(server.address, &path).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{path}");
        assert!(detail.contains(words), "{detail}");
        let mut stream = Sse::open(to(server.address, "GET", &path)).await.unwrap();
        assert_eq!(stream.status, 200, "{path}");
        let told = stream.headers["leftoff-ignored"].to_str().unwrap();
        assert_eq!(told, "\"from=2999-01-01T00:00:00.000Z\"");
        let first = soon(stream.next()).await.unwrap();
        assert!(first.is_control("leftoff.warning"), "{first:?}");
        let detail = first.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{detail}");
        server.publish("a", "later").await;
        let event = soon(stream.find(|frame| frame.is_event())).await;
        let data = event.data.unwrap();
        assert!(data.contains("later"), "an event from before: {data}");
    }
    let start: leftoff::cursor::StartPoint = "time:2999-01-01T00:00:00Z".parse().unwrap();
    let topic = "a".parse().unwrap();
    let refused = server.broker.subscribe(&topic, start, Default::default());
    assert!(soon(refused).await.unwrap_err().to_string().contains("has not come yet"));
    server.stop().await;
}

/// Goal: a page is in the format that is asked for, or the refusal says why not.
#[tokio::test]
async fn a_page_is_written_in_the_format_that_is_asked_for() {
    let server = Server::start().await;
    let event = NewEvent {
        event_type: "made".into(),
        content_type: "application/json".into(),
        ..NewEvent::new(r#"{"a":1}"#)
    };
    for _ in 0..200 {
        publish(&server.broker, "a", event.clone()).await;
    }
    let page = |format: &str, limit: u64| {
        let path = format!("{EVENTS}?format={format}&limit={limit}");
        async move { get(server.address, &path).await }
    };
    let plain = get(server.address, &format!("{EVENTS}?limit=2")).await;
    assert_eq!(page("envelope", 2).await.body, plain.body);
    for limit in [2, 200] {
        let page = page("cloudevents", limit).await.json();
        let events = page["events"].as_array().unwrap();
        assert_eq!((events.len() as u64, &page["earliest"]), (limit, &json!(1)));
        let one = &events[1];
        let told = ["specversion", "type", "datacontenttype", "leftoffsequence", "data"];
        let told = told.map(|name| one[name].clone());
        assert_eq!(json!(told[..3]), json!(["1.0", "made", "application/json"]));
        assert_eq!(told[4], json!({"a": 1}), "{one}");
        assert_eq!(one["source"], "/v1/topics/a", "{one}");
    }
    for (format, words) in [("data", "is for streams"), ("xml", "is not one of")] {
        let refused = page(format, 1).await;
        assert_eq!(refused.status, 400);
        assert!(refused.json()["detail"].as_str().unwrap().contains(words), "{format}");
    }
    server.stop().await;
}
