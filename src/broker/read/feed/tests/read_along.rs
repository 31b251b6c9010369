//! Blocks that are read along for later save reads, and change nothing that a reader gets.

use std::time::Duration;

use crate::broker::*;
use crate::cursor::{Cursor, Gap, Place, Position};
use crate::event::NewEvent;
use crate::log::{FaultyLog, SledLog};

/// The longest wait for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const TOPICS: u64 = 60;
const ROUNDS: u64 = 12;

fn name(topic: u64) -> TopicName {
    format!("topic.{topic}").parse().unwrap()
}

/// Returns a broker whose readers find nothing in the tails, and few of the blocks that were read
/// last.
fn open(log: Arc<dyn Log>, max_ahead_bytes: u64) -> Broker {
    let mut config = OpenConfig::default();
    config.broker.max_tail_bytes = 0;
    config.broker.max_read_bytes = 1 << 10;
    config.broker.max_replay_bytes = 1 << 10;
    config.broker.max_ahead_bytes = max_ahead_bytes;
    Broker::with_log(log, &config).unwrap()
}

/// Publishes [`ROUNDS`] events to each topic, to all topics in turn.
async fn fill(broker: &Broker) {
    for round in 0..ROUNDS {
        for topic in 0..TOPICS {
            let events = vec![NewEvent::new(format!("{round}/{topic}"))];
            let publish = Publish { topic: name(topic), events, expected_sequence: None };
            broker.publish(publish).await.unwrap();
        }
    }
}

async fn all_topics(broker: &Broker, start: StartPoint) -> Reader {
    broker.feed(vec![">".parse().unwrap()], start, OnGap::Resume).await.unwrap()
}

/// Returns the positions of the next `count` events, and the gaps that are told before the last of
/// them.
async fn read(feed: &mut Reader, count: usize) -> (Vec<u64>, Vec<Gap>) {
    let (mut positions, mut gaps) = (Vec::new(), Vec::new());
    while positions.len() < count {
        let mut patience = Patience::new(PATIENCE);
        match tokio::time::timeout(PATIENCE, feed.next_within(&mut patience)).await {
            Ok(Ok(Waited::Delivery(Delivery::Events(run)))) => {
                positions.extend(run.events().map(|event| event.position.get()));
            }
            Ok(Ok(Waited::Delivery(Delivery::Gap(gap)))) => gaps.push(gap),
            other => panic!("{other:?} after {} events", positions.len()),
        }
    }
    (positions, gaps)
}

/// Goal: when topics take turns, the log is not read once for each block.
#[tokio::test]
async fn a_feed_of_topics_that_take_turns_reads_the_log_a_few_times_a_topic() {
    let log = Arc::new(FaultyLog::default());
    fill(&open(log.clone(), 0)).await;
    let mut reads = Vec::new();
    for max_ahead_bytes in [0, 1 << 20] {
        let broker = open(log.clone(), max_ahead_bytes);
        let before = log.reads();
        let mut feed = all_topics(&broker, StartPoint::Earliest).await;
        let (positions, gaps) = read(&mut feed, (TOPICS * ROUNDS) as usize).await;
        assert!(positions.into_iter().eq(1..=TOPICS * ROUNDS));
        assert_eq!(gaps, []);
        reads.push(log.reads() - before);
    }
    assert!(reads[0] >= TOPICS * ROUNDS, "{reads:?}: without it, each block is a read");
    assert!(reads[1] <= 3 * TOPICS, "{reads:?}");
}

/// Goal: several readers at different places get each event once, in order, and are told which
/// events are gone, however much is kept, and whatever is rewritten or dropped meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_along_is_never_what_was_purged_or_of_another_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    for (number, max_ahead_bytes) in [0, 200, 3_000, 20_000, 1 << 20].into_iter().enumerate() {
        let directory = directory.path().join(number.to_string());
        let broker = open(Arc::new(SledLog::open(&directory, &config).unwrap()), max_ahead_bytes);
        fill(&broker).await;
        let middle = TOPICS * ROUNDS / 2;
        let after = Place::Position(Position::new(middle));
        let after = Cursor { after, since: None, epoch: None };
        let mut first = all_topics(&broker, StartPoint::Earliest).await;
        let mut second = all_topics(&broker, StartPoint::After(after)).await;
        let step = 2 * TOPICS;
        assert!(read(&mut first, step as usize).await.0.into_iter().eq(1..=step));
        let read_by_second = read(&mut second, TOPICS as usize).await.0;
        assert!(read_by_second.into_iter().eq(middle + 1..=middle + TOPICS));
        broker.maintain(None).await.unwrap(); // Blocks are rolled up.
        assert!(read(&mut first, step as usize).await.0.into_iter().eq(step + 1..=2 * step));
        // The purge drops blocks that were read along. The topic comes neither next nor last, so no
        // reader holds a block of it.
        let purged = TOPICS / 2;
        broker.purge(&name(purged), Sequence::new(10)).await.unwrap();
        let is_left = |position: &u64| (position - 1) % TOPICS != purged || *position > 9 * TOPICS;
        let expected: Vec<u64> = (2 * step + 1..=TOPICS * ROUNDS).filter(is_left).collect();
        let (positions, gaps) = read(&mut first, expected.len()).await;
        assert_eq!(positions, expected, "{max_ahead_bytes} bytes");
        let told: Vec<_> =
            gaps.iter().map(|g| (g.requested.number(), g.earliest.number())).collect();
        assert_eq!(told, [(5, 10)], "{max_ahead_bytes} bytes");
        let from = middle + TOPICS;
        let expected: Vec<u64> = (from + 1..=TOPICS * ROUNDS).filter(is_left).collect();
        assert_eq!(read(&mut second, expected.len()).await.0, expected, "{max_ahead_bytes} bytes");
        broker.close().await;
    }
}
