//! The JSON form of the events resource: pages, long polls, publishing, and every refusal.
//!
//! The file is long, because one test lists every refusal of the resource.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper_util::rt::TokioExecutor;
use leftoff::cursor::{OnGap, Sequence, StartPoint};
use leftoff::{Config, NewEvent};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{
    Answer, Server, get, name, post, publish, read_all, send, send_h2c, soon, text, to,
};

fn sequences(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().unwrap();
    events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}

/// Asserts a refusal with this status, its media type, and `words` in its detail.
fn assert_problem(answer: &Answer, status: u16, words: &str) {
    let body = answer.json();
    assert_eq!(answer.status.as_u16(), status, "{body}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(body["status"], status);
    let detail = body["detail"].as_str().unwrap();
    assert!(detail.contains(words), "{detail:?} lacks {words:?}");
    assert!(body["type"].is_string() && body["title"].is_string(), "{body}");
}

#[tokio::test]
async fn a_page_shows_events_as_they_were_published() {
    let server = Server::start().await;
    let event = |content_type: &str, payload: &[u8]| NewEvent {
        content_type: content_type.to_owned(),
        ..NewEvent::new(payload.to_vec())
    };
    let full = NewEvent {
        id: "i".into(),
        event_type: "t".into(),
        key: "k".into(),
        headers: [("h".to_owned(), "v".to_owned())].into(),
        ..event("application/json", br#"{"b": 1, "a": [1.50]}"#)
    };
    publish(&server.broker, "a", full).await;
    publish(&server.broker, "a", event("text/plain", "Grüße".as_bytes())).await;
    publish(&server.broker, "a", event("image/png", b"\xff\x00")).await;
    publish(&server.broker, "a", event("application/json", b"{no json")).await;
    let answer = get(server.address, "/v1/topics/a/events").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/json");
    let raw = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(raw.contains(r#""data":{"b": 1, "a": [1.50]}"#), "the JSON was changed: {raw}");
    let mut page = answer.json();
    let first = page["events"][0].as_object_mut().unwrap();
    let time = first.remove("time").unwrap();
    assert!(time.as_str().unwrap().ends_with('Z'), "{time}");
    assert_eq!(
        page["events"][0],
        json!({
            "topic": "a", "sequence": 1, "position": 1, "id": "i", "type": "t", "key": "k",
            "headers": {"h": "v"}, "content_type": "application/json",
            "data": {"b": 1, "a": [1.5]},
        })
    );
    assert_eq!(page["events"][1]["data"], "Grüße");
    assert_eq!(page["events"][2]["data_base64"], "/wA=");
    assert_eq!(page["events"][2].get("data"), None);
    // As text, this payload would be taken for a JSON string.
    assert_eq!(page["events"][3]["data_base64"], "e25vIGpzb24=");
    assert_eq!(page["events"][3].get("data"), None);
    assert_eq!(page["cursor"], format!("4-{}", server.broker.epoch()));
    assert_eq!((&page["earliest"], &page["tail"]), (&json!(1), &json!(5)));
    assert_eq!(page["caught_up"], true);
}

#[tokio::test]
async fn pages_lead_through_the_whole_history_forwards_and_backwards() {
    let server = Server::start().await;
    for number in 1..=25 {
        server.publish("a", number.to_string()).await;
    }
    let address = server.address;
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let path = format!("/v1/topics/a/events?after={cursor}&limit=10");
        let page = get(address, &path).await.json();
        seen.extend(sequences(&page));
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["caught_up"] == true {
            break;
        }
    }
    assert_eq!(seen, (1..=25).collect::<Vec<_>>());

    let mut before = 26;
    let mut seen = Vec::new();
    while before > 1 {
        let path = format!("/v1/topics/a/events?before={before}&limit=10");
        let page = sequences(&get(address, &path).await.json());
        before = page[0];
        seen.splice(0..0, page);
    }
    assert_eq!(seen, (1..=25).collect::<Vec<_>>());

    let page = get(address, "/v1/topics/a/events?after=3&before=7").await.json();
    assert_eq!(sequences(&page), [4, 5, 6]);
    let page = get(address, "/v1/topics/a/events?before=7&limit=3&wait=20s").await.json();
    assert_eq!(sequences(&page), [4, 5, 6], "a page before a sequence does not wait");
    let page = get(address, "/v1/topics/a/events?from=last:2").await.json();
    assert_eq!(sequences(&page), [24, 25]);
}

/// Goal: no event is missed between reading and waiting.
/// Method: publish each event at some moment of the poll that waits for it.
#[tokio::test]
async fn a_long_poll_gets_every_event_once() {
    let server = Server::start().await;
    let broker = server.broker.clone();
    let publisher = tokio::spawn(async move {
        for number in 1..=300_u64 {
            publish(&broker, "a", NewEvent::new(number.to_string())).await;
            for _ in 0..number % 7 {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut seen = Vec::new();
    let mut cursor = "0".to_owned();
    while seen.len() < 300 {
        let path = format!("/v1/topics/a/events?after={cursor}&wait=20s&limit=3");
        let page = get(server.address, &path).await.json();
        let sequences = sequences(&page);
        assert!(!sequences.is_empty(), "a poll ended without an event: {page}");
        seen.extend(sequences);
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
    assert_eq!(seen, (1..=300).collect::<Vec<_>>());
    publisher.await.unwrap();
}

#[tokio::test]
async fn a_long_poll_without_an_event_ends_empty_when_its_wait_is_over() {
    let server = Server::start().await;
    server.publish("a", "x").await;
    let started = Instant::now();
    let page = get(server.address, "/v1/topics/a/events?after=1&wait=50ms").await.json();
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert_eq!((sequences(&page), &page["caught_up"]), (vec![], &json!(true)));
    assert_eq!(page["cursor"], format!("1-{}", server.broker.epoch()));
    // A topic that does not exist yet can be waited for. The limit allows one such topic, so that a
    // subscription to another one is refused as soon as the poll waits.
    let mut config = Config::default();
    config.limits.max_unborn_topics = 1;
    let server = Server::with(config).await;
    let address = server.address;
    let poll = tokio::spawn(async move { get(address, "/v1/topics/b/events?wait=20s").await });
    while server.broker.subscribe(&name("c"), StartPoint::Latest, OnGap::Resume).await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.publish("b", "first").await;
    assert_eq!(sequences(&poll.await.unwrap().json()), [1]);
}

#[tokio::test]
async fn a_cursor_that_is_gone_is_answered_with_410_and_the_numbers_unless_told_to_go_on() {
    let server = Server::start().await;
    for number in 1..=9 {
        server.publish("a", number.to_string()).await;
    }
    server.broker.purge(&name("a"), Sequence::new(6)).await.unwrap();
    let answer = get(server.address, "/v1/topics/a/events?after=2").await;
    assert_problem(&answer, 410, "below 6 were purged");
    let body = answer.json();
    let numbers = ["requested", "earliest", "tail", "lost", "reason"].map(|key| body[key].clone());
    assert_eq!(json!(numbers), json!([3, 6, 10, 3, "purged"]));

    let header = "reason=purged, requested=3, earliest=6, tail=10, resume=6, lost=3";
    assert_eq!(answer.header("leftoff-gap"), header);

    let answer = get(server.address, "/v1/topics/a/events?after=2&on_gap=earliest").await;
    assert_eq!(answer.header("leftoff-gap"), header);
    let page = answer.json();
    assert_eq!(sequences(&page), [6, 7, 8, 9]);
    assert_eq!((&page["gap"]["lost"], &page["gap"]["requested"]), (&json!(3), &json!(3)));
    let page = get(server.address, "/v1/topics/a/events?after=2&on_gap=latest").await.json();
    assert_eq!((sequences(&page), &page["caught_up"]), (vec![], &json!(true)));
    assert_eq!(page["cursor"], format!("9-{}", server.broker.epoch()));

    let answer = get(server.address, "/v1/topics/a/events?after=70").await;
    assert_problem(&answer, 410, "ahead of the tail");
    let answer = get(server.address, "/v1/topics/a/events?after=7-00c0ffee").await;
    assert_problem(&answer, 410, "another epoch");
}

#[tokio::test]
async fn posting_publishes_and_says_where_the_event_stands() {
    let server = Server::start().await;
    let path = "/v1/topics/a/events?id=one&type=t&key=k";
    let typed = to(server.address, "POST", path).header("content-type", "text/plain");
    let answer = send(typed, "hello").await;
    assert_eq!(answer.status, 201);
    let mut first = answer.json();
    let time = first.as_object_mut().unwrap().remove("time").unwrap();
    let expected = json!({"sequence": 1, "position": 1, "duplicate": false, "durability": "fsync"});
    assert_eq!(first, expected);

    let repeated = post(server.address, path, "hello").await;
    let expected = json!({
        "sequence": 1, "position": 1, "time": time, "duplicate": true, "durability": "fsync",
    });
    assert_eq!((repeated.status.as_u16(), repeated.json()), (201, expected));

    let path = "/v1/topics/a/events?expected_sequence=1";
    assert_eq!(post(server.address, path, "next").await.json()["sequence"], 2);
    let refused = post(server.address, path, "too late").await;
    assert_problem(&refused, 412, "at sequence 2, not at the expected 1");
    assert_eq!(refused.json()["actual_sequence"], 2);
    let event = &get(server.address, "/v1/topics/a/events").await.json()["events"][0];
    let shown = ["id", "type", "key", "content_type", "data"].map(|key| event[key].clone());
    assert_eq!(json!(shown), json!(["one", "t", "k", "text/plain", "hello"]));
}

fn ndjson(address: std::net::SocketAddr, topic: &str) -> http::request::Builder {
    let request = to(address, "POST", &format!("/v1/topics/{topic}/events"));
    request.header("content-type", "application/x-ndjson")
}

#[tokio::test]
async fn lines_are_published_in_order_as_they_stream_in() {
    let server = Server::start().await;
    let line = |number: usize| format!("{{\"id\":\"{number}\",\"data\":\"{number}\"}}\n");
    let body: String = (1..=2_500).map(line).collect();
    let answer = send(ndjson(server.address, "a"), body.clone()).await;
    let body_json = answer.json();
    assert_eq!(answer.status, 201, "{body_json}");
    assert_eq!((&body_json["count"], &body_json["duplicates"]), (&json!(2_500), &json!(0)));
    assert_eq!(body_json["first"]["sequence"], 1);
    assert_eq!(body_json["last"]["sequence"], 2_500);
    let expected: Vec<(u64, String)> = (1..=2_500).map(|n| (n, n.to_string())).collect();
    assert_eq!(read_all(server.address, "a").await, expected);
    let again = send(ndjson(server.address, "a"), body).await.json();
    assert_eq!((&again["duplicates"], &again["last"]["duplicate"]), (&json!(2_500), &json!(true)));
}

/// Goal: a client that polls is told in few bytes that there is nothing new, and when to ask again.
#[tokio::test]
async fn a_page_has_a_tag_and_one_that_its_client_holds_has_no_body() {
    let server = Server::start().await;
    for data in ["1", "2"] {
        post(server.address, "/v1/topics/a/events", data).await;
    }
    let page = get(server.address, "/v1/topics/a/events?limit=1").await;
    assert_eq!((page.header("etag").len(), page.header("retry-after")), (34, ""));
    let many = "/v1/events?topic=*&from=earliest";
    for path in ["/v1/topics/a/events?after=2", "/v1/topics/a/events?after=1&wait=10ms", many] {
        let page = get(server.address, path).await;
        let (tag, length) = (page.header("etag").to_owned(), page.body.len());
        assert_eq!((page.status.as_u16(), page.header("retry-after")), (200, "1"), "{path}");
        for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
            let request = to(server.address, "GET", path).header("if-none-match", known);
            let again = send(request, "").await;
            assert_eq!((again.status.as_u16(), again.body.len()), (304, 0), "{path}");
            assert_eq!((again.header("etag"), again.header("retry-after")), (&*tag, "1"));
        }
        for other in ["*", "\"x\"", &tag[1..tag.len() - 1]] {
            let request = to(server.address, "GET", path).header("if-none-match", other);
            let again = send(request, "").await;
            assert_eq!((again.status.as_u16(), again.body.len()), (200, length), "{path} {other}");
        }
    }
    let path = "/v1/topics/a/events?after=2";
    let tag = get(server.address, path).await.header("etag").to_owned();
    post(server.address, "/v1/topics/a/events", "3").await;
    let answer = send(to(server.address, "GET", path).header("if-none-match", &tag), "").await;
    assert_eq!((answer.status.as_u16(), sequences(&answer.json())), (200, vec![3]));
}

/// Goal: an NDJSON body may have any length: lines that are handed in no longer take memory.
#[tokio::test]
async fn lines_make_room_as_they_are_handed_in() {
    let mut config = Config::default();
    (config.limits.max_payload_bytes, config.limits.max_batch_bytes) = (64 << 10, 128 << 10);
    config.server.max_client_bytes = 5 << 20;
    let server = Server::with(config).await;
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(10_000));
    let answer = send(ndjson(server.address, "a"), line.repeat(1_000)).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["count"]), (201, &json!(1_000)));
}

#[tokio::test]
async fn a_bad_line_is_named_and_what_stands_before_it_is_stored() {
    let server = Server::start().await;
    let body = "{\"data\":\"1\"}\n\n{\"data\":\"2\"}\n{\"date\":3}\n{\"data\":\"4\"}\n";
    let answer = send(ndjson(server.address, "a"), body).await;
    assert_problem(&answer, 400, "\"date\" is not a known name");
    let problem = answer.json();
    assert_eq!((&problem["line"], &problem["stored_events"]), (&json!(4), &json!(2)));
    let before_it = [(1, "1".to_owned()), (2, "2".to_owned())];
    assert_eq!(read_all(server.address, "a").await, before_it);
}

#[tokio::test]
async fn lines_that_storage_refuses_are_named_and_nothing_is_handed_in_after_them() {
    let mut config = Config::default();
    config.log.min_free_bytes = 1 << 60;
    let server = Server::with(config).await;
    let line = format!("{{\"data\":\"{}\"}}\n", "x".repeat(1 << 19));
    let body = format!("\n{}", line.repeat(20)); // Several batches.
    let answer = send(ndjson(server.address, "a"), body).await;
    assert_problem(&answer, 507, "bytes free");
    let problem = answer.json();
    assert_eq!((&problem["line"], &problem["stored_events"]), (&2.into(), &0.into()));
}

/// Goal: a body without an end holds nothing up. When the broker stops, or the body is silent for
/// too long, the answer says which lines are stored.
#[tokio::test]
async fn lines_that_stop_coming_are_answered_with_what_is_stored() {
    for stops in [false, true] {
        let mut config = Config::default();
        config.follow.body_read_ms = if stops { 600_000 } else { 200 };
        config.server.shutdown_ms = 600_000;
        let server = Server::with(config).await;
        let (lines, body) = tokio::sync::mpsc::channel::<Result<_, std::io::Error>>(1);
        let body = axum::body::Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body));
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        let answer = tokio::spawn(client.request(ndjson(server.address, "a").body(body).unwrap()));
        lines.send(Ok("{\"data\":\"1\"}\n{\"da")).await.unwrap();
        let page = get(server.address, "/v1/topics/a/events?wait=20s").await;
        assert_eq!(sequences(&page.json()), [1]);
        if stops {
            server.stop().await;
        }
        let (head, body) = soon(answer).await.unwrap().unwrap().into_parts();
        assert_eq!(head.status, if stops { 503 } else { 408 });
        let body = body.collect().await.unwrap().to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&problem["line"], &problem["stored_events"]), (&2.into(), &1.into()));
    }
}

