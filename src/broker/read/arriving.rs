//! Waiting for a place that this node of a fleet has not applied yet: a client that comes from
//! another node may bring a cursor that is ahead of this one.
//!
//! # Why
//!
//! Nodes apply the same groups a few milliseconds apart. A cursor of the same epoch that is ahead
//! is no gap, then: its events are on their way. Also the node that leads may be behind another one
//! for a moment: it shows a group once the engine has acknowledged it, which others may have read
//! by then. The wait has an end. A node that follows then says that it is behind: it does not know
//! better. One that leads has decided everything by then, so the cursor is of no event, and that is
//! told as a gap. At a broker alone nobody waits.

use tokio::time::Instant;

use crate::broker::shared::Shared;
use crate::cursor::{Cursor, Place, StartPoint};
use crate::error::{Error, Result};
use crate::topic::TopicName;

impl Shared {
    /// Waits until the place that a reader of `topic`, or of many topics, comes with is
    /// shown here, for a bounded time.
    ///
    /// # Errors
    ///
    /// [`Error::NotCaughtUp`]: it is not, and this node follows another one.
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub(in crate::broker) async fn arrive(
        &self,
        topic: Option<&TopicName>,
        start: StartPoint,
    ) -> Result<()> {
        let StartPoint::After(cursor) = start else { return Ok(()) };
        if self.arriving.max_wait.is_zero() || !self.is_ahead(topic, cursor) {
            return Ok(());
        }
        let mut shown = self.arriving.follow();
        let max_wait = self.arriving.max_wait;
        let deadline = Instant::now() + max_wait;
        while self.is_ahead(topic, cursor) {
            tokio::select! {
                _ = shown.changed() => {}
                () = self.stopping.cancelled() => return Err(Error::ShuttingDown),
                () = tokio::time::sleep_until(deadline) => {
                    let waited_ms = max_wait.as_millis() as u64;
                    let follows = self.leadership.follows();
                    return if follows { Err(Error::NotCaughtUp { waited_ms }) } else { Ok(()) };
                }
            }
        }
        Ok(())
    }

    /// Whether a cursor of this log names a place after the last one.
    fn is_ahead(&self, topic: Option<&TopicName>, cursor: Cursor) -> bool {
        if cursor.epoch.is_some_and(|epoch| epoch != self.log.epoch()) {
            return false;
        }
        match cursor.after {
            Place::Position(position) => position.get() > self.last_position(),
            Place::Sequence(sequence) => {
                // A reader of many has positions.
                let Some(name) = topic else { return false };
                let known = self.topics.known(name);
                let last = known.map(|topic| topic.state().extent.tail.previous());
                last.map_or(sequence.get() > 0, |last| sequence > last)
            }
        }
    }
}
