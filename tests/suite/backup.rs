//! Backups: taken while events are published, restored, and followed by incremental backups; and
//! the cases in which a backup or a restore is refused.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Process, Sse, get, post, read_all, run, send, text, to};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

async fn backup(process: &Process, file: &Path, after: Option<&Path>) -> u64 {
    let url = format!("http://{}", process.address);
    let mut arguments = vec!["backup", file.to_str().unwrap(), "--server", &url];
    arguments.extend(after.into_iter().flat_map(|file| ["--after", file.to_str().unwrap()]));
    let output = run(&arguments).await;
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let position = printed.split('@').nth(1).unwrap().split('-').next().unwrap().to_owned();
    position.parse().unwrap()
}

async fn restore(files: &[&Path], directory: &Path) -> Output {
    let files = files.iter().map(|file| file.to_str().unwrap());
    let arguments: Vec<&str> = ["restore"]
        .into_iter()
        .chain(files)
        .chain(["--data-dir", directory.to_str().unwrap()])
        .collect();
    run(&arguments).await
}

async fn assert_whole(directory: &Path) {
    let check = run(&["check", "--data-dir", directory.to_str().unwrap()]).await;
    assert_eq!(code(&check), 0, "{}{}", text(&check.stdout), text(&check.stderr));
}

/// Publishes numbers to three topics in turn until `is_over` is set. Returns the position, the
/// topic and the number of each acknowledged event.
fn publish(
    process: &Process,
    is_over: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Vec<(u64, String, u64)>> {
    let (address, is_over) = (process.address, is_over.clone());
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            number += 1;
            let topic = format!("t{}", number % 3);
            let path = format!("/v1/topics/{topic}/events?key=k{}", number % 7);
            let receipt = post(address, &path, number.to_string()).await.json();
            let position = receipt["position"].as_u64().unwrap();
            acknowledged.push((position, topic, number));
        }
        acknowledged
    })
}

/// Goal: a backup holds exactly the events that were acknowledged up to its position. A log that is
/// restored from a backup and its incremental backups continues after their last event, in a new
/// epoch.
/// Method: take backups one after another while events are published, and restore each of them.
#[tokio::test]
async fn a_backup_of_a_busy_broker_holds_what_was_there_at_its_position() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name);
    let process = Process::serve(&path("data"), &["--set", "maintenance.interval_ms=20"]);
    let is_over = Arc::new(AtomicBool::new(false));
    let publisher = publish(&process, &is_over);
    let files: Vec<PathBuf> = (0..4).map(|index| path(&format!("{index}.backup"))).collect();
    let mut positions = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let wait = 60 * (index as u64 + 1); // Events are published between two backups.
        while get(process.address, "/v1/topics").await.json()["topics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|topic| topic["last_position"].as_u64().unwrap())
            .max()
            .unwrap_or(0)
            < wait
        {}
        let after = index.checked_sub(1).map(|before| files[before].as_path());
        positions.push(backup(&process, file, after).await);
    }
    is_over.store(true, Ordering::Relaxed);
    let acknowledged = publisher.await.unwrap();
    let stale = get(process.address, "/v1/topics/t0/events?limit=1").await.json();
    let stale = stale["cursor"].as_str().unwrap().to_owned();
    process.kill();
    for count in 1..=files.len() {
        let directory = path(&format!("restored {count}"));
        let restored: Vec<&Path> = files[..count].iter().map(PathBuf::as_path).collect();
        let output = restore(&restored, &directory).await;
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        assert_whole(&directory).await;
        let process = Process::serve(&directory, &[]);
        for topic in ["t0", "t1", "t2"] {
            let position = positions[count - 1];
            let numbers: Vec<String> = acknowledged
                .iter()
                .filter(|(place, name, _)| *place <= position && name == topic)
                .map(|(_, _, number)| number.to_string())
                .collect();
            let expected: Vec<(u64, String)> = (1..).zip(numbers).collect();
            assert_eq!(read_all(process.address, topic).await, expected);
            let path = format!("/v1/topics/{topic}/events");
            let next = post(process.address, &path, "next").await.json();
            assert_eq!(next["sequence"], expected.len() as u64 + 1, "sequences go on");
        }
        let mut reader = Sse::resume(process.address, "t0", &stale).await;
        let gap = reader.find(|frame| frame.is_control("leftoff.gap")).await.json();
        assert_eq!(gap["reason"], "epoch");
    }
    let wrong = restore(&[&files[1]], &path("wrong")).await;
    assert_eq!(code(&wrong), 1);
    assert!(text(&wrong.stderr).contains("name the backup that it follows"));
    let wrong = restore(&[&files[0], &files[2]], &path("wrong")).await;
    assert!(text(&wrong.stderr).contains("where the one before it ends"));
    let taken = restore(&[&files[0]], &path("restored 1")).await;
    assert!(text(&taken.stderr).contains("not empty"), "{}", text(&taken.stderr));
    assert!(!path("wrong").exists(), "a refused restore wrote something");
}

