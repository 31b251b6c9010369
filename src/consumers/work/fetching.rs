//! Reading single events again: those that are leased once more, or had no room in memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::{Broker, PageRequest};
use crate::cursor::{Cursor, OnGap, Place, Sequence, StartPoint};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::topic::TopicName;

/// The most sequences between two wanted events that are read in one go.
const MAX_SKIP: u64 = 32;

/// The most events of one page.
const PAGE_EVENTS: usize = 256;

/// Returns those of the wanted events that are there. `sequences` rise.
///
/// # Errors
///
/// As [`Broker::read`], but a topic that is gone has no events.
pub(super) async fn events_of(
    broker: &Broker,
    topic: &TopicName,
    sequences: &[Sequence],
) -> Result<HashMap<Sequence, Arc<Event>>> {
    let mut found = HashMap::with_capacity(sequences.len());
    let near = |a: &Sequence, b: &Sequence| b.get() - a.get() <= MAX_SKIP;
    for wanted in sequences.chunk_by(near) {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { continue };
        let mut after = first.previous();
        while after < *last {
            let Some(page) = page(broker, topic, after, *last).await? else { return Ok(found) };
            let Some(newest) = page.last() else { break };
            after = newest.sequence;
            let is_wanted = |event: &Event| wanted.binary_search(&event.sequence).is_ok();
            let events = page.into_iter().filter(is_wanted);
            found.extend(events.map(|event| (event.sequence, Arc::new(event))));
        }
    }
    Ok(found)
}

/// Returns some events after `after`, up to and with `last`; `None` if the topic is gone.
async fn page(
    broker: &Broker,
    topic: &TopicName,
    after: Sequence,
    last: Sequence,
) -> Result<Option<Vec<Event>>> {
    let cursor = Cursor { after: Place::Sequence(after), since: None, epoch: None };
    let request = PageRequest::from(StartPoint::After(cursor));
    let request = request.before(last.next()).limit(PAGE_EVENTS).on_gap(OnGap::Resume);
    match broker.read(topic, request).await {
        Ok(page) => Ok(Some(page.runs.iter().flat_map(|run| run.to_events()).collect())),
        Err(Error::UnknownTopic(_) | Error::TopicDeleted(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
