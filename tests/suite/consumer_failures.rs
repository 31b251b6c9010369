//! Consumers where the disk is full, where storage has failed, and in a backup: what is refused
//! changes nothing, and what was stored goes on.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Process, get, leftoff, output_of, post, run, soon, text};
use crate::consumers::{ask, done};
use crate::disk::{Disk, free_bytes};
use crate::storage_failure;

const CHECKPOINT: &str = "/v1/consumers/inbox/checkpoint?topic=u.a";
const MARKS: &str = "/v1/consumers/inbox/marks?topic=u.a";
const CREW: &str = "/v1/consumers/crew?topic=u.a&shared=true";
const PULL: &str = "/v1/consumers/crew/pull?topic=u.a";
const SETTLE: &str = "/v1/consumers/crew/settle?topic=u.a";
/// The space that is left on a full disk. The log wants 64 MiB to be free, and its reserve counts.
const LEFT_BYTES: u64 = 1 << 20;

const WORK: &str = "/v1/consumers/crew/work?topic=u.a";

/// Publishes six events, and gives two consumers and a shared one something to keep. Returns a
/// lease of the first event.
async fn prepare(at: SocketAddr) -> String {
    for number in 0..6 {
        let path = format!("/v1/topics/u.a/events?id=n{number}&type=t{}", number % 2);
        done(at, "POST", &path, json!(number)).await;
    }
    done(at, "POST", CHECKPOINT, json!({"cursor": "2"})).await;
    done(at, "POST", MARKS, json!({"mark": ["read"], "events": [1, 4]})).await;
    let pattern = "/v1/consumers/inbox/marks?topic=u.%3E";
    done(at, "POST", pattern, json!({"mark": ["archived"], "events": [{"id": "n3"}]})).await;
    done(at, "PUT", CREW, json!({"shared": {"lease_ms": 600_000}})).await;
    let pulled = done(at, "POST", PULL, json!({"worker": "w", "limit": 2})).await;
    let lease = |index: usize| pulled["leases"][index]["lease"].as_str().unwrap().to_owned();
    done(at, "POST", SETTLE, json!({"ack": [lease(1)]})).await;
    lease(0)
}

/// Returns all that is told of the consumers.
async fn told(at: SocketAddr) -> Vec<Value> {
    let mut told = Vec::new();
    for topic in ["u.a", "u.%3E"] {
        for part in ["", "/marks", "/counts"] {
            let path = format!("/v1/consumers/inbox{part}?topic={topic}");
            told.push(done(at, "GET", &path, Value::Null).await);
        }
    }
    let path = "/v1/topics/u.a/events?consumer=inbox&order=newest";
    told.push(done(at, "GET", path, Value::Null).await);
    let mut work = done(at, "GET", WORK, Value::Null).await;
    work.as_object_mut().unwrap().remove("workers"); // Not told while nobody works.
    told.push(work);
    told
}

