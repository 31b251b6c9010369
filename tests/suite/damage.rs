//! Damage on the disk: readers of the damaged events get an error, and nobody else is affected.

use std::path::Path;

use leftoff::cursor::{OnGap, Sequence, StartPoint};
use leftoff::log::check;
use leftoff::{Broker, Error, NewEvent, OpenConfig, PageRequest, Publish, TopicConfig};
use serde_json::json;

use crate::common::{Process, name, post, send, to};

/// The number of events in a publish, and the size of each in bytes.
const BATCH: u64 = 16;
const EVENT_BYTES: usize = 4_000;

fn payload(topic: &str, sequence: u64) -> String {
    format!("{:x<EVENT_BYTES$}", format!("{topic}/{sequence:06}."))
}

/// Publishes [`BATCH`] events after sequence `last`.
async fn publish(broker: &Broker, topic: &str, last: u64) -> leftoff::Result<()> {
    let events = (last + 1..=last + BATCH).map(|n| NewEvent::new(payload(topic, n))).collect();
    let publish = Publish::new(name(topic), events).expecting(last);
    let ack = broker.publish(publish).await?;
    assert_eq!(ack.last().sequence.get(), last + BATCH);
    Ok(())
}

/// Returns the sequences of all events of `topic`, and the ranges that are reported as damaged.
async fn read(broker: &Broker, topic: &str) -> (Vec<u64>, Vec<(u64, Option<u64>)>) {
    let (mut seen, mut damaged) = (Vec::new(), Vec::new());
    let mut next = Sequence::FIRST;
    loop {
        let start: StartPoint = next.previous().to_string().parse().unwrap();
        let request = PageRequest::from(start).limit(1_000).on_gap(OnGap::Fail);
        match broker.read(&name(topic), request).await {
            Ok(page) => {
                for event in page.runs.iter().flat_map(|run| run.events()) {
                    let expected = payload(topic, event.sequence.get());
                    assert_eq!(event.payload, expected.as_bytes());
                    seen.push(event.sequence.get());
                    next = event.sequence.next();
                }
                if page.caught_up {
                    return (seen, damaged);
                }
            }
            Err(Error::Damaged { first, last, .. }) => {
                damaged.push((first.get(), last.map(Sequence::get)));
                let Some(last) = last else { return (seen, damaged) };
                next = last.next();
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Changes three bytes of `needle` in sled's file, at every place where it is found.
fn overwrite(directory: &Path, needle: &str) {
    let path = directory.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let windows = bytes.windows(needle.len()).enumerate();
    let found: Vec<usize> =
        windows.filter(|(_, window)| *window == needle.as_bytes()).map(|(at, _)| at).collect();
    assert!(!found.is_empty());
    found.into_iter().for_each(|at| bytes[at..at + 3].copy_from_slice(b"###"));
    std::fs::write(&path, bytes).unwrap();
}

/// Goal: damage of one topic gives the readers of that topic an error with the range, and affects
/// nobody else. sled's cleaner, which moves pages of all topics, leaves a page alone that it cannot
/// read.
/// Method: three topics share segments of sled's file. Overwrite three bytes of an event of one
/// topic, and delete another topic, so that the cleaner has to move the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_page_costs_nobody_but_the_readers_of_its_topic() {
    const BATCHES: u64 = 200;
    const LAST: u64 = BATCHES * BATCH;
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let broker = Broker::open(directory.path(), &config).unwrap();
    for batch in 0..BATCHES {
        for topic in ["old", "other", "third"] {
            publish(&broker, topic, batch * BATCH).await.unwrap();
        }
    }
    broker.close().await;
    drop(broker);
    let reopened = Broker::open(directory.path(), &config).unwrap();
    reopened.close().await;
    drop(reopened); // sled has a snapshot now: it does not scan the file.
    overwrite(directory.path(), "old/001000.");

    let broker = Broker::open(directory.path(), &config).unwrap();
    let bytes_before = std::fs::metadata(directory.path().join("sled/db")).unwrap().len();
    broker.delete_topic(&name("other")).await.unwrap();
    broker.maintain(None).await.unwrap();
    for batch in BATCHES..3 * BATCHES {
        publish(&broker, "third", batch * BATCH).await.unwrap();
        let through = Sequence::new((batch + 1) * BATCH);
        broker.purge(&name("third"), through).await.unwrap();
        broker.check_ready().unwrap();
    }
    let bytes = std::fs::metadata(directory.path().join("sled/db")).unwrap().len();
    assert!(bytes <= bytes_before, "no space is freed: {bytes_before}, then {bytes}");
    broker.set_topic(&name("new"), TopicConfig::default()).await.unwrap();
    publish(&broker, "new", 0).await.unwrap();
    publish(&broker, "old", LAST).await.unwrap();
    assert_eq!(read(&broker, "new").await, ((1..=BATCH).collect(), vec![]));
    let (seen, damaged) = read(&broker, "old").await;
    let [(first, Some(until))] = damaged[..] else { panic!("{damaged:?}") };
    assert!(first <= 1000 && until >= 1000 && until - first <= 40 * BATCH, "{damaged:?}");
    let expected: Vec<u64> =
        (1..=LAST + BATCH).filter(|sequence| !(first..=until).contains(sequence)).collect();
    assert_eq!(seen, expected);
    broker.close().await;
    drop(broker);

    let scratch = tempfile::tempdir().unwrap();
    let found = check(directory.path(), scratch.path(), |_| {}).unwrap().damage;
    let [Error::Damaged { topic, first: told, last, .. }] = &found[..] else { panic!("{found:?}") };
    let told = (topic.as_str(), told.get(), last.map(Sequence::get));
    assert_eq!(told, ("old", first, Some(until)), "`check` reports another range");
}

/// Goal: damage of the newest events of a topic affects that topic alone. The topic is served up to
/// the damage, takes no more events, and its error names the remedy. No sequence or position is
/// given twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_a_damaged_end_is_served_up_to_there_and_the_rest_goes_on() {
    const BATCHES: u64 = 8;
    const FOLLOWING: u64 = 200; // More than sled's newest segment, which it scans.
    const LAST: u64 = BATCHES * BATCH;
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let broker = Broker::open(directory.path(), &config).unwrap();
    // The page with the end of one topic may hold the beginning of the next topic.
    for topic in ["whole", "hurt", "beside", "later"] {
        for batch in 0..BATCHES {
            publish(&broker, topic, batch * BATCH).await.unwrap();
        }
    }
    for batch in 0..FOLLOWING {
        publish(&broker, "following", batch * BATCH).await.unwrap();
    }
    let (last_position, mut epochs) = (broker.last_position(), vec![broker.epoch()]);
    broker.close().await;
    drop(broker);
    let reopened = Broker::open(directory.path(), &config).unwrap();
    reopened.close().await;
    drop(reopened); // sled has a snapshot now: it does not scan the file.
    overwrite(directory.path(), &format!("hurt/{LAST:06}."));

    let mut first = 0;
    for _ in 0..2 {
        let broker = Broker::open(directory.path(), &config).unwrap();
        assert!(broker.last_position() > last_position, "a position may be given twice");
        epochs.push(broker.epoch());
        let error = publish(&broker, "hurt", LAST).await.unwrap_err();
        assert!(matches!(error, Error::DamagedEnd(_)), "{error}");
        let (seen, damaged) = read(&broker, "hurt").await;
        first = seen.len() as u64 + 1;
        assert_eq!(seen, (1..first).collect::<Vec<_>>());
        let [(from, Some(last))] = damaged[..] else { panic!("{damaged:?}") };
        assert!(from == first && last >= LAST && first > LAST - 3 * BATCH, "{damaged:?}");
        for topic in ["whole", "later"] {
            assert_eq!(read(&broker, topic).await, ((1..=LAST).collect(), vec![]));
        }
        broker.check_ready().unwrap();
        broker.close().await;
    }
    let [before, after, later] = epochs[..] else { panic!() };
    assert!(before != after && after == later, "the damage begins one epoch: {epochs:?}");
    let scratch = tempfile::tempdir().unwrap();
    let found = check(directory.path(), scratch.path(), |_| {}).unwrap().damage;
    let Some(Error::Damaged { topic, first: told, .. }) = found.first() else { panic!() };
    assert_eq!((topic.as_str(), told.get()), ("hurt", first));
    let beside =
        |e: &Error| matches!(e, Error::Damaged { topic, .. } if topic.as_str() == "beside");
    assert!(found[1..].iter().all(beside), "{found:?}");

    let path = directory.path().to_owned();
    let process = tokio::task::spawn_blocking(move || Process::serve(&path, &[])).await.unwrap();
    let refused = post(process.address, "/v1/topics/hurt/events", "more").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["type"]),
        (409, &json!("urn:leftoff:problem:damaged-end"))
    );
    assert!(refused.json()["detail"].as_str().unwrap().contains("leftoff check --repair"));
    let deleted = send(to(process.address, "DELETE", "/v1/topics/hurt"), "").await;
    assert!(deleted.status.is_success(), "{deleted:?}");
    process.kill();

    let mut sequences = vec![LAST];
    for _ in 0..2 {
        let broker = Broker::open(directory.path(), &config).unwrap();
        sequences.push(crate::common::publish(&broker, "hurt", NewEvent::new("again")).await);
        publish(&broker, "whole", LAST + (sequences.len() as u64 - 2) * BATCH).await.unwrap();
        broker.close().await;
    }
    assert!(sequences.is_sorted_by(|a, b| a < b), "a sequence was given twice: {sequences:?}");
}

