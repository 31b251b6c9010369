//! Following over server-sent events: the exact frames, resuming, gaps, and slow readers.

use std::collections::HashSet;
use std::time::Duration;

use leftoff::cursor::Sequence;
use leftoff::{Config, NewEvent};
use serde_json::json;

use crate::common::{Frame, Server, Sse, name, publish, send, to};

async fn server_with_events(topic: &str, count: u64) -> Server {
    let server = Server::start().await;
    for number in 1..=count {
        server.publish(topic, format!("event {number}")).await;
    }
    server
}

fn numbered(range: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    range.map(|number| (number, format!("event {number}"))).collect()
}

#[tokio::test]
async fn a_stream_is_history_with_retry_in_its_first_block_then_caught_up_then_what_is_new() {
    let server = server_with_events("a", 2).await;
    let epoch = server.broker.epoch();
    let mut stream = Sse::follow(server.address, "a", "?from=earliest").await;
    assert_eq!(stream.status, 200);
    for (header, value) in [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store, no-transform"),
        ("x-accel-buffering", "no"),
    ] {
        assert_eq!(stream.headers[header], value);
    }
    let id = |sequence: u64| Some(format!("{sequence}-{epoch}"));
    let mut retry = None;
    for number in 1..=2 {
        let frame = stream.next().await.unwrap();
        retry = retry.or(frame.retry);
        let (data, event) = (Some(format!("event {number}")), None);
        let told = frame.retry.filter(|_| number == 1); // Only in the first block.
        assert_eq!(frame, Frame { id: id(number), data, event, retry: told, comment: None });
    }
    assert!(matches!(retry, Some(1_000..=3_000)), "{retry:?}");
    let caught_up = stream.next().await.unwrap();
    assert_eq!((&caught_up.id, caught_up.event.as_deref()), (&id(2), Some("leftoff.caught-up")));
    assert_eq!(caught_up.json(), json!({"topic": "a", "earliest": 1, "tail": 3}));
    server.publish("a", "event 3").await;
    assert_eq!(stream.events(1).await, numbered(3..=3));
    server.stop().await;
}

#[tokio::test]
async fn browsers_are_told_different_times_to_come_back() {
    let server = Server::start().await;
    let mut times = HashSet::new();
    for _ in 0..20 {
        let mut stream = Sse::follow(server.address, "a", "").await;
        times.insert(stream.next().await.unwrap().retry.unwrap());
    }
    assert!(times.len() > 5, "{times:?}");
}

/// Goal: a page gets each payload as it was published, or its base64 as a `data:` URL.
#[tokio::test]
async fn every_payload_comes_out_as_it_went_in() {
    let server = Server::start().await;
    let cases: [(&[u8], &str, &str); 12] = [
        (b"plain", "", "plain"),
        (b"", "", ""),
        (b"two\nlines", "", "two\nlines"),
        (b"\n", "", "\n"),
        (b"ends\n\n", "", "ends\n\n"),
        (b" leading space", "", " leading space"),
        ("Grüße, 雪 🌋".as_bytes(), "text/plain", "Grüße, 雪 🌋"),
        (b"{\"a\":\n1}", "application/json", "{\"a\":\n1}"),
        (b"a\r\nb", "text/plain", "data:text/plain;base64,YQ0KYg=="),
        (b"\xff\x00\xfe", "image/png", "data:image/png;base64,/wD+"),
        (b"\xc3\x28", "", "data:application/octet-stream;base64,wyg="),
        (b"data:x", "", "data:application/octet-stream;base64,ZGF0YTp4"),
    ];
    let mut stream = Sse::follow(server.address, "a", "").await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    for (payload, content_type, expected) in cases {
        let event =
            NewEvent { content_type: content_type.to_owned(), ..NewEvent::new(payload.to_vec()) };
        publish(&server.broker, "a", event).await;
        let frame = stream.next().await.unwrap();
        assert_eq!(frame.data.as_deref(), Some(expected), "{payload:?}");
        assert_eq!(frame.event, None);
    }
    let typed = NewEvent { event_type: "größe.changed".to_owned(), ..NewEvent::new("x") };
    publish(&server.broker, "a", typed).await;
    assert_eq!(stream.next().await.unwrap().event.as_deref(), Some("größe.changed"));
}

