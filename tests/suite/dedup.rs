//! Publishing twice is safe: repeats are recognised, also after a restart, and conditions are kept.

use leftoff::cursor::{OnGap, StartPoint};
use leftoff::{Ack, Broker, Delivery, Error, NewEvent, OpenConfig, Publish, TopicConfig};

use crate::common::{name, with_ids};

async fn publish(
    broker: &Broker,
    events: Vec<NewEvent>,
    expected_sequence: Option<u64>,
) -> leftoff::Result<Ack> {
    let mut publish = Publish::new(name("a"), events);
    publish.expected_sequence = expected_sequence;
    broker.publish(publish).await
}

async fn payloads(broker: &Broker) -> Vec<String> {
    let from = StartPoint::Earliest;
    let mut subscription = broker.subscribe(&name("a"), from, OnGap::Fail).await.unwrap();
    let mut payloads = Vec::new();
    while let Some(Delivery::Events(run)) = subscription.next().await.unwrap() {
        let text = |event: leftoff::Event| String::from_utf8(event.content.payload.to_vec());
        payloads.extend(run.to_events().into_iter().map(|event| text(event).unwrap()));
    }
    payloads
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_was_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let config = OpenConfig::default();
    let broker = Broker::open(directory.path(), &config).unwrap();
    let first = publish(&broker, with_ids(1..=300), None).await.unwrap();
    assert!(first.duplicates.is_empty());
    let is_first = |again: &Ack| {
        again.is_duplicate() && (0..300).all(|index| again.receipt(index) == first.receipt(index))
    };
    assert!(is_first(&publish(&broker, with_ids(1..=300), None).await.unwrap()));
    broker.close().await;
    drop(broker);
    let broker = Broker::open(directory.path(), &config).unwrap();
    assert!(is_first(&publish(&broker, with_ids(1..=300), None).await.unwrap()));
    // Old and new ids side by side, and one id twice in the same publish.
    let mixed = with_ids([299, 301, 300, 302, 301]);
    let ack = publish(&broker, mixed, None).await.unwrap();
    let duplicates: Vec<usize> = ack.duplicates.iter().map(|duplicate| duplicate.index).collect();
    assert_eq!(duplicates, [0, 2, 4]);
    let sequences: Vec<u64> = (0..5).map(|index| ack.receipt(index).sequence.get()).collect();
    assert_eq!(sequences, [299, 301, 300, 302, 301]);
    assert_eq!(ack.receipt(0), first.receipt(298));
    let expected: Vec<String> = (1..=302).map(|number| number.to_string()).collect();
    assert_eq!(payloads(&broker).await, expected);
}

/// Goal: a late repeat of a superseded value does not become the newest of its key, also after
/// compaction and a restart.
#[tokio::test]
async fn an_id_is_known_as_long_as_it_should_be_also_where_its_event_is_superseded() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    let compacted = TopicConfig::with(|config| config.compact = Some(true));
    let value = |id: u64| NewEvent { key: "k".to_owned(), ..with_ids([id]).remove(0) };
    for (max_age_ms, kept) in [(600_000, vec!["1", "2", "3"]), (0, vec!["3"])] {
        config.dedup.max_age_ms = max_age_ms;
        let broker = Broker::open(directory.path(), &config).unwrap();
        broker.set_topic(&name("a"), compacted).await.unwrap();
        if max_age_ms > 0 {
            for id in 1..=3 {
                publish(&broker, vec![value(id)], None).await.unwrap();
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await; // Older than 0 ms now.
        for _ in 0..2 {
            broker.maintain(None).await.unwrap();
        }
        assert_eq!(payloads(&broker).await, kept);
        broker.close().await;
        drop(broker);
        let broker = Broker::open(directory.path(), &config).unwrap();
        if max_age_ms > 0 {
            let again = publish(&broker, vec![value(1)], None).await.unwrap();
            assert!(again.is_duplicate(), "{again:?}");
        }
        broker.close().await;
    }
}

#[tokio::test]
async fn the_window_ends_where_it_is_configured_to_before_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = OpenConfig::default();
    config.dedup.max_events = 10;
    let broker = Broker::open(directory.path(), &config).unwrap();
    for id in 1..=20 {
        publish(&broker, with_ids([id]), None).await.unwrap();
    }
    broker.close().await;
    drop(broker);
    let broker = Broker::open(directory.path(), &config).unwrap();
    let inside = publish(&broker, with_ids([11]), None).await.unwrap();
    assert_eq!((inside.is_duplicate(), inside.last().sequence.get()), (true, 11));
    let outside = publish(&broker, with_ids([10]), None).await.unwrap();
    assert_eq!((outside.is_duplicate(), outside.last().sequence.get()), (false, 21));
    let pushed_out = publish(&broker, with_ids([11]), None).await.unwrap();
    assert_eq!((pushed_out.is_duplicate(), pushed_out.last().sequence.get()), (false, 22));
}

