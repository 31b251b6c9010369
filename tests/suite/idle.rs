//! What is idle costs nothing: no sync, and hardly a wake-up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{Process, Sse, get, post, to};

/// How long the broker is looked at.
const LOOK: Duration = Duration::from_secs(4);

/// How often the threads of a process went to sleep of themselves, so far, by their names.
fn sleeps(id: u32) -> BTreeMap<String, u64> {
    let mut sleeps = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{id}/task")).unwrap() {
        let task = task.unwrap().path();
        // A thread may end while it is looked at.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count: u64 = count.unwrap().trim().parse().unwrap();
        *sleeps.entry(name.trim().to_owned()).or_default() += count;
    }
    sleeps
}

/// The calls of the system that a process and its threads made so far, that write or sync.
fn writes(id: u32) -> (u64, u64) {
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).unwrap();
    let of = |name: &str| -> u64 {
        io.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    (of("syscw:"), of("wchar:"))
}

/// Goal: a broker that was published to, and that is followed, rests when nothing happens.
/// Method: the system's own counts of what the threads of the real binary did. A thread that syncs
/// waits for the disk, so it is seen to sleep; that it was 50 times a second is what failed here.
#[tokio::test]
async fn an_idle_broker_neither_writes_nor_syncs_nor_wakes_up_more_than_once_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    for number in 0..100 {
        let event = format!("{number} {}", "x".repeat(10_000));
        assert_eq!(post(process.address, "/v1/topics/a/events", event).await.status, 201);
    }
    let follow = to(process.address, "GET", "/v1/topics/a/events?from=latest");
    let _follower = Sse::open(follow).await.unwrap();
    assert_eq!(get(process.address, "/v1/topics/a").await.status, 200);
    let id = process.id();
    let mut seen = String::new();
    let until = Instant::now() + Duration::from_secs(60);
    // What was published may still be worked on: the broker rests once that is done.
    while Instant::now() < until {
        let (before, written) = (sleeps(id), writes(id));
        tokio::time::sleep(LOOK).await; // The time is what is measured.
        let (after, written_after) = (sleeps(id), writes(id));
        // Once a second, and what opening and closing a connection, or a heartbeat, come to.
        let most = LOOK.as_secs() + 2;
        let restless: Vec<_> = after
            .iter()
            .map(|(name, count)| (name, count.saturating_sub(*before.get(name).unwrap_or(&0))))
            .filter(|(_, count)| *count > most)
            .collect();
        if restless.is_empty() && written == written_after {
            return;
        }
        seen = format!("{restless:?}; {written:?}, then {written_after:?}");
    }
    panic!("it does not rest: {seen}");
}
