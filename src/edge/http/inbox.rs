//! Pages that are lists: the newest events first, the inbox of a consumer, and its groups.

use axum::response::Response;
use serde_json::json;

use super::asked::Asked;
use super::page_body;
use super::query::Query;
use crate::broker::{EventOrder, Filter, NewestRequest, TopicEvent};
use crate::consumers::{
    EventGroup, GroupBy, GroupCursor, GroupRequest, InboxEvent, InboxRequest, MarkFilter,
};
use crate::cursor::{Cursor, StartPoint};
use crate::edge::bounds::PIECE_BYTES;
use crate::edge::budget::Share;
use crate::edge::clients::share;
use crate::edge::consumers::asking::{Found, ReadAs};
use crate::edge::consumers::{answers, inboxes, revision as revision_text};
use crate::edge::cut_topics::{CUT_HEADER, cut_header};
use crate::edge::permit::Permit;
use crate::edge::selection::{self, TopicSelection};
use crate::edge::selection_forms::Format;
use crate::edge::{Edge, json};
use crate::error::{Error, Result};

/// The parameters of a list.
const LIST_NAMES: &str = "order, before, after, limit, strict, type, key, key_prefix, header, \
                          consumer, owner, seen, read, archived, snoozed, group_by, actors";

/// Entries of a page, if the request names no number.
const DEFAULT_LISTED: u64 = 100;

/// A page that is a list.
#[derive(Debug)]
pub(super) struct ListedRequest {
    order: EventOrder,
    /// `None` without any condition on marks.
    marks: Option<MarkFilter>,
    groups: Option<GroupsAsked>,
}

#[derive(Debug)]
struct GroupsAsked {
    by: GroupBy,
    actors: Option<String>,
}

/// The request of a page, besides its topics.
struct ListedPage {
    start: Option<StartPoint>,
    before: Option<String>,
    filter: Filter,
    limit: usize,
    share: Share,
}

impl ListedRequest {
    /// Takes what makes a page a list out of its query; `None` for a page in the order of time.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an invalid value, and for what needs a consumer without one.
    pub(super) fn take(query: &mut Query, has_consumer: bool) -> Result<Option<Self>> {
        let order = query.take("order").map(|order| order_of(&order)).transpose()?;
        let mut marks = None;
        for name in ["seen", "read", "archived", "snoozed"] {
            let Some(wanted) = query.take_choice(name)? else { continue };
            check_consumer(name, has_consumer)?;
            let filter = marks.get_or_insert_with(MarkFilter::default);
            *match name {
                "seen" => &mut filter.seen,
                "read" => &mut filter.read,
                "archived" => &mut filter.archived,
                _ => &mut filter.snoozed,
            } = Some(wanted);
        }
        let by = query.take("group_by").map(|by| inboxes::group_by(&by)).transpose()?;
        let groups = match by {
            Some(by) => {
                check_consumer("group_by", has_consumer)?;
                Some(GroupsAsked { by, actors: query.take("actors") })
            }
            None => None,
        };
        let is_list = match (order, has_consumer) {
            (Some(EventOrder::Oldest), false) => false, // The order of every page.
            (order, _) => order.is_some() || marks.is_some() || groups.is_some(),
        };
        let order = order.unwrap_or_default();
        Ok(is_list.then_some(Self { order, marks, groups }))
    }
}

fn order_of(order: &str) -> Result<EventOrder> {
    match order {
        "newest" => Ok(EventOrder::Newest),
        "oldest" => Ok(EventOrder::Oldest),
        _ => Err(Error::invalid("order", format!("{order:?} is not one of newest, oldest"))),
    }
}

fn check_consumer(name: &str, has_consumer: bool) -> Result<()> {
    match has_consumer {
        true => Ok(()),
        false => Err(Error::invalid(name, "needs consumer=NAME, whose marks are looked at")),
    }
}

