//! A node of a fleet that is not open yet, and one whose log is damaged.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use crate::common::{Process, get, lasting_address, leftoff, post, run, soon, text};

/// The flags of the node with this number, which is reached at `url`.
fn flags(servers: &str, number: usize, url: &str) -> Vec<String> {
    let node = format!("n{number}");
    let flags = [
        ["--fleet", servers],
        ["--fleet-name", "mended"],
        ["--node", &node],
        ["--advertise", url],
        ["--set", "fleet.lease_ms=500"],
        ["--set", "fleet.secret=\"of-the-fleet-12345\""],
        ["--set", "follow.drain_ms=100"],
        ["--set", "fleet.search_bytes_per_second=67108864"],
    ];
    flags.as_flattened().iter().map(|flag| (*flag).to_owned()).collect()
}

fn start(servers: &NatsServers, number: usize, directory: &Path) -> Process {
    let address = lasting_address();
    let flags = flags(&servers.urls().join(","), number, &format!("http://{address}"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Process::serve_at(address, directory, &flags)
}

async fn until_ready(node: &Process) {
    soon(async { while get(node.address, "/readyz").await.status != 200 {} }).await;
}

async fn cluster(node: &Process) -> Value {
    get(node.address, "/v1/cluster").await.json()
}

/// Goal: while a node waits for NATS, or for a backup, its address says so, and refuses all else
/// for now; then it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_open_yet_says_how_far_it_is_and_refuses_the_rest_for_now() {
    let directory = tempfile::tempdir().unwrap();
    let address = lasting_address();
    let child = leftoff()
        .args(["serve", "--listen", &address.to_string(), "--data-dir"])
        .arg(directory.path())
        .args(flags("nats://127.0.0.1:1", 1, &format!("http://{address}")))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut node = Process::adopt(child, address);
    node.until_ready().await;
    assert_eq!(get(address, "/healthz").await.status, 200);
    let ready = get(address, "/readyz").await;
    assert_eq!(ready.status, 503);
    let why = ready.json()["detail"].as_str().unwrap().to_owned();
    assert!(why.contains("this node opens its log"), "{why}");
    let told = cluster(&node).await;
    assert_eq!((&told["role"], &told["node"]), (&"joining".into(), &"n1".into()), "{told}");
    assert_eq!(told["joining"]["step"], "opening", "{told}");
    let metrics = text(&get(address, "/metrics").await.body);
    assert!(metrics.contains("leftoff_fleet_role{role=\"joining\"} 1\n"), "{metrics}");
    let refused = post(address, "/v1/topics/a/events", "x").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.headers["retry-after"], "2");
    assert!(text(&refused.body).contains("ask another node"), "{refused:?}");
    let server = format!("http://{address}");
    let tail = run(&["tail", "a", "--server", &server, "--retry-seconds", "0"]).await;
    assert_eq!(tail.status.code(), Some(4), "a client comes back: {tail:?}");
    let status = run(&["cluster", "status", "--server", &server]).await;
    assert!(text(&status.stdout).contains("role     joining, in term 0\n"), "{status:?}");
    node.signal(rustix::process::Signal::TERM);
    assert_eq!(node.exit_code().await, Some(0));
}

/// Publishes 40 events of about 4 KB.
async fn publish_events(node: &Process) {
    for number in 0..40 {
        let path = format!("/v1/topics/a/events?id={number}");
        let stored = post(node.address, &path, format!("event {number:02} {:x<4000}", "")).await;
        assert!(stored.status.is_success(), "{stored:?}");
    }
}

