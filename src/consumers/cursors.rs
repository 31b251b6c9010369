//! Checking the cursors that callers name.

use super::id::ConsumerId;
use crate::broker::Broker;
use crate::cursor::{Cursor, Place, Sequence};
use crate::error::{Error, Result};
use crate::topic::TopicName;

/// Checks that a cursor is a place of the consumer that exists. `field` names the cursor in the
/// request.
///
/// # Errors
///
/// [`Error::Invalid`] with `field`; [`Error::UnknownTopic`].
pub(super) fn check_cursor(
    broker: &Broker,
    id: &ConsumerId,
    (field, cursor): (&str, Cursor),
) -> Result<()> {
    check_kind(broker, id, (field, cursor))?;
    let last = match cursor.after {
        Place::Position(_) => broker.last_position().get(),
        Place::Sequence(Sequence::BEFORE_ALL) => return Ok(()),
        Place::Sequence(_) => {
            let topic = TopicName::new(id.selection.as_str())?;
            let extent = broker.extent(&topic).ok_or(Error::UnknownTopic(topic))?;
            extent.tail.previous().get()
        }
    };
    match cursor.after.number() {
        number if number > last => {
            let problem = format!("{cursor} is ahead of the last event, {last}");
            Err(Error::invalid(field, problem))
        }
        _ => Ok(()),
    }
}

/// Checks that a cursor is of this log, and of the kind that the consumer has.
///
/// # Errors
///
/// [`Error::Invalid`] with `field`.
pub(super) fn check_kind(
    broker: &Broker,
    id: &ConsumerId,
    (field, cursor): (&str, Cursor),
) -> Result<()> {
    let refused = |problem: String| Err(Error::invalid(field, problem));
    let epoch = broker.epoch();
    if let Some(other) = cursor.epoch.filter(|other| *other != epoch) {
        return refused(format!("{cursor} is of the epoch {other}; the log's is {epoch}"));
    }
    match (cursor.after, id.has_positions()) {
        (Place::Position(_), true) | (Place::Sequence(_), false) => Ok(()),
        (Place::Sequence(_), true) => {
            let pattern = id.selection.as_str();
            let problem = format!(
                "{cursor} is a sequence; a consumer of the pattern {pattern:?} has positions, like \
                 @1042"
            );
            refused(problem)
        }
        (Place::Position(_), false) => {
            let topic = id.selection.as_str();
            let problem = format!(
                "{cursor} is a position; a consumer of the topic {topic:?} has sequences, like 42"
            );
            refused(problem)
        }
    }
}