/// Changes the last byte of sled's file that is not 0.
fn damage_last(directory: &Path) {
    let path = directory.join("sled/db");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 0x55;
    std::fs::write(&path, bytes).unwrap();
}

/// Goal: damage of bytes written after the storage engine's last snapshot, all of which it scans,
/// gives the readers of one block of one topic an error with the range. Neither later events nor
/// other topics are affected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_what_was_written_last_costs_the_readers_of_one_block() {
    const BATCHES: u64 = 200;
    const LAST: u64 = BATCHES * BATCH;
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let broker = Broker::open(directory.path(), &config).unwrap();
    for batch in 0..BATCHES {
        for topic in ["first", "hurt", "third"] {
            publish(&broker, topic, batch * BATCH).await.unwrap();
        }
    }
    let epoch = broker.epoch();
    broker.close().await;
    drop(broker);
    overwrite(directory.path(), "hurt/001000.");
    let scratch = tempfile::tempdir().unwrap();
    let checked = check(directory.path(), scratch.path(), |_| {}).unwrap().damage;

    let mut published = LAST;
    for _ in 0..2 {
        let broker = Broker::open(directory.path(), &config).unwrap();
        assert_ne!(broker.epoch(), epoch, "a new epoch tells readers");
        for topic in ["first", "third", "hurt"] {
            publish(&broker, topic, published).await.unwrap();
        }
        published += BATCH;
        for topic in ["first", "third"] {
            assert_eq!(read(&broker, topic).await, ((1..=published).collect(), vec![]));
        }
        let (seen, damaged) = read(&broker, "hurt").await;
        let [(first, Some(last))] = damaged[..] else { panic!("{damaged:?}") };
        // A page of sled has up to 16 entries of at most 8 KiB: about two batches of 64 KiB each.
        assert!(first <= 1000 && last >= 1000 && last - first <= 40 * BATCH, "{damaged:?}");
        let expected: Vec<u64> = (1..=published).filter(|n| !(first..=last).contains(n)).collect();
        assert_eq!(seen, expected);
        let told = |error: &Error| {
            matches!(error, Error::Damaged { topic, first: from, .. }
                if topic.as_str() == "hurt" && from.get() == first)
        };
        assert!(checked.iter().any(told), "`check` reports another range: {checked:?}");
        broker.close().await;
    }
}

/// Goal: an acknowledged deletion is not undone in silence, even if damage hits the last bytes of
/// the log, in which the deletion is stored: a new epoch begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_deletion_is_not_undone_in_silence() {
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let broker = Broker::open(directory.path(), &config).unwrap();
    for topic in ["kept", "deleted"] {
        publish(&broker, topic, 0).await.unwrap();
    }
    let epoch = broker.epoch();
    broker.delete_topic(&name("deleted")).await.unwrap();
    broker.close().await;
    drop(broker);
    damage_last(directory.path());
    let scratch = tempfile::tempdir().unwrap();
    let found = check(directory.path(), scratch.path(), |_| {}).unwrap().damage;
    assert!(!found.is_empty(), "`check` does not find the damage");

    let broker = Broker::open(directory.path(), &config).unwrap();
    let is_gone = broker.topic(&name("deleted")).is_err();
    assert!(is_gone || broker.epoch() != epoch, "the topic is back, in the same epoch");
    let (seen, _where_it_ends_may_not_be_known) = read(&broker, "kept").await;
    assert_eq!(seen, (1..=BATCH).collect::<Vec<_>>());
    broker.close().await;
}