/// Goal: a node that finds its log cut loads a backup of another node when it starts, keeps the
/// damaged log, says where, and holds what the others hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_cut_repairs_itself_and_says_where_the_damaged_log_is() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let servers = NatsServers::start(&program, 1, &NatsOptions::default());
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = start(&servers, 0, directories[0].path());
    let second = start(&servers, 1, directories[1].path());
    until_ready(&first).await;
    until_ready(&second).await;
    publish_events(&first).await;
    let last = cluster(&first).await["applied_record"].as_u64();
    soon(async { while cluster(&second).await["applied_record"].as_u64() < last {} }).await;
    second.kill();
    let file = directories[1].path().join("sled/db");
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.windows(8).position(|window| window == b"event 20").unwrap();
    bytes.truncate(middle);
    std::fs::write(&file, &bytes).unwrap();
    let second = start(&servers, 1, directories[1].path());
    until_ready(&second).await;
    let told = cluster(&second).await;
    let repaired = &told["repaired"];
    assert_eq!(repaired["from"], "n0", "{told}");
    let kept = Path::new(repaired["kept_in"].as_str().unwrap());
    let bytes = std::fs::read(kept.join("sled/db")).unwrap();
    assert!(bytes.windows(8).any(|window| window == b"event 05"), "{kept:?}");
    let url = |node: &Process| format!("http://{}", node.address);
    let status = run(&["cluster", "status", "--server", &url(&second)]).await;
    assert!(text(&status.stdout).contains("repaired with a backup of n0: "), "{status:?}");
    let check = run(&["check", "--against", &url(&first), &url(&second)]).await;
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    assert!(text(&check.stdout).contains("equal    a: 40 events\n"), "{check:?}");
    second.kill();
    let data = directories[1].path().to_str().unwrap();
    let check = run(&["check", "--data-dir", data, "--against", &url(&first)]).await;
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    first.kill();
}

/// Changes the stored block that holds `text`, so that it does not fit its checksum. The log in
/// `directory` is closed. Opening it again does not notice the damage: only a reader does.
fn damage_stored(directory: &Path, text: &str) {
    // A file of sled can only be opened with its own size of segments.
    let config = sled::Config::new().path(directory.join("sled")).segment_size(8 << 20);
    let database = config.open().unwrap();
    let tree = database.open_tree("events").unwrap();
    let mut stored = tree.iter().map(|record| record.unwrap()).filter_map(|(key, value)| {
        let at = value.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((key, at, value))
    });
    let (key, at, mut value) = stored.next().expect("a block holds it");
    value[at] ^= 1;
    tree.insert(key, value).unwrap();
    database.flush().unwrap();
}

/// Goal: damage in the middle of a log, which nobody reads, is found. The node then stops in order,
/// with an exit code and a message, and its next start repairs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_damage_that_nobody_reads_ends_and_is_whole_after_its_next_start() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let servers = NatsServers::start(&program, 1, &NatsOptions::default());
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = start(&servers, 0, directories[0].path());
    let mut second = start(&servers, 1, directories[1].path());
    until_ready(&first).await;
    until_ready(&second).await;
    publish_events(&first).await;
    let last = cluster(&first).await["applied_record"].as_u64();
    soon(async { while cluster(&second).await["applied_record"].as_u64() < last {} }).await;
    second.signal(rustix::process::Signal::TERM);
    assert_eq!(second.exit_code().await, Some(0));
    damage_stored(directories[1].path(), "event 20");

    let mut second = start(&servers, 1, directories[1].path());
    assert_eq!(second.exit_code().await, Some(1), "it ends by itself");
    let second = start(&servers, 1, directories[1].path());
    until_ready(&second).await;
    let told = cluster(&second).await;
    assert_eq!(told["repaired"]["from"], "n0", "{told}");
    soon(async { while cluster(&second).await["searched"]["passes"] != 1 {} }).await;
    assert_eq!(cluster(&second).await["damage"], Value::Null);
    let url = |node: &Process| format!("http://{}", node.address);
    let status = run(&["cluster", "status", "--server", &url(&second)]).await;
    let said = text(&status.stdout);
    assert!(said.contains(" bytes, the whole log 1 time, since the start\n"), "{said}");
    let check = run(&["check", "--against", &url(&first), &url(&second)]).await;
    assert_eq!(check.status.code(), Some(0), "{check:?}");
    second.kill();
    first.kill();
}
