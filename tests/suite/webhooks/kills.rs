//! Kills of the broker while it sends: no event is lost, and repeats have the same id.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::receiver::{Receiver, Reply};
use super::{ask, shown, until};
use crate::common::{Process, seed, try_post};

const KILLS: usize = 8;

/// Settings with which a receiver on this machine is reached, and leases run out soon.
const SETTINGS: [&str; 10] = [
    "--set",
    "webhooks.allow_http=true",
    "--set",
    "webhooks.allowed_networks=[\"127.0.0.1\"]",
    "--set",
    "webhooks.lease_ms=1000",
    "--set",
    "webhooks.retry_min_ms=2",
    "--set",
    "webhooks.retry_max_ms=20",
];

/// Goal: whenever the broker is killed, each acknowledged event reaches the receiver, in the order
/// of its key except for repeats, and a repeat has the id of the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_and_repeats_have_the_same_id_whenever_the_broker_is_killed() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let receiver = Receiver::start().await;
    receiver.usually(Reply::After(Duration::from_millis(3)));
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &SETTINGS);
    let wanted = json!({ "topic": "orders", "url": receiver.url("/"), "max_in_flight": 4 });
    let made = ask(process.address, "PUT", "/v1/webhooks/killed", &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json()["secret"].as_str().unwrap().to_owned();
    let mut acknowledged = BTreeSet::new();
    let mut number = 0_u64;
    for kill in 0..=KILLS {
        let events = random.random_range(5..40);
        for _ in 0..events {
            number += 1;
            let path =
                format!("http://{}/v1/topics/orders/events?key=k{}", process.address, number % 5);
            let request = http::Request::post(path).header("content-type", "application/json");
            if let Some(receipt) = try_post(request, number.to_string()).await {
                acknowledged.insert(receipt.sequence);
            }
        }
        if kill < KILLS {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
            process.crash();
            process = Process::serve(directory.path(), &SETTINGS);
        }
    }
    let is_done = |webhook: &Value| {
        let checkpoint = webhook["queue"]["checkpoint"].as_str().unwrap_or_default();
        let finished = checkpoint.split('-').next().and_then(|it| it.parse::<u64>().ok());
        finished == acknowledged.last().copied()
    };
    until(process.address, "killed", is_done).await;
    let mut ids = BTreeMap::<u64, BTreeSet<String>>::new();
    let mut last_of_key = BTreeMap::<String, u64>::new();
    for one in receiver.received() {
        assert!(one.is_signed_with(&secret));
        let event = one.json();
        let sequence = event["sequence"].as_u64().unwrap();
        let is_first = !ids.contains_key(&sequence);
        ids.entry(sequence).or_default().insert(one.id().to_owned());
        let key = event["key"].as_str().unwrap().to_owned();
        let last = last_of_key.entry(key.clone()).or_default();
        assert!(!is_first || sequence > *last, "{key}: {sequence} comes after {last}");
        *last = sequence.max(*last);
    }
    let lost: Vec<&u64> = acknowledged.iter().filter(|it| !ids.contains_key(it)).collect();
    assert!(lost.is_empty(), "seed {seed}: lost {lost:?}");
    let renamed: Vec<_> = ids.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(renamed.is_empty(), "seed {seed}: {renamed:?}");
    let distinct: BTreeSet<&String> = ids.values().flatten().collect();
    assert_eq!(distinct.len(), ids.len(), "two events have one id");
}

/// Goal: a restart keeps settings, keys and pauses.
#[tokio::test]
async fn a_paused_webhook_is_paused_after_a_kill_and_signs_with_its_key() {
    let receiver = Receiver::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &SETTINGS);
    let wanted = json!({ "topic": "orders", "url": receiver.url("/") });
    let made = ask(process.address, "PUT", "/v1/webhooks/kept", &wanted).await.json();
    let paused = ask(process.address, "POST", "/v1/webhooks/kept/pause", &Value::Null).await;
    assert_eq!(paused.status, 200);
    let posted = ask(process.address, "POST", "/v1/topics/orders/events", &json!(1)).await;
    assert_eq!(posted.status, 201);
    process.crash();
    let process = Process::serve(directory.path(), &SETTINGS);
    let kept = shown(process.address, "kept").await;
    assert_eq!(kept["paused"], paused.json()["paused"]);
    assert_eq!((&kept["keys"], &kept["url"]), (&made["keys"], &made["url"]));
    assert!(receiver.received().is_empty());
    ask(process.address, "POST", "/v1/webhooks/kept/resume", &Value::Null).await;
    let sent = &receiver.got(1).await[0];
    assert!(sent.is_signed_with(made["secret"].as_str().unwrap()));
}

/// Goal: a broker that is stopped stores the answers of receivers to what is under way, so that
/// nothing is sent again.
#[tokio::test]
async fn a_stop_waits_for_requests_that_are_under_way() {
    let receiver = Receiver::start().await;
    receiver.usually(Reply::After(Duration::from_millis(300)));
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &SETTINGS);
    let wanted = json!({ "topic": "orders", "url": receiver.url("/") });
    let made = ask(process.address, "PUT", "/v1/webhooks/drained", &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    for key in ["a", "b"] {
        let path = format!("/v1/topics/orders/events?key={key}");
        ask(process.address, "POST", &path, &json!(1)).await;
    }
    receiver.got(2).await;
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, Some(0));
    let process = Process::serve(directory.path(), &SETTINGS);
    let drained = shown(process.address, "drained").await;
    assert_eq!(drained["queue"]["finished"], 2, "{drained}");
    assert_eq!(drained["lag"]["unfinished"], 0, "{drained}");
    assert_eq!(receiver.received().len(), 2);
}
