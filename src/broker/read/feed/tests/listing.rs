//! A feed from the earliest event on looks at each topic when its turn comes, and misses none.

use crate::broker::*;
use crate::cursor::{Gap, GapReason, Place};
use crate::event::NewEvent;
use crate::log::FaultyLog;

/// The number of topics, in many chunks: more than a feed in a unit test looks at before it begins.
const TOPICS: u64 = 60;

/// The most topics that are looked at for one event: those of one read, and those of one turn.
const LOOKED_AT: usize = 10;

fn name(topic: u64) -> TopicName {
    let kind = if topic.is_multiple_of(2) { "even" } else { "odd" };
    format!("{kind}.{topic}").parse().unwrap()
}

/// Returns a broker whose readers find nothing in the tails.
fn open() -> Broker {
    let mut config = OpenConfig::default();
    config.broker.max_tail_bytes = 0;
    Broker::with_log(Arc::new(FaultyLog::default()), &config).unwrap()
}

async fn publish(broker: &Broker, topic: u64) {
    let events = vec![NewEvent::new(topic.to_string())];
    let publish = Publish { topic: name(topic), events, expected_sequence: None };
    broker.publish(publish).await.unwrap();
}

/// Publishes one event to each topic in turn.
async fn publish_to_all(broker: &Broker) {
    for topic in 0..TOPICS {
        publish(broker, topic).await;
    }
}

async fn feed(broker: &Broker, pattern: &str, start: StartPoint, on_gap: OnGap) -> Reader {
    broker.feed(vec![pattern.parse().unwrap()], start, on_gap).await.unwrap()
}

/// Returns the positions and the gaps of up to `deliveries` deliveries.
async fn read(feed: &mut Reader, deliveries: usize) -> (Vec<u64>, Vec<Gap>) {
    let (mut positions, mut gaps) = (Vec::new(), Vec::new());
    for _ in 0..deliveries {
        match feed.next_ready().await {
            Ok(Some(Delivery::Events(run))) => {
                positions.extend(run.events().map(|event| event.position.get()));
            }
            Ok(Some(Delivery::Gap(gap))) => gaps.push(gap),
            Err(Error::Gap(gap)) => gaps.push(*gap),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => panic!("{error}"),
        }
    }
    (positions, gaps)
}

/// Goal: however many topics there are, the first event is delivered after a look at a few of them.
/// No event is missed that is published meanwhile, to these topics or to new ones.
#[tokio::test]
async fn a_feed_begins_before_it_has_looked_at_all_topics_and_misses_nothing_of_any() {
    let broker = open();
    for _round in 0..2 {
        publish_to_all(&broker).await;
    }
    let mut feed = feed(&broker, ">", StartPoint::Earliest, OnGap::Fail).await;
    assert_eq!(read(&mut feed, 1).await, (vec![1], vec![]));
    let looked_at = feed.as_feed().sources.topics().count();
    assert!(looked_at <= LOOKED_AT, "{looked_at} topics were looked at for one event");
    // The same topics once more, and as many new ones in the chunks after them.
    for topic in (0..2 * TOPICS).rev() {
        publish(&broker, topic).await;
    }
    // The feed hears of new topics a moment after they are there.
    let mut positions = Vec::new();
    while positions.last() != Some(&(4 * TOPICS)) || !feed.as_feed().sources.is_empty() {
        match feed.next().await.unwrap().unwrap() {
            Delivery::Events(run) => positions.extend(run.events().map(|it| it.position.get())),
            Delivery::CaughtUp => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(positions.into_iter().eq(2..=4 * TOPICS), "each once, in order");
    broker.close().await;
}

/// Goal: a feed that lists its topics while it reads delivers only events of topics that it
/// follows.
#[tokio::test]
async fn topics_that_are_listed_by_and_by_are_those_that_are_followed() {
    let broker = open();
    publish_to_all(&broker).await;
    for (pattern, first) in [("even.*", 1), ("odd.>", 2)] {
        let mut feed = feed(&broker, pattern, StartPoint::Earliest, OnGap::Fail).await;
        let expected: Vec<u64> = (first..=TOPICS).step_by(2).collect();
        assert_eq!(read(&mut feed, usize::MAX).await, (expected, vec![]), "{pattern}");
    }
    broker.close().await;
}

/// Goal: events that are dropped after the reader came, from a topic that it has not looked at yet,
/// are told as a gap. Events that were dropped before it came are not, also when it comes back in
/// between.
#[tokio::test]
async fn drops_from_a_topic_that_is_not_looked_at_yet_are_told_if_the_reader_was_there() {
    for on_gap in [OnGap::Resume, OnGap::Earliest, OnGap::Fail] {
        let broker = open();
        for _round in 0..3 {
            publish_to_all(&broker).await;
        }
        let (early, late) = (TOPICS - 2, TOPICS - 1);
        broker.purge(&name(early), Sequence::new(3)).await.unwrap();
        let mut feed = feed(&broker, ">", StartPoint::Earliest, on_gap).await;
        assert_eq!(read(&mut feed, 1).await, (vec![1], vec![]));
        let start = StartPoint::After(feed.cursor());
        let mut back = self::feed(&broker, ">", start, OnGap::Fail).await;
        assert_eq!(read(&mut back, 1).await, (vec![2], vec![]), "no gap is told to it");
        drop(back);
        broker.purge(&name(late), Sequence::new(3)).await.unwrap();
        let (positions, gaps) = read(&mut feed, usize::MAX).await;
        let is_purged = |position: &u64| {
            let (round, topic) = ((position - 1) / TOPICS, (position - 1) % TOPICS);
            round < 2 && (topic == early || topic == late)
        };
        let expected = (2..=3 * TOPICS).filter(|position| !is_purged(position));
        assert!(positions.into_iter().eq(expected), "{on_gap:?}: each once, in order");
        let [gap] = &gaps[..] else { panic!("{on_gap:?}: {gaps:?}") };
        let told = (gap.topic.as_ref(), gap.reason, gap.earliest);
        assert_eq!(
            told,
            (Some(&name(late)), GapReason::Purged, Place::Sequence(Sequence::new(3))),
            "{on_gap:?}"
        );
        broker.close().await;
    }
}

/// Goal: after the first events of all topics were dropped, the first reader looks at all topics,
/// and each later reader looks at few of them before it begins.
#[tokio::test]
async fn topics_that_were_trimmed_are_looked_at_in_their_turn_by_all_readers_but_the_first() {
    let broker = open();
    for _round in 0..3 {
        publish_to_all(&broker).await;
    }
    for topic in 0..TOPICS {
        broker.purge(&name(topic), Sequence::new(3)).await.unwrap();
    }
    for reader in 0..3 {
        let mut feed = feed(&broker, ">", StartPoint::Earliest, OnGap::Fail).await;
        let first = 2 * TOPICS + 1;
        assert_eq!(read(&mut feed, 1).await, (vec![first], vec![]));
        let looked_at = feed.as_feed().sources.topics().count();
        assert!(reader == 0 || looked_at <= LOOKED_AT, "{reader}: {looked_at}");
        let (positions, gaps) = read(&mut feed, usize::MAX).await;
        assert!(positions.into_iter().eq(first + 1..=3 * TOPICS), "{reader}: each once, in order");
        assert_eq!(gaps, []);
    }
    broker.close().await;
}