/// Asks for each change of a consumer, which is refused each time, and changes nothing.
async fn assert_refused(at: SocketAddr, lease: &str, (status, code): (u16, &str), word: &str) {
    let before = told(at).await;
    let requests = [
        ("POST", CHECKPOINT, json!({"cursor": "5"})),
        ("POST", CHECKPOINT, json!({"cursor": "1", "force": true})),
        ("POST", MARKS, json!({"mark": ["archived"], "events": [2]})),
        ("POST", MARKS, json!({"mark": ["seen"], "up_to": "6"})),
        ("PUT", "/v1/consumers/new?topic=u.a", Value::Null),
        ("DELETE", "/v1/consumers/inbox?topic=u.a", Value::Null),
        ("POST", PULL, json!({"worker": "w", "limit": 4})),
        ("POST", SETTLE, json!({"ack": [lease]})),
        ("POST", SETTLE, json!({"nack": [{"lease": lease}]})),
    ];
    for (method, path, body) in requests {
        let refused = ask(at, method, path, body.clone()).await;
        let problem = refused.json();
        let is_it = refused.status.as_u16() == status
            && problem["type"] == format!("urn:leftoff:problem:{code}");
        assert!(is_it, "{method} {path} {body}: {}: {problem}", refused.status);
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
    assert_eq!(told(at).await, before, "what was refused has changed something");
}

/// Does what was refused before.
async fn assert_goes_on(at: SocketAddr, lease: &str) {
    let moved = done(at, "POST", CHECKPOINT, json!({"cursor": "5"})).await;
    assert_eq!(moved["moved"], true, "{moved}");
    let marked = done(at, "POST", MARKS, json!({"mark": ["archived"], "events": [2]})).await;
    assert_eq!(marked["changed"], true, "{marked}");
    let settled = done(at, "POST", SETTLE, json!({"ack": [lease]})).await;
    assert_eq!(settled, json!({"ack": [{"outcome": "done"}]}));
    let pulled = done(at, "POST", PULL, json!({"worker": "w", "limit": 10})).await;
    let leases = pulled["leases"].as_array().unwrap().iter();
    let tries = leases.map(|it| (it["event"]["sequence"].as_u64(), it["tries"].as_u64()));
    let expected = (3..=6).map(|sequence| (Some(sequence), Some(1)));
    assert!(tries.eq(expected), "{pulled}");
    let counts = done(at, "GET", "/v1/consumers/inbox/counts?topic=u.a", Value::Null).await;
    let numbers = ["total", "unfinished", "inbox", "unread", "archived"];
    assert_eq!(numbers.map(|name| counts[name].as_u64().unwrap()), [6, 1, 5, 3, 1], "{counts}");
}

/// Goal: on a full disk, each change of a consumer is refused with the reason, nothing of it is
/// told as done, and all of it goes on when there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_consumers_stay_as_they_are_and_go_on_when_there_is_room() {
    let Some(disk) = Disk::in_memory(160) else { return };
    let data = disk.path().join("data");
    let process = Process::serve(&data, &[]);
    let at = process.address;
    let lease = prepare(at).await;
    let ballast = disk.path().join("ballast");
    let size = free_bytes(disk.path()).checked_sub(LEFT_BYTES).expect("the disk is large enough");
    std::fs::write(&ballast, vec![0; size as usize]).unwrap();
    assert_refused(at, &lease, (507, "disk-full"), "bytes free").await;
    std::fs::remove_file(&ballast).unwrap();
    assert_goes_on(at, &lease).await;
    let before = told(at).await;
    process.kill();
    let process = Process::serve(&data, &[]);
    assert_eq!(told(process.address).await, before, "after a crash");
}

/// Goal: once storage takes nothing more, each change of a consumer is refused with the way out,
/// and what is stored is told as it was, before a restart and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_read_only_refuses_changes_of_consumers_and_tells_them_as_they_were() {
    let directory = tempdir().unwrap();
    let (process, _lines) = storage_failure::serve(directory.path()).await;
    let at = process.address;
    let lease = prepare(at).await;
    let failing = async {
        let payload = || vec![b'x'; 200_000];
        while post(at, "/v1/topics/ballast/events", payload()).await.status == 201 {}
    };
    soon(failing).await;
    assert_refused(at, &lease, (503, "read-only"), "leftoff check --repair").await;
    let before = told(at).await;
    process.kill();
    let path = directory.path().to_owned();
    let process = tokio::task::spawn_blocking(move || Process::serve(&path, &[])).await.unwrap();
    let after = told(process.address).await;
    assert_eq!(without_places(&after), without_places(&before), "after a restart");
    assert_goes_on(process.address, &lease).await;
}

/// Leaves out the position at which counts hold: that of the last event of all topics, to which
/// others may write.
fn without_places(told: &[Value]) -> Vec<Value> {
    let each = told.iter().cloned().map(|mut it| {
        it.as_object_mut().unwrap().remove("position");
        it
    });
    each.collect()
}

