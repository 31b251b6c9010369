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

/// The memory of one key of a group, in bytes, while the tables that it is in grow.
const KEY_BYTES: usize = 100;

/// The most keys of groups that one search remembers.
const MAX_KEYS: usize = 1 << 20;

/// Takes the memory of a page. With little of it, the page has fewer events: what is taken less
/// [`PIECE_BYTES`].
///
/// # Errors
///
/// [`Error::NoRoom`].
pub(in crate::edge) fn room(share: &Share) -> Result<Held> {
    share.take_up_to(MAX_LISTED_BYTES + PIECE_BYTES, 2 * PIECE_BYTES)
}

/// Takes the memory of a page of groups: that of the page, and that of the keys that the search
/// remembers, of up to `max_counted` events. Returns it with the bytes for the page, and the number
/// of keys. With little memory there are fewer of both.
///
/// # Errors
///
/// [`Error::NoRoom`].
pub(in crate::edge) fn groups_room(
    share: &Share,
    max_counted: u64,
) -> Result<(Held, (usize, usize))> {
    let keys_bytes = usize::try_from(max_counted).unwrap_or(usize::MAX).min(MAX_KEYS) * KEY_BYTES;
    let held = share.take_up_to(MAX_LISTED_BYTES + PIECE_BYTES + keys_bytes, 3 * PIECE_BYTES)?;
    let free_bytes = held.size_bytes() - PIECE_BYTES;
    let page_bytes = MAX_LISTED_BYTES.min(free_bytes / 2);
    Ok((held, (page_bytes, (free_bytes - page_bytes) / KEY_BYTES)))
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

/// Returns the place of the newest event of a topic: before all events if there is no such topic.
pub(in crate::edge) fn newest_place_of(broker: &Broker, topic: &TopicName) -> Cursor {
    let tail = broker.topic(topic).map(|info| info.extent.tail);
    let last = tail.map_or(Sequence::BEFORE_ALL, Sequence::previous);
    Cursor::after(last, broker.epoch())
}

/// Returns the place of the newest event of a consumer of one topic; `None` if it reads a pattern.
/// Taken before a page, it is a place up to which the page shows everything.
pub(in crate::edge) fn newest_place(broker: &Broker, id: &ConsumerId) -> Option<Cursor> {
    let topic = id.selection.is_name().then(|| TopicName::new(id.selection.as_str()))?;
    Some(newest_place_of(broker, &topic.ok()?))
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
