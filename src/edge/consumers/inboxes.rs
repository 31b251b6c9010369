//! Pages of inboxes on every edge: their memory, their conditions, and the place that they show.

use crate::broker::{Broker, TopicEvent};
use crate::consumers::{ConsumerId, EventGroup, GroupBy, InboxEvent, MarkFilter};
use crate::cursor::{Cursor, Epoch, Place, Position, Sequence};
use crate::edge::bounds::PIECE_BYTES;
use crate::edge::budget::{Held, Share};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::topic::TopicName;

/// The memory for the events of one page, in bytes, if there is room: the broker's default for a
/// page.
const MAX_LISTED_BYTES: usize = 3 << 20;

/// Takes the memory of a page. With little of it, the page has fewer events: what is taken less
/// [`PIECE_BYTES`].
///
/// # Errors
///
/// [`Error::NoRoom`].
pub(in crate::edge) fn room(share: &Share) -> Result<Held> {
    share.take_up_to(MAX_LISTED_BYTES + PIECE_BYTES, 2 * PIECE_BYTES)
}

/// Returns the approximate memory of an event, in bytes.
fn stored_bytes(topic: &TopicName, event: &Event) -> usize {
    std::mem::size_of::<Event>() + topic.as_str().len() + event.content.content_bytes()
}

/// Returns the conditions of a page: what is neither archived nor snoozed, unless the request asks
/// for that.
pub(in crate::edge) fn marks(mut asked: MarkFilter) -> MarkFilter {
    let (archived, snoozed) = (asked.archived, asked.snoozed);
    if archived.is_none() && snoozed != Some(true) {
        asked.archived = Some(false);
    }
    if snoozed.is_none() && archived != Some(true) {
        asked.snoozed = Some(false);
    }
    asked
}

/// Returns what makes a group.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(in crate::edge) fn group_by(by: &str) -> Result<GroupBy> {
    match (by, by.strip_prefix("header:")) {
        ("key", _) => Ok(GroupBy::Key),
        (_, Some(header)) if !header.is_empty() => Ok(GroupBy::Header(header.to_owned())),
        _ => {
            let problem = format!("{by:?} is neither key nor like header:NAME");
            Err(Error::invalid("group_by", problem))
        }
    }
}

/// Returns the cursor after a position.
pub(in crate::edge) fn at_position(position: Position, epoch: Epoch) -> Cursor {
    Cursor { after: Place::Position(position), since: None, epoch: Some(epoch) }
}

/// Returns the place of the newest event of a topic; `None` if there is no such topic.
pub(in crate::edge) fn newest_place_of(broker: &Broker, topic: &TopicName) -> Option<Cursor> {
    let tail = broker.topic(topic).ok()?.extent.tail;
    let last = Sequence::new(tail.get().saturating_sub(1));
    Some(Cursor::after(last, broker.epoch()))
}

/// Returns the place of the newest event of a consumer of one topic; `None` if it reads a pattern.
/// Taken before a page, it is a place up to which the page shows everything.
pub(in crate::edge) fn newest_place(broker: &Broker, id: &ConsumerId) -> Option<Cursor> {
    let topic = id.selection.is_name().then(|| TopicName::new(id.selection.as_str()))?;
    newest_place_of(broker, &topic.ok()?)
}

/// Returns the approximate memory of an event with its topic, in bytes.
pub(in crate::edge) fn topic_event_bytes(listed: &TopicEvent) -> usize {
    stored_bytes(&listed.topic, &listed.event)
}

/// Returns the approximate memory of an event of an inbox, in bytes.
pub(in crate::edge) fn event_bytes(listed: &InboxEvent) -> usize {
    stored_bytes(&listed.topic, &listed.event)
}

/// Returns the approximate memory of a group, in bytes.
pub(in crate::edge) fn group_bytes(group: &EventGroup) -> usize {
    let actors = group.actors.iter().map(|actor| size_of::<String>() + actor.len());
    let key_bytes = group.key.as_ref().map_or(0, String::len);
    key_bytes + event_bytes(&group.latest) + actors.sum::<usize>()
}
