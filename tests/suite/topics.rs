//! Topics: their settings, the events that these drop, the gaps that readers are told, and
//! deletion.

use std::net::SocketAddr;
use std::time::Duration;

use leftoff::edge::proto::{
    CreateTopicRequest, DeleteTopicRequest, Durability, MaintainRequest, PublishRequest,
    PurgeTopicRequest, ReadStateRequest, SubscribeRequest, TopicConfig, UpdateTopicRequest,
};
use leftoff::{Config, NewEvent};
use prost_types::FieldMask;
use serde_json::{Value, json};
use tonic::Code;

use crate::common::{
    Answer, Process, Server, Sse, get, grpc, post, publish, run, send, soon, text, to,
};

async fn put(server: &Server, topic: &str, config: Value) -> Answer {
    let request = to(server.address, "PUT", &format!("/v1/topics/{topic}"));
    send(request, config.to_string()).await
}

async fn delete(server: &Server, path: &str) -> Answer {
    send(to(server.address, "DELETE", path), "").await
}

async fn maintain(server: &Server, topic: &str) -> Value {
    post(server.address, &format!("/v1/maintenance?topic={topic}"), "").await.json()
}

async fn publish_keyed(server: &Server, key: &str, payload: &str) -> u64 {
    let event = NewEvent { key: key.to_owned(), ..NewEvent::new(payload.to_owned()) };
    publish(&server.broker, "a", event).await
}

/// Starts a server with `patterns` of topics' settings, whose maintenance runs on request.
async fn with_patterns(patterns: &str) -> Server {
    let mut config: Config = toml::from_str(patterns).unwrap();
    config.maintenance.interval_ms = 3_600_000;
    Server::with(config).await
}