#[tokio::test]
async fn many_publishers_of_the_same_ids_store_each_once() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let publishers: Vec<_> = (0..8)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                let mut sequences = Vec::new();
                for id in 1..=200 {
                    let ack = publish(&broker, with_ids([id]), None).await.unwrap();
                    sequences.push(ack.last().sequence);
                }
                sequences
            })
        })
        .collect();
    let mut answers = Vec::new();
    for publisher in publishers {
        answers.push(publisher.await.unwrap());
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "two answers for one id");
    let mut stored = payloads(&broker).await;
    stored.sort_by_key(|payload| payload.parse::<u64>().unwrap());
    assert_eq!(stored, (1..=200).map(|id: u64| id.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_condition_on_the_last_sequence_lets_one_of_many_through() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    for expected in 0..50 {
        let publishers: Vec<_> = (0..4)
            .map(|publisher| {
                let broker = broker.clone();
                let event = vec![NewEvent::new(format!("{publisher}"))];
                tokio::spawn(async move { publish(&broker, event, Some(expected)).await })
            })
            .collect();
        let mut stored = 0;
        for publisher in publishers {
            match publisher.await.unwrap() {
                Ok(ack) => {
                    assert_eq!(ack.last().sequence.get(), expected + 1);
                    stored += 1;
                }
                Err(Error::UnexpectedSequence { expected: asked, actual, .. }) => {
                    assert_eq!((asked, actual), (expected, expected + 1));
                }
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(stored, 1);
    }
    assert_eq!(payloads(&broker).await.len(), 50);
}

#[tokio::test]
async fn a_conditional_publish_can_be_repeated_when_its_answer_was_lost() {
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let first = publish(&broker, with_ids([1, 2]), Some(0)).await.unwrap();
    let again = publish(&broker, with_ids([1, 2]), Some(0)).await.unwrap();
    assert_eq!((again.is_duplicate(), again.last()), (true, first.last()));
    publish(&broker, with_ids([3]), Some(0)).await.unwrap_err();
    assert_eq!(payloads(&broker).await, ["1", "2"]);
}

async fn publish_to(broker: &Broker, topic: &str, events: Vec<NewEvent>) -> Ack {
    let publish = Publish::new(name(topic), events);
    broker.publish(publish).await.unwrap()
}

fn keeping(max_events: u64) -> TopicConfig {
    TopicConfig::with(|config| config.max_events = Some(max_events))
}

/// Goal: a busy topic does not push out the ids of a quiet one, and ids beyond the busy topic's own
/// window take no memory. Where memory is short all the same, forgotten ids are counted.
#[tokio::test]
async fn a_noisy_topic_pushes_out_its_own_ids_and_no_others() {
    for (max_events, max_bytes, forgets) in [(1_000, 1 << 20, false), (100_000, 300_000, true)] {
        let mut config = OpenConfig::default();
        (config.dedup.max_events, config.dedup.max_bytes) = (max_events, max_bytes);
        let broker = Broker::in_memory(&config).unwrap();
        let first = publish_to(&broker, "quiet", with_ids(1..=50)).await;
        for batch in 0..20 {
            let ids = batch * 1_000 + 1..=(batch + 1) * 1_000;
            assert!(publish_to(&broker, "noisy", with_ids(ids)).await.duplicates.is_empty());
        }
        let again = publish_to(&broker, "quiet", with_ids(1..=50)).await;
        assert!(again.is_duplicate(), "max_bytes {max_bytes}");
        assert_eq!((again.first(), again.last()), (first.first(), first.last()));
        let newest = publish_to(&broker, "noisy", with_ids(19_001..=20_000)).await;
        assert!(newest.is_duplicate(), "the newest ids are known");
        assert_eq!(broker.forgotten_ids() > 0, forgets, "max_bytes {max_bytes}");
    }
}

/// Goal: an event that a limit of its topic dropped is still known as stored. A late retry of an
/// old price does not become the newest price, and a file can be published twice.
#[tokio::test]
async fn an_event_that_a_limit_dropped_is_not_stored_again() {
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
    broker.set_topic(&name("prices"), keeping(1)).await.unwrap();
    let old = publish_to(&broker, "prices", with_ids([1])).await;
    for id in 2..=40 {
        publish_to(&broker, "prices", with_ids([id])).await;
    }
    assert!(broker.topic(&name("prices")).unwrap().extent.earliest.get() > 1, "none was dropped");
    let retried = publish_to(&broker, "prices", with_ids([1])).await;
    assert_eq!((retried.is_duplicate(), retried.first()), (true, old.first()));

    broker.set_topic(&name("file"), keeping(100)).await.unwrap();
    for is_again in [false, true] {
        for batch in 0..25 {
            let ids = batch * 1_000 + 1..=(batch + 1) * 1_000;
            let ack = publish_to(&broker, "file", with_ids(ids)).await;
            let expected = if is_again { 1_000 } else { 0 };
            assert_eq!(ack.duplicates.len(), expected, "batch {batch}");
        }
    }
    assert_eq!(broker.topic(&name("file")).unwrap().extent.tail.get(), 25_001);
    broker.close().await;
}

/// Goal: a purged or deleted event may be published again, and is stored as new.
#[tokio::test]
async fn what_was_purged_or_deleted_can_be_published_again_also_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut next = 1;
    for round in 0..4 {
        let broker = Broker::open(directory.path(), &OpenConfig::default()).unwrap();
        let stored = publish_to(&broker, "a", with_ids(1..=10)).await;
        assert!(stored.duplicates.is_empty(), "round {round}");
        assert_eq!(stored.first().sequence.get(), next);
        let kept = publish_to(&broker, "a", with_ids(11..=12)).await;
        if round % 2 == 0 {
            broker.purge(&name("a"), kept.first().sequence).await.unwrap();
            let again = publish_to(&broker, "a", with_ids(11..=12)).await;
            assert!(again.is_duplicate(), "the kept events are known");
            broker.purge(&name("a"), kept.last().sequence.next()).await.unwrap();
        } else {
            broker.delete_topic(&name("a")).await.unwrap();
        }
        let anew = publish_to(&broker, "a", with_ids(5..=12)).await;
        assert!(anew.duplicates.is_empty(), "round {round}");
        next = anew.last().sequence.next().get();
        broker.purge(&name("a"), anew.last().sequence.next()).await.unwrap();
        broker.close().await;
    }
}
