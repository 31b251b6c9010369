//! The state of a topic: the latest event of each key, true at one sequence.
//!
//! # Why
//!
//! There is no index of all keys: it would grow with them, and memory must not. A page is read
//! forwards from where it begins to where it is full. Which of its events have newer ones of their
//! keys, is known from the newest part of the topic alone: below it, compaction has left each key
//! once. The keys of that part are read once, and shared by all pages (`keys.rs`). So a page of a
//! compacted topic costs its own blocks. A topic that is not compacted, or has several events of a
//! key, is that newest part as a whole. Where the part is too large for memory, a page costs one
//! reading of that part (`scan.rs`).

mod forward;
mod keys;
mod scan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use self::forward::Forward;
pub(in crate::broker) use self::keys::StateKeys;
use self::scan::Scan;
use super::page::{EVENT_BYTES, HEADER_BYTES};
use crate::broker::topic::topics::Topic;
use crate::broker::{Broker, Shared};
use crate::cursor::{Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log::{Ages, Block, EventRef, Extent, Log};
use crate::topic::{TopicId, TopicName};

/// Bytes of blocks read at a time.
const STEP_BYTES: usize = 256 << 10;

/// A page of a topic's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatePage {
    /// The latest event of each key, in the order of their sequences, without tombstones.
    pub events: Vec<Event>,
    /// The last sequence that the state is true at: what to follow after.
    pub at: Sequence,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<Sequence>,
}

impl StatePage {
    /// What its events take, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.events.iter().map(size_of).sum()
    }
}

/// What to read of a topic's state.
#[derive(Debug, Clone)]
pub struct StateRequest {
    /// Only keys that begin with it.
    pub key_prefix: String,
    /// Where the page begins.
    pub from: Sequence,
    /// The last sequence of the topic when its state was what is read; `None` reads it as it is.
    pub at: Option<Sequence>,
    /// Most events, 1 at the least.
    pub limit: usize,
    /// Most bytes of events, if that is less than the broker's own bound; one event has its place
    /// however large it is.
    pub max_bytes: usize,
}

impl Default for StateRequest {
    fn default() -> Self {
        let (key_prefix, from, at) = (String::new(), Sequence::FIRST, None);
        Self { key_prefix, from, at, limit: 100, max_bytes: usize::MAX }
    }
}

/// Which page.
#[derive(Debug, Clone)]
struct StateRead {
    id: TopicId,
    /// The sequences that the page is looked for in; the state is true at the end.
    from: Sequence,
    below: Sequence,
    key_prefix: String,
    limit: usize,
    max_bytes: usize,
    /// Whether superseded events are dropped: then one that has expired supersedes others all the
    /// same, for these may be gone. Otherwise it is as if it had never been.
    is_compacted: bool,
    /// How old events are.
    ages: Ages,
}

impl StateRead {
    /// Whether an event is in the page, or supersedes one that is.
    fn concerns(&self, event: &EventRef<'_>) -> bool {
        event.sequence >= self.from
            && !event.key.is_empty()
            && event.key.starts_with(&self.key_prefix)
            && (self.is_compacted || !self.ages.has_expired(event))
    }
}

impl Broker {
    /// Reads the latest event of each key of `topic`.
    ///
    /// A page may have fewer events than it could, or none, and a next one all the same. A key that
    /// was published again after `at`, and compacted since, is missing; following from `at` brings
    /// it.
    ///
    /// A page of a compacted topic costs little more than its own events; of any other topic it may
    /// cost one reading of all that comes after them.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownTopic`], [`Error::Damaged`], [`Error::ReadFailed`];
    /// [`Error::DeadlineExceeded`] when it had to wait for a minute for other reads.
    pub async fn state(&self, topic: &TopicName, request: StateRequest) -> Result<StatePage> {
        let StateRequest { key_prefix, from, at, limit, max_bytes } = request;
        let topic = self.0.topics.existing(topic)?;
        let (max_bytes, now) = (self.0.max_page_bytes.min(max_bytes), (self.0.now)());
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
            let page = read_page(&self.0, &topic, &extent, read).await;
            // What is missing because it was trimmed meanwhile is no damage.
            if page.is_ok() || topic.state().extent.earliest == extent.earliest {
                return page;
            }
        }
    }
}

async fn read_page(
    shared: &Shared,
    topic: &Arc<Topic>,
    extent: &Extent,
    read: StateRead,
) -> Result<StatePage> {
    let is_compacted = read.is_compacted;
    let unique = match topic.effective_config().key_limit() {
        // Below it, the topic has one event of a key at the most.
        Some(1) if extent.compacted.kept == 1 => extent.compacted.below.max(extent.earliest),
        _ => extent.earliest,
    };
    // Keys are noted whether their events have expired or not.
    if is_compacted || !extent.may_expire {
        let noting = (topic, is_compacted);
        let covered = shared.state_keys.cover(&shared.turns, noting, unique, read.below).await?;
        if let Some((keys, looked_at)) = covered {
            let mut page = Forward::new(read, keys, looked_at);
            return shared.turns.read_long(move |log| page.step(log)).await;
        }
    }
    // None of its tombstones goes while what that has superseded may have been read already.
    let position = || Position::new(shared.last_position());
    let horizon = shared.horizons.hold(Some(read.id), position);
    let mut page = Scan::new(read, topic.clone(), unique);
    let step = move |log: &dyn Log| {
        horizon.touch()?;
        page.step(log)
    };
    shared.turns.read_long(step).await
}

/// An event of its own: a page must not hold on to as many blocks as it has events.
fn own(block: &Block, event: &EventRef<'_>) -> Event {
    let mut event = block.to_event(event);
    event.content.payload = Bytes::copy_from_slice(&event.content.payload);
    event
}

/// What an event takes in a page, in bytes.
fn size_of(event: &Event) -> usize {
    EVENT_BYTES + HEADER_BYTES * event.content.headers.len() + event.content.content_bytes()
}
