//! Shared work on every transport: leases, settlements, dead letters, workers on streams, and what
//! holds after `kill -9`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use leftoff::edge::proto::{self, settle_outcome::Kind, work_request, work_response};
use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::{Process, Server, seed, send, soon, to, try_send};
use crate::consumers::{ask, done};
use crate::websocket::Client;

const PULL: &str = "/v1/consumers/crew/pull?topic=jobs";
const SETTLE: &str = "/v1/consumers/crew/settle?topic=jobs";
const WORK: &str = "/v1/consumers/crew/work?topic=jobs";
const CREW: &str = "/v1/consumers/crew?topic=jobs&shared=true";

async fn share(at: SocketAddr, settings: Value) {
    done(at, "PUT", CREW, json!({"shared": settings})).await;
}

async fn publish(at: SocketAddr, count: usize) {
    for number in 0..count {
        let path = format!("/v1/topics/jobs/events?type=job&key=k{number}");
        done(at, "POST", &path, json!({"number": number})).await;
    }
}

async fn pulled(at: SocketAddr, worker: &str, limit: usize) -> Vec<Value> {
    let body = json!({"worker": worker, "limit": limit});
    let answer = done(at, "POST", PULL, body).await;
    answer["leases"].as_array().unwrap().clone()
}

fn sequences(leases: &[Value]) -> Vec<u64> {
    leases.iter().map(|lease| lease["event"]["sequence"].as_u64().unwrap()).collect()
}

fn done_times(count: usize) -> Value {
    vec![json!({"outcome": "done"}); count].into()
}

