//! Tests of work sharing through the public API, on brokers whose clock the test holds.

mod basics;
mod faults;
mod model;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::broker::{Broker, OpenConfig, Publish};
use crate::consumers::{ConsumerId, ConsumerName, ConsumerSettings, Consumers, ConsumersConfig};
use crate::event::NewEvent;
use crate::testing::{AnyLog, Builder, Clock, FaultyLog, START};
use crate::topic::TopicName;

/// A broker with consumers, on a log that can be opened again.
pub(super) struct Bench {
    pub(super) log: AnyLog,
    pub(super) clock: Clock,
    pub(super) config: ConsumersConfig,
    pub(super) open: OpenConfig,
    pub(super) broker: Broker,
    pub(super) consumers: Consumers,
}

impl Bench {
    pub(super) async fn new() -> Self {
        Self::on(Arc::new(FaultyLog::default()), ConsumersConfig::default()).await
    }

    pub(super) async fn on(log: AnyLog, config: ConsumersConfig) -> Self {
        Self::with(log, config, OpenConfig::default()).await
    }

    pub(super) async fn with(log: AnyLog, config: ConsumersConfig, settings: OpenConfig) -> Self {
        let clock = Clock::new(START);
        let (broker, consumers) = open(&log, &clock, &config, &settings).await;
        Self { log, clock, config, open: settings, broker, consumers }
    }

    /// Ends the broker and opens it again, with what is in the log.
    pub(super) async fn crash(&mut self) {
        self.broker.close().await;
        let Self { log, clock, config, open: settings, .. } = self;
        (self.broker, self.consumers) = open(log, clock, config, settings).await;
    }

    /// Puts a shared consumer of `selection`, and returns its queue.
    pub(super) async fn share(&self, selection: &str, settings: WorkSettings) -> WorkQueue {
        let settings = ConsumerSettings::default().shared(settings);
        self.consumers.put(id(selection), settings, None).await.unwrap();
        self.consumers.work(&id(selection))
    }

    pub(super) fn queue(&self, selection: &str) -> WorkQueue {
        self.consumers.work(&id(selection))
    }

    /// Publishes events with these keys, each with its number as its payload.
    pub(super) async fn publish(&self, topic: &str, keys: &[&str]) {
        let event = |(n, key): (usize, &&str)| NewEvent::new(format!("{n}")).with_key(*key);
        let events = keys.iter().enumerate().map(event).collect();
        self.broker.publish(Publish::new(name(topic), events)).await.unwrap();
    }
}

async fn open(
    log: &AnyLog,
    clock: &Clock,
    config: &ConsumersConfig,
    settings: &OpenConfig,
) -> (Broker, Consumers) {
    let builder = Builder::default().log(log.clone()).clock(clock);
    let broker = builder.config(settings.clone()).open().unwrap();
    let consumers = Consumers::open(&broker, config).await.unwrap();
    (broker, consumers)
}

pub(super) fn id(selection: &str) -> ConsumerId {
    ConsumerId::new(selection.parse().unwrap(), ConsumerName::new("work").unwrap())
}

pub(super) fn name(topic: &str) -> TopicName {
    topic.parse().unwrap()
}

pub(super) fn pull(worker: &str, limit: usize) -> PullRequest {
    PullRequest::new(worker).limit(limit)
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Returns the sequences of leased events.
pub(super) fn sequences(leased: &[Leased]) -> Vec<u64> {
    leased.iter().map(|leased| leased.event.sequence.get()).collect()
}
