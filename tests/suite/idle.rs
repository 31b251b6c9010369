//! An idle broker costs nothing: no write, no sync, and hardly a wake-up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{Process, Sse, get, post, to};

/// The time for which the broker is watched.
const LOOK: Duration = Duration::from_secs(4);

/// Returns how often the threads of a process have gone to sleep by themselves, by thread name.
fn sleeps(id: u32) -> BTreeMap<String, u64> {
    let mut sleeps = BTreeMap::new();
    for task in std::fs::read_dir(format!("/proc/{id}/task")).unwrap() {
        let task = task.unwrap().path();
        // A thread may end between these reads.
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        let Ok(status) = std::fs::read_to_string(task.join("status")) else { continue };
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count: u64 = count.unwrap().trim().parse().unwrap();
        *sleeps.entry(name.trim().to_owned()).or_default() += count;
    }
    sleeps
}

/// Returns the number of write calls, and of written bytes, of a process so far.
fn writes(id: u32) -> (u64, u64) {
    let io = std::fs::read_to_string(format!("/proc/{id}/io")).unwrap();
    let of = |name: &str| -> u64 {
        io.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap()
    };
    (of("syscw:"), of("wchar:"))
}

/// Goal: a broker that was published to, and has a follower, rests when nothing happens.
/// Method: read the system's counts for the threads of the real binary. A thread that syncs waits
/// for the disk, and so is seen to sleep; one thread once synced 50 times a second.
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
    // The published events may still be worked on. The broker rests when that is done.
    while Instant::now() < until {
        let (before, written) = (sleeps(id), writes(id));
        tokio::time::sleep(LOOK).await; // The measurement covers this time.
        let (after, written_after) = (sleeps(id), writes(id));
        // One wake-up a second, and a few for opening or closing a connection, or for a heartbeat.
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
    panic!("the broker does not rest: {seen}");
}