/// Goal: a publisher's event is never taken for the browser's own `error` or `open`, nor for an
/// event without a type, and no two types become one.
#[tokio::test]
async fn types_that_a_browser_calls_its_own_come_out_under_another_name() {
    let server = Server::start().await;
    let types = [
        ("error", "type:error"),
        ("open", "type:open"),
        ("message", "type:message"),
        ("type:error", "type:type:error"),
        ("Error", "Error"),
        ("errors", "errors"),
        ("type:x", "type:x"),
    ];
    for (event_type, _) in types {
        let event = NewEvent { event_type: event_type.to_owned(), ..NewEvent::new("1") };
        publish(&server.broker, "a", event).await;
    }
    let mut stream = Sse::follow(server.address, "a", "?from=earliest").await;
    let path = "/v1/topics/a/events?from=earliest&format=envelope";
    let mut whole = Sse::open(to(server.address, "GET", path)).await.unwrap();
    for (event_type, expected) in types {
        assert_eq!(stream.next().await.unwrap().event.as_deref(), Some(expected));
        let envelope = whole.next().await.unwrap();
        assert_eq!(
            (envelope.event.as_deref(), &envelope.json()["type"]),
            (None, &json!(event_type))
        );
    }
}

#[tokio::test]
async fn every_spelling_of_the_last_id_resumes_and_the_header_wins() {
    let server = server_with_events("a", 9).await;
    let epoch = server.broker.epoch();
    let spellings = [
        "last_event_id",
        "lastEventId",
        "lastEventID",
        "Last-Event-ID",
        "last-event-id",
        "evs_last_event_id",
        "after",
        "since",
    ];
    for spelling in spellings {
        for id in [format!("7-{epoch}"), "7".to_owned(), format!("@7-{epoch}"), "@7".to_owned()] {
            let mut stream = Sse::follow(server.address, "a", &format!("?{spelling}={id}")).await;
            assert_eq!(stream.events(2).await, numbered(8..=9), "{spelling}={id}");
        }
    }
    let with_header = |query: &str, id: &str| {
        to(server.address, "GET", &format!("/v1/topics/a/events{query}"))
            .header("last-event-id", id)
    };
    let mut stream = Sse::open(with_header("?last_event_id=2&from=latest", "8")).await.unwrap();
    assert_eq!(stream.events(1).await, numbered(9..=9));
    // The first request of a page that puts the id into the URL: an empty id counts as none.
    let mut stream = Sse::open(with_header("?lastEventId=&from=last:3", "")).await.unwrap();
    assert_eq!(stream.events(3).await, numbered(7..=9));
}

#[tokio::test]
async fn start_points_begin_where_they_say() {
    let server = server_with_events("a", 5).await;
    let page = crate::common::get(server.address, "/v1/topics/a/events").await.json();
    let time = page["events"][2]["time"].as_str().unwrap().to_owned();
    let first_then = page["events"].as_array().unwrap().iter().position(|e| e["time"] == *time);
    let from_time = numbered(first_then.unwrap() as u64 + 1..=5);
    let time_query = format!("time:{time}");
    for (from, expected) in [
        ("earliest", numbered(1..=5)),
        ("last:2", numbered(4..=5)),
        ("last:99", numbered(1..=5)),
        ("3", numbered(4..=5)),
        (time_query.as_str(), from_time),
        ("time:1970-01-01T00:00:00Z", numbered(1..=5)),
    ] {
        let mut stream = Sse::follow(server.address, "a", &format!("?from={from}")).await;
        assert_eq!(stream.events(expected.len()).await, expected, "from={from}");
    }
    for from in ["latest", "last:0", "5"] {
        let mut stream = Sse::follow(server.address, "a", &format!("?from={from}")).await;
        let first = stream.next().await.unwrap();
        assert!(first.is_control("leftoff.caught-up"), "from={from}: {first:?}");
    }
}

#[tokio::test]
async fn a_client_that_had_received_nothing_resumes_from_the_first_id() {
    let server = server_with_events("a", 3).await;
    let mut stream = Sse::follow(server.address, "a", "").await;
    let first = stream.next().await.unwrap();
    assert!(first.is_control("leftoff.caught-up"), "{first:?}");
    let last_id = stream.last_id.take().unwrap();
    drop(stream);
    server.publish("a", "event 4").await;
    server.publish("a", "event 5").await;
    let mut stream = Sse::resume(server.address, "a", &last_id).await;
    assert_eq!(stream.events(2).await, numbered(4..=5));
}

