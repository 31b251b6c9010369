//! The consumers that read a topic, whosever they are, with how far they are behind.

use crate::consumers::TopicReader;
use crate::edge::consumers::asking::some;
use crate::edge::mounting::Edge;
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// A part of the consumers of a topic.
#[derive(Debug)]
pub(in crate::edge) struct FoundReaders {
    /// The number of consumers that read the topic.
    pub(in crate::edge) matching: usize,
    /// Some of them; the one that is behind most of all comes first.
    pub(in crate::edge) readers: Vec<TopicReader>,
    /// Whether consumers have their dead letters in the topic.
    pub(in crate::edge) dead_letters: bool,
}

/// Returns how many consumers read `topic`, alone or with others, and those from the `offset`th one
/// on.
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
) -> Result<FoundReaders> {
    let consumers = some(edge.consumers_if_any())?.consumers.clone();
    // There may be a million of them. However many ask, one walk goes on at a time, as for the
    // table of topics: together they take one processor at the most.
    let turn = edge.topic_tables.clone().lock_owned().await;
    let find = move || {
        let _until_it_is_over = turn;
        let (matching, readers) = consumers.readers_of(&topic, part);
        FoundReaders { matching, readers, dead_letters: consumers.has_letters_in(&topic) }
    };
    tokio::task::spawn_blocking(find).await.map_err(|_the_runtime_ends| Error::ShuttingDown)
}
