//! The rows of all topics, as they are now.
//!
//! # Why
//!
//! There may be a hundred thousand topics, so reading and sorting them would hold a worker of the
//! runtime for long. All of it is done on a thread of its own, one request after the other, and the
//! outcome is shown for a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::topic_table::{TopicRow, TopicRows, TopicSearch};
use crate::broker::Broker;
use crate::consumers::Consumers;
use crate::edge::clients::Clients;
use crate::edge::mounting::Edge;
use crate::error::{Error, Result};

/// Returns the rows of a search from the `offset`th one on.
///
/// # Errors
///
/// [`Error::ShuttingDown`].
///
/// # Cancel safety
///
/// Nothing is left behind: a reading that was begun ends by itself.
pub(in crate::edge) async fn rows(
    edge: &Edge,
    clients: Option<Arc<Clients>>,
    search: TopicSearch,
    part: (usize, usize),
) -> Result<TopicRows> {
    let mut tables = edge.topic_tables.clone().lock_owned().await;
    let broker = edge.broker.clone();
    let consumers = edge.consumers_if_any().map(|kept| kept.consumers.clone());
    let read = move || {
        let read = || all_rows(&broker, clients.as_deref(), consumers.as_ref());
        tables.rows(&search, part, Instant::now(), read)
    };
    tokio::task::spawn_blocking(read).await.map_err(|_the_runtime_ends| Error::ShuttingDown)
}

/// Returns all topics but the secret one, by their names.
fn all_rows(
    broker: &Broker,
    clients: Option<&Clients>,
    consumers: Option<&Consumers>,
) -> Vec<TopicRow> {
    let mut slowest = Slowest::default();
    if let Some(clients) = clients {
        slowest.look_at_connections(clients);
    }
    if let Some(consumers) = consumers {
        consumers.each_checkpoint(|topic, after| slowest.add(topic, after));
    }
    let mut rows = Vec::with_capacity(broker.topic_count());
    broker.each_topic(|name, extent, followers| {
        if name.is_secret() {
            return;
        }
        rows.push(TopicRow {
            name: name.clone(),
            events: extent.events(),
            size_bytes: extent.size_bytes(),
            earliest: extent.earliest,
            tail: extent.tail,
            last_time: extent.last_time,
            rate: None,
            followers: followers as u64,
            lag: slowest.0.get(name.as_str()).map(|after| extent.behind(*after)),
        });
    });
    rows
}

/// The sequences after which the slowest readers of single topics go on, by topic.
#[derive(Debug, Default)]
struct Slowest(HashMap<Box<str>, u64>);

impl Slowest {
    /// Adds a reader of `topic` that goes on after the sequence `after`.
    fn add(&mut self, topic: &str, after: u64) {
        match self.0.get_mut(topic) {
            Some(slowest) => *slowest = after.min(*slowest),
            None => drop(self.0.insert(topic.into(), after)),
        }
    }

    fn look_at_connections(&mut self, clients: &Clients) {
        let mut last = 0;
        while let Some((id, client)) = clients.next(last) {
            last = id;
            for followed in client.followed() {
                if let Some((topic, after)) = followed.place() {
                    self.add(topic.as_str(), after);
                }
            }
        }
    }
}
