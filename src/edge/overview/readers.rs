//! The consumers that read a topic, whosever they are, with how far they are behind.

use crate::consumers::TopicReader;
use crate::edge::consumers::asking::some;
use crate::edge::mounting::Edge;
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// Returns how many consumers read `topic`, alone or with others, and those from the `offset`th one
/// on. The one that is behind most comes first.
///
/// # Errors
///
/// [`Error::Invalid`]: the host keeps no consumers. [`Error::ShuttingDown`].
///
/// # Cancel safety
///
/// Nothing is left behind: a search that was begun ends by itself.
pub(in crate::edge) async fn readers(
    edge: &Edge,
    topic: TopicName,
    part: (usize, usize),
) -> Result<(usize, Vec<TopicReader>)> {
    let consumers = some(edge.consumers_if_any())?.consumers.clone();
    // There may be a million of them.
    let found = tokio::task::spawn_blocking(move || consumers.readers_of(&topic, part)).await;
    found.map_err(|_the_runtime_ends| Error::ShuttingDown)
}