/// Goal: all that can be said of a lease is said over HTTP, and is told back.
#[tokio::test]
async fn events_are_leased_settled_and_become_dead_letters_over_http() {
    let server = Server::start().await;
    let at = server.address;
    share(at, json!({"lease_ms": 60_000, "max_tries": 2})).await;
    let shown = done(at, "GET", CREW, Value::Null).await;
    assert_eq!(
        (&shown["shared"]["max_tries"], &shown["shared"]["max_ahead"]),
        (&json!(2), &json!(10_000))
    );
    publish(at, 4).await;
    let leases = pulled(at, "a", 3).await;
    assert_eq!(sequences(&leases), [1, 2, 3]);
    let first = &leases[0];
    assert_eq!((&first["tries"], &first["event"]["data"]), (&json!(1), &json!({"number": 0})));
    assert_eq!(first["event"]["topic"], json!("jobs"));
    assert!(first["until"].as_str().unwrap().ends_with('Z'), "{first}");
    let lease = |nth: usize| leases[nth]["lease"].clone();
    let settlement = json!({
        "ack": [lease(0)],
        "nack": [{"lease": lease(1), "reason": "no paper"}],
        "extend": [{"lease": lease(2), "for_ms": 90_000}],
    });
    let settled = done(at, "POST", SETTLE, settlement.clone()).await;
    assert_eq!((&settled["ack"], &settled["nack"]), (&done_times(1), &done_times(1)), "{settled}");
    assert_eq!(settled["extend"][0]["outcome"], json!("extended"), "{settled}");
    assert!(settled["extend"][0]["until"].as_str() > first["until"].as_str(), "{settled}");
    assert_eq!(done(at, "POST", SETTLE, settlement).await["ack"], done_times(1), "said again");

    let again = pulled(at, "b", 10).await;
    assert_eq!((sequences(&again), &again[0]["tries"]), (vec![2, 4], &json!(2)));
    let settlement = json!({
        "nack": [{"lease": again[0]["lease"], "reason": "no ink"}],
        "release": [again[1]["lease"]],
        "ack": [lease(1)],
    });
    let settled = done(at, "POST", SETTLE, settlement).await;
    assert_eq!(settled["ack"][0]["outcome"], json!("over"), "{settled}");
    assert_eq!((&settled["nack"], &settled["release"]), (&done_times(1), &done_times(1)));
    let mut dead = json!(null);
    for _ in 0..200 {
        dead = done(at, "GET", WORK, Value::Null).await;
        if dead["dead"] == json!(1) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let numbers = ["in_flight", "finished", "dead", "lost", "dying"].map(|name| dead[name].clone());
    assert_eq!(numbers, [1, 1, 1, 0, 0].map(Value::from), "{dead}");
    assert_eq!(dead["workers"], json!([{"worker": "a", "in_flight": 1}]));
    let letters = done(at, "GET", "/v1/topics/jobs.dead/events", Value::Null).await;
    let letter = &letters["events"][0];
    assert_eq!(letter["headers"]["leftoff-dead-reason"], json!("no ink"), "{letter}");
    assert_eq!(letter["headers"]["leftoff-dead-sequence"], json!("2"));
    let shown = done(at, "GET", CREW, Value::Null).await;
    assert!(shown["checkpoint"].as_str().unwrap().starts_with("2-"), "{shown}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_work_is_said() {
    let server = Server::start().await;
    let at = server.address;
    let other = "/v1/consumers/other/pull?topic=jobs";
    let cases = [
        ("POST", other, json!({"worker": "w"}), 404, "other"),
        ("POST", PULL, json!({}), 400, "worker"),
        ("POST", PULL, json!({"worker": ""}), 400, "worker: is empty"),
        ("POST", PULL, json!({"worker": "w", "limit": 1001}), 413, "limit: 1001 is over"),
        ("POST", PULL, json!({"worker": "w", "patience": 1}), 400, "patience"),
        ("POST", SETTLE, json!({}), 400, "names no lease"),
        ("POST", SETTLE, json!({"ack": ["x"]}), 400, "is not the id of a lease"),
        ("POST", SETTLE, json!({"ack": ["zz-1-1-1"]}), 400, "is of another consumer"),
        ("PUT", CREW, json!({"shared": {"lease_ms": 0}}), 400, "shared.lease_ms: 0 is not within"),
        ("PUT", CREW, json!({"shared": {"lease_s": 1}}), 400, "lease_s"),
        (
            "PUT",
            "/v1/consumers/crew?topic=jobs.*&shared=true",
            json!({"shared": {}}),
            400,
            "shared.dead_letter: is missing",
        ),
        (
            "POST",
            "/v1/consumers/crew/checkpoint?topic=jobs&shared=true",
            json!({"cursor": "0"}),
            400,
            "shares its events",
        ),
    ];
    share(at, json!({})).await;
    for (method, path, body, status, words) in cases {
        let answer = ask(at, method, path, body.clone()).await;
        let told = answer.json();
        let detail = told["detail"].as_str().unwrap_or_default();
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {body}: {told}");
        assert!(detail.contains(words), "{method} {path} {body}: {told}");
    }
    server.stop().await;
}

/// Goal: a long poll is answered when an event comes; one that is given up leaves nothing leased.
#[tokio::test]
async fn a_pull_waits_and_one_that_is_given_up_takes_nothing() {
    let server = Server::start().await;
    let at = server.address;
    share(at, json!({})).await;
    let body = json!({"worker": "gone", "wait_ms": 60_000});
    let given_up = tokio::spawn(async move { ask(at, "POST", PULL, body).await });
    waiting(at, 1).await;
    given_up.abort();
    let _aborted = given_up.await;
    waiting(at, 0).await; // The broker has noticed.
    let body = json!({"worker": "there", "wait_ms": 60_000});
    let waits = tokio::spawn(async move { done(at, "POST", PULL, body).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    publish(at, 1).await;
    let leases = soon(waits).await.unwrap();
    assert_eq!(sequences(leases["leases"].as_array().unwrap()), [1]);
    let status = done(at, "GET", WORK, Value::Null).await;
    assert_eq!(status["workers"], json!([{"worker": "there", "in_flight": 1}]), "{status}");
    server.stop().await;
}

/// Waits until this many pulls wait.
async fn waiting(at: SocketAddr, count: u64) {
    for _ in 0..2_000 {
        if done(at, "GET", WORK, Value::Null).await["waiting"] == json!(count) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never is {count} pulls that wait");
}

/// Goal: a worker on a WebSocket holds as many leases as it takes, settles them, pauses, and gives
/// them back when it goes.
#[tokio::test]
async fn a_worker_on_a_websocket_holds_as_many_leases_as_it_takes() {
    let server = Server::start().await;
    let at = server.address;
    share(at, json!({})).await;
    publish(at, 5).await;
    let mut client = Client::connect(at).await;
    let start = json!({"type": "work", "ref": 1, "work": "w", "topic": "jobs", "consumer": "crew",
        "worker": "socket", "credit": 2, "release": true});
    client.say(start.clone()).await;
    assert_eq!(client.hear().await, json!({"type": "working", "ref": 1, "work": "w"}));
    let leased = client.find("leased").await;
    assert_eq!(leased["work"], json!("w"));
    let leases = leased["leases"].as_array().unwrap().clone();
    assert_eq!(sequences(&leases), [1, 2]);
    client.say(start).await;
    let error = client.find("error").await;
    assert!(error["error"]["detail"].as_str().unwrap().contains("works already"), "{error}");
    let settle = json!({"type": "settle", "ref": "s", "work": "w", "ack": [leases[0]["lease"]]});
    client.say(settle).await;
    let (mut settled, mut next) = (Value::Null, Value::Null);
    while settled.is_null() || next.is_null() {
        let message = client.hear().await;
        match message["type"].as_str().unwrap() {
            "settled" => settled = message,
            "leased" => next = message,
            other => panic!("{other}: {message}"),
        }
    }
    assert_eq!((&settled["ref"], &settled["ack"]), (&json!("s"), &done_times(1)), "{settled}");
    assert_eq!(sequences(next["leases"].as_array().unwrap()), [3]);

    client.say(json!({"type": "credit", "work": "w", "credit": 3})).await;
    assert_eq!(client.find("credited").await["credit"], json!(3));
    assert_eq!(sequences(client.find("leased").await["leases"].as_array().unwrap()), [4]);
    client.say(json!({"type": "settle", "work": "none", "ack": [leases[1]["lease"]]})).await;
    let error = client.find("error").await;
    assert!(error["error"]["detail"].as_str().unwrap().contains("no worker"), "{error}");
    drop(client);
    // What it held is given back at once, and comes to another worker.
    let mut seen = BTreeSet::new();
    for _ in 0..500 {
        seen.extend(sequences(&pulled(at, "http", 10).await));
        if seen.len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(seen, BTreeSet::from([2, 3, 4, 5]));
    server.stop().await;
}

fn of() -> Option<proto::WorkRef> {
    Some(proto::WorkRef { topic: "jobs".to_owned(), consumer: "crew".to_owned() })
}

/// Goal: the same over gRPC, by single calls and on a stream.
#[tokio::test]
async fn a_worker_over_grpc_pulls_settles_and_holds_leases_on_a_stream() {
    let server = Server::start().await;
    let at = server.address;
    share(at, json!({})).await;
    publish(at, 4).await;
    let mut grpc = server.grpc().await;
    let consumer = proto::ConsumerRef {
        topic: "jobs".to_owned(),
        consumer: "crew".to_owned(),
        shared: true,
        ..Default::default()
    };
    let shared = proto::WorkSettings { max_tries: Some(7), ..Default::default() };
    let update = proto::UpdateConsumerRequest {
        consumer: Some(consumer),
        shared: Some(shared),
        ..Default::default()
    };
    let told = grpc.update_consumer(update).await.unwrap().into_inner().consumer.unwrap();
    let shared = told.shared.unwrap();
    assert_eq!((shared.max_tries, shared.lease_ms), (Some(7), Some(30_000)));
    let pull = proto::PullRequest { of: of(), worker: "g".to_owned(), ..Default::default() };
    let leases = grpc.pull(pull).await.unwrap().into_inner().leases;
    let event = leases[0].event.as_ref().unwrap();
    assert_eq!((event.sequence, &*event.topic, leases[0].tries), (1, "jobs", 1));
    let ack = |lease: &str| proto::SettleRequest {
        of: of(),
        ack: vec![lease.to_owned()],
        ..Default::default()
    };
    let settled = grpc.settle(ack(&leases[0].lease)).await.unwrap().into_inner();
    assert_eq!(settled.ack[0].kind, Kind::Done as i32);
    let malformed = grpc.settle(ack("x")).await.unwrap_err();
    assert!(malformed.message().contains("is not the id of a lease"), "{malformed}");

    let (requests, stream) = mpsc::channel(8);
    let say = |request| proto::WorkRequest { request: Some(request) };
    let start =
        proto::WorkStart { of: of(), worker: "stream".to_owned(), credit: 2, release_at_end: true };
    requests.send(say(work_request::Request::Start(start))).await.unwrap();
    let mut answers = grpc.work(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut hear = async || soon(answers.message()).await.unwrap().unwrap().response.unwrap();
    let work_response::Response::Leased(leased) = hear().await else { panic!("leases come first") };
    let sequence = |lease: &proto::Lease| lease.event.as_ref().unwrap().sequence;
    assert_eq!(leased.leases.iter().map(sequence).collect::<Vec<_>>(), [2, 3]);
    for lease in [&*leased.leases[0].lease, "x"] {
        requests.send(say(work_request::Request::Settle(ack(lease)))).await.unwrap();
    }
    let (mut kinds, mut refused, mut next) = (Vec::new(), 0, Vec::new());
    while kinds.is_empty() || refused == 0 || next.is_empty() {
        match hear().await {
            work_response::Response::Settled(settled) => kinds.push(settled.ack[0].kind),
            work_response::Response::Refused(error) => {
                assert_eq!(error.code, tonic::Code::InvalidArgument as i32);
                refused += 1;
            }
            work_response::Response::Leased(more) => next.extend(more.leases.iter().map(sequence)),
        }
    }
    assert_eq!((kinds, refused, next), (vec![Kind::Done as i32], 1, vec![4]));
    let get = proto::GetWorkRequest { of: of() };
    let status = grpc.get_work(get.clone()).await.unwrap().into_inner();
    assert_eq!((status.in_flight, status.finished), (2, 2));
    assert_eq!(status.workers, BTreeMap::from([("stream".to_owned(), 2)]));
    drop((requests, answers));
    for round in 0.. {
        let status = grpc.get_work(get.clone()).await.unwrap().into_inner();
        if status.in_flight == 0 {
            break;
        }
        assert!(round < 500, "the leases are not given back: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.stop().await;
}

/// Goal: after `kill -9` under load, what was acknowledged never comes back, no lease is given
/// twice within its time, and in the end each event was finished.
/// Method: workers pull and acknowledge over HTTP while the process is killed at random moments.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_work_survives_kills_and_never_comes_back() {
    const EVENTS: u64 = 400;
    const KILLS: usize = 6;
    let directory = tempdir().unwrap();
    let seed = seed();
    println!("seed {seed}");
    let mut process = Process::serve(directory.path(), &[]);
    share(process.address, json!({"lease_ms": 1_000, "max_tries": 0})).await;
    for _ in 0..EVENTS / 100 {
        let lines: Vec<String> = (0..100).map(|n| json!({"data": n}).to_string()).collect();
        let request = to(process.address, "POST", "/v1/topics/jobs/events")
            .header("content-type", "application/x-ndjson");
        let answer = send(request, lines.join("\n")).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }
    let mut acked = BTreeSet::new();
    for kill in 0..=KILLS {
        let at = process.address;
        let workers = (0..4).map(|worker| {
            tokio::spawn(async move {
                let mut acked = Vec::new();
                let name = format!("w{worker}");
                // Ends with the process, or when nothing comes for longer than a lease.
                loop {
                    let body = json!({"worker": name, "limit": 5, "wait_ms": 2_000});
                    let Some(pulled) = tried(at, PULL, body).await else { break };
                    let leases = pulled["leases"].as_array().unwrap().clone();
                    if leases.is_empty() {
                        break;
                    }
                    let ids: Vec<_> = leases.iter().map(|lease| lease["lease"].clone()).collect();
                    let Some(settled) = tried(at, SETTLE, json!({"ack": ids})).await else { break };
                    let outcomes = settled["ack"].as_array().unwrap().iter();
                    let done = outcomes.zip(sequences(&leases));
                    acked.extend(done.filter(|it| it.0["outcome"] == "done").map(|it| it.1));
                }
                acked
            })
        });
        let workers: Vec<_> = workers.collect();
        if kill < KILLS {
            let pause = seed.rotate_left(kill as u32 * 7) % 120;
            tokio::time::sleep(Duration::from_millis(20 + pause)).await;
            process.crash();
        }
        for worker in workers {
            for sequence in worker.await.unwrap() {
                let is_new = acked.insert(sequence);
                assert!(is_new, "seed {seed}: {sequence} came back after it was acknowledged");
            }
        }
        if kill < KILLS {
            process = Process::serve(directory.path(), &[]);
        }
    }
    let status = done(process.address, "GET", WORK, Value::Null).await;
    assert_eq!(status["finished"], json!(EVENTS), "seed {seed}: {status}");
    assert_eq!(status["in_flight"], json!(0), "seed {seed}: {status}");
    assert!(status["checkpoint"].as_str().unwrap().starts_with("400-"), "seed {seed}: {status}");
    let unanswered = EVENTS as usize - acked.len();
    assert!(unanswered <= KILLS * 4 * 5, "seed {seed}: {unanswered} acks were never answered");
    process.kill();
}

/// Sends JSON to a process that may be killed meanwhile.
async fn tried(at: SocketAddr, path: &str, body: Value) -> Option<Value> {
    let request = to(at, "POST", path).header("content-type", "application/json");
    let answer = try_send(request, body.to_string()).await?;
    serde_json::from_slice(&answer).ok()
}
