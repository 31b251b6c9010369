//! Crashes in the middle of maintenance: stored events stay, and dropped events do not come back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::common::{Process, get, leftoff, post, run, seed, send, text, to, try_post};

const KILLS: usize = 20;
const KEYS: u64 = 7;
/// The time that answers of a process that was killed may still take.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
const MAX_EVENTS: u64 = 40;

/// Settings that keep maintenance busy: no pause between two runs, and many small blocks.
const EAGER: [&str; 4] =
    ["--set", "maintenance.interval_ms=1", "--set", "broker.max_block_bytes=1024"];

/// The topics that are published to, with their settings.
const TOPICS: [(&str, &str); 5] = [
    ("retained", "{\"max_events\":40}"),
    ("compacted", "{\"compact\":true,\"tombstone_grace_ms\":1}"),
    ("by-hand", "{\"compact\":true}"),
    ("rolled-up", "{}"),
    ("deleted", "{}"),
];

/// The key and the payload of an acknowledged event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    key: u64,
    payload: String,
}

/// The test's knowledge of a topic.
#[derive(Debug, Default)]
struct Known {
    acknowledged: BTreeMap<u64, Told>,
    /// Sequences that a reader no longer got.
    gone: BTreeSet<u64>,
    earliest: u64,
    /// The last acknowledged sequence before the latest acknowledged deletion.
    deleted: u64,
}

type All = Arc<Mutex<BTreeMap<&'static str, Known>>>;

/// Publishes one event after another until the broker is killed.
async fn publish(address: SocketAddr, topic: &'static str, name: String, all: All) {
    for number in 0.. {
        let key = number % KEYS;
        let is_tombstone = topic == "compacted" && number % 11 == 0;
        let payload = if is_tombstone { String::new() } else { format!("{name}/{number}") };
        let path = format!("http://{address}/v1/topics/{topic}/events?key=k{key}");
        let request = http::Request::post(path).header("content-type", "text/plain");
        let Some(receipt) = try_post(request, payload.clone()).await else { return };
        let mut all = all.lock().unwrap();
        let told = Told { key, payload };
        all.get_mut(topic).unwrap().acknowledged.insert(receipt.sequence, told);
    }
}

