//! The state of a topic: the latest event of each key, true at one sequence.
//!
//! # Why
//!
//! There is no index by key: it would grow with the keys, and memory must not. A page is found by
//! one reading from its start to the sequence that the state is true at, with as many candidates in
//! memory as a page may hold; so a page of a topic that is compacted costs about as much as reading
//! it once.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use bytes::Bytes;

use super::page::EVENT_BYTES;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::{Event, NewEvent};
use crate::log::{Ages, Block, EventRef, Log};
use crate::topic::TopicId;

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

/// Which page.
#[derive(Debug, Clone)]
pub(super) struct StateRead {
    pub(super) id: TopicId,
    /// The sequences that the page is looked for in; the state is true at the end.
    pub(super) from: Sequence,
    pub(super) below: Sequence,
    pub(super) key_prefix: String,
    pub(super) limit: usize,
    pub(super) max_bytes: usize,
    /// Whether superseded events are dropped: then one that has expired supersedes others all the
    /// same, for these may be gone. Otherwise it is as if it had never been.
    pub(super) is_compacted: bool,
    pub(super) ages: Ages,
}

impl StateRead {
    /// Whether an event is one of those that the page is looked for in.
    fn concerns(&self, event: &EventRef<'_>) -> bool {
        (self.from..self.below).contains(&event.sequence)
            && !event.key.is_empty()
            && event.key.starts_with(&self.key_prefix)
            && (self.is_compacted || !self.ages.has_expired(event))
    }
}

/// A page that is being read, step by step.
pub(super) struct Scan {
    read: StateRead,
    page: Candidates,
    /// What comes next.
    at: Sequence,
}

impl Scan {
    /// Begins a page.
    pub(super) fn new(read: StateRead) -> Self {
        let StateRead { from: at, below, limit, max_bytes, .. } = read;
        let page = Candidates { limit, max_bytes, end: below, ..Candidates::default() };
        Self { read, page, at }
    }

    /// Reads the next blocks; breaks with the page at its end. It may be empty and have a next one
    /// all the same.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    pub(super) fn step(&mut self, log: &dyn Log) -> Result<ControlFlow<StatePage>> {
        let StateRead { id, from, below, ages, .. } = self.read;
        if self.at >= below {
            return Ok(ControlFlow::Break(self.finish()));
        }
        let blocks = match log.read(id, self.at, below, STEP_BYTES) {
            Ok(blocks) => blocks,
            Err(Error::Damaged { last: Some(last), .. }) if self.at > from => {
                // The pages after this one say so: what is before it is true as far as it goes.
                self.page.end = self.page.end.min(self.at);
                self.at = last.next();
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error),
        };
        self.at = blocks.last().map_or(below, |block| block.last_sequence().next());
        for block in &blocks {
            for event in block.events().filter(|event| self.read.concerns(event)) {
                self.page.supersede(event.key);
                if !event.is_tombstone() && !ages.has_expired(&event) {
                    self.page.add(block, &event);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn finish(&mut self) -> StatePage {
        let (end, below) = (self.page.end, self.read.below);
        let events = std::mem::take(&mut self.page.events).into_values();
        StatePage {
            events: events.filter(|event| event.sequence < end).collect(),
            at: below.previous(),
            next: (end < below).then_some(end),
        }
    }
}

/// The first events that may be the latest of their keys.
#[derive(Default)]
struct Candidates {
    events: BTreeMap<Sequence, Event>,
    by_key: HashMap<String, Sequence>,
    size_bytes: usize,
    limit: usize,
    max_bytes: usize,
    /// From here on, events were left out: the page ends before.
    end: Sequence,
}

impl Candidates {
    fn supersede(&mut self, key: &str) {
        if let Some(sequence) = self.by_key.remove(key)
            && let Some(event) = self.events.remove(&sequence)
        {
            self.size_bytes -= size_of(&event);
        }
    }

    fn add(&mut self, block: &Block, event: &EventRef<'_>) {
        if event.sequence >= self.end {
            return; // A candidate before it was left out already.
        }
        let mut event = block.to_event(event);
        // Of its own: a page must not hold on to as many blocks as it has events.
        event.content.payload = Bytes::copy_from_slice(&event.content.payload);
        self.size_bytes += size_of(&event);
        self.by_key.insert(event.content.key.clone(), event.sequence);
        self.events.insert(event.sequence, event);
        let is_over = |c: &Self| c.events.len() > c.limit || c.size_bytes > c.max_bytes;
        while is_over(self) && self.events.len() > 1 {
            let Some((sequence, last)) = self.events.pop_last() else { return };
            self.size_bytes -= size_of(&last);
            self.by_key.remove(&last.content.key);
            self.end = self.end.min(sequence);
        }
    }
}

/// What an event takes in a page, in bytes.
fn size_of(event: &Event) -> usize {
    let NewEvent { id, event_type, key, headers, content_type, payload, .. } = &event.content;
    let texts = [id, event_type, key, content_type].map(String::len).iter().sum::<usize>();
    let headers = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    EVENT_BYTES + texts + headers + payload.len()
}
