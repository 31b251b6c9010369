//! The topics that a feed has something to deliver of, in the order in which they come next.
//!
//! ```text
//! read       12 ── 17 ── 23          blocks of these are held, each stands at its next event
//! waiting       14 ┄┄ 15 ┄┄ 90 …     of these it is known before which position nothing comes
//! unlisted                   40 ┄┄ …  the same, of thousands of topics at once
//! ```
//!
//! # Why
//!
//! A feed of a hundred thousand topics cannot hold a block of each. The place at which a topic goes
//! on takes a few words. Blocks are held only of the topics that come next, within a bound in
//! bytes, however many topics there are. A topic that comes later is not looked at before it is its
//! turn, which is known without reading, or from the last read of the topic.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::sync::Arc;

use super::source::Source;
use super::unlisted::Unlisted;
use super::waiting::WaitingTopic;
use crate::broker::topic::entry::Topic;
use crate::cursor::Position;
use crate::topic::TopicId;

/// All of them, each once.
#[derive(Debug, Default)]
pub(super) struct Sources {
    present: HashSet<TopicId>,
    waiting: BinaryHeap<Reverse<WaitingTopic>>,
    /// Taken out of those that wait, while they are read; back there if nothing comes of it.
    being_read: Vec<WaitingTopic>,
    /// The topics of which blocks are held, by the positions of their next events.
    read: BTreeMap<(Position, TopicId), Source>,
    /// The bytes of those blocks.
    held_bytes: usize,
    /// Topics that are looked at when it is their turn.
    unlisted: Option<Box<Unlisted>>,
}

impl Sources {
    /// Returns about how many there are: exactly, once all are listed.
    pub(super) fn len(&self) -> usize {
        self.present.len() + self.unlisted.as_ref().map_or(0, |unlisted| unlisted.expected())
    }

    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.present.is_empty() && self.unlisted.is_none()
    }

    /// Adds topics that are listed when it is their turn.
    pub(super) fn list_later(&mut self, unlisted: Unlisted) {
        self.unlisted = Some(Box::new(unlisted));
    }

    /// Returns whether some of its topics are to be listed before anything else is known.
    pub(super) fn is_to_list(&self) -> bool {
        let next = self.waiting.peek().map(|Reverse(waiting)| waiting.at);
        self.first_unlisted().is_some_and(|first| next.is_none_or(|next| first <= next))
    }

    /// Returns whether a topic is not listed yet, so that nothing of it was read.
    pub(super) fn is_unlisted(&self, id: TopicId) -> bool {
        self.unlisted.as_ref().is_some_and(|unlisted| unlisted.holds(id))
    }

    /// Lists some of those that are `followed`, where their turn comes next: they are to be added.
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

    /// Returns all topics.
    pub(super) fn topics(&self) -> impl Iterator<Item = (TopicId, &Arc<Topic>)> {
        let waiting = self.waiting.iter().map(|Reverse(waiting)| (waiting.id, &waiting.topic));
        let being_read = self.being_read.iter().map(|waiting| (waiting.id, &waiting.topic));
        let read = self.read.values().map(|source| (source.id, &source.topic));
        waiting.chain(being_read).chain(read)
    }

    /// Adds a topic, unless it is there. Returns whether it was added.
    pub(super) fn add(&mut self, waiting: WaitingTopic) -> bool {
        let is_new = self.present.insert(waiting.id);
        if is_new {
            self.waiting.push(Reverse(waiting));
        }
        is_new
    }

    /// A topic has nothing more.
    pub(super) fn remove(&mut self, id: TopicId) {
        self.present.remove(&id);
    }

    /// Returns a position that nothing comes before, of all of them.
    pub(super) fn first(&self) -> Option<Position> {
        let read = self.first_read();
        self.first_waiting().into_iter().chain(read).min()
    }

    /// As [`Self::first`], of the topics that wait or are not listed yet.
    pub(super) fn first_waiting(&self) -> Option<Position> {
        let waiting = self.waiting.peek().map(|Reverse(waiting)| waiting.at);
        waiting.into_iter().chain(self.first_unlisted()).min()
    }

    fn first_read(&self) -> Option<Position> {
        self.read.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the one that comes first of those that wait.
    pub(super) fn pop_waiting(&mut self) -> Option<WaitingTopic> {
        self.waiting.pop().map(|Reverse(waiting)| waiting)
    }

    /// Puts one back that was taken.
    pub(super) fn put_waiting(&mut self, waiting: WaitingTopic) {
        self.waiting.push(Reverse(waiting));
    }

    /// Takes the one whose next event comes before what any other has, if that is known: with the
    /// event's position.
    pub(super) fn pop_read(&mut self) -> Option<(Position, Source)> {
        // No two events are at the same position: one that waits comes after it.
        if self.first_waiting().is_some_and(|at| Some(at) < self.first_read()) {
            return None;
        }
        let ((at, _), source) = self.read.pop_first()?;
        self.held_bytes -= source.held_bytes();
        Some((at, source))
    }

    /// Puts one in whose next event is at this position, and held.
    pub(super) fn put_read(&mut self, at: Position, source: Source) {
        self.held_bytes += source.held_bytes();
        self.read.insert((at, source.id), source);
    }

    /// Lets go of what the last of them hold, down to `max_bytes`, but for the first one: they are
    /// read again when it is their turn.
    pub(super) fn let_go(&mut self, max_bytes: usize) {
        while self.held_bytes > max_bytes
            && self.read.len() > 1
            && let Some(((at, _), source)) = self.read.pop_last()
        {
            self.held_bytes -= source.held_bytes();
            self.put_waiting(source.waiting(at));
        }
    }

    /// Takes those to be read that come first, `count` of them at the most that do not come after
    /// `last`, and leaves those that are not `wanted`. They are put back by [`Self::stop_reading`].
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

    /// Puts back what was taken to be read, where nobody waits for that any more.
    pub(super) fn stop_reading(&mut self) {
        self.waiting.extend(self.being_read.drain(..).map(Reverse));
    }
}
