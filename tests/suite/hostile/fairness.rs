//! Expensive requests: whoever sends them, other clients are served as before.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use leftoff::edge::proto;
use serde_json::{Value, json};

use super::bystander::Bystander;
use super::peak_kib;
use super::raw_http2::{RawHttp2, initial_window};
use crate::common::{Process, Sse, get, grpc, send, text, to};
use crate::websocket::Client;

/// The duration of an attack.
pub(super) const ATTACK: Duration = Duration::from_secs(2);

/// The number of clients that attack at the same time.
const CLIENTS: usize = 8;

/// The time from one request of a client to its next.
pub(super) const BREATH: Duration = Duration::from_millis(50);

/// The longest time for which a task may hold its worker. Without optimisation, everything takes
/// ten times as long.
const HOLD: Duration = Duration::from_millis(if cfg!(debug_assertions) { 100 } else { 10 });

/// Asserts, as the goal of every attack, that no task held a worker for long. The broker's own
/// metrics name the task.
pub(super) async fn assert_nobody_held_a_worker(process: &Process) {
    assert_no_worker_was_held_for(HOLD, process).await;
}

/// Asserts that no task held a worker for longer than `bound`.
pub(super) async fn assert_no_worker_was_held_for(bound: Duration, process: &Process) {
    let metrics = text(&get(process.address, "/metrics").await.body);
    let longest = metrics.lines().filter(|line| line.starts_with("leftoff_longest_poll_us{"));
    let longest: Vec<&str> = longest.collect();
    println!("{longest:?}");
    assert!(longest.len() >= 5, "{metrics}");
    for line in longest {
        let (task, us) = line.rsplit_once(' ').unwrap();
        let held = Duration::from_micros(us.parse().unwrap());
        assert!(held <= bound, "{task} held a worker for {held:?}");
    }
}

/// Runs the attack of all clients again and again, until [`ATTACK`] is over.
async fn again_and_again<F: Future<Output = ()>>(mut attack: impl FnMut(usize) -> F) {
    let until = Instant::now() + ATTACK;
    while Instant::now() < until {
        join_all((0..CLIENTS).map(&mut attack)).await;
        tokio::time::sleep(BREATH).await; // The clients need the machine, too.
    }
}

/// Goal: the time to read a query grows with its length alone.
#[tokio::test]
async fn queries_of_thousands_of_names_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let names: String = (0..9_000).map(|number| format!("n{number}=&")).collect();
    let values = "type=x&".repeat(9_000);
    for (query, limit) in [
        (names, "names in the query: 65 is over the limit of 64"),
        (values, "type: 1025 is over the limit of 1024"),
    ] {
        let path = format!("/v1/topics/a/events?{query}");
        let attack = async |_| {
            let answer = get(process.address, &path).await;
            assert_eq!(answer.status, 413);
            assert!(answer.json()["detail"].as_str().unwrap().contains(limit), "{answer:?}");
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_nobody_held_a_worker(&process).await;
}

/// Returns the most memory, in KiB, that a process has had since the last call.
pub(super) fn peak_kib_since_last(process: &Process) -> u64 {
    let peak = peak_kib(process.id());
    std::fs::write(format!("/proc/{}/clear_refs", process.id()), "5").unwrap();
    peak
}

/// Goal: a list of hundreds of thousands of entries takes only the memory of its bytes, and no
/// other client waits for it, whichever list it is and over whichever protocol it comes.
#[tokio::test]
async fn lists_of_hundreds_of_thousands_of_entries_are_refused_before_they_take_memory() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let names: Vec<String> = (0..100_000).map(|number| format!("n{number}")).collect();
    let members: Value = names.iter().map(|name| (name.clone(), json!(""))).collect();
    let subscribe = |mut fields: Value| {
        fields["type"] = json!("subscribe");
        fields["subscription"] = json!("s");
        fields
    };
    let publish = |events: Value| json!({"type": "publish", "topic": "a", "events": events});
    let member = json!({"id": "m"});
    let messages = [
        ("topics: 100000", subscribe(json!({"topics": names, "member": member}))),
        ("filter types: 100000", subscribe(json!({"topic": "a", "filter": {"types": names}}))),
        ("filter keys: 100000", subscribe(json!({"topic": "a", "filter": {"keys": names}}))),
        (
            "filter key_prefixes: 100000",
            subscribe(json!({"topic": "a", "filter": {"key_prefixes": names}})),
        ),
        (
            "filter headers: 100000",
            subscribe(json!({"topic": "a", "filter": {"headers": members}})),
        ),
        (
            "member info: 100000",
            subscribe(json!({"topic": "a", "member": {"id": "m", "info": members}})),
        ),
        ("events in a batch: 600000", publish(json!(vec![0; 600_000]))),
        ("headers: 100000", publish(json!([{"headers": members}]))),
    ];
    let before = peak_kib_since_last(&process);
    for (limit, message) in &messages {
        let attack = async || {
            let mut client = Client::connect(process.address).await;
            client.say(message.clone()).await;
            let detail = client.find("error").await["error"]["detail"].to_string();
            assert!(detail.contains(limit), "{limit}: {detail}");
        };
        bystander.assert_unhurt(attack).await;
    }
    let posted = json!({"topics": names}).to_string();
    let batch = json!(vec![0; 600_000]).to_string();
    for (path, content_type, body, limit) in [
        ("/v1/events", "application/json", posted, "topics: 100000"),
        (
            "/v1/topics/a/events",
            "application/cloudevents-batch+json",
            batch,
            "events in a batch: 600000",
        ),
        (
            "/v1/topics/a/events",
            "application/cloudevents+json",
            members.to_string(),
            "attributes: 100000",
        ),
        (
            "/v1/topics/a/events",
            "application/x-ndjson",
            json!({"headers": members}).to_string(),
            "headers: 100000",
        ),
    ] {
        let attack = async || {
            let request = to(process.address, "POST", path).header("content-type", content_type);
            let answer = send(request, body.clone()).await;
            assert_eq!(answer.status, 413, "{limit}: {answer:?}");
            assert!(text(&answer.body).contains(limit), "{limit}: {answer:?}");
        };
        bystander.assert_unhurt(attack).await;
    }
    let refused = |status: tonic::Status, limit: &str| {
        assert!(status.message().contains(limit), "{limit}: {status:?}");
    };
    let attack = async || {
        let mut client = grpc(process.address).await;
        let topics = vec![String::new(); 2_000_000];
        let request = proto::SubscribeRequest { topics, ..Default::default() };
        refused(client.subscribe(request).await.unwrap_err(), "topics: 1025");
        let events = vec![proto::NewEvent::default(); 2_000_000];
        let request = proto::PublishRequest { events, ..Default::default() };
        refused(client.publish(request).await.unwrap_err(), "events in a batch: 10001");
        let filter = proto::Filter { keys: vec![String::new(); 2_000_000], ..Default::default() };
        let request = proto::ReadRequest { filter: Some(filter), ..Default::default() };
        refused(client.read(request).await.unwrap_err(), "filter keys: 1025");
    };
    bystander.assert_unhurt(attack).await;
    let peak = peak_kib_since_last(&process);
    assert!(peak < before + (64 << 10), "from {before} KiB to {peak} KiB");
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: a client that changes the windows of all its streams again and again is cut off, because
/// each change makes the broker go through all of its streams.
#[tokio::test]
async fn settings_that_change_all_the_time_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let bystander = Bystander::start(process.address).await;
    let frames: Vec<u8> = (0..4_000).flat_map(|n| initial_window(65_535 + n % 2)).collect();
    let attack = async |_| {
        let mut connection = RawHttp2::connect(process.address).await;
        for stream in 0..1_000 {
            let path = format!("/v1/topics/t.{stream}/events");
            connection.follow(process.address, &path).await;
        }
        let until = tokio::time::Instant::now() + ATTACK;
        while connection.send(&frames).await.is_ok() {}
        connection.ended().await;
        tokio::time::sleep_until(until).await;
    };
    bystander.assert_unhurt(|| join_all((0..2).map(attack))).await;
    assert_nobody_held_a_worker(&process).await;
}

