//! A page of a state that is found without memory for keys: by one read of all events that may
//! supersede those of the page. As many candidates are in memory as a page may hold.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::page::{STEP_BYTES, StatePage, StateRead, own, size_of};
use crate::broker::topic::entry::Topic;
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log::{Block, EventRef, Log};

/// A page that is being read, step by step.
pub(super) struct StateScan {
    read: StateRead,
    topic: Arc<Topic>,
    page: Candidates,
    /// Below this sequence, the topic has at most one event of a key.
    unique: Sequence,
    /// The sequence that is read next.
    at: Sequence,
    /// The end of the read.
    end: Sequence,
}

impl StateScan {
    /// Begins a page.
    pub(super) fn new(read: StateRead, topic: Arc<Topic>, unique: Sequence) -> Self {
        let StateRead { from: at, below: end, limit, max_bytes, .. } = read;
        let page = Candidates { limit, max_bytes, end, ..Candidates::default() };
        Self { read, topic, page, unique, at, end }
    }

    /// Reads the next blocks; breaks with the page at its end. A page may be empty although there
    /// is a next one.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    pub(super) fn step(&mut self, log: &dyn Log) -> Result<ControlFlow<StatePage>> {
        let StateRead { id, from, .. } = self.read;
        let at = self.at;
        if self.at >= self.end {
            self.end = self.end.max(self.looked_at());
        }
        if self.at >= self.end {
            return Ok(ControlFlow::Break(self.finish()));
        }
        let blocks = match log.read(id, self.at, self.end, STEP_BYTES) {
            Ok(blocks) => blocks,
            Err(Error::Damaged { last: Some(last), .. }) if self.at > from => {
                // The page ends before the damage. The next page returns the error.
                self.page.end = self.page.end.min(self.at);
                self.at = last.next();
                return Ok(ControlFlow::Continue(()));
            }
            Err(error) => return Err(error),
        };
        let last = blocks.last().map(|block| block.last_sequence().next());
        let next = last.map_or(self.end, |next| next.min(self.end));
        self.at = next;
        for block in &blocks {
            for event in block.events().filter(|event| (at..next).contains(&event.sequence)) {
                self.take(block, &event);
            }
        }
        if self.page.is_full {
            // No event from here to `unique` supersedes an earlier one.
            self.at = self.at.max(self.unique.min(self.end));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take(&mut self, block: &Block, event: &EventRef<'_>) {
        if !self.read.concerns(event) {
            return;
        }
        self.page.supersede(event.key);
        let is_gone = event.is_tombstone() || self.read.ages.has_expired(event);
        if event.sequence < self.read.below && !is_gone {
            self.page.add(block, event);
        }
    }

    /// Returns the end of the events that compaction may have looked at. An event that supersedes
    /// another may be gone because of a later one below this end, which then supersedes both.
    fn looked_at(&self) -> Sequence {
        match self.read.is_compacted {
            true => self.topic.upkeep.looked_at().min(self.topic.state().extent.tail),
            false => Sequence::BEFORE_ALL,
        }
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

/// The first events of the page's range that may be the latest of their keys.
#[derive(Default)]
struct Candidates {
    events: BTreeMap<Sequence, Event>,
    by_key: HashMap<String, Sequence>,
    size_bytes: usize,
    limit: usize,
    max_bytes: usize,
    /// The end of the page: from here on, events were left out.
    end: Sequence,
    /// Whether an event was left out.
    is_full: bool,
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
            return; // An earlier candidate was left out already.
        }
        let event = own(block, event);
        self.size_bytes += size_of(&event);
        self.by_key.insert(event.content.key.clone(), event.sequence);
        self.events.insert(event.sequence, event);
        let is_over = |c: &Self| c.events.len() > c.limit || c.size_bytes > c.max_bytes;
        while is_over(self) && self.events.len() > 1 {
            let Some((sequence, last)) = self.events.pop_last() else { return };
            self.size_bytes -= size_of(&last);
            self.by_key.remove(&last.content.key);
            self.end = self.end.min(sequence);
            self.is_full = true;
        }
    }
}
