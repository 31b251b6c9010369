//! Reading ahead: the next blocks of many topics are read from the log in one go.
//!
//! # Why
//!
//! When each event is of another topic than the one before, each needs a read of the log. A turn
//! and a thread for each read would take ten times as long as the read itself. A feed therefore
//! reads ahead in as many topics as fit the bytes of one read, for a few milliseconds at most,
//! because others wait for their turn.

use super::Feed;
use super::source::Source;
use super::waiting::WaitingTopic;
use crate::broker::read::drops::Drops;
use crate::broker::read::replay::ahead::{AheadBounds, FoundAhead, WantedAhead};
use crate::broker::topic::state::TopicState;
use crate::cursor::Position;
use crate::error::Result;
use crate::log::Extent;

impl Feed {
    /// Reads from the log the next blocks of the topics that come first, as many as fit one read.
    /// Topics whose tails hold these blocks are left out.
    ///
    /// # Errors
    ///
    /// As [`Log::read`](crate::log::Log::read), for the first topic. Damage in a later topic is
    /// returned when its turn comes.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the topics that were being read wait for their turn again.
    pub(super) async fn read_ahead(&mut self) -> Result<()> {
        let shared = self.common.shared.clone();
        self.common.holder.get_or_insert_with(|| shared.behind.enter());
        let max_read_bytes = shared.behind.read_bytes();
        self.sources.let_go(max_read_bytes / 2);
        let (after, last) = (self.after, self.known);
        let drops = &self.drops;
        let mut is_first = true; // The first topic was looked for in its tail already.
        let in_log = |waiting: &WaitingTopic| {
            can_be_read(waiting, after, drops)
                && (std::mem::take(&mut is_first) || !waiting.topic.tail.holds_from(waiting.at))
        };
        let taken = self.sources.begin_reading(self.stride.0, last, in_log);
        let wanted: Vec<WantedAhead> = taken.iter().map(wanted).collect();
        let extents: Vec<Extent> = wanted.iter().map(|wanted| wanted.extent).collect();
        let next = self.sources.first_waiting();
        let before = next.map_or(last.next(), |at| at.min(last.next()));
        let max_bytes = max_read_bytes.saturating_sub(self.sources.held_bytes());
        self.reading.get_or_insert_with(|| shared.replays.enter());
        let bounds = AheadBounds { after, before, max_bytes, topics: self.sources.len() };
        let found = shared.replays.read_ahead(wanted, bounds).await;
        self.stride.learn(extents.len(), found.len());
        let mut found = found.into_iter();
        let mut outcome = Ok(());
        for (index, (waiting, read)) in
            self.sources.end_reading().into_iter().zip(extents).enumerate()
        {
            let now = waiting.topic.state();
            match found.next() {
                // Events were dropped meanwhile: missing ones are a gap, and no damage.
                Some(_) if now.extent.earliest > read.earliest || self.has_lost(&waiting, &now) => {
                    self.sources.put_waiting(waiting);
                }
                Some(Ok(found)) => self.take_found(waiting, found, &now, before),
                Some(Err(error)) => {
                    if index == 0 {
                        outcome = Err(error);
                    }
                    self.sources.put_waiting(waiting);
                }
                None => self.sources.put_waiting(waiting),
            }
        }
        outcome
    }

    /// Returns whether the reader must be told a gap of the topic, as the topic is now.
    fn has_lost(&self, waiting: &WaitingTopic, now: &TopicState) -> bool {
        let wanted = waiting.wanted(self.after);
        self.drops.reason(waiting.id, wanted, &now.extent).is_some()
    }

    /// Takes the blocks that were found of a topic. They are not held if the topic comes after
    /// topics that are not read yet.
    fn take_found(
        &mut self,
        waiting: WaitingTopic,
        found: FoundAhead,
        now: &TopicState,
        before: Position,
    ) {
        let WaitingTopic { at, id, topic, is_unread, .. } = waiting;
        let FoundAhead { next, blocks, following } = found;
        let mut source = Source { topic, id, next, blocks: blocks.into(), following, is_unread };
        match source.skip_to_next() {
            Some(at) if at <= before => self.sources.put_read(at, source),
            Some(at) => self.sources.put_waiting(source.waiting(at)),
            None if source.next >= now.extent.tail => self.sources.remove(id),
            None => {
                let at = source.following.unwrap_or(at);
                self.sources.put_waiting(source.waiting(at));
            }
        }
    }
}

fn wanted(waiting: &WaitingTopic) -> WantedAhead {
    let (topic, id, next) = (waiting.topic.clone(), waiting.id, waiting.next);
    let extent = topic.state().extent;
    WantedAhead { topic, id, next, extent }
}

/// Returns whether the next event of a topic can be read: there is one, and the reader must not be
/// told a gap before it.
fn can_be_read(waiting: &WaitingTopic, after: Position, drops: &Drops) -> bool {
    let extent = waiting.topic.state().extent;
    let is_there = waiting.next.is_none_or(|next| next >= extent.earliest && next < extent.tail);
    is_there && drops.reason(waiting.id, waiting.wanted(after), &extent).is_none()
}