/// Deletes the topic `deleted` again and again until the broker is killed.
async fn delete(address: SocketAddr, all: All) {
    loop {
        let last = {
            let all = all.lock().unwrap();
            all["deleted"].acknowledged.keys().next_back().copied().unwrap_or(0)
        };
        let url = format!("http://{address}/v1/topics/deleted");
        let request = http::Request::delete(url).body(String::new()).unwrap();
        let client =
            hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
                .build_http();
        match client.request(request).await {
            Ok(answer) if answer.status() == 204 => {
                all.lock().unwrap().get_mut("deleted").unwrap().deleted = last;
            }
            Ok(_there_is_none_yet) => {}
            Err(_killed) => return,
        }
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
}

/// Compacts the topic `by-hand`, up to its last event, again and again until the broker is killed.
async fn compact(address: SocketAddr) {
    let url = format!("http://{address}/v1/maintenance?topic=by-hand");
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let client = client.build_http();
    loop {
        let request = http::Request::post(&url).body(String::new()).unwrap();
        if client.request(request).await.is_err() {
            return;
        }
    }
}

/// Reads a topic from its first event to its end. Returns key and payload of each event.
async fn read(address: SocketAddr, topic: &str) -> BTreeMap<u64, Told> {
    let mut seen = BTreeMap::new();
    let mut cursor = "0".to_owned();
    loop {
        let path = format!("/v1/topics/{topic}/events?after={cursor}&limit=1000&on_gap=earliest");
        let page = get(address, &path).await;
        if page.status == 404 {
            return seen;
        }
        assert_eq!(page.status, 200, "{}", text(&page.body));
        let page = page.json();
        for event in page["events"].as_array().unwrap() {
            let key = event["key"].as_str().unwrap()[1..].parse().unwrap();
            let payload = event["data"].as_str().unwrap_or_default().to_owned();
            let is_new = seen.insert(event["sequence"].as_u64().unwrap(), Told { key, payload });
            assert!(is_new.is_none(), "an event was read twice");
        }
        cursor = page["cursor"].as_str().unwrap().to_owned();
        if page["caught_up"] == true {
            return seen;
        }
    }
}

/// Compares a topic after a crash with what is known of it.
fn check(topic: &str, info: &Value, seen: &BTreeMap<u64, Told>, known: &mut Known) {
    let (earliest, tail) = (info["earliest"].as_u64().unwrap(), info["tail"].as_u64().unwrap());
    assert!(earliest >= known.earliest, "{topic}: trimmed events came back");
    known.earliest = earliest;
    let last = known.acknowledged.keys().next_back().copied().unwrap_or(0);
    assert!(tail > last, "{topic}: {last} was acknowledged, and the topic ends at {tail}");
    assert!(seen.keys().all(|sequence| (earliest..tail).contains(sequence)), "{topic}");
    let back = seen.keys().find(|sequence| known.gone.contains(sequence));
    assert_eq!(back, None, "{topic}: a dropped event came back");
    for (sequence, told) in &known.acknowledged {
        match seen.get(sequence) {
            Some(event) => assert_eq!(event, told, "{topic}: {sequence}"),
            None => {
                let superseded = ["compacted", "by-hand"].contains(&topic)
                    && (told.payload.is_empty()
                        || seen.range(sequence + 1..).any(|(_, event)| event.key == told.key)
                        || known
                            .acknowledged
                            .range(sequence + 1..)
                            .any(|(_, later)| later.key == told.key && later.payload.is_empty()));
                let trimmed = *sequence < earliest && ["retained", "deleted"].contains(&topic);
                assert!(superseded || trimmed, "{topic}: {sequence} is lost: {told:?}");
                known.gone.insert(*sequence);
            }
        }
    }
    if topic == "retained" {
        assert!(
            earliest <= tail.saturating_sub(MAX_EVENTS).max(1),
            "{topic}: too much was dropped"
        );
        // Up to one block more than the limit may remain, and events whose publish was not
        // answered.
        assert!(tail - earliest < MAX_EVENTS + 64, "{topic}: {earliest} to {tail}");
    }
    if topic == "deleted" {
        assert!(earliest > known.deleted, "{topic}: deleted events came back");
    }
}

/// Goal: killed at any moment of retention, compaction, rolling up or deletion, the log loses no
/// acknowledged event that it should keep, brings no dropped event back, and continues its
/// sequences.
/// Method: run all of these all the time, each on a topic of its own, while events are published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_maintenance_it_keeps_what_is_kept_and_drops_what_is_dropped() {
    let mut random = StdRng::seed_from_u64(seed());
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &EAGER);
    let known = TOPICS.map(|(topic, _)| (topic, Known { earliest: 1, ..Known::default() }));
    let all: All = Arc::new(Mutex::new(known.into()));
    for (topic, settings) in TOPICS {
        let path = format!("/v1/topics/{topic}");
        assert_eq!(send(to(process.address, "PUT", &path), settings).await.status, 201);
    }
    for kill in 0..KILLS {
        let mut tasks: Vec<JoinHandle<()>> = vec![
            tokio::spawn(delete(process.address, all.clone())),
            tokio::spawn(compact(process.address)),
        ];
        for (topic, _) in TOPICS {
            for number in 0..2 {
                let name = format!("{kill}.{number}");
                tasks.push(tokio::spawn(publish(process.address, topic, name, all.clone())));
            }
        }
        let alive = Duration::from_millis(random.random_range(30..250));
        tokio::time::sleep(alive).await; // The kill falls anywhere in the work.
        process.kill();
        for mut task in tasks {
            // An answer of a process that is gone and has not come by then never comes.
            match tokio::time::timeout(LAST_ANSWERS, &mut task).await {
                Ok(ended) => ended.unwrap(),
                Err(_) => task.abort(),
            }
        }
        // Maintenance does not run now, so a reader sees the log as the crash left it.
        let rest = ["--set", "maintenance.interval_ms=3600000"];
        process = Process::serve(directory.path(), &rest);
        for (topic, _) in TOPICS {
            let info = get(process.address, &format!("/v1/topics/{topic}")).await;
            if info.status == 404 && topic == "deleted" {
                continue;
            }
            let seen = read(process.address, topic).await;
            check(topic, &info.json(), &seen, all.lock().unwrap().get_mut(topic).unwrap());
        }
        process.kill();
        process = Process::serve(directory.path(), &EAGER);
    }
    process.kill();
    let checked = run(&["check", "--data-dir", directory.path().to_str().unwrap()]).await;
    assert_eq!(checked.status.code(), Some(0), "{}", text(&checked.stderr));
    let all = all.lock().unwrap();
    for (topic, _) in TOPICS {
        let known = &all[topic];
        assert!(known.acknowledged.len() > 3 * KILLS, "{topic}: nothing was published");
        let drops = topic != "rolled-up";
        assert_eq!(!known.gone.is_empty(), drops, "{topic}: unexpected drops, or none");
    }
}

