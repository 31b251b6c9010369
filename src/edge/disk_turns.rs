//! What tests of clients that take nothing share: topics whose events are on disk alone, of which
//! the clients follow some, and the check that the others can be read.

use std::path::Path;
use std::time::Duration;

use crate::broker::{Broker, OpenConfig, PageRequest, Publish};
use crate::cursor::{OnGap, StartPoint};
use crate::event::NewEvent;
use crate::topic::TopicName;

const TOPICS: usize = 24;

/// The number of topics that the clients follow, from 0.
pub(super) const FOLLOWED: usize = 16;

/// Returns the name of a topic.
pub(super) fn name(number: usize) -> TopicName {
    format!("t{number}").parse().unwrap()
}

/// Returns a broker that has nothing in memory.
pub(super) async fn broker_on_disk(directory: &Path) -> Broker {
    let opened = || Broker::open(directory, &OpenConfig::default()).unwrap();
    let broker = opened();
    for topic in (0..TOPICS).flat_map(|number| vec![name(number); 3]) {
        broker.publish(Publish::one(topic, NewEvent::new(vec![7; 100_000]))).await.unwrap();
    }
    broker.close().await;
    drop(broker);
    opened()
}

/// Reads the topics that nobody follows, each within a time that is longer than any takes.
pub(super) async fn read_the_others(broker: &Broker) {
    for topic in (FOLLOWED..TOPICS).map(name) {
        let request = PageRequest {
            start: StartPoint::Earliest,
            limit: 3,
            on_gap: OnGap::Fail,
            ..PageRequest::default()
        };
        let page = broker.read(&topic, request);
        let page = tokio::time::timeout(Duration::from_secs(30), page).await;
        assert!(!page.expect("the disk is read").unwrap().runs.is_empty());
    }
}
