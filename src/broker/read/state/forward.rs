//! A page of a state that is read forwards until it is full. The keys of the newest events tell
//! which events of the page are superseded.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::keys::Keys;
use super::page::{STEP_BYTES, StatePage, StateRead, own, size_of};
use crate::cursor::Sequence;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log::{EventRef, Log};

/// The most bytes of blocks that are read for one page. If few of the events are for the page, it
/// ends here with fewer events than it may have, and there is a next page.
const MAX_PAGE_READ_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// The bytes of blocks in the first read. Each later read takes twice as many as the one before.
const FIRST_STEP_BYTES: usize = 8 << 10;

/// A page that is being read, step by step.
pub(super) struct Forward {
    read: StateRead,
    keys: Arc<Keys>,
    /// The end of the events that supersede earlier ones of their keys.
    superseding: Sequence,
    /// The sequence that is read next.
    at: Sequence,
    step_bytes: usize,
    read_bytes: usize,
    events: Vec<Event>,
    size_bytes: usize,
}

impl Forward {
    /// Begins a page. `keys` are noted up to `looked_at`. Each event that compaction has dropped so
    /// far is superseded by an event below that.
    pub(super) fn new(read: StateRead, keys: Arc<Keys>, looked_at: Sequence) -> Self {
        // When compaction has looked beyond the page's end, an event that supersedes another may be
        // gone, because a later one supersedes it, too. The later one is proof enough: a reader
        // that follows the state gets it.
        let superseding = read.below.max(looked_at);
        let (at, step_bytes) = (read.from, FIRST_STEP_BYTES);
        let (events, size_bytes, read_bytes) = (Vec::new(), 0, 0);
        Self { read, keys, superseding, at, step_bytes, read_bytes, events, size_bytes }
    }

    /// Reads the next blocks; breaks with the page at its end.
    ///
    /// # Errors
    ///
    /// As [`Log::read`].
    pub(super) fn step(&mut self, log: &dyn Log) -> Result<ControlFlow<StatePage>> {
        let StateRead { id, from, below, .. } = self.read;
        if self.at >= below {
            return Ok(self.end(None));
        }
        if self.read_bytes >= MAX_PAGE_READ_BYTES {
            return Ok(self.end(Some(self.at)));
        }
        let blocks = match log.read(id, self.at, below, self.step_bytes) {
            Ok(blocks) => blocks,
            // The next page returns the error.
            Err(Error::Damaged { .. }) if self.at > from => return Ok(self.end(Some(self.at))),
            Err(error) => return Err(error),
        };
        for block in &blocks {
            for event in block.events() {
                if !self.is_latest(&event) {
                    continue;
                }
                let event = own(block, &event);
                let size_bytes = self.size_bytes + size_of(&event);
                let is_full =
                    self.events.len() >= self.read.limit || size_bytes > self.read.max_bytes;
                if is_full && !self.events.is_empty() {
                    return Ok(self.end(Some(event.sequence)));
                }
                self.size_bytes = size_bytes;
                self.events.push(event);
            }
            self.read_bytes += block.bytes().len();
        }
        self.step_bytes = (2 * self.step_bytes).min(STEP_BYTES);
        self.at = blocks.last().map_or(below, |block| block.last_sequence().next());
        Ok(ControlFlow::Continue(()))
    }

    fn is_latest(&self, event: &EventRef<'_>) -> bool {
        let next = || self.keys.next_of(event.key, event.sequence);
        self.read.concerns(event)
            && event.sequence < self.read.below
            && !event.is_tombstone()
            && !self.read.ages.has_expired(event)
            && next().is_none_or(|next| next >= self.superseding)
    }

    fn end(&mut self, next: Option<Sequence>) -> ControlFlow<StatePage> {
        let events = std::mem::take(&mut self.events);
        ControlFlow::Break(StatePage { events, at: self.read.below.previous(), next })
    }
}
