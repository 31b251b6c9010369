//! Either reader: of one topic, with sequences for places, or of many, with positions.

use super::delivery::{Delivery, Patience, Waited};
use super::feed::Feed;
use super::filter::Filter;
use super::searching::Searches;
use super::subscription::Subscription;
use crate::broker::tail::run::Run;
use crate::cursor::{Cursor, Epoch, Gap};
use crate::error::Result;
use crate::log::EventRef;

/// A live reader, whatever it reads.
#[derive(Debug)]
pub enum Reader {
    /// A reader of one topic.
    One(Subscription),
    /// A reader of many topics.
    Many(Feed),
}

impl Reader {
    /// Only the events that `filter` picks. The place moves on with the others, too.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`](crate::Error::OverLimit).
    pub fn filtered(self, filter: Filter) -> Result<Self> {
        Ok(match self {
            Self::One(subscription) => Self::One(subscription.filtered(filter)?),
            Self::Many(feed) => Self::Many(feed.filtered(filter)?),
        })
    }

    /// Returns the turns of those who look for events.
    pub(crate) fn searches(&self) -> &Searches {
        match self {
            Self::One(subscription) => subscription.searches(),
            Self::Many(feed) => feed.searches(),
        }
    }

    /// Returns the cursor that names its place: what to come back with.
    pub fn cursor(&self) -> Cursor {
        match self {
            Self::One(subscription) => subscription.cursor(),
            Self::Many(feed) => feed.cursor(),
        }
    }

    /// Returns the incarnation of the log that is read.
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::One(subscription) => subscription.epoch(),
            Self::Many(feed) => feed.epoch(),
        }
    }

    /// Returns the cursor after one of the events that it delivers.
    pub fn cursor_after(&self, event: &EventRef<'_>) -> Cursor {
        match self {
            Self::One(subscription) => subscription.cursor_after(event.sequence),
            Self::Many(feed) => feed.cursor_after(event.position),
        }
    }

    /// Returns the cursor after an event, as it is for every reader that has none of its own.
    pub fn shared_cursor_after(&self, event: &EventRef<'_>) -> Cursor {
        Cursor { since: None, ..self.cursor_after(event) }
    }

    /// Returns whether cursors after events of `run` are this reader's own, so that wire forms with
    /// cursors in them are not those of others: for a while after it began above or below what was
    /// dropped.
    pub fn has_own_cursors(&self, run: &Run) -> bool {
        let first = run.events().next();
        first.is_some_and(|event| self.cursor_after(&event).since.is_some())
    }

    /// Returns the first place that can be read, and the one that is given next, now: sequences of
    /// the one topic, or positions.
    pub fn bounds(&self) -> (u64, u64) {
        match self {
            Self::One(subscription) => {
                let (earliest, tail) = subscription.bounds();
                (earliest.get(), tail.get())
            }
            Self::Many(feed) => (1, feed.known().next().get()),
        }
    }

    /// Returns the number of events of the one topic, or the number of positions, that the reader
    /// is behind.
    pub fn lag(&self) -> u64 {
        let (_, tail) = self.bounds();
        let after = self.cursor().after.number();
        tail.saturating_sub(after + 1)
    }

    /// Returns the gap that will be delivered first, if there is one.
    pub fn gap(&self) -> Option<&Gap> {
        match self {
            Self::One(subscription) => subscription.gap(),
            Self::Many(feed) => feed.gap(),
        }
    }

    /// Returns the next delivery; waits for one at the tail, for as long as the reader is patient.
    ///
    /// # Errors
    ///
    /// As [`Subscription::next_within`] and [`Feed::next_within`].
    ///
    /// # Cancel safety
    ///
    /// As these.
    pub async fn next_within(&mut self, patience: &mut Patience) -> Result<Waited> {
        match self {
            Self::One(subscription) => subscription.next_within(patience).await,
            Self::Many(feed) => feed.next_within(patience).await,
        }
    }

    /// Returns the next delivery, if it is in memory; so that several go out in one write.
    pub fn next_in_memory(&mut self) -> Option<Delivery> {
        match self {
            Self::One(subscription) => subscription.next_in_memory(),
            Self::Many(feed) => feed.next_in_memory(),
        }
    }
}
