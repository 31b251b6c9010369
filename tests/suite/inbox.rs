//! Inboxes: pages with marks, groups, and what streams tell of marks and counts while several
//! devices change them.

use std::time::{Duration, Instant};

use leftoff::edge::proto::{self, subscribe_response::Message};
use serde_json::{Value, json};

use crate::common::{Frame, Process, Server, Sse, soon, to};
use crate::consumers::{ask, done, published};
use crate::websocket::Client;

/// The longest time from the acknowledgement of a mark to its message on another device.
const IN_STEP: Duration = Duration::from_millis(100);

/// Returns the sequences of a page's events, and its `next`.
async fn page(server: &Server, path: &str) -> (Vec<u64>, Value) {
    let page = done(server.address, "GET", path, Value::Null).await;
    let events = page["events"].as_array().unwrap().iter();
    (events.map(|it| it["sequence"].as_u64().unwrap()).collect(), page["next"].clone())
}

async fn mark(server: &Server, topic: &str, body: Value) -> Value {
    let path = format!("/v1/consumers/inbox/marks?topic={topic}");
    done(server.address, "POST", &path, body).await
}

/// Goal: the cursor of a page marks what the page showed, also where nothing was published yet; and
/// a place that a list cannot begin at is refused by its own name.
#[tokio::test]
async fn an_inbox_without_events_has_a_cursor_that_marks_and_places_are_refused_by_name() {
    let server = Server::start().await;
    for query in ["order=newest", "group_by=key"] {
        let path = format!("/v1/topics/new/events?consumer=inbox&{query}");
        let page = done(server.address, "GET", &path, Value::Null).await;
        assert!(page["cursor"].as_str().unwrap().starts_with("0-"), "{page}");
        mark(&server, "new", json!({"mark": ["seen"], "up_to": page["cursor"]})).await;
    }
    for (query, field) in [
        ("order=newest&after=3", "after"),
        ("order=newest&from=latest", "from"),
        ("order=oldest&before=3", "before"),
        ("group_by=key&after=3", "after"),
        ("group_by=key&order=oldest", "order"),
    ] {
        let path = format!("/v1/topics/new/events?consumer=inbox&{query}");
        let refused = ask(server.address, "GET", &path, Value::Null).await;
        assert_eq!(
            (refused.status.as_u16(), &refused.json()["field"]),
            (400, &json!(field)),
            "{query}: {refused:?}"
        );
    }
    server.stop().await;
}

/// Goal: the newest events come first, in pages that stay right while new events arrive, with and
/// without a consumer, of one topic and of a pattern.
#[tokio::test]
async fn pages_begin_with_the_newest_event_and_stay_right_while_new_ones_arrive() {
    let server = Server::start().await;
    published(&server, "u.a", 10).await;
    let paths = [
        "/v1/topics/u.a/events?order=newest",
        "/v1/events?topic=u.%3E&order=newest",
        "/v1/topics/u.a/events?order=newest&consumer=inbox",
        "/v1/events?topic=u.%3E&order=newest&consumer=inbox",
    ];
    for path in paths {
        let newest = server.broker.topic(&"u.a".parse().unwrap()).unwrap().extent.tail.get() - 1;
        let (first, next) = page(&server, &format!("{path}&limit=4")).await;
        assert_eq!(first, (newest - 3..=newest).rev().collect::<Vec<_>>(), "{path}");
        published(&server, "u.a", 1).await;
        let (mut all, mut next) = (first, next);
        while let Some(before) = next.as_str() {
            let before = before.replace('@', "%40");
            let (some, then) = page(&server, &format!("{path}&limit=4&before={before}")).await;
            all.extend(some);
            next = then;
        }
        assert_eq!(all, (1..=newest).rev().collect::<Vec<_>>(), "{path}: each event once");
        let (even, _) = page(&server, &format!("{path}&type=odd&limit=2")).await;
        assert!(even.iter().all(|sequence| sequence % 2 == 0) && even.len() == 2, "{even:?}");
    }
    let oldest = "/v1/topics/u.a/events?order=oldest&consumer=inbox&limit=3";
    assert_eq!(page(&server, oldest).await.0, [1, 2, 3]);
    server.stop().await;
}