#[tokio::test]
async fn a_body_that_stops_arriving_is_given_up() {
    let mut config = Config::default();
    config.follow.body_read_ms = 50;
    let server = Server::with(config).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head =
        "POST /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nhalf";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let count = soon(socket.read(&mut answer)).await.unwrap();
    let answer = text(&answer[..count]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(get(server.address, "/v1/topics/a/events").await.status, 404);
}

#[tokio::test]
async fn bad_input_is_refused_by_name_and_nothing_is_written() {
    let mut config = Config::default();
    config.limits.max_payload_bytes = 1_000;
    let server = Server::with(config).await;
    let address = server.address;
    let long = "x".repeat(256);
    let events = |query: &str| format!("/v1/topics/a/events{query}");
    let publishing = [
        (format!("/v1/topics/{long}/events"), 413, "topic name bytes: 256"),
        ("/v1/topics/a%20b/events".to_owned(), 400, "white space"),
        ("/v1/topics/a%00b/events".to_owned(), 400, "'\\0'"),
        ("/v1/topics/a%0Ab/events".to_owned(), 400, "'\\n'"),
        ("/v1/topics/a..b/events".to_owned(), 400, "empty token"),
        ("/v1/topics/a.*/events".to_owned(), 400, "patterns"),
        ("/v1/topics/leftoff.x/events".to_owned(), 400, "reserved"),
        ("/v1/topics/%FF/events".to_owned(), 400, "topic: "),
        (events(&format!("?id={long}")), 413, "id bytes: 256"),
        (events("?id=a%0Ab"), 400, "id: holds the control character '\\n'"),
        (events("?id=a%00"), 400, "id: holds the control character '\\0'"),
        (events("?id=%FF"), 400, "id: is not UTF-8"),
        (events("?id=1&id=2"), 400, "id: is given twice"),
        (events(&format!("?type={long}")), 413, "type bytes: 256"),
        (events("?type=a%0Ddata:x"), 400, "type: holds the control"),
        (events("?type=leftoff.gap"), 400, "reserved"),
        (events(&format!("?key={long}")), 413, "key bytes: 256"),
        (events("?key=%00"), 400, "key: holds the control"),
        (events("?publisher_time_ms=soon"), 400, "publisher_time_ms: \"soon\" is not a number"),
        (events("?publisher_time_ms=18446744073709551615"), 400, "beyond the year 9999"),
        (events("?expected_sequence=-1"), 400, "expected_sequence: \"-1\""),
        (events("?expected_sequence=7"), 412, "at sequence 0, not at the expected 7"),
        (events("?typ=x"), 400, "typ: is not known here"),
    ];
    for (path, status, words) in publishing {
        assert_problem(&post(address, &path, "x").await, status, words);
    }
    assert_problem(
        &post(address, &events(""), vec![0; 1_001]).await,
        413,
        "over the limit of 1000",
    );
    let typed = |value: &[u8]| {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        to(address, "POST", &events("")).header("content-type", value)
    };
    assert_problem(&send(typed(b"text/\xff"), "x").await, 400, "Content-Type: is not UTF-8");
    assert_problem(&send(typed(long.as_bytes()), "x").await, 413, "content_type bytes: 256");
    let lines = [
        ("", 400, "body: holds no event"),
        ("{", 400, "line 1: the JSON ends"),
        ("{\"topic\":\"b\"}", 400, "topic: "),
        ("{\"type\":\"leftoff.x\"}", 400, "reserved"),
        ("{\"id\":\"a\\u0000\"}", 400, "id: holds the control"),
        ("{\"headers\":{\"\":\"\"}}", 400, "headers: one has an empty name"),
        ("{\"data_base64\":\"?\"}", 400, "data_base64"),
    ];
    for (line, status, words) in lines {
        assert_problem(&send(ndjson(address, "a"), line).await, status, words);
    }
    let endless = vec![b' '; 200_000];
    assert_problem(&send(ndjson(address, "a"), endless).await, 413, "line bytes");
    assert_eq!(
        get(address, "/v1/topics").await.json(),
        json!({"topics": []}),
        "a topic was created"
    );

    server.publish("a", "x").await;
    let reading = [
        ("?after=x", 400, "cursor"),
        ("?after=1-xyz", 400, "cursor"),
        ("?after=-1", 400, "cursor"),
        ("?after=99999999999999999999", 400, "cursor"),
        ("?from=tomorrow", 400, "start point"),
        ("?from=last:x", 400, "last:N"),
        ("?from=time:never", 400, "time: "),
        ("?before=x", 400, "before: "),
        ("?limit=0", 400, "limit: 0 is not within 1 to 10000"),
        ("?limit=10001", 400, "limit: 10001"),
        ("?wait=forever", 400, "wait: "),
        ("?wait=2h", 413, "wait ms: 7200000 is over the limit of 60000"),
        ("?on_gap=panic", 400, "on_gap: \"panic\" is not one of"),
        ("?on_gap=fail&unknown=1", 400, "unknown: is not known here"),
    ];
    for (query, status, words) in reading {
        assert_problem(&get(address, &events(query)).await, status, words);
    }
    let header = http::HeaderValue::from_bytes(b"\xff").unwrap();
    let page = to(address, "GET", &events("")).header("last-event-id", header);
    assert_problem(&send(page, "").await, 400, "Last-Event-ID: is not UTF-8");
    assert_problem(
        &get(address, "/v1/topics/none/events").await,
        404,
        "there is no topic \"none\"",
    );
    assert_problem(&get(address, "/v1/topics?limit=10001").await, 413, "limit");
    assert_problem(&get(address, "/v2/topics").await, 404, "nothing at /v2/topics");
    let put = send(to(address, "PUT", &events("")), "x").await;
    assert_problem(&put, 405, "no such method");
    let image = to(address, "GET", &events("")).header("accept", "image/png");
    assert_problem(&send(image, "").await, 406, "text/event-stream or application/json");
    assert_eq!(read_all(address, "a").await, [(1, "x".to_owned())]);
}

#[tokio::test]
async fn topics_are_listed_in_the_order_of_their_names() {
    let server = Server::start().await;
    for topic in ["b", "a.x", "c", "a"] {
        server.publish(topic, "1").await;
    }
    server.publish("b", "2").await;
    let topics = get(server.address, "/v1/topics?limit=3").await.json();
    let listed = |topics: &Value| -> Vec<String> {
        let names = topics["topics"].as_array().unwrap().iter();
        names.map(|topic| topic["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(&topics), ["a", "a.x", "b"]);
    let b = &topics["topics"][2];
    let numbers = ["earliest", "tail", "last_position"].map(|key| b[key].clone());
    assert_eq!(json!(numbers), json!([1, 3, 5]));
    let size_bytes = |topic: &Value| topic["size_bytes"].as_u64().unwrap();
    assert_eq!(size_bytes(b), 2 * size_bytes(&topics["topics"][0]), "two events and one");
    let rest = get(server.address, "/v1/topics?limit=3&after=b").await.json();
    assert_eq!(listed(&rest), ["c"]);
}

#[tokio::test]
async fn one_port_speaks_http_1_and_http_2_and_says_how_it_is() {
    let server = Server::start().await;
    server.publish("a", "x").await;
    for path in ["/healthz", "/readyz", "/v1/topics", "/v1/topics/a/events"] {
        let over_http_1 = get(server.address, path).await;
        let over_http_2 = send_h2c(to(server.address, "GET", path), "").await;
        assert_eq!(
            (over_http_1.status.as_u16(), over_http_2.status.as_u16()),
            (200, 200),
            "{path}"
        );
        assert_eq!(over_http_1.body, over_http_2.body, "{path}");
    }
}