/// Runs `leftoff` and kills it after a time. Returns whether it had succeeded by then.
async fn run_and_kill(arguments: &[&str], after: Duration) -> bool {
    let mut command = leftoff();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    tokio::time::sleep(after).await; // The kill falls anywhere in the work.
    let ended = child.try_wait().unwrap();
    let _it_may_have_ended = child.kill();
    child.wait().unwrap();
    ended.is_some_and(|status| status.success())
}

fn in_words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Goal: an interrupted backup never has the name of a whole one, whether the client or the server
/// is killed; and a broker never opens a half restored log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_backup_or_a_restore_nothing_half_is_taken_for_whole() {
    let mut random = StdRng::seed_from_u64(seed());
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let mut process = Process::serve(&data, &[]);
    for number in 0..40 {
        let payload = vec![b'a' + number % 26; 200_000];
        let path = format!("/v1/topics/t{}/events", number % 3);
        assert_eq!(post(process.address, &path, payload).await.status, 201);
    }
    let url = format!("http://{}", process.address);
    let whole = parent.path().join("whole");
    let started = Instant::now();
    let backup = ["backup", in_words(&whole), "--server", &url];
    assert_eq!(run(&backup).await.status.code(), Some(0));
    let backup_time = started.elapsed();
    let started = Instant::now();
    let target = parent.path().join("restored");
    let restore = ["restore", in_words(&whole), "--data-dir", in_words(&target)];
    assert_eq!(run(&restore).await.status.code(), Some(0));
    let restore_time = started.elapsed();
    let mut ended = [0; 2];
    for kill in 0..KILLS {
        let mut moment = |time: Duration| time.mul_f64(random.random_range(0.0..1.2));
        // Even rounds kill the client; odd rounds kill the server.
        let file = parent.path().join(format!("backup {kill}"));
        let url = format!("http://{}", process.address);
        let backup = ["backup", in_words(&file), "--server", &url];
        if kill % 2 == 0 {
            ended[0] += usize::from(run_and_kill(&backup, moment(backup_time)).await);
        } else {
            let after = moment(backup_time);
            let patient = tokio::spawn(async move {
                tokio::time::sleep(after).await;
                process.kill();
            });
            ended[0] += usize::from(run(&backup).await.status.success());
            patient.await.unwrap();
            process = Process::serve(&data, &[]);
        }
        if file.exists() {
            let whole = std::fs::read(&whole).unwrap().len();
            assert_eq!(std::fs::read(&file).unwrap().len(), whole, "half a backup has its name");
        }
        let target = parent.path().join(format!("restored {kill}"));
        let restore = ["restore", in_words(&whole), "--data-dir", in_words(&target)];
        let is_done = run_and_kill(&restore, moment(restore_time)).await;
        ended[1] += usize::from(is_done);
        let checked = run(&["check", "--data-dir", in_words(&target)]).await;
        let is_whole = checked.status.success();
        assert!(is_whole || !is_done, "{}", text(&checked.stderr));
        if !is_whole && target.join("sled/db").exists() {
            let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", in_words(&target)];
            let refused = run(&serve).await;
            let problem = text(&refused.stderr);
            assert!(problem.contains("was interrupted"), "{problem}");
        }
        if is_whole {
            let restored = Process::serve(&target, &[]);
            let topics = get(restored.address, "/v1/topics").await.json();
            let events = topics["topics"].as_array().unwrap().iter().map(|t| &t["events"]);
            assert_eq!(events.map(|count| count.as_u64().unwrap()).sum::<u64>(), 40);
        }
    }
    println!(
        "{} backups and {} restores of {KILLS} ended before they were killed",
        ended[0], ended[1]
    );
}