/// Goal: marks decide what a page of the inbox shows, and each event carries its own.
#[tokio::test]
async fn a_page_of_the_inbox_shows_what_its_marks_say() {
    let server = Server::start().await;
    let epoch = published(&server, "a", 8).await;
    mark(&server, "a", json!({"mark": ["read"], "events": [2, {"id": "a-3"}]})).await;
    mark(&server, "a", json!({"mark": ["archived"], "events": [5]})).await;
    let far = json!({"mark": ["snoozed"], "snooze_until": "2999-01-01T00:00:00Z", "events": [6]});
    mark(&server, "a", far).await;
    let inbox = async |query: &str| {
        page(&server, &format!("/v1/topics/a/events?consumer=inbox&order=newest{query}")).await.0
    };
    assert_eq!(inbox("").await, [8, 7, 4, 3, 2, 1]);
    assert_eq!(inbox("&read=false").await, [8, 7, 3, 1]);
    assert_eq!(inbox("&read=true").await, [4, 2]);
    assert_eq!(inbox("&seen=true").await, [4, 2], "a read event is seen");
    assert_eq!(inbox("&archived=true").await, [5]);
    assert_eq!(inbox("&snoozed=true").await, [6]);
    assert_eq!(inbox("&type=even&read=false").await, [7, 3, 1]);
    let path = "/v1/topics/a/events?consumer=inbox&order=newest&limit=1&read=true";
    let told = done(server.address, "GET", path, Value::Null).await;
    let marks = &told["events"][0]["marks"];
    let expected = json!({"seen": true, "read": true, "archived": false, "snoozed_until": null});
    assert_eq!(marks, &expected, "{told}");
    // All of the list that was shown, and nothing besides.
    let list = json!({"mark": ["read"], "up_to": format!("7-{epoch}"),
        "filter": {"types": ["even"]}, "marks": {"read": false}});
    mark(&server, "a", list).await;
    assert_eq!(inbox("&read=false").await, [8]);
    mark(&server, "a", json!({"unmark": ["archived"], "events": [5]})).await;
    assert_eq!(inbox("&read=false").await, [8, 5]);
    for (query, problem) in [
        ("order=newest&read=maybe&consumer=inbox", "read: \"maybe\" is neither true nor false"),
        ("order=up&consumer=inbox", "order: \"up\" is not one of newest, oldest"),
        ("read=true", "read: needs consumer"),
        ("group_by=key", "group_by: needs consumer"),
        ("group_by=type&consumer=inbox", "group_by: \"type\" is neither"),
        ("order=newest&wait=1s", "wait: is not known here"),
        ("order=newest&limit=0", "limit: 0 is not within"),
        ("order=newest&from=latest", "from: "),
    ] {
        let path = format!("/v1/topics/a/events?{query}");
        let refused = crate::common::get(server.address, &path).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert_eq!(refused.status, 400, "{query}: {detail}");
        assert!(detail.starts_with(problem), "{query}: {detail}");
    }
    server.stop().await;
}

