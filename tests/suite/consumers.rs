//! Consumers over HTTP, on WebSockets and over gRPC: names, checkpoints, marks and counts, and who
//! sees them. Their inboxes and live messages are in `inbox.rs`.
//!
//! The file is longer than others, because each transport is asked for the same here.

use std::net::SocketAddr;

use leftoff::config::Config;
use leftoff::edge::proto::{self, checkpoint_stream_response::Outcome};
use serde_json::{Value, json};
use tempfile::tempdir;
use tonic::Code;

use crate::common::{Answer, Process, Server, Sse, run, send, soon, text, to};
use crate::websocket::Client;

/// Sends JSON.
pub(crate) async fn ask(address: SocketAddr, method: &str, path: &str, body: Value) -> Answer {
    let request = to(address, method, path).header("content-type", "application/json");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(request, body).await
}

/// Sends JSON, and returns the JSON of success.
pub(crate) async fn done(address: SocketAddr, method: &str, path: &str, body: Value) -> Value {
    let answer = ask(address, method, path, body).await;
    assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
    answer.json()
}

/// Returns the status and the detail of a refusal.
async fn refused(address: SocketAddr, method: &str, path: &str, body: Value) -> (u16, String) {
    let answer = ask(address, method, path, body).await;
    assert!(!answer.status.is_success(), "{method} {path}: {answer:?}");
    (answer.status.as_u16(), answer.json()["detail"].as_str().unwrap().to_owned())
}

/// Publishes events to a topic of users, with ids and types, and returns the epoch.
pub(crate) async fn published(server: &Server, topic: &str, count: usize) -> String {
    for number in 0..count {
        let kind = if number % 2 == 0 { "even" } else { "odd" };
        let query = format!("id={topic}-{number}&type={kind}&key=k{}", number % 3);
        let path = format!("/v1/topics/{topic}/events?{query}");
        done(server.address, "POST", &path, json!(number)).await;
    }
    server.broker.epoch().to_string()
}