/// Goal: going from replay to live loses nothing and repeats nothing.
/// Method: readers connect at any moment while events are published, each from another sequence.
#[tokio::test]
async fn replay_goes_over_into_following_without_a_gap_or_a_repeat() {
    let server = server_with_events("a", 50).await;
    let broker = server.broker.clone();
    let publisher = tokio::spawn(async move {
        for number in 51..=600 {
            publish(&broker, "a", NewEvent::new(format!("event {number}"))).await;
        }
    });
    let readers: Vec<_> = (0..20)
        .map(|reader| {
            let address = server.address;
            tokio::spawn(async move {
                let after = reader * 2;
                let mut stream = Sse::resume(address, "a", &after.to_string()).await;
                let expected = numbered(after + 1..=600);
                assert_eq!(stream.events(expected.len()).await, expected);
            })
        })
        .collect();
    publisher.await.unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn whoever_cannot_resume_is_told_so_with_numbers_and_goes_on() {
    let server = Server::start().await;
    let broker = &server.broker;
    for number in 1..=9 {
        // Each event is in a block of its own, because a trim drops whole blocks.
        server.publish("a", format!("event {number}")).await;
    }
    broker.purge(&name("a"), Sequence::new(6)).await.unwrap();
    let epoch = broker.epoch();
    let cases = [
        // The id, `on_gap`; requested, lost, reason, the sequence in the gap frame's id, and the
        // events after it.
        ("2", "", 3, json!(3), "purged", 5, numbered(6..=9)),
        ("2", "latest", 3, json!(3), "purged", 9, vec![]),
        ("50", "", 51, json!(null), "ahead", 9, vec![]),
        ("50", "earliest", 51, json!(null), "ahead", 5, numbered(6..=9)),
        ("7-00c0ffee", "", 8, json!(null), "epoch", 5, numbered(6..=9)),
    ];
    for (id, on_gap, requested, lost, reason, resumed_after, follows) in cases {
        let on_gap = if on_gap.is_empty() { String::new() } else { format!("&on_gap={on_gap}") };
        let mut stream = Sse::follow(server.address, "a", &format!("?after={id}{on_gap}")).await;
        let gap = stream.next().await.unwrap();
        // No id comes before the gap's, so that a reader that is cut before it is told again.
        assert!(gap.is_control("leftoff.gap") && gap.retry.is_some(), "{gap:?}");
        assert_eq!(gap.id, Some(format!("{resumed_after}-{epoch}")));
        let expected = json!({
            "topic": "a", "requested": requested, "earliest": 6, "tail": 10, "lost": lost,
            "reason": reason, "resume": resumed_after + 1,
        });
        assert_eq!(gap.json(), expected);
        let lost = lost.as_u64().map(|lost| format!(", lost={lost}")).unwrap_or_default();
        let header = format!(
            "reason={reason}, requested={requested}, earliest=6, tail=10, resume={}{lost}",
            resumed_after + 1
        );
        assert_eq!(stream.headers["leftoff-gap"], header);
        assert_eq!(stream.events(follows.len()).await, follows);
        assert!(stream.next().await.unwrap().is_control("leftoff.caught-up"));
    }
    let whole = Sse::follow(server.address, "a", "?after=5").await;
    assert_eq!(whole.headers.get("leftoff-gap"), None);
    let refused = to(server.address, "GET", "/v1/topics/a/events?after=2&on_gap=fail");
    let refused = send(refused.header("accept", "text/event-stream"), "").await;
    assert_eq!((refused.status.as_u16(), refused.json()["earliest"].as_u64()), (410, Some(6)));
}

#[tokio::test]
async fn trimming_what_a_reader_has_seen_is_no_gap_to_it() {
    let server = server_with_events("a", 3).await;
    let mut stream = Sse::follow(server.address, "a", "?from=earliest").await;
    assert_eq!(stream.events(3).await, numbered(1..=3));
    assert!(stream.next().await.unwrap().is_control("leftoff.caught-up"));
    server.broker.purge(&name("a"), Sequence::new(4)).await.unwrap();
    server.publish("a", "event 4").await;
    let next = stream.next().await.unwrap();
    assert_eq!((next.sequence(), next.event), (4, None));
}

#[tokio::test]
async fn a_quiet_stream_is_kept_alive_by_comments() {
    let mut config = Config::default();
    config.follow.heartbeat_ms = 20;
    let server = Server::with(config).await;
    let mut stream = Sse::follow(server.address, "a", "").await;
    let heartbeat = Frame { comment: Some("heartbeat".to_owned()), ..Frame::default() };
    for _ in 0..3 {
        stream.find(|frame| *frame == heartbeat).await;
    }
    server.publish("a", "event 1").await;
    assert_eq!(stream.events(1).await, numbered(1..=1));
}

/// Goal: a reader that does not read slows nobody down, and gets everything when it reads again.
/// Method: publish far more than all buffers in between hold while one reader does not read.
#[tokio::test]
async fn a_reader_that_stalls_slows_nobody_and_misses_nothing() {
    let mut config = Config::default();
    config.broker.max_tail_bytes = 1 << 20; // The stalled reader needs the log.
    let server = Server::with(config).await;
    let mut stalled = Sse::follow(server.address, "a", "?from=earliest").await;
    let mut reading = Sse::follow(server.address, "a", "?from=earliest").await;
    let count = 200;
    let payload = |number: u64| format!("{number} {}", "x".repeat(100_000));
    for number in 1..=count {
        server.publish("a", payload(number)).await;
        assert_eq!(reading.events(1).await, [(number, payload(number))]);
    }
    for number in 1..=count {
        assert_eq!(stalled.events(1).await, [(number, payload(number))]);
    }
    assert!(stalled.next_within(Duration::from_millis(1)).await.is_none_or(|f| !f.is_event()));
}
