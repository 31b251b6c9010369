//! A full disk: publishes are refused with the reason, everything else goes on, and a removal makes
//! space again, whatever the size of the disk and whatever filled it.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use leftoff::cursor::{OnGap, StartPoint};
use leftoff::log::LEAST_FREE_BYTES;
use leftoff::{Broker, Delivery, Error, NewEvent, OpenConfig, Publish, TopicConfig};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::common::{name, seed};
use crate::disk::{Disk, free_bytes};
use crate::forgetful::Forgetful;

/// The sizes of the disks, in MiB: the size of the log's reserve, and some more.
const SIZES: std::ops::RangeInclusive<u64> = 150..=220;

/// Sizes that are always tried: disks that once stayed full, and the smallest.
const KNOWN_SIZES: [u64; 3] = [150, 160, 191];

/// The number of further sizes, picked at random. With `LEFTOFF_ALL_DISKS` set, all sizes are
/// tried.
const MORE_SIZES: usize = 2;

const PAYLOAD_BYTES: usize = 900_000;

/// The longest time for space to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// The requests that the broker gets when its disk is full.
#[derive(Debug, Clone, Copy)]
enum Filler {
    Events,
    Topics,
    Ids,
    Settings,
}

const FILLERS: [Filler; 4] = [Filler::Events, Filler::Topics, Filler::Ids, Filler::Settings];

async fn publish(broker: &Broker, events: Vec<NewEvent>) -> leftoff::Result<u64> {
    let publish = Publish::new(name("a"), events);
    Ok(broker.publish(publish).await?.last().sequence.get())
}

fn large(number: u64) -> Vec<NewEvent> {
    vec![NewEvent::new(format!("{number} {}", "x".repeat(PAYLOAD_BYTES)))]
}