/// Returns the lines of `leftoff export` of a topic.
async fn exported(at: SocketAddr, topic: &str) -> Vec<Value> {
    let server = format!("http://{at}");
    let output = run(&["export", "--topic", topic, "--server", &server]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn must_run(arguments: &[&str]) {
    let output = run(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
}

fn words(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Goal: a backup has all that the broker keeps for readers: it is restored, told by the new epoch,
/// and used on; what has the old epoch is refused by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_has_consumers_leases_and_webhooks_which_go_on_in_another_epoch() {
    let directory = tempdir().unwrap();
    let in_it = |name: &str| directory.path().join(name);
    let (data, restored, file) = (in_it("a"), in_it("b"), in_it("all.backup"));
    let process = Process::serve(&data, &[]);
    let at = process.address;
    let lease = prepare(at).await;
    let (before, lines) = (told(at).await, exported(at, "$consumers").await);
    assert!(lines.iter().any(|line| line["key"].as_str().unwrap().starts_with('m')), "{lines:?}");
    let webhook = json!({"topic": "nothing", "url": "https://example.com/hook"});
    done(at, "PUT", "/v1/webhooks/billing", webhook).await;
    let webhook = done(at, "GET", "/v1/webhooks/billing", Value::Null).await;
    must_run(&["backup", words(&file), "--server", &format!("http://{at}")]).await;
    process.kill();
    must_run(&["restore", words(&file), "--data-dir", words(&restored)]).await;
    let checked = run(&["check", "--data-dir", words(&restored)]).await;
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let report = format!("{}{}", text(&checked.stdout), text(&checked.stderr));
    assert!(!report.contains("damaged"), "{report}");

    let process = Process::serve(&restored, &[]);
    let at = process.address;
    let epoch =
        |all: &[Value]| all[0]["revision"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
    let after = told(at).await;
    let (old, new) = (epoch(&before), epoch(&after));
    assert_ne!(old, new, "a restored log has another epoch");
    let in_new = |all: &[Value]| json!(without_places(all)).to_string().replace(&old, &new);
    assert_eq!(in_new(&after), in_new(&before));
    assert_eq!(after[0]["checkpoint"], json!(format!("2-{new}")));
    // The webhook is a consumer of its own, which came later.
    let is_known = |line: &&Value| lines.iter().any(|known| known["key"] == line["key"]);
    let restored = exported(at, "$consumers").await;
    let restored: Vec<_> = restored.iter().filter(is_known).collect();
    assert!(restored.iter().copied().eq(&lines), "records have no epoch: {restored:?}");
    let kept = done(at, "GET", "/v1/webhooks/billing", Value::Null).await;
    assert_eq!((&kept["keys"], &kept["url"]), (&webhook["keys"], &webhook["url"]), "{kept}");

    let foreign = ask(at, "POST", CHECKPOINT, json!({"cursor": format!("5-{old}")})).await;
    let problem = foreign.json()["detail"].as_str().unwrap().to_owned();
    assert!(foreign.status == 400 && problem.contains(&new), "{problem}");
    let expecting = json!({"cursor": format!("3-{new}"), "expected": format!("2-{new}")});
    assert_eq!(done(at, "POST", CHECKPOINT, expecting).await["moved"], true);
    assert_goes_on(at, &lease).await;
    let page = get(at, "/v1/topics/u.a/events?consumer=inbox").await.json();
    let sequences = page["events"].as_array().unwrap().iter().map(|it| it["sequence"].as_u64());
    assert!(sequences.eq([Some(6)]), "{page}");
}

/// Goal: what `leftoff export` prints of the consumers cannot be published by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_publishes_exported_records_of_consumers() {
    let directory = tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let at = process.address;
    done(at, "PUT", "/v1/consumers/inbox?topic=a", Value::Null).await;
    let lines = exported(at, "$consumers").await;
    let file = directory.path().join("lines");
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let mut command = leftoff();
    command.args(["publish", "--server", &format!("http://{at}")]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let output = tokio::task::spawn_blocking(move || output_of(&mut command)).await.unwrap();
    let problem = text(&output.stderr);
    assert!(!output.status.success() && problem.contains("only the broker writes it"), "{problem}");
    assert_eq!(exported(at, "$consumers").await, lines);
}
