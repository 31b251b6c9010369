//! Pages of inboxes and of their groups, as messages.

use std::str::FromStr;

use super::super::budget::{Held, Share};
use super::{consumed, keeping};
use crate::broker::EventOrder;
use crate::consumers::{EventGroup, GroupRequest, InboxEvent, InboxRequest, MarkFilter};
use crate::cursor::{Cursor, Position};
use crate::edge::bounds::PIECE_BYTES;
use crate::edge::consumers::asking::ConsumerUse;
use crate::edge::consumers::inboxes::{self, at_position, newest_place};
use crate::edge::consumers::revision;
use crate::edge::grpc::messages;
use crate::edge::page_token::page_limit;
use crate::edge::permit::Permit;
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};

/// Reads a page of an inbox, and returns it with its memory.
///
/// # Errors
///
/// As [`keeping::found`] and [`Consumers::inbox`](crate::consumers::Consumers::inbox).
pub(super) async fn inbox(
    edge: &Edge,
    permit: &Permit,
    request: proto::ReadInboxRequest,
    share: &Share,
) -> Result<(proto::ReadInboxResponse, Held)> {
    let proto::ReadInboxRequest { consumer, marks, filter, order, page_size, page_token } = request;
    let found = keeping::found(edge, consumer, ConsumerUse::Read, permit).await?;
    let order = match proto::PageOrder::try_from(order) {
        Ok(proto::PageOrder::Unspecified | proto::PageOrder::Newest) => EventOrder::Newest,
        Ok(proto::PageOrder::Oldest) => EventOrder::Oldest,
        Err(_) => return Err(Error::invalid("order", format!("{order} is not known"))),
    };
    let mut held = inboxes::room(share)?;
    let limit = page_limit("page_size", page_size.into(), edge.config.max_page_events)?;
    let mut asked = InboxRequest::default().order(order).limit(limit).marks(marks_of(marks));
    asked = asked.max_bytes(held.size_bytes() - PIECE_BYTES);
    asked = asked.filter(messages::filter(filter)).permitted(permit.filter());
    asked.from = place(&page_token)?;
    let is_first = asked.from.is_none() && order == EventOrder::Newest;
    let before = is_first.then(|| newest_place(&edge.broker, &found.id)).flatten();
    let page = found.consumers.inbox(&found.id, asked).await?;
    held.keep(page.events.iter().map(inboxes::event_bytes).sum::<usize>() + PIECE_BYTES);
    let shown = shown(edge, before, is_first, page.position);
    let response = proto::ReadInboxResponse {
        events: page.events.into_iter().map(event_of).collect(),
        next_page_token: text_of(page.next),
        cursor: text_of(shown),
        revision: revision(page.revision, edge.broker.epoch()),
    };
    Ok((response, held))
}

/// Reads a page of groups, and returns it with its memory.
///
/// # Errors
///
/// As [`keeping::found`] and [`Consumers::groups`](crate::consumers::Consumers::groups).
pub(super) async fn groups(
    edge: &Edge,
    permit: &Permit,
    request: proto::ReadGroupsRequest,
    share: &Share,
) -> Result<(proto::ReadGroupsResponse, Held)> {
    let proto::ReadGroupsRequest { consumer, group_by, actors, marks, filter, .. } = request;
    let proto::ReadGroupsRequest { page_size, page_token, .. } = request;
    let found = keeping::found(edge, consumer, ConsumerUse::Read, permit).await?;
    let max_counted = found.consumers.config().max_counted;
    let (mut held, (page_bytes, max_keys)) = inboxes::groups_room(share, max_counted)?;
    let limit = page_limit("page_size", page_size.into(), edge.config.max_page_events)?;
    let mut asked = GroupRequest::default().limit(limit).marks(marks_of(marks)).actors(actors);
    asked = asked.max_bytes(page_bytes).max_keys(max_keys);
    asked = asked.filter(messages::filter(filter)).permitted(permit.filter());
    asked.by = inboxes::group_by(&group_by)?;
    asked.from = place(&page_token)?;
    let is_first = asked.from.is_none();
    let before = is_first.then(|| newest_place(&edge.broker, &found.id)).flatten();
    let page = found.consumers.groups(&found.id, asked).await?;
    held.keep(page.groups.iter().map(inboxes::group_bytes).sum::<usize>() + PIECE_BYTES);
    let shown = shown(edge, before, is_first, page.position);
    let response = proto::ReadGroupsResponse {
        groups: page.groups.into_iter().map(group_of).collect(),
        next_page_token: text_of(page.next),
        cursor: text_of(shown),
        revision: revision(page.revision, edge.broker.epoch()),
        more_than: page.more_than,
    };
    Ok((response, held))
}

fn event_of(listed: InboxEvent) -> proto::InboxEvent {
    let InboxEvent { topic, event, marks, .. } = listed;
    let event = proto::Event { topic: topic.to_string(), ..messages::own_event(event) };
    proto::InboxEvent { event: Some(event), marks: Some(consumed::event_marks(&marks)) }
}

fn group_of(group: EventGroup) -> proto::EventGroup {
    proto::EventGroup {
        group: group.key,
        latest: Some(event_of(group.latest)),
        count: group.events,
        unseen: group.unseen,
        unread: group.unread,
        actors: group.actors,
        archived: group.archived,
        snoozed: group.snoozed,
        more_actors: group.has_more_actors,
    }
}

fn marks_of(marks: Option<proto::MarkFilter>) -> MarkFilter {
    inboxes::marks(consumed::mark_filter(marks.unwrap_or_default()))
}

/// Returns the place that a token names.
fn place<T: FromStr>(token: &str) -> Result<Option<T>> {
    match token {
        "" => Ok(None),
        token => {
            let malformed = |_| Error::invalid("page_token", "was not given by a page");
            token.parse().map(Some).map_err(malformed)
        }
    }
}

fn text_of(cursor: Option<impl ToString>) -> String {
    cursor.map(|cursor| cursor.to_string()).unwrap_or_default()
}

/// Returns the place up to which a first page shows the list.
fn shown(
    edge: &Edge,
    before: Option<Cursor>,
    is_first: bool,
    position: Position,
) -> Option<Cursor> {
    before.or_else(|| is_first.then(|| at_position(position, edge.broker.epoch())))
}
