//! What a page of groups is asked and what it answers.

use std::fmt;
use std::str::FromStr;

use super::page::{InboxEvent, InboxRequest};
use crate::broker::Filter;
use crate::consumers::marks::MarkFilter;
use crate::cursor::{Cursor, Epoch, Place, Position};
use crate::error::{Error, Result};

/// The most actors of a group.
pub(super) const MAX_ACTORS: usize = 32;

/// The number of actors of a group for a caller who names none.
const DEFAULT_ACTORS: usize = 3;

/// What the events of a group have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GroupBy {
    /// The key.
    #[default]
    Key,
    /// The value of the header with this name.
    Header(String),
}

/// A request for a page of groups. The default is the newest 100 groups of the inbox by key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupRequest {
    /// What the events of a group have in common. An event that does not have it is a group of its
    /// own.
    pub by: GroupBy,
    /// The header whose newest values in a group are told, such as who did it; none if it is empty.
    pub actors: String,
    /// The most actors of a group, up to 32.
    pub max_actors: usize,
    /// The end of the page before: [`GroupPage::next`].
    pub from: Option<GroupCursor>,
    /// The most groups; 1 or more.
    pub limit: usize,
    /// The most bytes of groups, if that is less than the broker's own bound. The first group fits,
    /// however large it is.
    pub max_bytes: usize,
    /// The most groups that the search remembers, on this page or not. It ends at one more, as it
    /// ends at `consumers.max_counted` events.
    pub(crate) max_keys: usize,
    /// The marks that the events have. A group without such an event is left out.
    pub marks: MarkFilter,
    /// The filter that picks the events, of those that the consumer's own filter picks.
    pub filter: Filter,
    /// A second filter, which must pick them too: what the caller is permitted to read.
    pub(crate) permitted: Filter,
}

impl Default for GroupRequest {
    fn default() -> Self {
        let InboxRequest { limit, max_bytes, marks, filter, permitted, .. } =
            InboxRequest::default();
        let (by, actors, max_actors) = (GroupBy::Key, String::new(), DEFAULT_ACTORS);
        Self {
            by,
            actors,
            max_actors,
            from: None,
            limit,
            max_bytes,
            max_keys: usize::MAX,
            marks,
            filter,
            permitted,
        }
    }
}

impl GroupRequest {
    /// Returns this request with groups by the value of a header.
    #[must_use]
    pub fn by_header(self, name: impl Into<String>) -> Self {
        Self { by: GroupBy::Header(name.into()), ..self }
    }

    /// Returns this request with the newest values of a header as the actors of a group.
    #[must_use]
    pub fn actors(self, header: impl Into<String>) -> Self {
        Self { actors: header.into(), ..self }
    }

    /// Returns this request with `count` as the most actors of a group, up to 32.
    #[must_use]
    pub fn max_actors(self, count: usize) -> Self {
        Self { max_actors: count, ..self }
    }

    /// Returns this request for the page after the one that ended at `place`.
    #[must_use]
    pub fn from(self, place: GroupCursor) -> Self {
        Self { from: Some(place), ..self }
    }

    /// Returns this request with `limit` as the most groups; 1 or more.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns this request with `max_bytes` as the most bytes of groups.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Returns this request for events with these marks.
    #[must_use]
    pub fn marks(self, marks: MarkFilter) -> Self {
        Self { marks, ..self }
    }

    /// Returns this request for the events that `filter` picks.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// Returns this request with `max_keys` as the most groups that the search remembers.
    pub(crate) fn max_keys(self, max_keys: usize) -> Self {
        Self { max_keys, ..self }
    }

    /// Returns this request for what a caller is permitted to read.
    pub(crate) fn permitted(self, permitted: Filter) -> Self {
        Self { permitted, ..self }
    }
}

/// The place between two pages of groups, as a text: `@1042~987-9f3c2a1b` is the place after the
/// group whose newest event is at position 987, in the list as of position 1042.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct GroupCursor {
    /// The position as of which all pages of the list are.
    pub at: Position,
    /// The position of the newest event of the last group.
    pub before: Position,
    /// The epoch of the log.
    pub epoch: Option<Epoch>,
}

impl fmt::Display for GroupCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, before, epoch } = *self;
        Cursor { after: Place::Position(at), since: Some(before.get()), epoch }.fmt(f)
    }
}

impl FromStr for GroupCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed = || {
            let shown: String = text.chars().take(64).collect();
            let problem = format!("{shown:?} is no place in a list of groups");
            Error::invalid("cursor", problem)
        };
        let cursor: Cursor = text.parse().map_err(|_| malformed())?;
        let (Place::Position(at), Some(before)) = (cursor.after, cursor.since) else {
            return Err(malformed());
        };
        Ok(Self { at, before: Position::new(before), epoch: cursor.epoch })
    }
}

/// The events of one thing. All numbers are of the events that the request picks, with the marks
/// that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventGroup {
    /// The key, or the value of the header, that the events have in common; `None` for an event
    /// without it.
    pub key: Option<String>,
    /// The newest of the events, with its marks.
    pub latest: InboxEvent,
    /// The number of the events.
    pub events: u64,
    /// The events that are not seen.
    pub unseen: u64,
    /// The events that are not read.
    pub unread: u64,
    /// The events that are archived. If these are all, the whole group is.
    pub archived: u64,
    /// The events that are snoozed now.
    pub snoozed: u64,
    /// The newest values of the header that names actors, each once, the newest first.
    pub actors: Vec<String>,
    /// Whether there are more actors.
    pub has_more_actors: bool,
}

impl EventGroup {
    /// Returns the group of this event, which is not counted yet.
    pub(super) fn of(key: Option<&str>, latest: InboxEvent) -> Self {
        Self {
            key: key.map(str::to_owned),
            latest,
            events: 0,
            unseen: 0,
            unread: 0,
            archived: 0,
            snoozed: 0,
            actors: Vec::new(),
            has_more_actors: false,
        }
    }
}

/// Some of a consumer's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupPage {
    /// The groups, in the order of their newest events.
    pub groups: Vec<EventGroup>,
    /// The place at which the next page begins; `None` if no group is left.
    pub next: Option<GroupCursor>,
    /// Whether older events were not looked at, because there are more than
    /// `consumers.max_counted`, or more groups than there is memory for. The numbers of the groups
    /// are lower bounds then.
    pub more_than: bool,
    /// The position as of which the list is.
    pub position: Position,
    /// The revision of the consumer whose marks these are.
    pub revision: Position,
}
