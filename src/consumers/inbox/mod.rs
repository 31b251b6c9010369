//! Pages of a consumer's events with their marks.
//!
//! A page is read from the log as it is, and each event gets the marks that it has at that moment.
//! `groups.rs` lists the events of one thing as one entry.

pub(super) mod group_page;
mod groups;
pub(super) mod page;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::page::{InboxEvent, InboxPage, InboxRequest};
use super::Consumers;
use super::id::ConsumerId;
use super::marks::{EventMarks, MarkFilter, Marked, Marks};
use crate::broker::{Selected, WalkAnswer, WalkRoom, WalkVisitor, WalkedEvent};
use crate::cursor::Cursor;
use crate::error::Result;
use crate::event::Timestamp;

/// The events of a page, as the walk gives them.
struct InboxEvents {
    marks: Arc<Marks>,
    now: Timestamp,
    wanted: MarkFilter,
    events: Vec<InboxEvent>,
    room: WalkRoom,
}

impl WalkVisitor for InboxEvents {
    fn take(&mut self, walked: &WalkedEvent<'_>) -> WalkAnswer {
        let marks = marks_of(&self.marks, walked, self.now);
        if !self.wanted.picks(&marks) {
            return WalkAnswer::GoOn;
        }
        let (topic, event) = (walked.topic.clone(), walked.own());
        let taking = self.room.take(&topic, &event);
        if taking != WalkAnswer::EndBefore {
            self.events.push(InboxEvent { topic, event, marks });
        }
        taking
    }
}

/// Returns the marks of an event that a walk gives.
fn marks_of(marks: &Marks, walked: &WalkedEvent<'_>, now: Timestamp) -> EventMarks {
    let WalkedEvent { topic, event, .. } = walked;
    marks.of(&Marked { topic, sequence: event.sequence, position: event.position }, now)
}

impl Consumers {
    /// Returns a page of a consumer's events with their marks. Events that are published meanwhile
    /// are in no later page from the newest, so that the pages of one list are stable. A mark that
    /// is changed meanwhile may move an event out of the pages that are not read yet, or into them.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownConsumer`](crate::Error::UnknownConsumer);
    /// [`Error::Invalid`](crate::Error::Invalid) with field `cursor`: the place is of the wrong
    /// kind, or from another epoch; [`Error::OverLimit`](crate::Error::OverLimit): the filter has
    /// too many values; [`Error::Damaged`](crate::Error::Damaged),
    /// [`Error::ReadFailed`](crate::Error::ReadFailed): the first event of the page cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing is left of it: a read that was begun ends soon.
    pub async fn inbox(&self, id: &ConsumerId, request: InboxRequest) -> Result<InboxPage> {
        self.get(id)?;
        let InboxRequest { order, from, limit, max_bytes, marks: wanted, filter, permitted } =
            request;
        let broker = &self.0.broker;
        let at = broker.walk_start(order, id.has_positions(), from)?;
        let state = self.state(id);
        let selected = broker.select(&id.selection).await?;
        let Selected { position, now, .. } = selected;
        let room = WalkRoom::new(limit, broker.max_page_bytes().min(max_bytes));
        let page =
            InboxEvents { marks: state.marks.clone(), now, wanted, events: Vec::new(), room };
        let filters = [state.info.settings.filter.clone(), filter, permitted];
        let walk = broker.walk_selected(selected, (order, at), filters, None, page);
        let (page, end) = walk.await?;
        let next = end.next.map(|after| Cursor { after, since: None, epoch: Some(broker.epoch()) });
        Ok(InboxPage { events: page.events, next, position, revision: state.info.revision })
    }
}
