//! The search of a feed for topics with something new, when there are more than it is told one by
//! one.

use std::sync::Arc;

use super::interest::Interest;
use crate::broker::shared::Shared;
use crate::broker::topic::entry::Topic;
use crate::broker::topic::matching::PatternWalk;
use crate::broker::wake::journal::JournalReading;
use crate::cursor::Position;

/// The search for those topics of a feed that have something new, up to a position.
#[derive(Debug)]
pub(super) struct Missed {
    /// The position up to which the feed knows all events when the search is over.
    pub(super) through: Position,
    among: Among,
}

/// The topics among which the search goes.
#[derive(Debug)]
enum Among {
    /// The topics that got something new since the feed looked last, from the waker's journal.
    New(JournalReading),
    /// All topics that the feed follows.
    All(PatternWalk),
}

impl Missed {
    /// Begins a search for topics with something new after `known`, up to `through` at least.
    pub(super) fn new(interest: &Interest, known: Position, through: Position) -> Self {
        let reading = interest.shared.waker.journal().after(known);
        let among = reading.map_or_else(|| Among::All(interest.walk()), Among::New);
        Self { through, among }
    }

    /// Begins a search among all topics, for events up to `through`.
    pub(super) fn all(interest: &Interest, through: Position) -> Self {
        Self { through, among: Among::All(interest.walk()) }
    }

    /// Returns the next topics; `None` when there are no more. Other tasks have a turn on the
    /// thread before.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the next call returns the topics that this one did not.
    pub(super) async fn next(&mut self, interest: &Interest) -> Option<Vec<Arc<Topic>>> {
        let shared: &Shared = &interest.shared;
        if let Among::New(reading) = &mut self.among {
            tokio::task::yield_now().await;
            match shared.waker.journal().read(reading) {
                Some(read) if read.is_empty() => return None,
                Some(mut read) => {
                    read.retain(|topic| interest.set.matches(&topic.name));
                    return Some(read);
                }
                None => self.among = Among::All(interest.walk()),
            }
        }
        match &mut self.among {
            Among::All(walk) => walk.next(&shared.topics).await,
            Among::New(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::broker::*;
    use crate::event::NewEvent;

    /// More topics than a feed is told one by one.
    const TOPICS: usize = 1_500;

    fn name(topic: usize) -> TopicName {
        format!("t.{topic}").parse().unwrap()
    }

    async fn publish_to_all(broker: &Broker, topics: usize) {
        for topic in 0..topics {
            let events = vec![NewEvent::new(topic.to_string())];
            let publish = Publish { topic: name(topic), events, expected_sequence: None };
            broker.submit(publish).await.unwrap();
        }
        let (reply, answered) = oneshot::channel();
        broker.0.send(Queued::Barrier { reply }).await.unwrap();
        answered.await.unwrap();
    }

    /// Reads until the feed has delivered `count` events, and returns their topics and sequences.
    async fn read(feed: &mut Reader, count: usize) -> Vec<(String, u64)> {
        let mut read = Vec::new();
        let patience = Duration::from_secs(30);
        while read.len() < count {
            let mut limit = Patience::new(patience);
            let next = feed.next_within(&mut limit);
            match tokio::time::timeout(patience, next).await.unwrap().unwrap() {
                Waited::Delivery(Delivery::Events(run)) => {
                    let topic = run.topic().to_string();
                    read.extend(run.events().map(|e| (topic.clone(), e.sequence.get())));
                }
                Waited::Delivery(Delivery::CaughtUp) => {}
                other => panic!("{other:?} after {} events", read.len()),
            }
        }
        read
    }

    /// Goal: a reader that was not read for a while gets all events that came meanwhile, in any
    /// number of topics.
    #[tokio::test]
    async fn a_feed_that_stood_still_gets_what_came_meanwhile_in_any_number_of_topics() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let patterns = vec!["t.*".parse().unwrap(), "t.>".parse().unwrap()];
        let start = StartPoint::Latest;
        let mut feed = broker.feed(patterns, start, OnGap::Resume).await.unwrap();
        for round in 1..=3 {
            publish_to_all(&broker, TOPICS).await;
            if round == 3 {
                // The journal has lost the topics that were marked since the feed looked.
                let last = broker.last_position();
                while broker.0.waker.marked() < last {
                    tokio::task::yield_now().await;
                }
                let topic = broker.0.topics.existing(&name(0)).unwrap();
                broker.0.waker.journal().add(last, &vec![topic; 70_000]);
                assert!(broker.0.waker.journal().after(feed.as_feed().known).is_none());
            }
            let read = read(&mut feed, TOPICS).await;
            let expected: Vec<_> = (0..TOPICS).map(|t| (name(t).to_string(), round)).collect();
            assert_eq!(read, expected, "round {round}");
        }
        broker.close().await;
    }

    /// Goal: a feed gets all new events of each topic, whenever it looks, also while more topics
    /// are marked for it than it is told one by one.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_feed_that_looks_while_very_many_topics_are_marked_for_it_misses_none() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let patterns = vec!["t.*".parse().unwrap()];
        let mut feed = broker.feed(patterns, StartPoint::Latest, OnGap::Resume).await.unwrap();
        for round in 1..=100 {
            let publisher = broker.clone();
            let publishing = tokio::spawn(async move { publish_to_all(&publisher, TOPICS).await });
            let mut read = 0;
            let all = async {
                while read < TOPICS {
                    match feed.next_ready().await.unwrap() {
                        Some(Delivery::Events(run)) => read += run.events().count(),
                        Some(Delivery::CaughtUp) | None => tokio::task::yield_now().await,
                        other => panic!("{other:?}"),
                    }
                }
            };
            let all = tokio::time::timeout(Duration::from_secs(30), all).await;
            assert!(all.is_ok(), "round {round}: {read} of {TOPICS} events");
            publishing.await.unwrap();
        }
        broker.close().await;
    }

    /// Goal: a feed that looks for its topics among many lets other tasks of its thread run.
    #[tokio::test]
    async fn other_tasks_have_their_turn_while_a_feed_looks_for_its_topics() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        publish_to_all(&broker, 20_000).await;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let patterns = (0..1_000).map(|n| format!("*.{n}").parse().unwrap()).collect();
        // A feed from the earliest event on would look for few topics before it begins.
        let start = StartPoint::After("@0".parse().unwrap());
        let mut feed = broker.feed(patterns, start, OnGap::Resume).await.unwrap();
        let turns = turns.load(Ordering::Relaxed);
        other.abort();
        assert!(turns >= 4, "{turns} turns while a thousand patterns and topics were looked at");
        assert_eq!(read(&mut feed, 1_000).await.len(), 1_000);
        broker.close().await;
    }
}
