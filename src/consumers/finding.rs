//! Finding the events of a change of marks: those that it names, and those of a list up to a
//! cursor. The log is read here, before the command is queued.

use std::collections::HashSet;
use std::sync::Arc;

use super::Consumers;
use super::cursors::check_cursor;
use super::id::ConsumerId;
use super::line::ChangeTurn;
use super::marking::MarkedPlaces;
use super::marks::{Exceptions, Mark, MarkFilter, MarkLine, Marked, Marks};
use super::requests::{ConsumerState, EventName, MarkRequest, MarkedEvents};
use crate::broker::{EventOrder, Filter, WalkAnswer, WalkVisitor, WalkedEvent};
use crate::cursor::{Cursor, Place, Sequence};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::lists;
use crate::topic::TopicName;

impl Consumers {
    /// Returns the events of a request by their places, and the number of those that are gone.
    /// Where they depend on marks, the changes that come before it are awaited.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`], [`Error::UnknownTopic`]; as
    /// [`Broker::read`](crate::Broker::read).
    pub(super) async fn found(
        &self,
        id: &ConsumerId,
        request: &MarkRequest,
        turn: &ChangeTurn<'_>,
    ) -> Result<(MarkedPlaces, u64)> {
        match &request.events {
            MarkedEvents::Named(names) => self.named(id, names, &request.permitted).await,
            MarkedEvents::UpTo { cursor, filter, marks } => {
                check_cursor(&self.0.broker, id, ("up_to", *cursor))?;
                turn.all_answered().await;
                let cursor = Cursor { epoch: Some(self.0.broker.epoch()), ..*cursor };
                let is_all = filter.is_empty() && request.permitted.is_empty();
                let events = match is_all && is_whole(request, marks) {
                    true => self.all_up_to(id, cursor).await?,
                    false => self.listed(id, request, cursor, (filter, *marks)).await?,
                };
                Ok((events, 0))
            }
        }
    }

    /// Returns the events that a request names.
    async fn named(
        &self,
        id: &ConsumerId,
        names: &[EventName],
        permitted: &Filter,
    ) -> Result<(MarkedPlaces, u64)> {
        lists::check("marked events", names.len(), self.0.config.max_marked_events)?;
        let (mut events, mut ids, mut gone) = (Exceptions::new(), HashSet::new(), 0);
        for name in names {
            let (topic, sequence) = match name {
                EventName::Sequence(sequence) if id.has_positions() => {
                    let problem = format!("{sequence} needs its topic: the consumer reads several");
                    return Err(Error::invalid("events", problem));
                }
                EventName::Sequence(sequence) => {
                    (TopicName::new(id.selection.as_str())?, *sequence)
                }
                EventName::OfTopic { topic, sequence } => (topic.clone(), *sequence),
                EventName::Id { id } => {
                    ids.insert(id.clone());
                    continue;
                }
            };
            match self.is_kept(id, &topic, sequence)? {
                true => drop(events.entry(topic).or_default().insert(sequence.get())),
                false => gone += 1,
            }
        }
        if !ids.is_empty() {
            self.add_of_ids(id, ids, permitted, &mut events).await?;
        }
        Ok((MarkedPlaces::These(events), gone))
    }

    /// Whether an event is not trimmed.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::UnknownTopic`]: there never was such an event of the consumer.
    fn is_kept(&self, id: &ConsumerId, topic: &TopicName, sequence: Sequence) -> Result<bool> {
        if !id.selection.matches(topic) {
            let problem = format!("{topic:?} is none of {:?}", id.selection.as_str());
            return Err(Error::invalid("events", problem));
        }
        let extent = self.0.broker.extent(topic);
        let extent = extent.ok_or_else(|| Error::UnknownTopic(topic.clone()))?;
        if sequence >= extent.tail || sequence == Sequence::BEFORE_ALL {
            let last = extent.tail.previous();
            let problem = format!("{topic:?} has no event {sequence}; its last one is {last}");
            return Err(Error::invalid("events", problem));
        }
        Ok(sequence >= extent.earliest)
    }

    /// Adds the newest event of each id.
    async fn add_of_ids(
        &self,
        id: &ConsumerId,
        ids: HashSet<String>,
        permitted: &Filter,
        events: &mut Exceptions,
    ) -> Result<()> {
        let filters = [self.state(id).info.settings.filter.clone(), permitted.clone()];
        let (order, most) = ((EventOrder::Newest, None), self.0.config.max_searched_events);
        let wanted = WantedIds { ids, found: Exceptions::new() };
        let walk = self.0.broker.walk(&id.selection, order, filters, most, wanted).await?;
        let (WantedIds { ids, found }, end) = walk;
        if let Some(missing) = ids.iter().next() {
            let problem = match end.next {
                None => format!("{missing:?} is the id of no event that is kept"),
                Some(_) => {
                    let looked = end.looked;
                    format!("{missing:?} is not the id of any of the newest {looked} events")
                }
            };
            return Err(Error::invalid("events", problem));
        }
        for (topic, set) in found {
            *events.entry(topic).or_default() |= set;
        }
        Ok(())
    }

    /// Returns all up to a cursor, with the ends of the topics that have exceptions.
    async fn all_up_to(&self, id: &ConsumerId, cursor: Cursor) -> Result<MarkedPlaces> {
        let ends = match cursor.after {
            Place::Sequence(sequence) => {
                vec![(TopicName::new(id.selection.as_str())?, sequence.get())]
            }
            Place::Position(position) => {
                let topics = self.state(id).marks.exceptions().into_iter().map(|(topic, _)| topic);
                let ends = self.0.broker.ends_of(topics, position).await?.into_iter();
                ends.map(|(topic, sequence)| (topic, sequence.get())).collect()
            }
        };
        Ok(MarkedPlaces::UpTo { cursor, ends })
    }