#[tokio::test]
async fn settings_are_created_changed_shown_and_kept() {
    let patterns = "[topics.'>']\nmax_events = 9\n[topics.'a.*']\nmax_bytes = 5000";
    let server = with_patterns(patterns).await;
    let created = put(&server, "a.b", json!({"max_age_ms": 1000, "compact": true})).await;
    assert_eq!(created.status, 201, "{}", text(&created.body));
    let topic = created.json();
    assert_eq!(topic["config"], json!({"max_age_ms": 1000, "compact": true}));
    let effective =
        json!({"max_age_ms": 1000, "compact": true, "max_bytes": 5000, "max_events": 9});
    assert_eq!(topic["effective_config"], effective);
    assert_eq!(
        (&topic["earliest"], &topic["tail"], &topic["events"]),
        (&1.into(), &1.into(), &0.into())
    );

    let patch = json!({"max_age_ms": null, "max_events": 0}).to_string();
    let patched = send(to(server.address, "PATCH", "/v1/topics/a.b"), patch).await;
    assert_eq!(patched.json()["config"], json!({"compact": true, "max_events": 0}));
    let mut client = server.grpc().await;
    let update = UpdateTopicRequest {
        topic: "a.b".into(),
        config: Some(TopicConfig { max_events_per_key: Some(3), ..TopicConfig::default() }),
        update_mask: Some(FieldMask { paths: vec!["max_events_per_key".into(), "compact".into()] }),
    };
    let updated = client.update_topic(update).await.unwrap().into_inner().topic.unwrap();
    let config = updated.config.unwrap();
    assert_eq!(
        (config.max_events_per_key, config.compact, config.max_events),
        (Some(3), None, Some(0))
    );
    let shown = get(server.address, "/v1/topics/a.b").await.json();
    assert_eq!(shown["config"], json!({"max_events": 0, "max_events_per_key": 3}));
    let replaced = put(&server, "a.b", json!({})).await;
    assert_eq!((replaced.status.as_u16(), &replaced.json()["config"]), (200, &json!({})));

    let again = CreateTopicRequest { topic: "a.b".into(), config: None };
    assert_eq!(client.create_topic(again).await.unwrap_err().code(), Code::AlreadyExists);
    for (method, path, body, status, words) in [
        ("GET", "/v1/topics/none", "", 404, "there is no topic \"none\""),
        ("PATCH", "/v1/topics/none", "{}", 404, "there is no topic \"none\""),
        ("DELETE", "/v1/topics/none", "", 404, "there is no topic \"none\""),
        ("DELETE", "/v1/topics/none/events", "", 404, "there is no topic \"none\""),
        ("GET", "/v1/topics/none/state", "", 404, "there is no topic \"none\""),
        ("PUT", "/v1/topics/c", r#"{"max_evens":1}"#, 400, "max_evens"),
        ("PUT", "/v1/topics/c", r#"{"max_age_ms":-1}"#, 400, "-1 is not a whole number from 0"),
        ("PUT", "/v1/topics/c", r#"{"max_events_per_key":0}"#, 400, "max_events_per_key: is 0"),
        ("PUT", "/v1/topics/c", r#"{"durability":"memory"}"#, 400, "durability"),
        ("PUT", "/v1/topics/c", "[]", 400, "body: "),
        ("PUT", "/v1/topics/c.*", "{}", 400, "patterns"),
        ("DELETE", "/v1/topics/a.b/events?before=x", "", 400, "before"),
        ("GET", "/v1/topics/a.b/state?page_token=x", "", 400, "page_token"),
        ("GET", "/v1/topics/a.b/state?limit=100000", "", 413, "limit"),
        ("POST", "/v1/maintenance?topic=none", "", 404, "there is no topic \"none\""),
    ] {
        let answer = send(to(server.address, method, path), body).await;
        let said = text(&answer.body);
        assert_eq!(answer.status, status, "{method} {path}: {said}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(words), "{method} {path}: {said}");
    }
    let topics = get(server.address, "/v1/topics").await.json();
    assert_eq!(topics["topics"].as_array().unwrap().len(), 1, "{topics}");
}

#[tokio::test]
async fn settings_outlive_a_restart_and_so_does_a_deletion() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let url = format!("http://{}", process.address);
    let settings = ["--max-age", "1h", "--compact", "true", "--server", &url];
    let created = run(&[&["topic", "create", "a"], &settings[..]].concat()).await;
    assert_eq!(created.status.code(), Some(0), "{}", text(&created.stderr));
    for topic in ["a", "gone"] {
        for payload in ["1", "2", "3"] {
            post(process.address, &format!("/v1/topics/{topic}/events"), payload).await;
        }
    }
    let deleted = run(&["topic", "delete", "gone", "--server", &url]).await;
    assert_eq!(deleted.status.code(), Some(0), "{}", text(&deleted.stderr));
    let twice = run(&["topic", "delete", "gone", "--server", &url]).await;
    assert_eq!(twice.status.code(), Some(5), "{}", text(&twice.stderr));
    process.kill();
    let process = Process::serve(directory.path(), &[]);
    let url = format!("http://{}", process.address);
    let shown = run(&["topic", "show", "a", "--server", &url]).await;
    let topic: Value = serde_json::from_str(&text(&shown.stdout)).unwrap();
    assert_eq!((&topic["config"]["max_age_ms"], &topic["tail"]), (&3_600_000.into(), &4.into()));
    let settings = ["--max-events", "7", "--unset", "compact", "--server", &url];
    let updated = run(&[&["topic", "update", "a"], &settings[..]].concat()).await;
    let topic: Value = serde_json::from_str(&text(&updated.stdout)).unwrap();
    let config = &topic["config"];
    assert_eq!((&config["max_events"], &config["compact"]), (&7.into(), &Value::Null));
    assert_eq!(config["max_age_ms"], 3_600_000);
    assert_eq!(get(process.address, "/v1/topics/gone").await.status, 404);
    let purged = run(&["topic", "purge", "a", "--before", "3", "--server", &url]).await;
    let topic: Value = serde_json::from_str(&text(&purged.stdout)).unwrap();
    assert_eq!((&topic["earliest"], &topic["tail"]), (&3.into(), &4.into()));
    let again = post(process.address, "/v1/topics/gone/events", "x").await;
    assert_eq!(again.json()["sequence"], 4, "sequences go on");
    let page = get(process.address, "/v1/topics/gone/events?after=3").await.json();
    assert_eq!((&page["events"][0]["data"], &page["earliest"]), (&"x".into(), &4.into()));
}

/// Goal: a deletion is the last message to a follower, and a gap to a reader that resumes.
#[tokio::test]
async fn deleting_a_topic_ends_its_subscriptions_with_a_clear_last_word() {
    let server = Server::start().await;
    for payload in ["1", "2", "3"] {
        server.publish("a", payload).await;
    }
    let mut stream = Sse::follow(server.address, "a", "?from=earliest").await;
    stream.find(|frame| frame.is_control("leftoff.caught-up")).await;
    let last_id = stream.last_id.clone().unwrap();
    let mut client = server.grpc().await;
    let request = SubscribeRequest { topic: "a".into(), ..SubscribeRequest::default() };
    let mut subscription = client.subscribe(request).await.unwrap().into_inner();
    soon(subscription.message()).await.unwrap().unwrap();
    let address = server.address;
    let poll =
        tokio::spawn(async move { get(address, "/v1/topics/a/events?after=3&wait=2s").await });
    client.delete_topic(DeleteTopicRequest { topic: "a".into() }).await.unwrap();
    let word = stream.find(|frame| frame.is_control("leftoff.error")).await;
    assert_eq!(
        (&word.json()["type"], &word.json()["status"]),
        (&"urn:leftoff:problem:topic-deleted".into(), &410.into())
    );
    assert!(stream.rest().await.is_empty());
    let status = loop {
        match soon(subscription.message()).await {
            Ok(message) => assert!(message.is_some(), "the stream ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("was deleted"), "{status}");
    // The long poll began before the deletion, or else it waits in vain for a new topic.
    let polled = soon(poll).await.unwrap();
    match polled.status.as_u16() {
        410 => {}
        200 => assert_eq!(polled.json()["events"], json!([])),
        other => panic!("{other}: {}", text(&polled.body)),
    }

    // A reader that resumes waits for a new topic, and is told of the deleted events.
    let mut stream = Sse::resume(server.address, "a", &last_id).await;
    assert_eq!(server.publish("a", "new").await, 4);
    assert_eq!(stream.events(1).await, [(4, "new".to_owned())]);
    let mut stream = Sse::resume(server.address, "a", "1").await;
    let gap = stream.find(|frame| frame.is_control("leftoff.gap")).await.json();
    assert_eq!(
        (&gap["reason"], &gap["lost"], &gap["earliest"]),
        (&"deleted".into(), &2.into(), &4.into())
    );
}

#[tokio::test]
async fn topics_that_are_not_created_by_publishing_have_to_be_created() {
    let mut config = Config::default();
    config.broker.auto_create = false;
    let server = Server::with(config).await;
    let refused = post(server.address, "/v1/topics/a/events", "x").await;
    assert_eq!(refused.status, 404, "{}", text(&refused.body));
    let mut client = server.grpc().await;
    let event = leftoff::edge::proto::NewEvent::default();
    let request = PublishRequest {
        topic: "a".into(),
        events: vec![event],
        expected_sequence: None,
        ephemeral: false,
        topics: Vec::new(),
    };
    assert_eq!(client.publish(request.clone()).await.unwrap_err().code(), Code::NotFound);
    put(&server, "a", json!({"durability": "process"})).await;
    let ack = client.publish(request).await.unwrap().into_inner().ack.unwrap();
    assert_eq!(ack.durability(), Durability::Process);
    delete(&server, "/v1/topics/a").await;
    assert_eq!(post(server.address, "/v1/topics/a/events", "x").await.status, 404);
}

/// Returns the numbers of a gap, as each protocol reports them to a reader that wants sequence 2
/// next.
async fn told(server: &Server) -> Vec<Value> {
    let numbers = |gap: &Value| {
        json!([gap["requested"], gap["earliest"], gap["tail"], gap["lost"], gap["reason"]])
    };
    let mut stream = Sse::resume(server.address, "a", "1").await;
    let header = stream.headers["leftoff-gap"].to_str().unwrap().to_owned();
    let frame = stream.find(|frame| frame.is_control("leftoff.gap")).await;
    let page = get(server.address, "/v1/topics/a/events?after=1").await;
    assert_eq!(page.status, 410);
    assert_eq!(page.header("leftoff-gap"), header);
    let mut client = server.grpc().await;
    let request =
        SubscribeRequest { topic: "a".into(), from: "1".into(), ..SubscribeRequest::default() };
    let mut subscription = client.subscribe(request).await.unwrap().into_inner();
    let gap = loop {
        let message = soon(subscription.message()).await.unwrap().unwrap().message.unwrap();
        if let leftoff::edge::proto::subscribe_response::Message::Gap(gap) = message {
            break gap;
        }
    };
    let grpc = json!([gap.requested, gap.earliest, gap.tail, gap.lost, gap.reason]);
    vec![numbers(&frame.json()), numbers(&page.json()), grpc]
}

#[tokio::test]
async fn whatever_was_dropped_is_told_with_its_reason_on_every_protocol() {
    let server = with_patterns("").await;
    let events = |ttl_ms| (1..=6).map(move |n| NewEvent { ttl_ms, ..NewEvent::new(n.to_string()) });
    for event in events(None) {
        publish(&server.broker, "a", event).await;
    }
    put(&server, "a", json!({"max_events": 2})).await;
    assert_eq!(maintain(&server, "a").await["dropped"]["retention"]["events"], 4);
    assert_eq!(told(&server).await, vec![json!([2, 5, 7, 3, "retention"]); 3]);
    put(&server, "a", json!({})).await;
    delete(&server, "/v1/topics/a/events?before=6").await;
    assert_eq!(told(&server).await, vec![json!([2, 6, 7, 4, "purged"]); 3]);
    delete(&server, "/v1/topics/a/events").await;
    for event in events(Some(1)) {
        publish(&server.broker, "a", event).await;
    }
    server.publish("a", "stays").await;
    tokio::time::sleep(Duration::from_millis(5)).await; // The events have expired.
    let page = get(server.address, "/v1/topics/a/events?after=6").await.json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "an expired event was delivered");
    assert_eq!(maintain(&server, "a").await["dropped"]["expired"]["events"], 6);
    assert_eq!(told(&server).await, vec![json!([2, 13, 14, 11, "expired"]); 3]);
    delete(&server, "/v1/topics/a").await;
    server.publish("a", "again").await;
    assert_eq!(told(&server).await, vec![json!([2, 14, 15, 12, "deleted"]); 3]);
}

#[tokio::test]
async fn retention_keeps_what_the_limits_say_and_says_what_it_did() {
    let server = with_patterns("[broker]\nmax_block_bytes = 1024").await;
    for number in 1..=100 {
        server.publish("a", vec![number; 700]).await; // Two of these do not fit one block.
    }
    let size = |topic: Value| topic["size_bytes"].as_u64().unwrap();
    let all = size(get(server.address, "/v1/topics/a").await.json());
    put(&server, "a", json!({"max_bytes": all / 2})).await;
    let report = maintain(&server, "a").await;
    let left = get(server.address, "/v1/topics/a").await.json();
    let (bytes, one_block) = (size(left.clone()), 1_024);
    assert!((all / 2..all / 2 + one_block).contains(&bytes), "{bytes} of {all}");
    let dropped = report["dropped"]["retention"]["events"].as_u64().unwrap();
    assert_eq!(left["events"], 100 - dropped);
    assert_eq!(left["earliest"], dropped + 1);
    assert_eq!(report["reclaimed_bytes"].as_u64().unwrap(), all - bytes);
    let metrics = text(&get(server.address, "/metrics").await.body);
    let line = format!("leftoff_dropped_events_total{{reason=\"retention\"}} {dropped}\n");
    assert!(metrics.contains(&line), "{metrics}");
    put(&server, "a", json!({"max_age_ms": 1})).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    maintain(&server, "a").await;
    let left = get(server.address, "/v1/topics/a").await.json();
    assert_eq!(
        (&left["events"], &left["size_bytes"], &left["earliest"]),
        (&0.into(), &0.into(), &101.into())
    );
}

/// Goal: a reader of the last N events gets N, also where events in between were dropped.
#[tokio::test]
async fn the_last_events_of_a_compacted_topic_are_as_many_as_are_asked_for() {
    let server = with_patterns("[topics.a]\ncompact = true").await;
    for round in 1..=30 {
        for key in ["a", "b", "c", "d", "e"].iter().take(if round < 3 { 5 } else { 2 }) {
            publish_keyed(&server, key, &round.to_string()).await;
        }
    }
    for _ in 0..2 {
        maintain(&server, "a").await;
    }
    let keys = async |query: &str| {
        let page = get(server.address, &format!("/v1/topics/a/events{query}")).await.json();
        let key = |event: &Value| event["key"].as_str().unwrap().to_owned();
        page["events"].as_array().unwrap().iter().map(key).collect::<String>()
    };
    assert_eq!(keys("?from=earliest").await, "cdeab");
    assert_eq!(keys("?from=last:4").await, "deab");
    assert_eq!(keys("?from=last:99").await, "cdeab");
    let tail = get(server.address, "/v1/topics/a").await.json()["tail"].as_u64().unwrap();
    assert_eq!(keys(&format!("?before={tail}&limit=3")).await, "eab");
    assert_eq!(keys("?before=50&limit=2").await, "de");
}

/// Goal: a client that loads the state, and follows from its cursor, has everything.
#[tokio::test]
async fn the_state_of_a_compacted_topic_is_the_latest_of_each_key_and_following_goes_on_from_it() {
    let server = with_patterns("[topics.a]\ncompact = true\ntombstone_grace_ms = 0").await;
    for round in 1..=40 {
        for key in ["x.1", "x.2", "y"] {
            publish_keyed(&server, key, &format!("{key} {round}")).await;
        }
    }
    publish_keyed(&server, "y", "").await;
    let no_key = server.publish("a", "no key").await;
    for compacted in [false, true] {
        if compacted {
            let report = maintain(&server, "a").await;
            assert!(report["dropped"]["compacted"]["events"].as_u64().unwrap() > 100, "{report}");
            let mut client = server.grpc().await;
            client.maintain(MaintainRequest { topic: "a".into() }).await.unwrap();
        }
        let mut events = Vec::new();
        let mut token = String::new();
        let cursor = loop {
            let path = format!("/v1/topics/a/state?limit=1&page_token={token}");
            let page = get(server.address, &path).await.json();
            let event = |event: &Value| (event["key"].clone(), event["data"].clone());
            events.extend(page["events"].as_array().unwrap().iter().map(event));
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                break page["cursor"].as_str().unwrap().to_owned();
            }
        };
        let expected = [("x.1", "x.1 40"), ("x.2", "x.2 40")];
        assert_eq!(events, expected.map(|(key, data)| (json!(key), json!(data))));
        let mut follower = Sse::resume(server.address, "a", &cursor).await;
        let next = server.publish("a", "next").await;
        assert_eq!(follower.events(1).await, [(next, "next".to_owned())]);
        let mut client = server.grpc().await;
        let request = ReadStateRequest {
            topic: "a".into(),
            key_prefix: "x.2".into(),
            ..ReadStateRequest::default()
        };
        let page = client.read_state(request).await.unwrap().into_inner();
        assert_eq!(page.events.len(), 1);
        assert_eq!(page.events[0].payload, "x.2 40");
    }
    // A reader in the middle of the compacted events goes on with the remaining ones. The deletion
    // of `y` is not among them, and the reader may hold `y`, so it is told of the gap. A reader
    // that begins is not.
    let mut reader = Sse::resume(server.address, "a", "50").await;
    let header = reader.headers["leftoff-gap"].to_str().unwrap();
    assert!(header.starts_with("reason=tombstones, requested=51, earliest=1,"), "{header}");
    let gap = reader.find(|frame| frame.is_control("leftoff.gap")).await.json();
    assert_eq!((&gap["resume"], &gap["lost"]), (&json!(51), &Value::Null));
    let whole = Sse::follow(server.address, "a", "?from=earliest").await;
    assert!(!whole.headers.contains_key("leftoff-gap"));
    let seen: Vec<u64> = reader.events(3).await.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(seen, [118, 119, no_key]);
    let topic = get(server.address, "/v1/topics/a").await.json();
    assert_eq!((&topic["earliest"], &topic["events"]), (&1.into(), &5.into()));
}

#[tokio::test]
async fn on_a_disk_that_is_too_full_to_publish_reading_and_retention_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    for number in 1..=50 {
        let answer = post(process.address, "/v1/topics/a/events", number.to_string()).await;
        assert_eq!(answer.status, 201);
    }
    process.kill();
    let process =
        Process::serve(directory.path(), &["--set", "log.min_free_bytes=1152921504606846976"]);
    let refused = post(process.address, "/v1/topics/a/events", "x").await;
    assert_eq!(refused.status, 507, "{}", text(&refused.body));
    let config = json!({"max_events": 10}).to_string();
    send(to(process.address, "PUT", "/v1/topics/a"), config).await;
    // Maintenance by hand, unless it ran by itself before.
    assert_eq!(post(process.address, "/v1/maintenance", "").await.status, 200);
    assert_eq!(read_events(process.address).await, (41..=50).collect::<Vec<_>>());
    let mut client = grpc(process.address).await;
    let purge = PurgeTopicRequest { topic: "a".into(), before: None };
    let topic = client.purge_topic(purge).await.unwrap().into_inner().topic.unwrap();
    assert_eq!((topic.earliest, topic.tail, topic.size_bytes), (51, 51, 0));
}

async fn read_events(address: SocketAddr) -> Vec<u64> {
    let page = get(address, "/v1/topics/a/events?from=earliest&limit=1000").await.json();
    let events = page["events"].as_array().unwrap();
    events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect()
}
