//! Finding the places that callers name: start points and cursors. The log is read before a command
//! is queued, so that no command waits for the reads of another.

use super::Consumers;
use super::entry::Reach;
use super::id::ConsumerId;
use crate::broker::{Broker, PageRequest};
use crate::cursor::{Cursor, Place, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// The most topics whose sequences are kept with a checkpoint that is a position.
const MAX_REACH: usize = 32;

/// Checks that a cursor is a place of the consumer that exists.
///
/// # Errors
///
/// [`Error::Invalid`] with field `cursor`; [`Error::UnknownTopic`].
pub(super) fn check_cursor(broker: &Broker, id: &ConsumerId, cursor: Cursor) -> Result<()> {
    let refused = |problem: String| Err(Error::invalid("cursor", problem));
    let epoch = broker.epoch();
    if let Some(other) = cursor.epoch.filter(|other| *other != epoch) {
        return refused(format!("{cursor} is of the epoch {other}; the log's is {epoch}"));
    }
    let last = match (cursor.after, id.has_positions()) {
        (Place::Position(_), true) => broker.last_position().get(),
        (Place::Sequence(Sequence::BEFORE_ALL), false) => return Ok(()),
        (Place::Sequence(_), false) => {
            let topic = TopicName::new(id.selection.as_str())?;
            let extent = broker.extent(&topic).ok_or(Error::UnknownTopic(topic))?;
            extent.tail.previous().get()
        }
        (Place::Sequence(_), true) => {
            let pattern = id.selection.as_str();
            let problem = format!(
                "{cursor} is a sequence; a consumer of the pattern {pattern:?} has positions, like \
                 @1042"
            );
            return refused(problem);
        }
        (Place::Position(_), false) => {
            let topic = id.selection.as_str();
            let problem = format!(
                "{cursor} is a position; a consumer of the topic {topic:?} has sequences, like 42"
            );
            return refused(problem);
        }
    };
    match cursor.after.number() {
        number if number > last => refused(format!("{cursor} is ahead of the last event, {last}")),
        _ => Ok(()),
    }
}

impl Consumers {
    /// Returns the checkpoint at which a reader from `start` on begins; `None` before all.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`]; as [`check_cursor`].
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
                check_cursor(broker, id, cursor)?;
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

    /// Returns the sequences of topics at a checkpoint that is a position, if they are few.
    ///
    /// # Errors
    ///
    /// As [`Broker::read`].
    pub(super) async fn reach(&self, id: &ConsumerId, at: Cursor) -> Result<Reach> {
        let Place::Position(position) = at.after else { return Ok(Reach::default()) };
        let ends = self.0.broker.ends_in(&id.selection, position, MAX_REACH);
        Ok(ends.await?.unwrap_or_default().into())
    }
}
