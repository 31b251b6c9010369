//! The state of a topic: the latest event of each key, true at one sequence.
//!
//! # Why
//!
//! There is no index of all keys: its memory would grow with their number. A page is read forwards
//! until it is full. The newest part of the topic tells which of the page's events have newer ones
//! of their keys; below that part, compaction has left each key once. The keys of the part are read
//! once, and shared by all pages (`keys.rs`). So a page of a compacted topic costs the read of its
//! own blocks. In a topic that is not compacted, or that keeps several events of a key, the newest
//! part is the whole topic. If the part is too large for memory, a page costs one read of it
//! (`scan.rs`).

mod forward;
pub(crate) mod keys;
pub(crate) mod page;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::forward::Forward;
use self::page::{StatePage, StateRead, StateRequest};
use self::scan::StateScan;
use crate::broker::shared::Shared;
use crate::broker::topic::entry::Topic;
use crate::cursor::Position;
use crate::error::{Error, Result};
use crate::log::{Ages, Extent, Log};
use crate::topic::TopicName;

/// Reads a page of the state of `topic`, as `Broker::state` says.
pub(crate) async fn read_state(
    shared: &Shared,
    topic: &TopicName,
    request: StateRequest,
) -> Result<StatePage> {
    let StateRequest { key_prefix, from, at, limit, max_bytes } = request;
    let topic = shared.topics.existing(topic)?;
    let (max_bytes, now) = (shared.max_page_bytes.min(max_bytes), (shared.now)());
    let id = topic.state().id.ok_or_else(|| Error::UnknownTopic(topic.name.clone()))?;
    loop {
        let extent = topic.state().extent;
        let below = at.map_or(extent.tail, |at| at.next().min(extent.tail));
        let read = StateRead {
            id,
            from: from.max(extent.earliest).min(below),
            below,
            key_prefix: key_prefix.clone(),
            limit,
            max_bytes,
            is_compacted: topic.effective_config().key_limit().is_some(),
            ages: Ages::of(&extent, now),
        };
        let page = match read_page(shared, &topic, &extent, read).await {
            Ok(None) => continue,
            Ok(Some(page)) => Ok(page),
            Err(error) => Err(error),
        };
        // Events that are missing because they were trimmed meanwhile are no damage.
        if page.is_ok() || topic.state().extent.earliest == extent.earliest {
            return page;
        }
    }
}

/// Reads a page. `None` if meanwhile another node, which does not know of this read, has dropped
/// deletions of keys: the read must begin again.
async fn read_page(
    shared: &Shared,
    topic: &Arc<Topic>,
    extent: &Extent,
    read: StateRead,
) -> Result<Option<StatePage>> {
    let is_compacted = read.is_compacted;
    let unique = match topic.effective_config().key_limit() {
        // Below this sequence, the topic has at most one event of a key.
        Some(1) if extent.compacted.kept == 1 => extent.compacted.below.max(extent.earliest),
        _ => extent.earliest,
    };
    // Keys are noted whether their events have expired or not.
    if is_compacted || !extent.may_expire {
        let noting = (topic, is_compacted);
        let covered = shared.state_keys.cover(&shared.turns, noting, unique, read.below).await?;
        if let Some((keys, looked_at)) = covered {
            let mut page = Forward::new(read, keys, looked_at);
            return shared.turns.read_long(move |log| page.step(log)).await.map(Some);
        }
    }
    // A tombstone must not be dropped while events that it supersedes may have been read already.
    let position = || Position::new(shared.last_position());
    let horizon = shared.horizons.hold(Some(read.id), position);
    let buried = topic.state().extent.buried_drop;
    let mut page = StateScan::new(read, topic.clone(), unique);
    let step = move |log: &dyn Log| {
        horizon.touch()?;
        page.step(log)
    };
    let page = shared.turns.read_long(step).await?;
    Ok((topic.state().extent.buried_drop == buried).then_some(page))
}