/// Goal: a page by groups has one entry for each key, or value of a header, with its newest event,
/// its numbers and its last actors.
#[tokio::test]
async fn groups_have_their_newest_event_their_numbers_and_their_actors() {
    let server = Server::start().await;
    let at = server.address;
    for (number, actor, key) in
        [(1, "ann", "post"), (2, "bob", "post"), (3, "cid", "mail"), (4, "ann", "post")]
    {
        let lines = json!({"id": format!("n{number}"), "key": key, "data": number,
            "headers": {"actor": actor, "thread": format!("t{}", number % 2)}});
        let request = to(at, "POST", "/v1/topics/u.a/events");
        let request = request.header("content-type", "application/x-ndjson");
        let answer = crate::common::send(request, lines.to_string()).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    mark(&server, "u.%3E", json!({"mark": ["read"], "events": [{"id": "n1"}]})).await;
    let path = "/v1/events?topic=u.%3E&consumer=inbox&group_by=key&actors=actor";
    let page = done(at, "GET", path, Value::Null).await;
    let groups = page["groups"].as_array().unwrap();
    let told = |group: &Value| {
        (
            group["group"].as_str().unwrap().to_owned(),
            group["latest"]["id"].as_str().unwrap().to_owned(),
            group["count"].as_u64().unwrap(),
            group["unread"].as_u64().unwrap(),
            group["actors"].clone(),
        )
    };
    let post = ("post".to_owned(), "n4".to_owned(), 3, 2, json!(["ann", "bob"]));
    let mail = ("mail".to_owned(), "n3".to_owned(), 1, 1, json!(["cid"]));
    assert_eq!(groups.iter().map(told).collect::<Vec<_>>(), [post, mail], "{page}");
    let path = "/v1/events?topic=u.%3E&consumer=inbox&group_by=header:thread&limit=1";
    let page = done(at, "GET", path, Value::Null).await;
    assert_eq!(page["groups"][0]["group"], json!("t0"), "{page}");
    assert_eq!(page["groups"].as_array().unwrap().len(), 1);
    server.stop().await;
}

/// Returns the state of a message on a WebSocket, or of a frame: its type and its JSON.
fn state_of(frame: &Frame) -> Option<(String, Value)> {
    let kind = frame.event.as_deref()?.strip_prefix("leftoff.")?;
    assert!(!["marked", "counts"].contains(&kind) || frame.id.is_none(), "{frame:?}");
    Some((kind.to_owned(), frame.json()))
}

/// Goal: two tabs on WebSockets, a phone on an event stream and a service over gRPC agree on a mark
/// within 100 ms of its acknowledgement; each is told the whole state first, and no cursor moves.
#[tokio::test]
async fn all_devices_are_in_step_within_a_tenth_of_a_second_of_an_acknowledgement() {
    let server = Server::start().await;
    let at = server.address;
    published(&server, "u.a", 3).await;
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let mut tab = Client::connect(at).await;
        tab.say(json!({"type": "subscribe", "subscription": "s", "topics": ["u.>"],
            "consumer": "inbox", "counts": true}))
            .await;
        assert_eq!(tab.find("counts").await["unread"], json!(3));
        let whole = tab.find("marked").await;
        assert_eq!((&whole["whole"], &whole["subscription"]), (&json!(true), &json!("s")));
        tab.find("caught_up").await;
        tabs.push(tab);
    }
    let path = "/v1/events?topic=u.%3E&consumer=inbox&counts=true";
    let mut phone = Sse::open(to(at, "GET", path)).await.unwrap();
    let first = phone.find(|frame| frame.event.is_some()).await;
    assert_eq!(state_of(&first).unwrap().0, "counts", "counts come first");
    let whole = phone.find(|frame| frame.is_control("leftoff.marked")).await;
    assert_eq!(state_of(&whole).unwrap().1["whole"], json!(true));
    phone.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let mut grpc = server.grpc().await;
    let request = proto::SubscribeRequest {
        topics: vec!["u.>".to_owned()],
        consumer: "inbox".to_owned(),
        counts: true,
        ..Default::default()
    };
    let mut service = grpc.subscribe(request).await.unwrap().into_inner();
    loop {
        let message = soon(service.message()).await.unwrap().unwrap().message.unwrap();
        if let Message::CaughtUp(_) = message {
            break;
        }
    }
    for sequence in 1..=3 {
        let last_id = phone.last_id.clone();
        tokio::time::sleep(Duration::from_millis(120)).await; // Counts are at most ten a second.
        tabs[0]
            .say(json!({"type": "mark", "ref": sequence, "topic": "u.>", "consumer": "inbox",
                "mark": ["read"], "events": [{"topic": "u.a", "sequence": sequence}]}))
            .await;
        // The first tab hears its own change, and the acknowledgement, in any order.
        let (mut own, mut is_acknowledged) = (false, false);
        let mut acknowledged = Instant::now();
        while !own || !is_acknowledged {
            let message = tabs[0].hear().await;
            match message["type"].as_str().unwrap() {
                "ack" => (is_acknowledged, acknowledged) = (true, Instant::now()),
                "marked" => own = true,
                _ => {}
            }
        }
        let marked = tabs[1].find("marked").await;
        assert_eq!(marked["events"]["u.a"], json!(sequence.to_string()), "{marked}");
        assert_eq!(marked["mark"], json!(["read"]));
        let unread = 3 - sequence;
        assert_eq!(tabs[1].find("counts").await["unread"], json!(unread));
        assert!(acknowledged.elapsed() < IN_STEP, "{:?}", acknowledged.elapsed());
        let marked = phone.find(|frame| frame.is_control("leftoff.marked")).await;
        assert_eq!(state_of(&marked).unwrap().1["events"]["u.a"], json!(sequence.to_string()));
        let counts = phone.find(|frame| frame.is_control("leftoff.counts")).await;
        assert_eq!(state_of(&counts).unwrap().1["unread"], json!(unread));
        assert_eq!(phone.last_id, last_id, "no cursor moves");
        let (mut is_marked, mut is_counted) = (false, false);
        while !is_marked || !is_counted {
            match soon(service.message()).await.unwrap().unwrap().message.unwrap() {
                Message::Marked(marked) => {
                    is_marked = marked.events.get("u.a") == Some(&sequence.to_string());
                }
                Message::Counts(counts) => is_counted = counts.unread == unread,
                _ => {}
            }
        }
        assert!(acknowledged.elapsed() < 2 * IN_STEP, "{:?}", acknowledged.elapsed());
    }
    drop((tabs, phone, service));
    server.stop().await;
}