impl Edge {
    /// Answers with a page that is a list.
    pub(super) async fn listed(
        &self,
        listed: ListedRequest,
        asked: Asked,
        mut query: Query,
    ) -> Result<Response> {
        let Asked { topics, is_strict, start, on_gap, filter, format, .. } = asked;
        let Asked { consumer, member, peer, permit, .. } = asked;
        let needless = [
            ("member", member.is_some(), "needs a stream: a member is present while it is open"),
            ("on_gap", on_gap.is_some(), "means nothing in a list: what is gone is left out"),
            (
                "format",
                format.is_some_and(|format| format != Format::Envelope),
                "is not possible for a list, which has envelopes",
            ),
        ];
        if let Some((name, _, problem)) = needless.into_iter().find(|(_, is_given, _)| *is_given) {
            return Err(Error::invalid(name, problem));
        }
        let before = query.take("before");
        let limit = query.take_number("limit")?.unwrap_or(DEFAULT_LISTED);
        query.finish(LIST_NAMES)?;
        if limit == 0 || limit > self.config.max_page_events {
            let problem = format!("{limit} is not within 1 to {}", self.config.max_page_events);
            return Err(Error::invalid("limit", problem));
        }
        let share = share(peer.as_ref());
        let page = ListedPage { start, before, filter, limit: limit as usize, share };
        match consumer {
            None => self.newest((topics, is_strict), page, &permit).await,
            Some(ReadAs { named, .. }) => {
                let (_, found) = selection::found(topics, named, &permit, self).await?;
                match listed.groups {
                    Some(_) => self.groups(&found, listed, page, permit.filter()).await,
                    None => self.inbox(&found, listed, page, permit.filter()).await,
                }
            }
        }
    }

    /// Answers with the newest events of topics, without marks.
    async fn newest(
        &self,
        (topics, is_strict): (TopicSelection, bool),
        page: ListedPage,
        permit: &Permit,
    ) -> Result<Response> {
        let from = page.place(EventOrder::Newest)?;
        let ListedPage { filter, limit, share, .. } = page;
        let mut held = inboxes::room(&share)?;
        let epoch = self.broker.epoch();
        let selection = topics.one().filter(|_| from.is_none());
        let before = selection.map(|topic| inboxes::newest_place_of(&self.broker, topic));
        let mut request = NewestRequest::default().limit(limit).filter(filter);
        request = request.max_bytes(held.size_bytes() - PIECE_BYTES);
        request.before = from;
        let newest = selection::newest((topics, is_strict), request, permit, &self.broker);
        let (page, not_read) = newest.await?;
        let shown = || inboxes::at_position(page.position, epoch);
        let shown = before.or_else(|| from.is_none().then(shown));
        let mut end = json!({"next": page.next, "cursor": shown});
        if !not_read.denied.is_empty() {
            end["denied"] = json!(not_read.denied);
        }
        held.keep(page.events.iter().map(inboxes::topic_event_bytes).sum::<usize>() + PIECE_BYTES);
        let texts = page
            .events
            .into_iter()
            .map(|TopicEvent { topic, event, .. }| json::event(&topic, &event));
        let text = page_body::list(json::PAGE_BEGIN.to_vec(), texts, json::end(&end));
        let mut response = page_body::answer_holding(text, held).await;
        let cut = cut_header(&not_read.cut_to).map(|topics| (CUT_HEADER, topics));
        response.headers_mut().extend(cut);
        Ok(response)
    }

    /// Answers with a page of the inbox of a consumer.
    async fn inbox(
        &self,
        found: &Found,
        listed: ListedRequest,
        page: ListedPage,
        permitted: Filter,
    ) -> Result<Response> {
        let from = page.place(listed.order)?;
        let ListedPage { filter, limit, share, .. } = page;
        let mut held = inboxes::room(&share)?;
        let is_first = from.is_none() && listed.order == EventOrder::Newest;
        let before = is_first.then(|| inboxes::newest_place(&self.broker, &found.id)).flatten();
        let mut request = InboxRequest::default().order(listed.order).limit(limit).filter(filter);
        request = request.marks(inboxes::marks(listed.marks.unwrap_or_default()));
        request = request.max_bytes(held.size_bytes() - PIECE_BYTES).permitted(permitted);
        request.from = from;
        let page = found.consumers.inbox(&found.id, request).await?;
        held.keep(page.events.iter().map(inboxes::event_bytes).sum::<usize>() + PIECE_BYTES);
        let epoch = self.broker.epoch();
        let shown = || inboxes::at_position(page.position, epoch);
        let end = json::end(&json!({
            "next": page.next,
            "cursor": before.or_else(|| is_first.then(shown)),
            "revision": revision_text(page.revision, epoch),
        }));
        let texts = page.events.into_iter().map(event_with_marks);
        let text = page_body::list(json::PAGE_BEGIN.to_vec(), texts, end);
        Ok(page_body::answer_holding(text, held).await)
    }

