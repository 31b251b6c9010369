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
use crate::edge::clients::Clients;
use crate::edge::mounting::Edge;
use crate::error::{Error, Result};
use crate::topic::TopicName;

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
    let read = move || {
        let read = || all_rows(&broker, clients.as_deref());
        tables.rows(&search, part, Instant::now(), read)
    };
    tokio::task::spawn_blocking(read).await.map_err(|_the_runtime_ends| Error::ShuttingDown)
}

/// Returns all topics but the secret one, by their names.
fn all_rows(broker: &Broker, clients: Option<&Clients>) -> Vec<TopicRow> {
    let slowest = clients.map(slowest_readers).unwrap_or_default();
    let mut rows = Vec::with_capacity(broker.topic_count());
    broker.each_topic(|name, extent, followers| {
        if name.is_secret() {
            return;
        }
        let behind = |after: &u64| extent.tail.previous().get().saturating_sub(*after);
        rows.push(TopicRow {
            name: name.clone(),
            events: extent.events(),
            size_bytes: extent.size_bytes(),
            earliest: extent.earliest,
            tail: extent.tail,
            last_time: extent.last_time,
            rate: None,
            followers: followers as u64,
            lag: slowest.get(name).map(behind),
        });
    });
    rows
}

/// Returns the sequences after which the slowest readers of single topics read.
fn slowest_readers(clients: &Clients) -> HashMap<TopicName, u64> {
    let (mut slowest, mut last) = (HashMap::new(), 0);
    while let Some((id, client)) = clients.next(last) {
        last = id;
        for followed in client.followed() {
            let Some((topic, after)) = followed.place() else { continue };
            let slowest = slowest.entry(topic.clone()).or_insert(after);
            *slowest = after.min(*slowest);
        }
    }
    slowest
}