    /// Returns the events that have exceptions and are gone, such as those that compaction dropped,
    /// if all events that are kept can be looked at.
    pub(super) async fn gone(&self, id: &ConsumerId) -> Result<Exceptions> {
        let (exceptions, order) = (self.state(id).marks.exceptions(), (EventOrder::Newest, None));
        let most = self.0.config.max_searched_events;
        let not_met = NotMet(exceptions);
        let (not_met, end) = self.0.broker.walk(&id.selection, order, [], most, not_met).await?;
        let mut gone = if end.next.is_none() { not_met.0 } else { Exceptions::new() };
        gone.retain(|_, set| !set.is_empty());
        Ok(gone)
    }

    /// Returns the events up to a cursor that the filters pick: those that a list showed.
    async fn listed(
        &self,
        id: &ConsumerId,
        request: &MarkRequest,
        cursor: Cursor,
        (filter, marks): (&Filter, MarkFilter),
    ) -> Result<MarkedPlaces> {
        let ConsumerState { info, marks: present, .. } = self.state(id);
        let floor = floor(&present, request, &marks);
        let of_marks = match marks.snoozed {
            None if !request.unmark.contains(&Mark::Snoozed) => {
                MarkFilter { snoozed: Some(false), ..marks }
            }
            _ => marks,
        };
        let listed = ListedEvents {
            marks: present,
            of_marks,
            now: self.0.broker.now(),
            has_positions: id.has_positions(),
            floor,
            found: Exceptions::new(),
        };
        let filters = [info.settings.filter.clone(), filter.clone(), request.permitted.clone()];
        let before = Cursor { after: cursor.after.next(), ..cursor };
        let order = (EventOrder::Newest, Some(before));
        let most = self.0.config.max_searched_events;
        let (listed, end) = self.0.broker.walk(&id.selection, order, filters, most, listed).await?;
        let is_whole = end.next.is_none_or(|next| next.number() <= floor + 1);
        if !is_whole {
            let looked = usize::try_from(end.looked).unwrap_or(usize::MAX).saturating_add(1);
            let limit = usize::try_from(most).unwrap_or(usize::MAX);
            return Err(Error::over("events to look at", looked.max(limit + 1), limit));
        }
        Ok(MarkedPlaces::These(listed.found))
    }
}

/// The events with exceptions that a walk did not come to.
struct NotMet(Exceptions);

impl WalkVisitor for NotMet {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        if let Some(set) = self.0.get_mut(walked.topic) {
            set.remove(walked.event.sequence.get());
        }
        WalkAnswer::GoOn
    }
}

/// Whether all events up to the cursor but those that are snoozed can get the marks: to the ones
/// that the filter does not pick, the marks say nothing new.
pub(super) fn is_whole(request: &MarkRequest, filter: &MarkFilter) -> bool {
    let MarkRequest { mark, unmark, snooze_until, .. } = request;
    let only = |marks: &[Mark]| mark.iter().all(|mark| marks.contains(mark));
    let holds = |wanted: Option<bool>, says_nothing: bool| {
        wanted.is_none() || wanted == Some(false) && says_nothing
    };
    unmark.is_empty()
        && snooze_until.is_none()
        && holds(filter.seen, only(&[Mark::Seen]))
        && holds(filter.read, only(&[Mark::Seen, Mark::Read]))
        && holds(filter.archived, only(&[Mark::Archived]))
        && holds(filter.snoozed, true)
}

/// Returns the number of the place up to which all events have the marks of the request already, so
/// that they need not be looked at.
fn floor(marks: &Marks, request: &MarkRequest, filter: &MarkFilter) -> u64 {
    let MarkRequest { mark, unmark, snooze_until, .. } = request;
    if !unmark.is_empty() || snooze_until.is_some() || filter.snoozed == Some(true) {
        return 0;
    }
    let of_line = |line: &MarkLine| match line.unmarked.values().next() {
        None => line.up_to,
        Some(_) if marks.has_positions => 0,
        Some(set) => set.min().map_or(line.up_to, |first| line.up_to.min(first - 1)),
    };
    let lines = mark.iter().filter_map(|mark| marks.line(*mark));
    let with_seen = mark.contains(&Mark::Read).then_some(&marks.seen);
    lines.chain(with_seen).map(of_line).min().unwrap_or_default()
}

/// The ids that are looked for, and the events that have them.
struct WantedIds {
    ids: HashSet<String>,
    found: Exceptions,
}

impl WalkVisitor for WantedIds {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        if !self.ids.remove(walked.event.id) {
            return WalkAnswer::GoOn;
        }
        let set = self.found.entry(walked.topic.clone()).or_default();
        set.insert(walked.event.sequence.get());
        if self.ids.is_empty() { WalkAnswer::EndAfter } else { WalkAnswer::GoOn }
    }
}

/// The events of a list.
struct ListedEvents {
    marks: Arc<Marks>,
    of_marks: MarkFilter,
    now: Timestamp,
    has_positions: bool,
    floor: u64,
    found: Exceptions,
}

impl WalkVisitor for ListedEvents {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        let (topic, event) = (walked.topic, &walked.event);
        let (sequence, position) = (event.sequence, event.position);
        let place = if self.has_positions { position.get() } else { sequence.get() };
        if place <= self.floor {
            return WalkAnswer::EndBefore;
        }
        let marks = self.marks.of(&Marked { topic, sequence, position }, self.now);
        if self.of_marks.picks(&marks) {
            self.found.entry(topic.clone()).or_default().insert(sequence.get());
        }
        WalkAnswer::GoOn
    }
}