/// Publishes until the disk is full. Returns the number of stored events.
async fn fill(broker: &Broker) -> u64 {
    for count in 0..2_000 {
        match publish(broker, large(count)).await {
            Ok(_) => {}
            Err(Error::DiskFull { free_bytes, needed_bytes }) => {
                assert!(free_bytes < needed_bytes);
                return count;
            }
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }
    panic!("the disk does not fill");
}

/// Makes requests for which a full disk has no space, again and again. No request may fail for
/// another reason, and none may use up the space that a removal needs.
async fn insist(broker: &Broker, filler: Filler) {
    for number in 0..300_u64 {
        let outcome = match filler {
            Filler::Events => publish(broker, vec![NewEvent::new("x".repeat(1_000))]).await.err(),
            Filler::Ids => {
                let event =
                    |index| NewEvent { id: format!("{number}-{index}"), ..NewEvent::new("x") };
                publish(broker, (0..100).map(event).collect()).await.err()
            }
            Filler::Topics => {
                let topic = name(&format!("topic.{number}"));
                broker.create_topic(&topic, TopicConfig::default()).await.err()
            }
            Filler::Settings => {
                let max_events = Some(1_000_000 + number);
                let config = TopicConfig::with(|config| config.max_events = max_events);
                broker.set_topic(&name("a"), config).await.err()
            }
        };
        if let Some(error) = outcome {
            assert!(matches!(error, Error::DiskFull { .. }), "{filler:?}: {error}");
        }
    }
}

/// Publishes until the broker no longer refuses for a full disk.
async fn publish_patiently(broker: &Broker) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while let Err(error) = publish(broker, large(0)).await {
        if !matches!(error, Error::DiskFull { .. }) || Instant::now() > until {
            return Err(format!("still refused: {error}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Fills the disk, calls [`insist`], purges, fills the disk again, and reopens the log.
async fn fill_purge_fill_again(
    directory: &Path,
    filler: Filler,
    config: &OpenConfig,
) -> Result<(), String> {
    let broker = Broker::open(directory, config).map_err(|error| error.to_string())?;
    let first = fill(&broker).await;
    if first < 10 {
        return Err(format!("only {first} events fit"));
    }
    insist(&broker, filler).await;
    let tail = broker.topic(&name("a")).unwrap().extent.tail;
    broker.purge(&name("a"), tail).await.map_err(|error| format!("purge: {error}"))?;
    publish_patiently(&broker).await?;
    // The purged space may still be coming back while the disk is filled again.
    let until = Instant::now() + PATIENCE;
    let mut second = 1 + fill(&broker).await;
    while second < first * 3 / 4 {
        if Instant::now() > until {
            return Err(format!("{first} events fit, and {second} after a purge of all"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        second += fill(&broker).await;
    }
    let topic = broker.topic(&name("a")).unwrap();
    let count = broker.topics(None, 1_000).len();
    broker.close().await;
    drop(broker);
    let broker = Broker::open(directory, config).map_err(|error| format!("reopening: {error}"))?;
    let reopened = broker.topic(&name("a")).unwrap();
    // The log stores the first position less often, so it may be an earlier one after reopening.
    let mut known = topic.extent;
    known.first_position = reopened.extent.first_position;
    assert!(reopened.extent.first_position <= topic.extent.first_position);
    assert_eq!((reopened.extent, reopened.config), (known, topic.config));
    assert_eq!(broker.topics(None, 1_000).len(), count);
    broker.purge(&name("a"), reopened.extent.tail).await.map_err(|error| error.to_string())?;
    broker.close().await;
    Ok(())
}

/// Goal: a disk that was full is used again after a removal, whatever its size, and without a
/// restart.
/// Method: file systems in memory; a random sample of all sizes, unless all are asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_that_is_emptied_is_used_again_at_any_size_of_the_disk() {
    let mut random = StdRng::seed_from_u64(seed());
    let cases: Vec<(u64, Filler)> = if std::env::var_os("LEFTOFF_ALL_DISKS").is_some() {
        SIZES.flat_map(|size| FILLERS.map(|filler| (size, filler))).collect()
    } else {
        let more = (0..MORE_SIZES).map(|_| random.random_range(SIZES));
        let sizes = KNOWN_SIZES.into_iter().chain(more.collect::<Vec<_>>());
        let start = random.random_range(0..FILLERS.len());
        sizes.zip((start..).map(|index| FILLERS[index % FILLERS.len()])).collect()
    };
    let mut failures = Vec::new();
    for (number, (size, filler)) in cases.into_iter().enumerate() {
        let Some(disk) = Disk::in_memory(size) else { return };
        let mut config = OpenConfig::default();
        if number % 2 == 1 {
            config.log.min_free_bytes = LEAST_FREE_BYTES;
        }
        let started = Instant::now();
        let outcome = fill_purge_fill_again(&disk.path().join("data"), filler, &config).await;
        let case = format!("{size} MiB, {filler:?}, {} bytes kept", config.log.min_free_bytes);
        println!("{case}: {outcome:?}, {} ms", started.elapsed().as_millis());
        failures.extend(outcome.err().map(|problem| format!("{case}: {problem}")));
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Goal: a full disk is used again on ext4, too, which most disks have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_with_ext4_that_is_emptied_is_used_again() {
    for (size, filler) in [(190, Filler::Events), (192, Filler::Ids)] {
        let Some(disk) = Disk::ext4(size) else { return };
        let config = OpenConfig::default();
        let outcome = fill_purge_fill_again(&disk.path().join("data"), filler, &config).await;
        assert_eq!(outcome, Ok(()), "{size} MiB");
    }
}

/// Goal: on a disk that another program filled to the last byte, a log can still be opened, read
/// and purged, and accepts events again in the space that the purge makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_opened_on_a_disk_that_is_full_to_the_last_byte_and_a_purge_makes_room() {
    let Some(disk) = Disk::in_memory(250) else { return };
    let directory = disk.path().join("data");
    let config = OpenConfig::default();
    let broker = Broker::open(&directory, &config).unwrap();
    let count = fill(&broker).await;
    broker.close().await;
    drop(broker);
    let mut ballast = std::fs::File::create(disk.path().join("ballast")).unwrap();
    while ballast.write_all(&[0; 4096]).is_ok() {}
    assert_eq!(free_bytes(disk.path()), 0);
    let broker = Broker::open(&directory, &config).unwrap();
    let extent = broker.topic(&name("a")).unwrap().extent;
    assert_eq!((extent.earliest.get(), extent.tail.get()), (1, count + 1));
    let earliest = StartPoint::Earliest;
    let mut reader = broker.subscribe(&name("a"), earliest, OnGap::Fail).await.unwrap();
    let mut seen = 0;
    while let Some(Delivery::Events(run)) = reader.next().await.unwrap() {
        seen += run.events().count() as u64;
    }
    assert_eq!(seen, count);
    drop(reader);
    let refused = publish(&broker, large(0)).await.unwrap_err();
    assert!(matches!(refused, Error::DiskFull { .. }), "{refused}");
    broker.purge(&name("a"), extent.tail).await.unwrap();
    publish_patiently(&broker).await.unwrap();
    broker.close().await;
    drop(broker);
    let broker = Broker::open(&directory, &config).unwrap();
    let extent = broker.topic(&name("a")).unwrap().extent;
    assert_eq!((extent.earliest.get(), extent.tail.get()), (count + 1, count + 2));
    broker.close().await;
}

/// Goal: a reserve that is too small for a removal is refused, and nothing is written.
#[test]
fn a_reserve_that_cannot_work_is_refused_with_its_value_and_the_least() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    for (bytes, is_good) in [(0, false), (2 << 20, false), (16 << 20, false), (48 << 20, true)] {
        let mut config = OpenConfig::default();
        config.log.min_free_bytes = bytes;
        let opened = Broker::open(&path, &config);
        assert_eq!(opened.is_ok(), is_good, "{bytes}");
        if let Err(error) = opened {
            let message = format!("log.min_free_bytes: {bytes} is not within 50331648 and ");
            assert!(error.to_string().starts_with(&message), "{error}");
            assert!(!path.exists());
        }
    }
}

/// Goal: a file system that does not report its free space is not taken for a full one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_says_nothing_of_its_size_is_published_to() {
    let Some(disk) = Forgetful::mount() else { return };
    disk.fall_silent();
    assert_eq!(rustix::fs::statvfs(disk.path()).unwrap().f_blocks, 0);
    let path = disk.path().join("data");
    let broker = Broker::open(&path, &OpenConfig::default()).unwrap();
    assert_eq!(publish(&broker, large(0)).await.unwrap(), 1);
    broker.create_topic(&name("b"), TopicConfig::default()).await.unwrap();
    broker.purge(&name("a"), broker.topic(&name("a")).unwrap().extent.tail).await.unwrap();
    assert_eq!(publish(&broker, large(0)).await.unwrap(), 2);
    broker.close().await;
}
