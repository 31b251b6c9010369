//! Finding the places that callers name: start points and cursors. The log is read before a command
//! is queued, so that no command waits for the reads of another.

use super::Consumers;
use super::cursors::check_cursor;
use super::id::ConsumerId;
use super::requests::Reach;
use crate::broker::PageRequest;
use crate::cursor::{Cursor, Place, StartPoint};
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// The most topics whose sequences are kept with a checkpoint that is a position.
const MAX_REACH: usize = 32;

impl Consumers {
    /// Returns the checkpoint at which a reader from `start` on begins; `None` before all.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`](crate::broker::Broker::read); as [`check_cursor`].
    pub(super) async fn resolved(
        &self,
        id: &ConsumerId,
        start: StartPoint,
    ) -> Result<Option<Cursor>> {
        let broker = &self.0.broker;
        let request = PageRequest::from(start).limit(1);
        let page = match start {
            StartPoint::Earliest => return Ok(None),
            StartPoint::After(cursor) => {
                check_cursor(broker, id, ("from", cursor))?;
                return Ok(Some(cursor));
            }
            _ if id.has_positions() => {
                broker.read_many(vec![id.selection.clone()], request).await?
            }
            _ => {
                let topic = TopicName::new(id.selection.as_str())?;
                match broker.read(&topic, request).await {
                    Err(Error::UnknownTopic(_)) => return Ok(None), // It has no event yet.
                    read => read?,
                }
            }
        };
        Ok(Some(page.begin))
    }

    /// Returns the sequences of topics at a checkpoint that is a position, if the topics are few.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`].
    pub(super) async fn reach(&self, id: &ConsumerId, at: Option<Cursor>) -> Result<Reach> {
        let Some(Cursor { after: Place::Position(position), .. }) = at else { return Ok(None) };
        let ends = self.0.broker.ends_in(&id.selection, position, MAX_REACH).await?;
        Ok(ends.map(|ends| ends.into_iter().map(|of| (of.topic, of.end)).collect()))
    }
}
