//! A disk that runs full: first events are refused, then changes of settings, and the reserve is
//! made again when there is space.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::cursor::Sequence;
use leftoff::{Broker, Error, NewEvent, OpenConfig, Publish, TopicConfig};

use crate::common::name;
use crate::disk::{Disk, free_bytes};

const MIB: u64 = 1 << 20;

/// The longest time for space to come back.
const PATIENCE: Duration = Duration::from_secs(60);

async fn publish(broker: &Broker, payload: String) -> leftoff::Result<u64> {
    let events = vec![NewEvent::new(payload)];
    let publish = Publish::new(name("a"), events);
    Ok(broker.publish(publish).await?.last().sequence.get())
}

async fn set(broker: &Broker, max_events: u64) -> leftoff::Result<()> {
    let config = TopicConfig::with(|config| config.max_events = Some(max_events));
    broker.set_topic(&name("a"), config).await.map(drop)
}

/// Fills the disk, as another program would, until only `bytes` are free.
fn leave(ballast: &mut File, disk: &Path, bytes: u64) {
    let more = free_bytes(disk).checked_sub(bytes).expect("less is free already");
    ballast.write_all(&vec![0; more as usize]).unwrap();
    assert!(free_bytes(disk) <= bytes);
}

fn assert_full<T: std::fmt::Debug>(outcome: leftoff::Result<T>, below: u64) {
    let Err(Error::DiskFull { free_bytes, .. }) = outcome else { panic!("{outcome:?}") };
    assert!(free_bytes < below, "{free_bytes} bytes are left");
}

/// Goal: the reserve counts as space for events. Below `min_free_bytes`, settings can still be
/// changed; below 16 MiB, they cannot. A reserve that was given up is made again once there is
/// space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_runs_full_refuses_events_then_settings_and_makes_its_reserve_again() {
    let Some(disk) = Disk::in_memory(200) else { return };
    let directory = disk.path().join("data");
    let broker = Broker::open(&directory, &OpenConfig::default()).unwrap();
    let reserve = directory.join("reserve");
    assert_eq!(publish(&broker, "x".to_owned()).await.unwrap(), 1);
    assert!(reserve.exists());
    let path = disk.path().join("ballast");
    let mut ballast = File::create(&path).unwrap();

    leave(&mut ballast, disk.path(), 40 * MIB);
    assert_eq!(publish(&broker, "x".to_owned()).await.unwrap(), 2);
    leave(&mut ballast, disk.path(), 4 * MIB);
    set(&broker, 1_000).await.unwrap();
    assert!(!reserve.exists(), "the reserve was not given up");
    assert!(free_bytes(disk.path()) < 64 * MIB);
    leave(&mut ballast, disk.path(), 7 * MIB);
    assert_full(set(&broker, 2_000).await, 16 * MIB);
    assert_full(publish(&broker, "x".to_owned()).await, 16 * MIB);
    assert_eq!(broker.topic(&name("a")).unwrap().config.max_events, Some(1_000));

    std::fs::remove_file(&path).unwrap();
    drop(ballast);
    let until = Instant::now() + PATIENCE;
    let mut last = 2;
    while !reserve.exists() {
        assert!(Instant::now() < until, "the reserve was not made again");
        last += 1;
        assert_eq!(publish(&broker, "x".to_owned()).await.unwrap(), last);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    set(&broker, 2_000).await.unwrap();
    broker.close().await;
}

/// Goal: space comes back on a full disk, however little is removed. A removal frees space only
/// once more segments are finished, and nobody may publish to finish them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_little_that_is_removed_from_a_full_disk_makes_room() {
    let Some(disk) = Disk::in_memory(150) else { return };
    let broker = Broker::open(disk.path().join("data"), &OpenConfig::default()).unwrap();
    let large = || "x".repeat(900_000);
    let mut count = 0;
    while let Ok(sequence) = publish(&broker, large()).await {
        count = sequence;
    }
    assert!(count > 40, "{count} events fit");
    broker.purge(&name("a"), Sequence::new(20)).await.unwrap();
    let until = Instant::now() + PATIENCE;
    while let Err(error) = publish(&broker, large()).await {
        assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        assert!(Instant::now() < until, "{error}, though 18 MB were removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    broker.close().await;
}