/// Goal: a consumer is created, changed, told, listed and deleted; one that was never written is
/// told as it would be.
#[tokio::test]
async fn a_consumer_is_what_its_settings_say_and_needs_not_be_created() {
    let server = Server::start().await;
    let at = server.address;
    published(&server, "a", 3).await;
    let path = "/v1/consumers/inbox?topic=a";
    let unwritten = done(at, "GET", path, Value::Null).await;
    assert_eq!((&unwritten["checkpoint"], &unwritten["created"]), (&Value::Null, &Value::Null));
    assert_eq!(done(at, "GET", "/v1/consumers", Value::Null).await, json!({"consumers": []}));

    let created = ask(at, "PUT", path, json!({"filter": {"types": ["even"]}, "from": "2"})).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!(created["filter"]["types"], json!(["even"]));
    assert!(created["checkpoint"].as_str().unwrap().starts_with("2-"), "{created}");
    let again = ask(at, "PUT", path, json!({"from": "earliest"})).await;
    assert_eq!(again.status, 200);
    let again = again.json();
    assert_eq!(again["checkpoint"], created["checkpoint"], "a checkpoint is no setting");
    assert_ne!(again["revision"], created["revision"]);
    let changed = done(at, "PATCH", path, json!({"filter": {"keys": ["k1"]}})).await;
    assert_eq!(changed["filter"]["keys"], json!(["k1"]));
    let unset = done(at, "PATCH", path, json!({"filter": null})).await;
    assert!(unset.get("filter").is_none_or(|filter| filter["keys"] == json!([])), "{unset}");

    for name in ["b", "c", "d"] {
        let path = format!("/v1/consumers/{name}?topic=a.%3E");
        done(at, "PUT", &path, Value::Null).await;
    }
    let listed = async |path: &str| {
        let listed = done(at, "GET", path, Value::Null).await;
        let names = listed["consumers"].as_array().unwrap().iter();
        names.map(|it| it["consumer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("/v1/consumers").await, ["inbox", "b", "c", "d"]);
    assert_eq!(listed("/v1/consumers?topic=a.%3E&limit=2").await, ["b", "c"]);
    assert_eq!(listed("/v1/consumers?after=a.%3E%2Fb").await, ["c", "d"]);

    let deleted = ask(at, "DELETE", path, Value::Null).await;
    assert_eq!(deleted.status, 204, "{deleted:?}");
    let unwritten = done(at, "GET", path, Value::Null).await;
    assert_eq!((&unwritten["checkpoint"], &unwritten["created"]), (&Value::Null, &Value::Null));
    server.stop().await;
}

/// Goal: everything that is wrong is refused by name, and nothing is written.
#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_and_nothing_is_written() {
    let server = Server::start().await;
    let at = server.address;
    let epoch = published(&server, "a", 3).await;
    let long = "x".repeat(129);
    let many = vec![json!({"consumer": "c", "topic": "a"}); 101];
    let large = json!({"mark": ["read"], "events": [{"id": "x".repeat(1 << 20)}]});
    let filters = json!([{"consumer": "c", "topic": "a", "filters": vec![json!({}); 31]}]);
    let cases = [
        ("GET", "/v1/consumers/c".to_owned(), Value::Null, 400, "topic: is missing"),
        ("GET", "/v1/consumers/c?topic=a..b".to_owned(), Value::Null, 400, "empty token"),
        ("GET", format!("/v1/consumers/{long}?topic=a"), Value::Null, 413, "129 is over the limit"),
        ("GET", "/v1/consumers/c?topic=a&x=1".to_owned(), Value::Null, 400, "x: is not known"),
        ("PUT", "/v1/consumers/c?topic=a".to_owned(), json!({"filters": {}}), 400, "filters"),
        ("PUT", "/v1/consumers/c?topic=a".to_owned(), json!({"from": "soon"}), 400, "soon"),
        ("PUT", "/v1/consumers/c?topic=a".to_owned(), json!([]), 400, "a list is not an object"),
        ("PATCH", "/v1/consumers/c?topic=a".to_owned(), json!({"filter": []}), 400, "a list is"),
        ("POST", "/v1/consumers/c/checkpoint?topic=a".to_owned(), json!({}), 400, "cursor"),
        (
            "POST",
            "/v1/consumers/c/checkpoint?topic=a".to_owned(),
            json!({"cursor": format!("9-{epoch}")}),
            400,
            "9",
        ),
        (
            "POST",
            "/v1/consumers/c/checkpoint?topic=a".to_owned(),
            json!({"cursor": "1-00000001"}),
            400,
            "epoch",
        ),
        (
            "POST",
            "/v1/consumers/c/checkpoint?topic=a.%3E".to_owned(),
            json!({"cursor": "1"}),
            400,
            "position",
        ),
        (
            "POST",
            "/v1/consumers/c/marks?topic=a".to_owned(),
            json!({"mark": ["read"]}),
            400,
            "either events or up_to",
        ),
        (
            "POST",
            "/v1/consumers/c/marks?topic=a".to_owned(),
            json!({"mark": ["read"], "events": vec![1; 1_001]}),
            413,
            "events: 1001 is over the limit of 1000",
        ),
        (
            "POST",
            "/v1/counts".to_owned(),
            json!(many),
            413,
            "consumers: 101 is over the limit of 100",
        ),
        ("POST", "/v1/counts".to_owned(), filters, 413, "filters: 31 is over the limit of 30"),
        ("POST", "/v1/consumers/c/marks?topic=a".to_owned(), large, 413, "limit of 1048576"),
        ("GET", "/v1/consumers?after=x".to_owned(), Value::Null, 400, "TOPIC/CONSUMER"),
    ];
    for (method, path, body, status, problem) in cases {
        let (told, detail) = refused(at, method, &path, body).await;
        assert_eq!(told, status, "{method} {path}: {detail}");
        assert!(detail.contains(problem), "{method} {path}: {detail}");
    }
    assert_eq!(done(at, "GET", "/v1/consumers", Value::Null).await, json!({"consumers": []}));
    server.stop().await;
}

/// Goal: where consumers must be created, all of them look alike until they are.
#[tokio::test]
async fn without_auto_create_a_consumer_must_be_put_first() {
    let mut config = Config::default();
    config.consumers.auto_create = false;
    let server = Server::with(config).await;
    let at = server.address;
    published(&server, "a", 1).await;
    let requests = [
        ("GET", "/v1/consumers/c?topic=a", Value::Null),
        ("GET", "/v1/consumers/c/counts?topic=a", Value::Null),
        ("GET", "/v1/consumers/c/marks?topic=a", Value::Null),
        ("POST", "/v1/consumers/c/marks?topic=a", json!({"mark": ["read"], "events": [1]})),
        ("POST", "/v1/consumers/c/checkpoint?topic=a", json!({"cursor": "1"})),
        ("DELETE", "/v1/consumers/c?topic=a", Value::Null),
        ("GET", "/v1/topics/a/events?consumer=c", Value::Null),
        ("GET", "/v1/topics/a/events?consumer=c&order=newest", Value::Null),
    ];
    for (method, path, body) in &requests {
        let (status, detail) = refused(at, method, path, body.clone()).await;
        assert_eq!(status, 404, "{method} {path}: {detail}");
    }
    let stream = Sse::follow(at, "a", "?consumer=c").await;
    assert_eq!(stream.status, 404);
    done(at, "PUT", "/v1/consumers/c?topic=a", Value::Null).await;
    for (method, path, body) in &requests {
        let answer = ask(at, method, path, body.clone()).await;
        assert!(answer.status.is_success(), "{method} {path}: {answer:?}");
        if *method == "DELETE" {
            done(at, "PUT", "/v1/consumers/c?topic=a", Value::Null).await;
        }
    }
    server.stop().await;
}

/// Goal: a checkpoint moves forward only, unless it is forced; one that is conditional says what is
/// there.
#[tokio::test]
async fn a_checkpoint_moves_forward_unless_it_is_forced_and_holds_its_condition() {
    let server = Server::start().await;
    let at = server.address;
    let epoch = published(&server, "a", 5).await;
    let path = "/v1/consumers/c/checkpoint?topic=a";
    let cursor = |number: u64| format!("{number}-{epoch}");
    let set = async |body: Value| {
        let told = done(at, "POST", path, body).await;
        (told["checkpoint"].as_str().unwrap().to_owned(), told["moved"].as_bool().unwrap())
    };
    assert_eq!(set(json!({"cursor": cursor(3)})).await, (cursor(3), true));
    assert_eq!(set(json!({"cursor": cursor(3)})).await, (cursor(3), false));
    assert_eq!(set(json!({"cursor": cursor(1)})).await, (cursor(3), false));
    assert_eq!(set(json!({"cursor": cursor(1), "force": true})).await, (cursor(1), true));
    let expecting = json!({"cursor": cursor(4), "expected": cursor(3)});
    let conflict = ask(at, "POST", path, expecting).await;
    assert_eq!(conflict.status, 409, "{conflict:?}");
    assert_eq!(conflict.json()["actual_checkpoint"], json!(cursor(1)), "{conflict:?}");
    let expecting = json!({"cursor": cursor(4), "expected": cursor(1)});
    assert_eq!(set(expecting).await, (cursor(4), true));
    let none = ask(at, "POST", path, json!({"cursor": cursor(5), "expected": null})).await;
    assert_eq!(none.status, 409);
    let other = "/v1/consumers/d/checkpoint?topic=a";
    let none = done(at, "POST", other, json!({"cursor": cursor(5), "expected": null})).await;
    assert_eq!(none["moved"], json!(true));
    server.stop().await;
}

/// Goal: on each transport a reader that names a consumer begins after its checkpoint, through its
/// filter, unless it brings a place.
#[tokio::test]
async fn readers_begin_after_the_checkpoint_on_every_transport_unless_they_bring_a_place() {
    let server = Server::start().await;
    let at = server.address;
    published(&server, "u.a", 6).await; // Sequences 1 to 6; odd ones are of the type `even`.
    let settings = json!({"filter": {"types": ["even"]}});
    for topic in ["u.a", "u.%3E"] {
        done(at, "PUT", &format!("/v1/consumers/c?topic={topic}"), settings.clone()).await;
    }
    let checkpoint = "/v1/consumers/c/checkpoint";
    done(at, "POST", &format!("{checkpoint}?topic=u.a"), json!({"cursor": "2"})).await;
    let position = server.broker.topic(&"u.a".parse().unwrap()).unwrap().extent.last_position;
    let second = position.get() - 4;
    let cursor = json!({"cursor": format!("@{second}")});
    done(at, "POST", &format!("{checkpoint}?topic=u.%3E"), cursor).await;

    let sequences = |events: &[Value]| {
        events.iter().map(|it| it["sequence"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    for path in ["/v1/topics/u.a/events?consumer=c", "/v1/events?topic=u.%3E&consumer=c"] {
        let page = done(at, "GET", path, Value::Null).await;
        assert_eq!(sequences(page["events"].as_array().unwrap()), [3, 5], "{path}");
        let all = done(at, "GET", &format!("{path}&from=earliest"), Value::Null).await;
        assert_eq!(sequences(all["events"].as_array().unwrap()), [1, 3, 5], "{path}");
        let request = to(at, "GET", &format!("{path}&format=envelope"));
        let mut stream = Sse::open(request).await.unwrap();
        assert_eq!(sequences(&stream.events_of_many(2).await), [3, 5], "{path}");
    }
    let mut resumed =
        Sse::open(to(at, "GET", "/v1/topics/u.a/events?consumer=c").header("last-event-id", "4"))
            .await
            .unwrap();
    assert_eq!(resumed.events(1).await[0].0, 5, "the id comes first");

    let mut socket = Client::connect(at).await;
    let subscribe = json!({"type": "subscribe", "subscription": "s", "topics": ["u.>"],
        "consumer": "c"});
    socket.say(subscribe).await;
    for sequence in [3, 5] {
        assert_eq!(socket.find("event").await["event"]["sequence"], json!(sequence));
    }
    let mut grpc = server.grpc().await;
    let request = proto::SubscribeRequest {
        topic: "u.a".to_owned(),
        consumer: "c".to_owned(),
        ..Default::default()
    };
    let mut stream = grpc.subscribe(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = soon(stream.message()).await.unwrap().unwrap().message.unwrap();
        if let proto::subscribe_response::Message::Events(batch) = message {
            seen.extend(batch.events.iter().map(|event| event.sequence));
        }
    }
    assert_eq!(seen, [3, 5]);
    drop(stream);
    server.stop().await;
}

/// Goal: checkpoints and marks on a WebSocket and on a stream of gRPC need not wait for each other;
/// each is answered, in the order in which it came.
#[tokio::test]
async fn checkpoints_and_marks_are_pipelined_on_a_web_socket_and_over_grpc() {
    const COUNT: u64 = 40;
    let server = Server::start().await;
    let at = server.address;
    published(&server, "a", COUNT as usize).await;
    let mut socket = Client::connect(at).await;
    for number in 1..=COUNT {
        socket
            .say(json!({"type": "checkpoint", "ref": number, "topic": "a", "consumer": "ws",
                "cursor": number.to_string()}))
            .await;
        socket
            .say(json!({"type": "mark", "ref": format!("m{number}"), "topic": "a",
                "consumer": "ws", "mark": ["read"], "events": [number]}))
            .await;
    }
    let mut moved = 0;
    for _ in 0..2 * COUNT {
        let answer = socket.hear().await;
        match answer["type"].as_str().unwrap() {
            "checkpointed" => {
                let reference = answer["ref"].as_u64().unwrap();
                // The present one may be further already.
                let present = answer["checkpoint"].as_str().unwrap().split('-').next().unwrap();
                assert!(present.parse::<u64>().unwrap() >= reference, "{answer}");
                moved += u64::from(answer["moved"] == json!(true));
            }
            "ack" => assert_eq!(answer["changed"], json!(true), "{answer}"),
            _ => panic!("{answer}"),
        }
    }
    assert_eq!(moved, COUNT);
    let wrong = json!({"type": "checkpoint", "ref": "w", "topic": "a", "consumer": "ws",
        "cursor": "999"});
    socket.say(wrong).await;
    let error = socket.find("error").await;
    assert_eq!((&error["ref"], &error["error"]["status"]), (&json!("w"), &json!(400)), "{error}");
    let marks = done(at, "GET", "/v1/consumers/ws/marks?topic=a", Value::Null).await;
    let read = &marks["marks"]["read"];
    let whole = format!("1-{COUNT}");
    let is_all = read["marked"]["a"] == json!(whole) || read["up_to"] == json!(COUNT);
    assert!(is_all, "{marks}");

    let mut grpc = server.grpc().await;
    let consumer = || {
        let (topic, consumer) = ("a".to_owned(), "grpc".to_owned());
        Some(proto::ConsumerRef { topic, consumer, ..Default::default() })
    };
    let checkpoint = |number: u64| proto::CheckpointStreamRequest {
        request: Some(proto::checkpoint_stream_request::Request::Checkpoint(
            proto::SetCheckpointRequest {
                consumer: consumer(),
                cursor: number.to_string(),
                ..Default::default()
            },
        )),
    };
    let mut requests: Vec<_> = (1..=COUNT).map(checkpoint).collect();
    requests.push(checkpoint(999));
    requests.push(proto::CheckpointStreamRequest {
        request: Some(proto::checkpoint_stream_request::Request::Mark(proto::MarkEventsRequest {
            consumer: consumer(),
            mark: vec!["archived".to_owned()],
            up_to: "3".to_owned(),
            ..Default::default()
        })),
    });
    let stream = futures_util::stream::iter(requests);
    let answers = grpc.checkpoint_stream(stream).await.unwrap();
    let mut answers = answers.into_inner();
    for number in 1..=COUNT {
        let Some(Outcome::Checkpoint(ack)) =
            soon(answers.message()).await.unwrap().unwrap().outcome
        else {
            panic!("{number}")
        };
        let present = ack.checkpoint.split('-').next().unwrap().parse::<u64>().unwrap();
        assert!(present >= number && ack.moved, "{number}: {ack:?}");
    }
    let Some(Outcome::Error(error)) = soon(answers.message()).await.unwrap().unwrap().outcome
    else {
        panic!()
    };
    assert_eq!(error.code, Code::InvalidArgument as i32, "{error:?}");
    let Some(Outcome::Mark(ack)) = soon(answers.message()).await.unwrap().unwrap().outcome else {
        panic!()
    };
    assert!(ack.changed);
    assert!(soon(answers.message()).await.unwrap().is_none());
    server.stop().await;
}

/// Goal: each call of the service over gRPC does what its route over HTTP does.
#[tokio::test]
async fn the_service_over_grpc_does_what_the_routes_do() {
    let server = Server::start().await;
    let at = server.address;
    let epoch = published(&server, "a", 4).await;
    let mut grpc = server.grpc().await;
    let consumer = || {
        let (topic, consumer) = ("a".to_owned(), "c".to_owned());
        Some(proto::ConsumerRef { topic, consumer, ..Default::default() })
    };
    let put = proto::PutConsumerRequest { consumer: consumer(), ..Default::default() };
    let created = grpc.put_consumer(put).await.unwrap().into_inner().consumer.unwrap();
    assert_eq!((&*created.topic, &*created.consumer, &*created.checkpoint), ("a", "c", ""));
    let filter = proto::Filter { types: vec!["even".to_owned()], ..Default::default() };
    let update = proto::UpdateConsumerRequest {
        consumer: consumer(),
        filter: Some(filter.clone()),
        ..Default::default()
    };
    let updated = grpc.update_consumer(update).await.unwrap().into_inner().consumer.unwrap();
    assert_eq!(updated.filter, Some(filter));
    let set = |cursor: &str, expected: Option<&str>| proto::SetCheckpointRequest {
        consumer: consumer(),
        cursor: cursor.to_owned(),
        force: false,
        expected: expected.map(str::to_owned),
    };
    let ack = grpc.set_checkpoint(set("1", Some(""))).await.unwrap().into_inner();
    assert_eq!((ack.checkpoint, ack.moved), (format!("1-{epoch}"), true));
    let page = |from: &str| proto::ReadRequest {
        topic: "a".to_owned(),
        from: from.to_owned(),
        consumer: "c".to_owned(),
        ..Default::default()
    };
    for (from, read) in [("", vec![3]), ("0", vec![1, 3])] {
        let page = grpc.read(page(from)).await.unwrap().into_inner();
        let sequences: Vec<u64> = page.events.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, read, "after the checkpoint unless told otherwise, and filtered");
    }
    let nobody = proto::ReadRequest { owner: "u".to_owned(), consumer: String::new(), ..page("") };
    assert_eq!(grpc.read(nobody).await.unwrap_err().code(), Code::InvalidArgument);
    let conflict = grpc.set_checkpoint(set("2", Some("3"))).await.unwrap_err();
    assert_eq!(conflict.code(), Code::FailedPrecondition, "{conflict:?}");
    let mark = proto::MarkEventsRequest {
        consumer: consumer(),
        mark: vec!["read".to_owned()],
        events: vec![proto::EventRef { id: "a-0".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    assert!(grpc.mark_events(mark).await.unwrap().into_inner().changed);
    let marks = grpc.get_marks(proto::GetMarksRequest { consumer: consumer() }).await.unwrap();
    let read = marks.into_inner().marks.unwrap().read.unwrap();
    assert_eq!(read.marked.get("a").map(String::as_str), Some("1"));
    let wanted = proto::ConsumerCounts { consumer: consumer(), filters: Vec::new() };
    let count = proto::CountEventsRequest { consumers: vec![wanted] };
    let counted = grpc.count_events(count).await.unwrap().into_inner();
    let counts = &counted.consumers[0].counts[0];
    let numbers = [counts.total, counts.unfinished, counts.unread];
    assert_eq!(numbers, [2, 1, 1], "{counts:?}");
    let inbox = proto::ReadInboxRequest {
        consumer: consumer(),
        marks: Some(proto::MarkFilter { read: Some(true), ..Default::default() }),
        ..Default::default()
    };
    let page = grpc.read_inbox(inbox).await.unwrap().into_inner();
    let shown: Vec<_> = page.events.iter().map(|it| it.event.as_ref().unwrap().sequence).collect();
    assert_eq!((shown, page.next_page_token), (vec![1], String::new()));
    assert!(page.events[0].marks.unwrap().seen);
    let groups = proto::ReadGroupsRequest {
        consumer: consumer(),
        group_by: "key".to_owned(),
        ..Default::default()
    };
    let page = grpc.read_groups(groups).await.unwrap().into_inner();
    let groups: Vec<_> = page.groups.iter().map(|it| (it.group.as_deref(), it.count)).collect();
    assert_eq!(groups, [(Some("k2"), 1), (Some("k0"), 1)]);
    let listed = grpc.list_consumers(proto::ListConsumersRequest::default()).await.unwrap();
    let told = done(at, "GET", "/v1/consumers/c?topic=a", Value::Null).await;
    assert_eq!(json!(listed.into_inner().consumers[0].revision), told["revision"]);
    let delete = proto::DeleteConsumerRequest { consumer: consumer() };
    grpc.delete_consumer(delete).await.unwrap();
    let gone = grpc.get_consumer(proto::GetConsumerRequest { consumer: consumer() }).await;
    assert_eq!(gone.unwrap().into_inner().consumer.unwrap().checkpoint, "");
    server.stop().await;
}

/// Goal: the command line lists, shows, counts, sets and deletes consumers.
#[tokio::test]
async fn the_command_line_shows_and_changes_consumers() {
    let server = Server::start().await;
    let epoch = published(&server, "a", 3).await;
    let url = format!("http://{}", server.address);
    let told = async |arguments: &[&str]| {
        let output = run(&[&["consumer"], arguments, &["--server", &url]].concat()).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        let lines = text(&output.stdout);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let set = told(&["checkpoint", "a", "c", "--cursor", "2"]).await;
    assert_eq!(set[0]["checkpoint"], json!(format!("2-{epoch}")));
    assert_eq!(told(&["get", "a", "c"]).await[0]["checkpoint"], set[0]["checkpoint"]);
    assert_eq!(told(&["counts", "a", "c"]).await[0]["unfinished"], json!(1));
    assert_eq!(told(&["list"]).await[0]["consumer"], json!("c"));
    assert_eq!(told(&["list", "--topic", "b"]).await.len(), 0);
    told(&["delete", "a", "c"]).await;
    assert_eq!(told(&["list"]).await.len(), 0);
    server.stop().await;
}

/// Goal: a badge that polls is told once that nothing has changed, without counting, and at once
/// when something has.
#[tokio::test]
async fn a_badge_that_polls_is_answered_304_until_something_changes() {
    let server = Server::start().await;
    let at = server.address;
    published(&server, "a", 4).await;
    let path = "/v1/consumers/c/counts?topic=a&type=even";
    let poll = async |tag: &str| send(to(at, "GET", path).header("if-none-match", tag), "").await;
    let first = poll("").await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.header("cache-control"), "private, no-cache");
    let counts = first.json();
    let numbers = ["total", "unfinished", "inbox", "unread"].map(|name| counts[name].clone());
    assert_eq!(numbers, [2, 2, 2, 2].map(Value::from), "{counts}");
    let tag = first.header("etag").to_owned();
    let same = poll(&tag).await;
    assert_eq!((same.status.as_u16(), same.header("etag")), (304, &*tag));
    let mark = json!({"mark": ["read"], "events": [1]});
    done(at, "POST", "/v1/consumers/c/marks?topic=a", mark).await;
    let marked = poll(&tag).await;
    assert_eq!((marked.status.as_u16(), &marked.json()["unread"]), (200, &json!(1)));
    let tag = marked.header("etag").to_owned();
    published(&server, "b", 1).await;
    assert_eq!(poll(&tag).await.status, 304, "another topic has changed");
    done(at, "POST", "/v1/topics/a/events?type=even", json!("new")).await;
    let more = poll(&tag).await;
    assert_eq!((more.status.as_u16(), &more.json()["total"]), (200, &json!(3)));

    let many = json!([
        {"consumer": "c", "topic": "a", "filters": [{}, {"types": ["odd"]}]},
        {"consumer": "c", "topic": "b"},
    ]);
    let counted = done(at, "POST", "/v1/counts", many).await;
    let total = |consumer: usize, filter: usize| {
        counted["consumers"][consumer]["counts"][filter]["total"].as_u64()
    };
    assert_eq!([total(0, 0), total(0, 1), total(1, 0)], [Some(5), Some(2), Some(1)], "{counted}");
    server.stop().await;
}

/// Goal: nobody publishes to what the broker keeps.
#[tokio::test]
async fn nobody_writes_the_topic_of_consumers() {
    let server = Server::start().await;
    done(server.address, "PUT", "/v1/consumers/c?topic=a", Value::Null).await;
    for method in ["POST", "DELETE"] {
        let path = "/v1/topics/$consumers/events";
        let (status, detail) = refused(server.address, method, path, json!("x")).await;
        assert!(status == 400 && detail.contains("only the broker writes it"), "{detail}");
    }
    server.stop().await;
}

/// Goal: consumers, checkpoints, marks and counts are in a backup, and are as they were after a
/// crash, and after a restore into another directory; a check finds nothing wrong.
#[tokio::test]
async fn all_of_it_survives_a_crash_and_a_backup_and_is_restored_as_it_was() {
    let directory = tempdir().unwrap();
    let (data, restored) = (directory.path().join("a"), directory.path().join("b"));
    let file = directory.path().join("all.backup");
    let mut process = Process::serve(&data, &[]);
    let at = process.address;
    for number in 0..6 {
        let path = format!("/v1/topics/u.a/events?id=n{number}&type=t{}", number % 2);
        done(at, "POST", &path, json!(number)).await;
    }
    for topic in ["u.a", "u.%3E"] {
        let path = format!("/v1/consumers/inbox?topic={topic}");
        done(at, "PUT", &path, json!({"filter": {"types": ["t0", "t1"]}})).await;
        let marks = format!("/v1/consumers/inbox/marks?topic={topic}");
        done(at, "POST", &marks, json!({"mark": ["read"], "events": [{"id": "n1"}]})).await;
        let snooze = json!({"mark": ["snoozed"], "snooze_until": "2999-01-01T00:00:00Z",
            "events": [{"topic": "u.a", "sequence": 3}]});
        done(at, "POST", &marks, snooze).await;
        let archive = json!({"mark": ["archived"], "events": [{"topic": "u.a", "sequence": 6}]});
        done(at, "POST", &marks, archive).await;
    }
    let checkpoint = json!({"cursor": "2"});
    done(at, "POST", "/v1/consumers/inbox/checkpoint?topic=u.a", checkpoint).await;
    let told = async |at: SocketAddr| {
        let mut told = Vec::new();
        for topic in ["u.a", "u.%3E"] {
            for path in ["", "/marks", "/counts"] {
                let path = format!("/v1/consumers/inbox{path}?topic={topic}");
                told.push(done(at, "GET", &path, Value::Null).await);
            }
        }
        told
    };
    let before = told(at).await;
    let counts = &before[2];
    let numbers = ["total", "unfinished", "inbox", "unread", "archived", "snoozed"];
    let numbers = numbers.map(|name| counts[name].as_u64().unwrap());
    assert_eq!(numbers, [6, 4, 4, 3, 1, 1], "{counts}");

    process.crash();
    let mut process = Process::serve(&data, &[]);
    assert_eq!(told(process.address).await, before, "after a crash");
    let (url, file) = (format!("http://{}", process.address), file.to_str().unwrap());
    let restored_to = restored.to_str().unwrap();
    for arguments in [
        vec!["backup", file, "--server", &url],
        vec!["restore", file, "--data-dir", restored_to],
        vec!["check", "--data-dir", restored_to],
    ] {
        let output = run(&arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
    process.crash();
    let process = Process::serve(&restored, &[]);
    // A restored log is another epoch; nothing else differs.
    let without_epochs = |all: &[Value]| {
        let texts = all.iter().map(|it| {
            let epoch = it["revision"].as_str().unwrap().split('-').nth(1).unwrap();
            it.to_string().replace(epoch, "epoch")
        });
        texts.collect::<Vec<_>>()
    };
    let after = told(process.address).await;
    assert_eq!(without_epochs(&after), without_epochs(&before), "after a restore");
}