    /// Answers with a page of the groups of a consumer's inbox.
    async fn groups(
        &self,
        found: &Found,
        listed: ListedRequest,
        page: ListedPage,
        permitted: Filter,
    ) -> Result<Response> {
        let ListedRequest { order, marks, groups } = listed;
        if order == EventOrder::Oldest {
            let problem = "oldest is for lists of events; groups begin with the newest event";
            return Err(Error::invalid("order", problem));
        }
        if let Some(start) = page.start {
            return Err(no_start(start));
        }
        let ListedPage { before, filter, limit, share, .. } = page;
        let max_counted = found.consumers.config().max_counted;
        let (mut held, (page_bytes, max_keys)) = inboxes::groups_room(&share, max_counted)?;
        let from = before.map(|before| before.parse::<GroupCursor>()).transpose()?;
        let is_first = from.is_none();
        let before = is_first.then(|| inboxes::newest_place(&self.broker, &found.id)).flatten();
        let mut request = GroupRequest::default().limit(limit).filter(filter);
        request = request.marks(inboxes::marks(marks.unwrap_or_default()));
        request = request.max_bytes(page_bytes).max_keys(max_keys).permitted(permitted);
        request.from = from;
        if let Some(GroupsAsked { by, actors }) = groups {
            (request.by, request.actors) = (by, actors.unwrap_or_default());
        }
        let page = found.consumers.groups(&found.id, request).await?;
        held.keep(page.groups.iter().map(inboxes::group_bytes).sum::<usize>() + PIECE_BYTES);
        let epoch = self.broker.epoch();
        let shown = || inboxes::at_position(page.position, epoch);
        let end = json::end(&json!({
            "next": page.next.map(|next| next.to_string()),
            "more_than": page.more_than,
            "cursor": before.or_else(|| is_first.then(shown)),
            "revision": revision_text(page.revision, epoch),
        }));
        let texts = page.groups.into_iter().map(group);
        let text = page_body::list(b"{\"groups\":[".to_vec(), texts, end);
        Ok(page_body::answer_holding(text, held).await)
    }
}

impl ListedPage {
    /// Returns the place before which, or after which, the page begins.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the name does not fit the order, or the value is no cursor.
    fn place(&self, order: EventOrder) -> Result<Option<Cursor>> {
        match (order, self.start, &self.before) {
            (_, None, None) => Ok(None),
            (EventOrder::Newest, None, Some(before)) => before.parse().map(Some),
            (EventOrder::Oldest, Some(StartPoint::After(cursor)), None) => Ok(Some(cursor)),
            (EventOrder::Newest, Some(start), _) => Err(no_start(start)),
            (EventOrder::Oldest, _, Some(_)) => {
                let problem = "is for the newest first; with order=oldest write after=CURSOR";
                Err(Error::invalid("before", problem))
            }
            (EventOrder::Oldest, ..) => {
                let problem = "means nothing with order=oldest; write after=CURSOR, of a page";
                Err(Error::invalid("from", problem))
            }
        }
    }
}

/// Returns the error of a list that begins with the newest event, for a request that begins at
/// `start`.
fn no_start(start: StartPoint) -> Error {
    let field = match start {
        StartPoint::After(_) => "after",
        _ => "from",
    };
    Error::invalid(field, "is for pages in the order of time; here write before=CURSOR")
}

/// Returns an event of an inbox as JSON.
fn event_with_marks(listed: InboxEvent) -> Vec<u8> {
    let InboxEvent { topic, event, marks, .. } = listed;
    let mut text = json::event(&topic, &event);
    text.pop(); // The closing brace.
    text.extend(format!(",\"marks\":{}}}", answers::event_marks(&marks)).into_bytes());
    text
}

/// Returns a group as JSON.
fn group(group: EventGroup) -> Vec<u8> {
    let numbers = json!({
        "group": group.key,
        "count": group.events,
        "unseen": group.unseen,
        "unread": group.unread,
        "archived": group.archived,
        "snoozed": group.snoozed,
        "actors": group.actors,
        "more_actors": group.has_more_actors,
    });
    let mut text = numbers.to_string().into_bytes();
    text.pop(); // The closing brace.
    text.extend(b",\"latest\":");
    text.extend(event_with_marks(group.latest));
    text.push(b'}');
    text
}
