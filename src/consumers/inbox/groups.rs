//! A consumer's events, grouped when they are read: one entry for all events of a key, or of a
//! header's value.
//!
//! ```text
//! events, the newest first    a3  b2  a2  c1  b1  a1
//! groups                      a: a3, 3 events    b: b2, 2 events    c: c1, 1 event
//! ```
//!
//! # Why
//!
//! Nothing is merged in the log: digests that are merged when they are written lose events when a
//! merge is tried again, and cannot be taken apart when one of them is archived. A page looks at
//! all events of the selection, because a group's number counts all of them.
//! `consumers.max_counted` bounds that.
//!
//! Groups are in the order of their newest events, whatever the marks of these are. So a group does
//! not move when its newest event is archived between two pages. All pages of a list are read as of
//! the position of the first one, so new events move no group either.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::group_page::{EventGroup, GroupBy, GroupCursor, GroupPage, GroupRequest, MAX_ACTORS};
use super::marks_of;
use super::page::InboxEvent;
use crate::broker::{EventOrder, EventRef, WalkAnswer, WalkVisitor, WalkedEvent};
use crate::consumers::Consumers;
use crate::consumers::id::ConsumerId;
use crate::consumers::marks::{EventMarks, MarkFilter};
use crate::consumers::requests::ConsumerState;
use crate::cursor::{Place, Position};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::polls;

/// The bytes that a group takes in a page besides its event, its key and its actors.
const GROUP_BYTES: usize = 256;

/// A group's key as a hash with secrets of the process, so that two keys are not taken for one.
type KeyHash = (u64, u64);

/// A group that the page may have, with the number of its place.
struct Candidate {
    /// The position of its newest event, whatever the marks of that are.
    place: u64,
    /// Boxed, because most candidates may have no event with the wanted marks.
    group: Option<Box<EventGroup>>,
}

/// The groups of a page, as the walk gives their events.
struct Groups {
    state: ConsumerState,
    now: Timestamp,
    by: GroupBy,
    actors: String,
    max_actors: usize,
    marks: MarkFilter,
    limit: usize,
    max_bytes: usize,
    /// The most keys that are remembered.
    max_keys: usize,
    /// Groups whose newest events are at this position or later are in earlier pages.
    before: u64,
    hashers: (RandomState, RandomState),
    /// The keys of groups that are in earlier pages, and in later ones as far as they are known.
    others: HashSet<KeyHash>,
    candidates: HashMap<KeyHash, Candidate>,
    /// The groups that the page has as far as is known, by their places.
    page: BTreeMap<u64, (KeyHash, usize)>,
    page_bytes: usize,
    /// Whether groups were left out that the page has no room for.
    is_full: bool,
}

impl WalkVisitor for Groups {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        let place = walked.event.position.get();
        let (key, hash) = self.key_of(&walked.event);
        if self.others.contains(&hash) {
            return WalkAnswer::GoOn;
        }
        if !self.candidates.contains_key(&hash) {
            let is_later = self.is_full && self.page.keys().next().is_none_or(|last| place < *last);
            if is_later {
                return WalkAnswer::GoOn;
            }
            if self.candidates.len() + self.others.len() >= self.max_keys {
                return WalkAnswer::EndBefore; // The page says that there may be more.
            }
            if place >= self.before {
                self.others.insert(hash);
                return WalkAnswer::GoOn;
            }
            self.candidates.insert(hash, Candidate { place, group: None });
        }
        let marks = marks_of(&self.state.marks, walked, self.now);
        if self.marks.picks(&marks) {
            self.add(walked, key, hash, marks);
        }
        WalkAnswer::GoOn
    }
}

