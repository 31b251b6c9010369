//! The ids of events that a limit dropped are recognised, also after restarts, and take no more
//! memory and disk than they may.

use std::path::Path;

use leftoff::log::{Log, LogConfig, SledLog};
use leftoff::{Ack, Broker, NewEvent, OpenConfig, Publish, TopicConfig};

use crate::common::{name, with_ids};

async fn publish(broker: &Broker, events: Vec<NewEvent>) -> Ack {
    let publish = Publish::new(name("a"), events);
    broker.publish(publish).await.unwrap()
}

/// Opens a broker whose topic `a` has these limits.
async fn open(directory: &Path, config: &OpenConfig, limits: TopicConfig) -> Broker {
    let broker = Broker::open(directory, config).unwrap();
    broker.set_topic(&name("a"), limits).await.unwrap();
    broker
}

/// Returns the number of blocks of ids in the log in `directory`, which no broker has open.
fn blocks_of_ids(directory: &Path) -> usize {
    SledLog::open(directory, &LogConfig::default()).unwrap().ids().unwrap().len()
}

fn limited_to(max_events: u64) -> TopicConfig {
    TopicConfig::with(|config| config.max_events = Some(max_events))
}

/// Goal: a file can be published twice to a topic that keeps little of it, whatever the limit is,
/// and whenever the broker is restarted.
#[tokio::test]
async fn a_file_published_twice_is_stored_once_whatever_limit_dropped_it_before_a_restart() {
    let limits = [
        limited_to(100),
        TopicConfig::with(|config| config.max_bytes = Some(1_000)),
        TopicConfig::with(|config| config.max_age_ms = Some(1)),
    ];
    for (limits, batches) in limits.into_iter().zip([25_u64, 5, 5]) {
        let directory = tempfile::tempdir().unwrap();
        let mut firsts = Vec::new();
        for is_again in [false, true] {
            let mut broker = open(directory.path(), &OpenConfig::default(), limits).await;
            for batch in 0..batches {
                for part in 0..10 {
                    let from = batch * 1_000 + part * 100;
                    let ack = publish(&broker, with_ids(from + 1..=from + 100)).await;
                    let place = (batch * 10 + part) as usize;
                    match is_again {
                        false => firsts.push(ack.first()),
                        true => assert_eq!(ack.first(), firsts[place], "{limits:?} at {from}"),
                    }
                    assert_eq!(ack.is_duplicate(), is_again, "{limits:?} at {from}");
                    if part == 4 {
                        broker.maintain(None).await.unwrap();
                        broker.close().await;
                        drop(broker);
                        broker = open(directory.path(), &OpenConfig::default(), limits).await;
                    }
                }
                let extent = broker.topic(&name("a")).unwrap().extent;
                assert!(is_again || extent.earliest.get() > batch * 1_000, "{limits:?}");
            }
            broker.close().await;
        }
        assert!(blocks_of_ids(directory.path()) > 0, "{limits:?}: blocks were removed");
    }
}

/// Goal: ids that no publish looked up since a restart are known after the next restart, too.
#[tokio::test]
async fn ids_that_were_never_recalled_are_kept_when_their_events_are_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (config, limits) = (OpenConfig::default(), limited_to(50));
    let broker = open(directory.path(), &config, limits).await;
    let first = publish(&broker, with_ids(1..=50)).await;
    broker.close().await;
    drop(broker);
    let broker = open(directory.path(), &config, limits).await;
    for _ in 0..4 {
        publish(&broker, vec![NewEvent::new("without an id"); 50]).await;
    }
    broker.maintain(None).await.unwrap();
    assert!(broker.topic(&name("a")).unwrap().extent.size_bytes() < 5_000, "none was dropped");
    broker.close().await;
    drop(broker);
    let broker = open(directory.path(), &config, limits).await;
    let again = publish(&broker, with_ids(1..=50)).await;
    assert_eq!((again.is_duplicate(), again.first()), (true, first.first()));
    broker.close().await;
}

/// Goal: the ids of dropped events are removed when the window ends: by number, by age, for lack of
/// memory, and when they are purged.
#[tokio::test]
async fn blocks_of_ids_go_when_the_window_has_forgotten_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    config.dedup.max_events = 1_000;
    let broker = open(directory.path(), &config, limited_to(10)).await;
    for batch in 0..500 {
        publish(&broker, with_ids(batch * 10 + 1..=batch * 10 + 10)).await;
    }
    broker.close().await;
    drop(broker);
    let held = blocks_of_ids(directory.path());
    assert!((50..=110).contains(&held), "{held} blocks for 1,000 ids, 10 in each");
    // With less memory than the ids need, the oldest ids are removed.
    config.dedup.max_bytes = 100 << 10;
    let broker = open(directory.path(), &config, limited_to(10)).await;
    let newest = publish(&broker, with_ids(4_700..=4_710)).await;
    assert!(newest.is_duplicate());
    publish(&broker, with_ids([10_000])).await;
    broker.close().await;
    drop(broker);
    let held_now = blocks_of_ids(directory.path());
    assert!(held_now < held, "{held_now} of {held}");
    let broker = open(directory.path(), &config, limited_to(10)).await;
    broker.purge(&name("a"), broker.topic(&name("a")).unwrap().extent.tail).await.unwrap();
    for id in 20_000..20_010 {
        publish(&broker, with_ids([id])).await;
    }
    let anew = publish(&broker, with_ids(4_990..=5_000)).await;
    assert!(anew.duplicates.is_empty(), "a purged id is still known");
    broker.close().await;
    drop(broker);
    assert!(blocks_of_ids(directory.path()) <= 3);
    // By age, too.
    config.dedup.max_age_ms = 1;
    let broker = open(directory.path(), &config, limited_to(10)).await;
    let anew = publish(&broker, with_ids(20_000..20_010)).await;
    assert!(anew.duplicates.is_empty());
    broker.close().await;
    drop(broker);
    assert!(blocks_of_ids(directory.path()) <= 1);
}

/// Goal: a purged event may be published again after a restart, also if its block is still stored
/// for the later events in it; these are still known.
#[tokio::test]
async fn what_was_purged_from_within_a_block_can_be_published_again_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (config, limits) = (OpenConfig::default(), TopicConfig::default());
    let broker = open(directory.path(), &config, limits).await;
    let first = publish(&broker, with_ids(1..=10)).await;
    broker.purge(&name("a"), first.receipt(4).sequence).await.unwrap();
    broker.close().await;
    drop(broker);
    let broker = open(directory.path(), &config, limits).await;
    let again = publish(&broker, with_ids(1..=10)).await;
    let known: Vec<usize> = again.duplicates.iter().map(|duplicate| duplicate.index).collect();
    assert_eq!(known, [4, 5, 6, 7, 8, 9], "ids 1 to 4 were purged");
    broker.close().await;
}