/// Goal: a client that takes nothing holds a bounded number of changes: when it reads again, it is
/// told all marks in the place of those that were too many, and ends with the right ones.
#[tokio::test]
async fn a_client_that_takes_nothing_is_told_all_marks_when_it_reads_again() {
    const MARKS: u64 = 1_200;
    let server = Server::start().await;
    published(&server, "a", 2).await;
    let mut stream = Sse::follow(server.address, "a", "?consumer=inbox").await;
    let whole = stream.find(|frame| frame.is_control("leftoff.marked")).await.json();
    assert_eq!(whole["whole"], json!(true));
    let mut socket = Client::connect(server.address).await;
    for number in 0..MARKS {
        let kind = if number % 2 == 0 { "mark" } else { "unmark" };
        let mut message = json!({"type": "mark", "ref": number, "topic": "a",
            "consumer": "inbox", "events": [1]});
        message[kind] = json!(["archived"]);
        socket.say(message).await;
        if number % 50 == 49 {
            for _ in 0..50 {
                socket.find("ack").await;
            }
        }
    }
    let last = json!({"type": "mark", "ref": "last", "topic": "a", "consumer": "inbox",
        "mark": ["archived"], "events": [1, 2]});
    socket.say(last).await;
    let revision = socket.find("ack").await["revision"].clone();
    let (mut told, mut archived) = (0, Value::Null);
    loop {
        let frame = stream.find(|frame| frame.is_control("leftoff.marked")).await.json();
        told += 1;
        if frame["whole"] == json!(true) {
            archived = frame["marks"]["archived"]["marked"]["a"].clone();
        } else if frame["mark"] == json!(["archived"]) {
            archived = frame["events"]["a"].clone();
        }
        if frame["revision"] == revision {
            break;
        }
    }
    assert!(told <= MARKS + 1, "{told}");
    assert_eq!(archived, json!("1-2"));
    drop((stream, socket));
    server.stop().await;
}

/// Goal: events change the counts of a stream, too, and many changes are told together.
#[tokio::test]
async fn counts_are_told_when_they_change_and_at_most_ten_times_a_second() {
    let server = Server::start().await;
    let path = "/v1/topics/a/events?consumer=inbox&counts=true&type=even";
    let mut stream = Sse::open(to(server.address, "GET", path)).await.unwrap();
    let started = Instant::now();
    let mut told = 0;
    let publishing = async {
        published(&server, "a", 60).await;
    };
    let counting = async {
        loop {
            let frame = stream.find(|frame| frame.is_control("leftoff.counts")).await;
            told += 1;
            if frame.json()["total"] == json!(30) {
                break;
            }
        }
    };
    soon(async { tokio::join!(publishing, counting) }).await;
    let most = 2 + started.elapsed().as_millis() as u64 / 100;
    assert!(told <= most, "{told} in {:?}", started.elapsed());
    let quiet = stream.next_within(Duration::from_millis(400)).await;
    let is_counts = quiet.as_ref().is_some_and(|frame| frame.is_control("leftoff.counts"));
    assert!(!is_counts, "nothing has changed: {quiet:?}");
    drop(stream);
    server.stop().await;
}