impl Groups {
    /// Returns the key of an event's group, and its hash.
    fn key_of<'a>(&self, event: &EventRef<'a>) -> (Option<&'a str>, KeyHash) {
        let key = match &self.by {
            GroupBy::Key => Some(event.key).filter(|key| !key.is_empty()),
            GroupBy::Header(wanted) => {
                event.headers().find(|(name, _)| name == wanted).map(|(_, value)| value)
            }
        };
        // An event without a key has a group of its own.
        let place = key.map_or(event.position.get(), |_| 0);
        let hash = |hasher: &RandomState| hasher.hash_one((key, place));
        (key, (hash(&self.hashers.0), hash(&self.hashers.1)))
    }

    /// Adds an event with the wanted marks to its group.
    fn add(
        &mut self,
        walked: &WalkedEvent<'_>,
        key: Option<&str>,
        hash: KeyHash,
        marks: EventMarks,
    ) {
        let Some(candidate) = self.candidates.get_mut(&hash) else { return };
        let is_new = candidate.group.is_none();
        let group = candidate.group.get_or_insert_with(|| {
            let latest = InboxEvent { topic: walked.topic.clone(), event: walked.own(), marks };
            Box::new(EventGroup::of(key, latest))
        });
        group.events += 1;
        group.unseen += u64::from(!marks.seen);
        group.unread += u64::from(!marks.read);
        group.archived += u64::from(marks.archived);
        group.snoozed += u64::from(marks.snoozed_until.is_some());
        let mut size_bytes = 0;
        let actor = walked.event.headers().find(|(name, _)| *name == self.actors);
        if let Some((_, actor)) = actor.filter(|_| !self.actors.is_empty()) {
            if group.actors.iter().any(|other| other == actor) {
                // It has done something later, too.
            } else if group.actors.len() < self.max_actors {
                group.actors.push(actor.to_owned());
                size_bytes += size_of::<String>() + actor.len();
            } else {
                group.has_more_actors = true;
            }
        }
        let place = candidate.place;
        if is_new {
            let key_bytes = group.key.as_ref().map_or(0, String::len);
            size_bytes += GROUP_BYTES + key_bytes + walked.event.size_bytes();
            self.page.insert(place, (hash, 0));
        }
        if let Some((_, of_group)) = self.page.get_mut(&place) {
            *of_group += size_bytes;
            self.page_bytes += size_bytes;
        }
        self.leave_out();
    }

    /// Leaves the last groups out that the page has no room for.
    fn leave_out(&mut self) {
        while self.page.len() > 1
            && (self.page.len() > self.limit || self.page_bytes > self.max_bytes)
            && let Some((_, (hash, size_bytes))) = self.page.pop_first()
        {
            self.page_bytes -= size_bytes;
            self.candidates.remove(&hash);
            self.others.insert(hash);
            self.is_full = true;
        }
    }

    /// Returns the groups of the page, and the place of the last one. Lets other tasks run, because
    /// the groups may be many.
    async fn into_page(mut self) -> (Vec<EventGroup>, Option<u64>) {
        let last = self.page.keys().next().copied().filter(|_| self.is_full);
        let mut groups = Vec::with_capacity(self.page.len());
        for (hash, _) in self.page.values().rev() {
            let group = self.candidates.remove(hash).and_then(|candidate| candidate.group);
            groups.extend(group.map(|group| *group));
            polls::rest().await;
        }
        (groups, last)
    }
}

impl Consumers {
    /// Returns a page of a consumer's groups.
    ///
    /// # Errors
    ///
    /// As [`Self::inbox`]; [`Error::OverLimit`]: too many actors.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::inbox`].
    pub async fn groups(&self, id: &ConsumerId, request: GroupRequest) -> Result<GroupPage> {
        self.get(id)?;
        if request.max_actors > MAX_ACTORS {
            return Err(Error::over("actors", request.max_actors, MAX_ACTORS));
        }
        let broker = &self.0.broker;
        let epoch = broker.epoch();
        if let Some(from) = request.from.filter(|from| from.epoch.is_some_and(|of| of != epoch)) {
            let problem = format!("{from} is from another epoch than {epoch}; begin again");
            return Err(Error::invalid("cursor", problem));
        }
        let state = self.state(id);
        let mut selected = broker.select(&id.selection).await?;
        let at = request.from.map_or(selected.position, |from| from.at.min(selected.position));
        selected.position = at;
        let (now, revision) = (selected.now, state.info.revision);
        let filters =
            [state.info.settings.filter.clone(), request.filter.clone(), request.permitted.clone()];
        let groups = Groups::new(state, now, broker.max_page_bytes(), request);
        let start = Place::Position(Position::new(u64::MAX));
        let (order, most) = (EventOrder::Newest, Some(self.0.config.max_counted));
        let (groups, end) =
            broker.walk_selected(selected, (order, start), filters, most, groups).await?;
        let (groups, last) = groups.into_page().await;
        let next = last.map(|before| GroupCursor {
            at,
            before: Position::new(before),
            epoch: Some(epoch),
        });
        Ok(GroupPage { groups, next, more_than: end.next.is_some(), position: at, revision })
    }
}

impl Groups {
    fn new(
        state: ConsumerState,
        now: Timestamp,
        max_page_bytes: usize,
        request: GroupRequest,
    ) -> Self {
        let GroupRequest { by, actors, max_actors, from, limit, max_bytes, marks, .. } = request;
        let max_keys = request.max_keys.max(1);
        Self {
            state,
            now,
            by,
            actors,
            max_actors,
            marks,
            limit: limit.max(1),
            max_bytes: max_bytes.min(max_page_bytes),
            max_keys,
            before: from.map_or(u64::MAX, |from| from.before.get()),
            hashers: Default::default(),
            others: HashSet::new(),
            candidates: HashMap::new(),
            page: BTreeMap::new(),
            page_bytes: 0,
            is_full: false,
        }
    }
}
