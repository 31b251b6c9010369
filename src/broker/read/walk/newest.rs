//! A page of the newest events of one topic or of many.

use std::time::Duration;

use super::event_order::EventOrder;
use super::merge::{EventWalk, WalkAnswer, WalkBounds, WalkVisitor, WalkedEvent};
use super::selected::Selected;
use super::source::WalkTerms;
use crate::broker::filter::{Conditions, Filter};
use crate::broker::read::state::page::size_of;
use crate::broker::shared::Shared;
use crate::cursor::{Cursor, Place, Position, Sequence};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::topic::TopicName;

/// The longest search of a page for events that its filter picks.
const MAX_SEARCH: Duration = Duration::from_secs(1);

/// A request for a page of the newest events. The default is the newest 100 of all events.
///
/// ```
/// use leftoff::NewestRequest;
///
/// let request = NewestRequest::default().limit(20);
/// assert_eq!(request.before, None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewestRequest {
    /// The page has only events before this place: [`NewestPage::next`] of the page before.
    pub before: Option<Cursor>,
    /// The most events; 1 or more.
    pub limit: usize,
    /// The most bytes of events, if that is less than the broker's own bound. The first event fits,
    /// however large it is.
    pub max_bytes: usize,
    /// The filter that picks the page's events.
    pub filter: Filter,
    /// A second filter, which must pick them too: what the reader is permitted to read.
    pub(crate) permitted: Filter,
}

impl Default for NewestRequest {
    fn default() -> Self {
        let (filter, permitted) = Default::default();
        Self { before: None, limit: 100, max_bytes: usize::MAX, filter, permitted }
    }
}

impl NewestRequest {
    /// Returns this request for events before `place`.
    #[must_use]
    pub fn before(self, place: Cursor) -> Self {
        Self { before: Some(place), ..self }
    }

    /// Returns this request with `limit` as the most events; 1 or more.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns this request with `max_bytes` as the most bytes of events.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Returns this request for the events that `filter` picks.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }
}

/// An event with its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicEvent {
    /// The topic.
    pub topic: TopicName,
    /// The event.
    pub event: Event,
}

/// Events from the newest to the oldest.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewestPage {
    /// The events, the newest first.
    pub events: Vec<TopicEvent>,
    /// The place before which the next page begins; `None` if no event is left. A page may have
    /// fewer events than its limit, or none, although there is a next page: then the search took
    /// too long, and it came as far as this place.
    pub next: Option<Cursor>,
    /// The position at which the page is true. A reader that follows the topics from here on gets
    /// every event that is newer than those of the first page.
    pub position: Position,
}

/// The room of a page.
#[derive(Debug)]
pub(crate) struct WalkRoom {
    pub(crate) events: usize,
    pub(crate) bytes: usize,
    pub(crate) is_empty: bool,
}

impl WalkRoom {
    /// Returns the room of a page that is empty.
    pub(crate) fn new(limit: usize, max_bytes: usize) -> Self {
        Self { events: limit.max(1), bytes: max_bytes, is_empty: true }
    }

    /// Takes room for an event. Says whether the page goes on after it, or ends after or before it.
    /// The first event has room, however large it is.
    pub(crate) fn take(&mut self, topic: &TopicName, event: &Event) -> WalkAnswer {
        let size_bytes = topic.as_str().len() + size_of(event);
        if size_bytes > self.bytes && !self.is_empty {
            return WalkAnswer::EndBefore;
        }
        self.is_empty = false;
        self.events -= 1;
        self.bytes = self.bytes.saturating_sub(size_bytes);
        if self.events == 0 { WalkAnswer::EndAfter } else { WalkAnswer::GoOn }
    }
}

/// The events of a page as the walk gives them.
struct NewestEvents {
    events: Vec<TopicEvent>,
    room: WalkRoom,
}

impl WalkVisitor for NewestEvents {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        let (topic, event) = (walked.topic.clone(), walked.own());
        let taking = self.room.take(&topic, &event);
        if taking != WalkAnswer::EndBefore {
            self.events.push(TopicEvent { topic, event });
        }
        taking
    }
}

/// Reads a page of `selected`. Its places are positions if `has_positions`.
pub(crate) async fn read_newest(
    shared: &Shared,
    selected: Selected,
    has_positions: bool,
    request: NewestRequest,
) -> Result<NewestPage> {
    let NewestRequest { before, limit, max_bytes, filter, permitted } = request;
    let order = EventOrder::Newest;
    let at = walk_start(shared, order, has_positions, before)?;
    let position = selected.position;
    let filter = Conditions::default().and(filter)?.and(permitted)?;
    let max_bytes = shared.max_page_bytes.min(max_bytes);
    let (terms, bounds) = (WalkTerms { filter, position }, page_bounds(shared));
    let walk = EventWalk::begin(selected, (order, at), terms, bounds).await;
    let page = NewestEvents { events: Vec::new(), room: WalkRoom::new(limit, max_bytes) };
    let (page, end) = walk.run(shared, page).await?;
    let next = end.next.map(|after| Cursor { after, since: None, epoch: Some(shared.log.epoch()) });
    Ok(NewestPage { events: page.events, next, position })
}

/// Returns the bounds of a page.
pub(crate) fn page_bounds(shared: &Shared) -> WalkBounds {
    let max_held_bytes = shared.max_page_bytes;
    WalkBounds { max_looked: u64::MAX, max_time: MAX_SEARCH, max_held_bytes, is_page: true }
}

/// Returns the place at which a walk begins whose caller names `from`; the first one if it names
/// none.
///
/// # Errors
///
/// [`Error::Invalid`] with field `cursor`: the place is of the other kind, or of another epoch.
pub(crate) fn walk_start(
    shared: &Shared,
    order: EventOrder,
    has_positions: bool,
    from: Option<Cursor>,
) -> Result<Place> {
    let Some(cursor) = from else {
        let number = if order == EventOrder::Newest { u64::MAX } else { 0 };
        return Ok(match has_positions {
            true => Place::Position(Position::new(number)),
            false => Place::Sequence(Sequence::new(number)),
        });
    };
    let epoch = shared.log.epoch();
    if cursor.epoch.is_some_and(|of| of != epoch) {
        let problem = format!("{cursor} is from another epoch than {epoch}; begin again");
        return Err(Error::invalid("cursor", problem));
    }
    match (cursor.after, has_positions) {
        (Place::Position(_), true) | (Place::Sequence(_), false) => Ok(cursor.after),
        (Place::Sequence(_), true) => {
            let problem = format!("{cursor} is a sequence; pages of many topics take a position");
            Err(Error::invalid("cursor", problem))
        }
        (Place::Position(_), false) => {
            let problem = format!("{cursor} is a position; pages of one topic take a sequence");
            Err(Error::invalid("cursor", problem))
        }
    }
}