#[tokio::test]
async fn a_backup_that_is_cut_or_altered_is_refused_and_nothing_is_written() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name);
    let process = Process::serve(&path("data"), &[]);
    for number in 0..20 {
        post(process.address, "/v1/topics/a/events", vec![number; 1_000]).await;
    }
    let file = path("whole");
    backup(&process, &file, None).await;
    let url = format!("http://{}", process.address);
    let again = run(&["backup", file.to_str().unwrap(), "--server", &url]).await;
    assert!(text(&again.stderr).contains("exists already"));
    let whole = std::fs::read(&file).unwrap();
    let mut altered = whole.clone();
    altered[whole.len() / 2] ^= 1;
    for (bytes, words) in [
        (&whole[..whole.len() - 1], "its end is missing"),
        (&whole[..100], "its end is missing"),
        (&altered[..], "was altered"),
        (b"no backup of anything, and as long as the start of one would be", "not a backup"),
    ] {
        std::fs::write(path("bad"), bytes).unwrap();
        let refused = restore(&[&path("bad")], &path("target")).await;
        assert_eq!(code(&refused), 1);
        assert!(text(&refused.stderr).contains(words), "{}", text(&refused.stderr));
        assert!(!path("target").exists());
    }
}

/// Goal: a restored log reflects each trim, deletion and change of settings between two backups.
#[tokio::test]
async fn what_became_of_topics_between_two_backups_is_restored() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name);
    let process = Process::serve(&path("data"), &[]);
    let address = process.address;
    for topic in ["trimmed", "emptied", "deleted", "quiet"] {
        for number in 1..=5 {
            post(address, &format!("/v1/topics/{topic}/events"), number.to_string()).await;
        }
    }
    let (first, second) = (path("first"), path("second"));
    backup(&process, &first, None).await;
    for number in 6..=9 {
        post(address, "/v1/topics/trimmed/events", number.to_string()).await;
        post(address, "/v1/topics/emptied/events", number.to_string()).await;
    }
    send(to(address, "DELETE", "/v1/topics/trimmed/events?before=8"), "").await;
    send(to(address, "DELETE", "/v1/topics/emptied/events"), "").await;
    send(to(address, "DELETE", "/v1/topics/deleted"), "").await;
    send(to(address, "PUT", "/v1/topics/quiet"), "{\"max_events\":3}").await;
    backup(&process, &second, Some(&first)).await;
    let directory = path("restored");
    let output = restore(&[&first, &second], &directory).await;
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_whole(&directory).await;
    let process = Process::serve(&directory, &["--set", "maintenance.interval_ms=3600000"]);
    let address = process.address;
    let topic = async |topic: &str| get(address, &format!("/v1/topics/{topic}")).await.json();
    let bounds = async |name: &str| {
        let topic = topic(name).await;
        (topic["earliest"].as_u64().unwrap(), topic["tail"].as_u64().unwrap())
    };
    assert_eq!(bounds("trimmed").await, (8, 10));
    assert_eq!(bounds("emptied").await, (10, 10));
    assert_eq!(get(address, "/v1/topics/deleted").await.status, 404);
    assert_eq!(
        (bounds("quiet").await, &topic("quiet").await["config"]["max_events"]),
        ((1, 6), &3.into())
    );
    for (name, next) in [("trimmed", 10), ("emptied", 10), ("deleted", 6), ("quiet", 6)] {
        let receipt = post(address, &format!("/v1/topics/{name}/events"), "x").await.json();
        assert_eq!(receipt["sequence"], next, "{name}");
    }
}

