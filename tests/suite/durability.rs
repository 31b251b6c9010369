//! Acknowledged events stay: through crashes under load, and on a full disk.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leftoff::cursor::{OnGap, StartPoint};
use leftoff::edge::proto::{self, PublishRequest};
use leftoff::log::{LogConfig, SledLog};
use leftoff::{Broker, Delivery, Error, NewEvent, OpenConfig, Publish};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::common::{Grpc, Process, Sse, assert_no_hole, name, read_all, seed, soon, to};
use crate::disk::Disk;

const TOPIC: &str = "load";
const KILLS: u32 = 20;
const PUBLISHERS: u64 = 6;

/// The broker's current address; `None` when the tasks should end.
type Whereabouts = watch::Receiver<Option<SocketAddr>>;

/// Publishes one event after another, each until it is acknowledged. Returns the acknowledged
/// sequences and payloads.
async fn publish_through_crashes(publisher: u64, mut broker: Whereabouts) -> Vec<(u64, String)> {
    let mut acknowledged = Vec::new();
    let mut client: Option<Grpc> = None;
    let mut number = 0;
    loop {
        let Some(address) = *broker.borrow_and_update() else { return acknowledged };
        let payload = format!("{publisher}/{number}");
        let event = proto::NewEvent {
            id: payload.clone(),
            content_type: "text/plain".to_owned(),
            payload: payload.clone().into(),
            ..proto::NewEvent::default()
        };
        let request = PublishRequest {
            topic: TOPIC.into(),
            events: vec![event],
            expected_sequence: None,
            ephemeral: false,
            topics: Vec::new(),
        };
        let connected = match client.take() {
            Some(client) => Ok(client),
            None => Grpc::connect(format!("http://{address}")).await.map_err(|_| ()),
        };
        let Ok(mut connected) = connected else {
            tokio::task::yield_now().await;
            continue;
        };
        if let Ok(response) = soon(connected.publish(request)).await {
            let ack = response.into_inner().ack.unwrap();
            acknowledged.push((ack.last.unwrap().sequence, payload));
            number += 1;
            client = Some(connected);
        }
    }
}

/// Follows from the first event, and resumes after every disconnect, as a browser does.
async fn follow_through_crashes(
    mut broker: Whereabouts,
    seen: Arc<Mutex<Vec<(u64, String)>>>,
    done: watch::Receiver<Option<u64>>,
) {
    let mut last_id = "0".to_owned();
    loop {
        let Some(address) = *broker.borrow_and_update() else { return };
        let request = to(address, "GET", &format!("/v1/topics/{TOPIC}/events"));
        let Ok(mut stream) = Sse::open(request.header("last-event-id", &last_id)).await else {
            tokio::task::yield_now().await;
            continue;
        };
        while let Some(frame) = stream.next_within(Duration::from_millis(200)).await {
            assert!(!frame.is_control("leftoff.gap"), "a gap: {frame:?}");
            last_id = frame.id.clone().unwrap_or(last_id);
            if frame.is_event() {
                let mut seen = seen.lock().unwrap();
                seen.push((frame.sequence(), frame.data.unwrap()));
                if *done.borrow() == Some(seen.len() as u64) {
                    return;
                }
            }
        }
        let count = seen.lock().unwrap().len() as u64;
        if *done.borrow() == Some(count) {
            return;
        }
    }
}

/// Goal: a crash loses no acknowledged event, stores none twice and leaves no hole, and followers
/// resume where they were.
/// Method: kill the real binary under load at random moments, and start it again on the same
/// directory. Publishers repeat requests without an answer; a follower resumes with its last id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_at_random_moments_it_loses_and_repeats_nothing() {
    let mut random = StdRng::seed_from_u64(seed());
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::serve(directory.path(), &[]);
    let (moved, whereabouts) = watch::channel(Some(process.address));
    let (moved_for_follower, followed) = watch::channel(Some(process.address));
    let (finished, done) = watch::channel(None);
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| tokio::spawn(publish_through_crashes(publisher, whereabouts.clone())))
        .collect();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let follower = tokio::spawn(follow_through_crashes(followed, seen.clone(), done));
    for _ in 0..KILLS {
        let alive = Duration::from_millis(random.random_range(5..250));
        tokio::time::sleep(alive).await; // The kill falls anywhere in the work.
        process.kill();
        let path = directory.path().to_owned();
        process = tokio::task::spawn_blocking(move || Process::serve(&path, &[])).await.unwrap();
        moved.send_replace(Some(process.address));
        moved_for_follower.send_replace(Some(process.address));
    }
    moved.send_replace(None);
    let mut acknowledged = Vec::new();
    for publisher in publishers {
        acknowledged.push(publisher.await.unwrap());
    }
    let stored = read_all(process.address, TOPIC).await;
    assert_no_hole(&stored);
    for (publisher, told) in (0..).zip(&acknowledged) {
        let prefix = format!("{publisher}/");
        let own: Vec<_> = stored.iter().filter(|(_, text)| text.starts_with(&prefix)).collect();
        let expected: Vec<String> = (0..own.len()).map(|n| format!("{prefix}{n}")).collect();
        let texts: Vec<&String> = own.iter().map(|(_, text)| text).collect();
        assert!(
            texts.iter().zip(&expected).all(|(a, b)| *a == b),
            "{publisher}: an event is missing, repeated or out of order"
        );
        assert!(own.len() >= told.len(), "{publisher}: an acknowledged event is lost");
        assert!(
            own.iter().zip(told).all(|(stored, told)| *stored == told),
            "{publisher}: an event has another sequence"
        );
    }
    assert!(acknowledged.iter().all(|told| told.len() as u32 > KILLS), "nothing was published");
    finished.send_replace(Some(stored.len() as u64));
    soon(follower).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), stored, "the follower got other events");
}

