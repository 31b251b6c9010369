//! Compaction, as its users see it: what a topic holds afterwards, and what readers get.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::common::{Process, Sse, get, post, read_all, run, send, text, to};

/// Maintenance only when it is told to.
const BY_HAND: [&str; 2] = ["--set", "maintenance.interval_ms=3600000"];

/// Publishes these keys and payloads as one batch.
async fn publish_batch(address: SocketAddr, topic: &str, events: &[(&str, &str)]) -> Value {
    let line = |(key, data): &(&str, &str)| {
        let event = json!({"key": key, "content_type": "text/plain", "data": data});
        format!("{event}\n")
    };
    let request = to(address, "POST", &format!("/v1/topics/{topic}/events"));
    let request = request.header("content-type", "application/x-ndjson");
    let answer = send(request, events.iter().map(line).collect::<String>()).await;
    assert_eq!(answer.status, 201, "{}", text(&answer.body));
    answer.json()
}

/// How many events a compaction by hand drops of a topic.
async fn compact(address: SocketAddr, topic: &str) -> u64 {
    let answer = post(address, &format!("/v1/maintenance?topic={topic}"), "").await;
    assert_eq!(answer.status, 200, "{}", text(&answer.body));
    answer.json()["dropped"]["compacted"]["events"].as_u64().unwrap()
}

async fn configure(address: SocketAddr, topic: &str, config: Value) {
    let request = to(address, "PUT", &format!("/v1/topics/{topic}"));
    let answer = send(request, config.to_string()).await;
    assert!(answer.status.is_success(), "{}", text(&answer.body));
}

/// Goal: what was published last is compacted like everything else, and nobody loses its place.
/// Method: five events of a key in one batch; a follower, a reader in the middle, one who comes
/// late, and a crash after it.
#[tokio::test]
async fn a_compaction_by_hand_takes_in_the_last_batch_and_says_what_it_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &BY_HAND);
    let address = process.address;
    for topic in ["a", "emptied"] {
        configure(address, topic, json!({"compact": true, "tombstone_grace_ms": 0})).await;
    }
    let five = ["1", "2", "3", "4", "5"].map(|data| ("k", data));
    assert_eq!(publish_batch(address, "a", &five).await["last"]["sequence"], 5);
    publish_batch(address, "emptied", &[("k", "1"), ("k", "")]).await;
    let mut follower = Sse::follow(address, "a", "?from=earliest").await;
    assert_eq!(follower.events(5).await.last(), Some(&(5, "5".to_owned())));

    assert_eq!(compact(address, "a").await, 4);
    assert_eq!(compact(address, "a").await, 0, "there is nothing left to do");
    assert_eq!(compact(address, "emptied").await, 2, "what was deleted, and the tombstone");
    let kept = |sequence: u64| vec![(sequence, sequence.to_string())];
    assert_eq!(read_all(address, "a").await, kept(5));
    assert_eq!(read_all(address, "emptied").await, []);
    let page = get(address, "/v1/topics/a/events?after=2&on_gap=fail").await;
    assert_eq!((page.status.as_u16(), &page.json()["events"][0]["sequence"]), (200, &5.into()));
    let info = get(address, "/v1/topics/a").await.json();
    assert_eq!(
        (&info["events"], &info["tail"], &info["earliest"]),
        (&1.into(), &6.into(), &1.into())
    );
    publish_batch(address, "a", &[("k", "6")]).await;
    assert_eq!(follower.events(1).await, kept(6));
    assert_eq!(compact(address, "a").await, 1);
    process.kill();

    let process = Process::serve(directory.path(), &BY_HAND);
    let address = process.address;
    assert_eq!(read_all(address, "a").await, kept(6));
    let state = get(address, "/v1/topics/a/state").await.json();
    assert_eq!(state["events"].as_array().unwrap().len(), 1, "{state}");
    for (topic, next) in [("a", 7), ("emptied", 3)] {
        let batch = publish_batch(address, topic, &[("k", "7")]).await;
        assert_eq!(batch["last"]["sequence"], next, "{topic}: sequences go on");
    }
    process.kill();
    let check = run(&["check", "--data-dir", directory.path().to_str().unwrap()]).await;
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
}
