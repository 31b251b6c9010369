//! The topics with events for a feed, in the order of their next events.
//!
//! ```text
//! read       12 ── 17 ── 23          blocks of these are held, each stands at its next event
//! waiting       14 ┄┄ 15 ┄┄ 90 …     a lower bound on the position of the next event is known
//! unlisted                   40 ┄┄ …  the same, for thousands of topics at once
//! ```
//!
//! # Why
//!
//! A feed of a hundred thousand topics cannot hold a block of each. The place at which a topic goes
//! on takes a few words of memory. Blocks are held only of the topics that come next, within a
//! bound in bytes, however many topics there are. A topic that comes later is not looked at before
//! its turn. Its turn is known without a read, or from the last read of the topic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;

use super::source::Source;
use super::unlisted::Unlisted;
use super::waiting::WaitingTopic;
use crate::broker::topic::entry::Topic;
use crate::cursor::Position;
use crate::topic::TopicId;

/// The topics with events for a feed, each once.
#[derive(Debug, Default)]
pub(super) struct Sources {
    present: HashSet<TopicId>,
    waiting: BinaryHeap<Reverse<WaitingTopic>>,
    /// The topics that are being read. They go back to those that wait if the read is given up.
    being_read: Vec<WaitingTopic>,
    /// The topics of which blocks are held, by the positions of their next events.
    read: BTreeMap<(Position, TopicId), Source>,
    /// The bytes of those blocks.
    held_bytes: usize,
    /// The topics that are looked at when their turn comes.
    unlisted: Option<Box<Unlisted>>,
}

impl Sources {
    /// Returns the number of topics: an estimate until all are listed.
    pub(super) fn len(&self) -> usize {
        self.present.len() + self.unlisted.as_ref().map_or(0, |unlisted| unlisted.expected())
    }

    /// Returns whether there is no topic.
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty() && self.unlisted.is_none()
    }

    /// Adds topics that are listed when their turn comes.
    pub(super) fn list_later(&mut self, unlisted: Unlisted) {
        self.unlisted = Some(Box::new(unlisted));
    }

    /// Returns whether topics must be listed before it is known which topic comes next.
    pub(super) fn is_to_list(&self) -> bool {
        let next = self.waiting.peek().map(|Reverse(waiting)| waiting.at);
        self.first_unlisted().is_some_and(|first| next.is_none_or(|next| first <= next))
    }

    /// Returns whether a topic is not listed yet, so that nothing of it was read.
    pub(super) fn is_unlisted(&self, id: TopicId) -> bool {
        self.unlisted.as_ref().is_some_and(|unlisted| unlisted.holds(id))
    }

    /// Takes some of the unlisted topics whose turn comes next, and returns those that are
    /// `followed`. The caller adds them.
    pub(super) fn list(&mut self, followed: impl Fn(&Topic) -> bool) -> Vec<Arc<Topic>> {
        let Some(unlisted) = &mut self.unlisted else { return Vec::new() };
        let listed = unlisted.take(followed);
        self.unlisted.take_if(|unlisted| unlisted.first().is_none());
        listed
    }

    fn first_unlisted(&self) -> Option<Position> {
        self.unlisted.as_ref()?.first()
    }

    /// Returns the bytes of the blocks that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Returns all topics that are listed.
    pub(super) fn topics(&self) -> impl Iterator<Item = (TopicId, &Arc<Topic>)> {
        let waiting = self.waiting.iter().map(|Reverse(waiting)| (waiting.id, &waiting.topic));
        let being_read = self.being_read.iter().map(|waiting| (waiting.id, &waiting.topic));
        let read = self.read.values().map(|source| (source.id, &source.topic));
        waiting.chain(being_read).chain(read)
    }

    /// Adds a topic, unless it is among the sources already. Returns whether it was added.
    pub(super) fn add(&mut self, waiting: WaitingTopic) -> bool {
        let is_new = self.present.insert(waiting.id);
        if is_new {
            self.waiting.push(Reverse(waiting));
        }
        is_new
    }

    /// Removes a topic that has no more events, and that was taken out.
    pub(super) fn remove(&mut self, id: TopicId) {
        self.present.remove(&id);
    }

    /// Returns a lower bound on the positions of the next events of all topics.
    pub(super) fn first(&self) -> Option<Position> {
        let read = self.first_read();
        self.first_waiting().into_iter().chain(read).min()
    }

    /// As [`Self::first`], for the topics that wait or are not listed yet.
    pub(super) fn first_waiting(&self) -> Option<Position> {
        let waiting = self.waiting.peek().map(|Reverse(waiting)| waiting.at);
        waiting.into_iter().chain(self.first_unlisted()).min()
    }

    fn first_read(&self) -> Option<Position> {
        self.read.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the first of the topics that wait.
    pub(super) fn pop_waiting(&mut self) -> Option<WaitingTopic> {
        self.waiting.pop().map(|Reverse(waiting)| waiting)
    }

    /// Adds a topic to those that wait.
    pub(super) fn put_waiting(&mut self, waiting: WaitingTopic) {
        self.waiting.push(Reverse(waiting));
    }

    /// Takes the source whose next event comes before those of all other topics, with the position
    /// of the event; `None` if it is not known which topic that is.
    pub(super) fn pop_read(&mut self) -> Option<(Position, Source)> {
        // Two events never have one position: with an equal bound, the topic that waits comes
        // later.
        if self.first_waiting().is_some_and(|at| Some(at) < self.first_read()) {
            return None;
        }
        let ((at, _), source) = self.read.pop_first()?;
        self.held_bytes -= source.held_bytes();
        Some((at, source))
    }

    /// Adds a source whose next event is at `at`, in a block that is held.
    pub(super) fn put_read(&mut self, at: Position, source: Source) {
        self.held_bytes += source.held_bytes();
        self.read.insert((at, source.id), source);
    }

    /// Lets go of blocks until `max_bytes` bytes are held, those first that come last. The first
    /// source keeps its blocks. The others are read again when their turn comes.
    pub(super) fn let_go(&mut self, max_bytes: usize) {
        while self.held_bytes > max_bytes
            && self.read.len() > 1
            && let Some(((at, _), source)) = self.read.pop_last()
        {
            self.held_bytes -= source.held_bytes();
            self.put_waiting(source.waiting(at));
        }
    }

    /// Takes the first topics that wait and are `wanted`, to be read: `count` of them at the most,
    /// and none that comes after `last`. [`Self::stop_reading`] puts them back.
    pub(super) fn begin_reading(
        &mut self,
        count: usize,
        last: Position,
        mut wanted: impl FnMut(&WaitingTopic) -> bool,
    ) -> &[WaitingTopic] {
        let mut others = Vec::new();
        while self.being_read.len() < count
            && others.len() <= count
            && !self.is_to_list()
            && self.first_waiting().is_some_and(|at| at <= last)
            && let Some(waiting) = self.pop_waiting()
        {
            match wanted(&waiting) {
                true => self.being_read.push(waiting),
                false => others.push(waiting),
            }
        }
        self.waiting.extend(others.into_iter().map(Reverse));
        &self.being_read
    }

    /// Returns the topics that were taken to be read, in the same order.
    pub(super) fn end_reading(&mut self) -> Vec<WaitingTopic> {
        std::mem::take(&mut self.being_read)
    }

    /// Puts back the topics that were taken to be read by a call that was given up.
    pub(super) fn stop_reading(&mut self) {
        self.waiting.extend(self.being_read.drain(..).map(Reverse));
    }
}