/// Goal: a snooze that ends is told by the counts at its time, with no request.
#[tokio::test]
async fn a_snooze_that_ends_changes_the_counts_at_its_time() {
    let server = Server::start().await;
    published(&server, "a", 2).await;
    let until = leftoff::Timestamp::now().plus_ms(900).to_string();
    mark(&server, "a", json!({"mark": ["snoozed"], "snooze_until": until, "events": [1]})).await;
    let path = "/v1/topics/a/events?consumer=inbox&counts=true";
    let mut stream = Sse::open(to(server.address, "GET", path)).await.unwrap();
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let frame = stream.find(|frame| frame.is_control("leftoff.counts")).await;
        let counts = frame.json();
        numbers.push(["inbox", "unseen", "snoozed"].map(|name| counts[name].as_u64().unwrap()));
    }
    assert_eq!(numbers, [[1, 1, 1], [2, 2, 0]]);
    assert!(leftoff::Timestamp::now().to_string() >= until, "not before its time");
    drop(stream);
    server.stop().await;
}

/// Goal: a device that comes back with the revision that it has is told what changed meanwhile, and
/// nothing twice; with a revision from before a crash it is told all marks.
#[tokio::test]
async fn a_device_that_comes_back_is_told_what_it_missed_and_nothing_twice() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    let mut at = process.address;
    for number in 0..4 {
        done(at, "POST", "/v1/topics/a/events", json!(number)).await;
    }
    let follow = async |at, after: &str| {
        let after = after.replace('@', "%40");
        let path = format!("/v1/topics/a/events?consumer=inbox&marks_after={after}");
        Sse::open(to(at, "GET", &path)).await.unwrap()
    };
    let marked = async |stream: &mut Sse| {
        stream.find(|frame| frame.is_control("leftoff.marked")).await.json()
    };
    let read = async |at, sequence: u64| {
        let body = json!({"mark": ["read"], "events": [sequence]});
        done(at, "POST", "/v1/consumers/inbox/marks?topic=a", body).await
    };
    // Another device keeps the newest changes alive.
    let _other = follow(at, "").await;
    let mut stream = follow(at, "").await;
    assert_eq!(marked(&mut stream).await["whole"], json!(true));
    read(at, 1).await;
    let known = marked(&mut stream).await["revision"].as_str().unwrap().to_owned();
    drop(stream);
    let acks = [read(at, 2).await, read(at, 3).await];
    let mut stream = follow(at, &known).await;
    for (ack, sequence) in acks.iter().zip(["2", "3"]) {
        let change = marked(&mut stream).await;
        let told = (&change["events"]["a"], &change["revision"]);
        assert_eq!(told, (&json!(sequence), &ack["revision"]), "{change}");
    }
    let known = acks[1]["revision"].as_str().unwrap().to_owned();
    let mut stream = follow(at, &known).await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let again = stream.next_within(Duration::from_millis(200)).await;
    assert_eq!(again, None, "the state is known");
    drop(stream);

    process.crash();
    process = Process::serve(directory.path(), &[]);
    at = process.address;
    let mut stream = follow(at, &known).await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    assert_eq!(stream.next_within(Duration::from_millis(200)).await, None, "nothing has changed");
    let ack = read(at, 4).await;
    let change = marked(&mut stream).await;
    let told = (&change["events"]["a"], &change["revision"]);
    assert_eq!(told, (&json!("4"), &ack["revision"]), "{change}");
    drop(stream);
    let mut stream = follow(at, "@1-00000001").await;
    let whole = marked(&mut stream).await;
    assert_eq!(whole["marks"]["read"]["marked"]["a"], json!("1-4"), "{whole}");
}