async fn publish(broker: &Broker, number: u64) -> leftoff::Result<u64> {
    let events = vec![NewEvent::new(format!("{number} {}", "x".repeat(100_000)))];
    let ack = broker.publish(Publish::new(name("a"), events)).await?;
    Ok(ack.last().sequence.get())
}

async fn numbers(broker: &Broker) -> Vec<u64> {
    let from = StartPoint::Earliest;
    let mut subscription = broker.subscribe(&name("a"), from, OnGap::Fail).await.unwrap();
    let mut numbers = Vec::new();
    while let Some(Delivery::Events(run)) = subscription.next().await.unwrap() {
        numbers.extend(run.events().map(|event| {
            let text = std::str::from_utf8(event.payload).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        }));
    }
    numbers
}

/// Publishes until a publish is refused. Returns the number of acknowledged events, and the
/// refusal.
async fn fill(broker: &Broker) -> (u64, Error) {
    let mut count = 0;
    loop {
        match publish(broker, count + 1).await {
            Ok(sequence) => {
                count += 1;
                assert_eq!(sequence, count);
            }
            Err(error) => return (count, error),
        }
        assert!(count < 10_000, "the disk does not fill");
    }
}

/// Goal: the broker refuses events before the disk is full, reads go on, and it accepts events
/// again once there is space.
/// Method: a file system of 100 MiB, and the default configuration's floor.
#[tokio::test]
async fn on_a_disk_that_fills_publishing_is_refused_and_everything_else_goes_on() {
    let Some(disk) = Disk::in_memory(100) else { return };
    let directory = disk.path().join("data");
    let config = OpenConfig::default();
    let broker = Broker::open(&directory, &config).unwrap();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 8 << 20]).unwrap();
    let (count, error) = fill(&broker).await;
    let Error::DiskFull { free_bytes, needed_bytes } = error else { panic!("{error}") };
    assert!(free_bytes < needed_bytes && needed_bytes >= config.log.min_free_bytes);
    assert!(count > 10, "{count}");
    assert_eq!(numbers(&broker).await, (1..=count).collect::<Vec<_>>());
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(publish(&broker, count + 1).await.unwrap(), count + 1, "there is space again");
    broker.close().await;
    drop(broker);
    let broker = Broker::open(&directory, &config).unwrap();
    assert_eq!(numbers(&broker).await, (1..=count + 1).collect::<Vec<_>>());
}

/// The variables for the process that fills a disk: the disk's path, and the file to which the
/// process writes the number of acknowledged events.
const DISK: &str = "LEFTOFF_TEST_DISK";
const ACKNOWLEDGED: &str = "LEFTOFF_TEST_ACKNOWLEDGED";

/// Goal: no acknowledged event is lost on a disk that another program fills to the last byte.
/// Method: open the log without the floor, so that writes themselves fail. A separate process does
/// this, because the storage engine may wait for ever after a failed write. Then open the same log
/// with space again.
#[tokio::test]
async fn on_a_disk_that_is_full_to_the_last_byte_nothing_acknowledged_is_lost() {
    let config = OpenConfig::default();
    let open = |disk: &Path| {
        let mut without_floor = LogConfig::default();
        without_floor.min_free_bytes = 0;
        let log = SledLog::open(&disk.join("data"), &without_floor).unwrap();
        Broker::with_log(Arc::new(log), &config).unwrap()
    };
    if let (Some(disk), Some(noted)) = (std::env::var_os(DISK), std::env::var_os(ACKNOWLEDGED)) {
        let broker = open(Path::new(&disk));
        let (count, error) = fill(&broker).await;
        println!("{count} events, then: {error}");
        let refused = publish(&broker, count + 1).await.unwrap_err();
        assert!(matches!(refused, Error::DiskFull { .. } | Error::ReadOnly(_)), "{refused}");
        assert_eq!(numbers(&broker).await, (1..=count).collect::<Vec<_>>(), "reading goes on");
        std::fs::write(noted, count.to_string()).unwrap();
        broker.close().await;
        return;
    }
    let Some(disk) = Disk::in_memory(60) else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 16 << 20]).unwrap();
    let noted = tempfile::NamedTempFile::new().unwrap();
    let name = "durability::on_a_disk_that_is_full_to_the_last_byte_nothing_acknowledged_is_lost";
    let mut filling = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(DISK, disk.path())
        .env(ACKNOWLEDGED, noted.path())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let ended = loop {
        match filling.try_wait().unwrap() {
            None if started.elapsed() < Duration::from_secs(60) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            ended => break ended,
        }
    };
    match ended {
        Some(status) => assert!(status.success(), "{status}"),
        None => println!("the process does not end on the full disk, and is killed"),
    }
    let _it_may_have_ended = filling.kill();
    filling.wait().unwrap();
    let count: u64 = std::fs::read_to_string(noted.path()).unwrap().parse().unwrap();
    assert!(count > 10, "{count}");
    std::fs::remove_file(&ballast).unwrap();
    let stored = numbers(&open(disk.path())).await;
    let known: Vec<u64> = (1..=count).collect();
    assert!(stored.starts_with(&known), "an acknowledged event is lost: {stored:?}");
    assert!(stored.len() as u64 <= count + 1, "{stored:?}");
}