pub(super) async fn publish_many(process: &Process, topic: &str, batches: usize) {
    let mut client = grpc(process.address).await;
    for _ in 0..batches {
        let event = proto::NewEvent {
            key: "key".to_owned(),
            r#type: "type".to_owned(),
            payload: vec![b'x'; 100].into(),
            ..Default::default()
        };
        let events = vec![event; 2_000];
        let topic = topic.to_owned();
        let request = proto::PublishRequest { topic, events, ..Default::default() };
        client.publish(request).await.unwrap();
    }
}

/// The readers that search a log in vain at the same time. Twice as many are served alike, but a
/// slow machine takes longer to accept them than others may wait.
const SEARCHERS: usize = 150;

/// Goal: readers that search a long log in vain do not slow other clients down, whether the log is
/// in memory or on disk.
#[tokio::test]
async fn readers_whose_filters_pick_nothing_of_a_long_log_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    publish_many(&process, "long", 50).await;
    for _ in 0..2 {
        let bystander = Bystander::start(process.address).await;
        let prefixes: String = (0..100).map(|n| format!("&key_prefix=none{n}")).collect();
        let open = async |number: usize| {
            let query = format!("?from=earliest&type=type&header=none:{number}{prefixes}");
            Sse::follow(process.address, "long", &query).await
        };
        let attack = async || {
            let streams = join_all((0..SEARCHERS).map(open)).await;
            assert!(streams.iter().all(|stream| stream.status == 200));
            tokio::time::sleep(ATTACK).await; // The streams keep reading meanwhile.
        };
        bystander.assert_unhurt(attack).await;
        assert_nobody_held_a_worker(&process).await;
        drop(bystander);
        process.kill();
        process = Process::serve(directory.path(), &[]); // Nothing is in memory now.
    }
}

/// Publishes an event to each of `topics` topics.
pub(super) async fn publish_to_topics(
    process: &Process,
    topics: usize,
    name: impl Fn(usize) -> String + Send + 'static,
) {
    let request = move |topic: usize| proto::PublishStreamRequest {
        topic: name(topic),
        events: vec![proto::NewEvent::default()],
        ..Default::default()
    };
    let requests = tokio_stream::iter((0..topics).map(request));
    let mut answers = grpc(process.address).await.publish_stream(requests).await.unwrap();
    for _ in 0..topics {
        answers.get_mut().message().await.unwrap().unwrap();
    }
}

/// Goal: a thousand patterns that could each match every topic are compared in small steps.
#[tokio::test]
async fn patterns_that_lead_everywhere_hold_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let topics = if cfg!(debug_assertions) { 10_000 } else { 40_000 };
    publish_to_topics(&process, topics, |topic| format!("t{topic}.b.c")).await;
    let bystander = Bystander::start(process.address).await;
    let patterns: Vec<String> = (0..1_024).map(|number| format!("*.z{number}.>")).collect();
    for from in ["earliest", "latest"] {
        let body = json!({"topics": patterns, "from": from}).to_string();
        let attack = async |_| {
            let request = to(process.address, "POST", "/v1/events");
            let request = request.header("content-type", "application/json");
            let stream = Sse::open_with(request, body.clone()).await.unwrap();
            assert_eq!(stream.status, 200);
        };
        bystander.assert_unhurt(|| again_and_again(attack)).await;
    }
    assert_nobody_held_a_worker(&process).await;
}
