//! Checking the cursors that callers name.

use super::id::ConsumerId;
use crate::broker::Broker;
use crate::cursor::{Cursor, Place, Sequence};
use crate::error::{Error, Result};
use crate::topic::TopicName;

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