/// Goal: an incremental backup after a compaction loses no other event and brings none back:
/// neither the events around the superseded ones, nor an event whose tombstone is gone by now.
#[tokio::test]
async fn what_was_compacted_between_two_backups_does_not_come_back() {
    let parent = tempfile::tempdir().unwrap();
    let path = |name: &str| parent.path().join(name);
    let process = Process::serve(&path("data"), &["--set", "maintenance.interval_ms=3600000"]);
    let address = process.address;
    let compacted = "{\"compact\":true,\"tombstone_grace_ms\":0}";
    for topic in ["superseded", "deleted"] {
        send(to(address, "PUT", &format!("/v1/topics/{topic}")), compacted).await;
    }
    let publish = async |topic: &str, key: &str, payload: &str| {
        let path = format!("/v1/topics/{topic}/events?key={key}");
        assert_eq!(post(address, &path, payload.to_owned()).await.status, 201);
    };
    for topic in ["superseded", "deleted"] {
        for key in ["a", "b", "c"] {
            publish(topic, key, "old").await;
        }
    }
    let (first, second) = (path("first"), path("second"));
    backup(&process, &first, None).await;
    for key in ["d", "e", "d", "e", "f"] {
        publish("superseded", key, "new").await;
    }
    publish("deleted", "b", "").await;
    publish("deleted", "z", "1").await;
    publish("deleted", "z", "2").await;
    for _ in 0..3 {
        assert_eq!(post(address, "/v1/maintenance", "").await.status, 200);
    }
    let kept = async |address, topic: &str| read_all(address, topic).await;
    let (superseded, deleted) = (kept(address, "superseded").await, kept(address, "deleted").await);
    let sequences: Vec<u64> = superseded.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 6, 7, 8]);
    let sequences: Vec<u64> = deleted.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 3, 6], "the tombstone and what it deletes are gone");
    backup(&process, &second, Some(&first)).await;
    let directory = path("restored");
    let output = restore(&[&first, &second], &directory).await;
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_whole(&directory).await;
    let process = Process::serve(&directory, &["--set", "maintenance.interval_ms=3600000"]);
    assert_eq!(kept(process.address, "superseded").await, superseded);
    assert_eq!(kept(process.address, "deleted").await, deleted);
}

#[tokio::test]
async fn what_is_exported_can_be_published_again() {
    let parent = tempfile::tempdir().unwrap();
    let from = Process::serve(&parent.path().join("from"), &[]);
    let to_process = Process::serve(&parent.path().join("to"), &[]);
    for (index, content_type) in
        ["text/plain", "application/json", "image/png", ""].iter().enumerate()
    {
        let path = format!("/v1/topics/a/events?id=i{index}&key=k&type=t");
        let request = to(from.address, "POST", &path).header("content-type", *content_type);
        assert_eq!(send(request, "{\"a\":\n1}").await.status, 201);
    }
    let url = format!("http://{}", from.address);
    let exported = run(&["export", "--topic", "a", "--server", &url]).await;
    assert_eq!(code(&exported), 0, "{}", text(&exported.stderr));
    let file = parent.path().join("a.ndjson");
    std::fs::write(&file, &exported.stdout).unwrap();
    let url = format!("http://{}", to_process.address);
    let published = run(&["publish", "--file", file.to_str().unwrap(), "--server", &url]).await;
    assert_eq!(code(&published), 0, "{}", text(&published.stderr));
    let events = async |address| {
        let mut page = get(address, "/v1/topics/a/events").await.json();
        for event in page["events"].as_array_mut().unwrap() {
            event.as_object_mut().unwrap().remove("time");
        }
        page["events"].take()
    };
    assert_eq!(events(to_process.address).await, events(from.address).await);
    let none = run(&["export", "--topic", "none", "--server", &url]).await;
    assert_eq!(code(&none), 5);
}

/// Goal: a damaged log is repaired into a new directory, and the damaged one stays as it is.
#[tokio::test]
async fn a_repair_writes_what_verifies_elsewhere() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let process = Process::serve(&data, &[]);
    for number in 1..=5 {
        let payload = format!("needle-{number} in the log");
        post(process.address, "/v1/topics/a/events", payload).await;
    }
    process.kill();
    let database = data.join("sled/db");
    let mut bytes = std::fs::read(&database).unwrap();
    let needle = b"needle-4 in";
    let places: Vec<usize> =
        (0..bytes.len() - needle.len()).filter(|at| bytes[*at..].starts_with(needle)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(&database, &bytes).unwrap();
    let repaired = parent.path().join("repaired");
    let arguments =
        ["check", "--data-dir", data.to_str().unwrap(), "--repair", repaired.to_str().unwrap()];
    let output = run(&arguments).await;
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("damage: "), "{}", text(&output.stdout));
    assert!(std::fs::read(&database).unwrap() == bytes, "the damaged log was changed");
    assert_whole(&repaired).await;
    let process = Process::serve(&repaired, &[]);
    let kept = read_all(process.address, "a").await;
    assert!(kept.len() < 5, "{kept:?}");
    assert!(kept.iter().all(|(number, payload)| *payload == format!("needle-{number} in the log")));
}
