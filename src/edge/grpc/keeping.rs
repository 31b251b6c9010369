//! Checkpoints and marks of calls: their consumers, and what they ask.

use std::pin::Pin;

use super::consumed;
use crate::consumers::{Checkpoint, EventName, Mark, MarkFilter, MarkRequest, MarkedEvents};
use crate::cursor::{Epoch, Sequence};
use crate::edge::consumers::asking::{ConsumerUse, Found, Named};
use crate::edge::consumers::inboxes;
use crate::edge::grpc::messages;
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::edge::{Edge, proto};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::lists;
use crate::topic::{TopicName, TopicPattern};

/// Returns the consumer that a call names, if its caller may use it so.
///
/// # Errors
///
/// [`Error::Invalid`]: none is named. As [`Named::find`].
pub(super) async fn found(
    edge: &Edge,
    named: Option<proto::ConsumerRef>,
    how: ConsumerUse,
    permit: &Permit,
) -> Result<Found> {
    found_among(edge.consumers_if_any(), named, how, permit).await
}

async fn found_among(
    kept: Option<&EdgeConsumers>,
    named: Option<proto::ConsumerRef>,
    how: ConsumerUse,
    permit: &Permit,
) -> Result<Found> {
    let missing = || Error::invalid("consumer", "is missing");
    let proto::ConsumerRef { topic, consumer, owner, shared } = named.ok_or_else(missing)?;
    let named = match shared {
        true => Named::shared(&consumer)?,
        false => Named::of_own(&consumer, consumed::given(&owner))?,
    };
    named.find(TopicPattern::new(&topic)?, how, permit, kept).await
}

/// A change of a consumer that its caller may make, and that has not begun.
pub(super) type KeptChange<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Returns the act that sets a checkpoint of one of the consumers `kept`.
///
/// # Errors
///
/// As [`found`]; [`Error::Invalid`]. The act has those of
/// [`Consumers::checkpoint`](crate::consumers::Consumers::checkpoint).
pub(super) async fn checkpoint(
    (kept, epoch): (Option<&EdgeConsumers>, Epoch),
    permit: &Permit,
    request: proto::SetCheckpointRequest,
) -> Result<KeptChange<proto::SetCheckpointResponse>> {
    let proto::SetCheckpointRequest { consumer, cursor, force, expected } = request;
    let found = found_among(kept, consumer, ConsumerUse::Keep, permit).await?;
    let mut to = Checkpoint::at(cursor.parse()?);
    if force {
        to = to.forced();
    }
    if let Some(expected) = expected {
        let expected = consumed::given(&expected).map(|cursor| cursor.parse()).transpose()?;
        to = to.expecting(expected);
    }
    Ok(Box::pin(async move { Ok(consumed::checkpoint(&found.checkpoint(to).await?, epoch)) }))
}

/// Returns the act that changes marks of one of the consumers `kept`.
///
/// # Errors
///
/// As [`found`]; [`Error::Invalid`]. The act has those of
/// [`Consumers::mark`](crate::consumers::Consumers::mark).
pub(super) async fn mark(
    (kept, epoch): (Option<&EdgeConsumers>, Epoch),
    permit: &Permit,
    mut request: proto::MarkEventsRequest,
) -> Result<KeptChange<proto::MarkEventsResponse>> {
    let found = found_among(kept, request.consumer.take(), ConsumerUse::Mark, permit).await?;
    let max_events = found.consumers.config().max_marked_events;
    let request = mark_request(request, max_events)?.permitted(permit.filter());
    Ok(Box::pin(async move { Ok(consumed::mark_ack(&found.mark(request).await?, epoch)) }))
}

fn mark_request(request: proto::MarkEventsRequest, max_events: usize) -> Result<MarkRequest> {
    let proto::MarkEventsRequest { mark, unmark, snooze_until_ms, .. } = request;
    let proto::MarkEventsRequest { events, up_to, filter, marks, .. } = request;
    let has_filter = filter.is_some() || marks.is_some();
    let events = match (events.is_empty(), up_to.as_str()) {
        (false, "") if has_filter => {
            let problem = "is for up_to; events that are named need no filter";
            return Err(Error::invalid("filter", problem));
        }
        (false, "") => {
            lists::check("events", events.len(), max_events)?;
            MarkedEvents::Named(events.into_iter().map(event_name).collect::<Result<_>>()?)
        }
        (true, up_to) if !up_to.is_empty() => MarkedEvents::UpTo {
            cursor: up_to.parse()?,
            filter: messages::filter(filter),
            marks: match has_filter {
                true => inboxes::marks(consumed::mark_filter(marks.unwrap_or_default())),
                false => MarkFilter::default(),
            },
        },
        _ => return Err(Error::invalid("events", "write either events or up_to")),
    };
    let mut converted = MarkRequest::of(events);
    for (field, words, marks) in
        [("mark", mark, &mut converted.mark), ("unmark", unmark, &mut converted.unmark)]
    {
        for word in words {
            marks.insert(mark_of(field, &word)?);
        }
    }
    converted.snooze_until = snooze_until_ms.map(Timestamp::from_ms);
    Ok(converted)
}

fn event_name(named: proto::EventRef) -> Result<EventName> {
    let proto::EventRef { topic, sequence, id } = named;
    match (topic.as_str(), sequence, id.as_str()) {
        ("", 0, id) if !id.is_empty() => Ok(EventName::Id { id: id.to_owned() }),
        ("", sequence, "") if sequence > 0 => Ok(EventName::Sequence(Sequence::new(sequence))),
        (topic, sequence, "") if sequence > 0 => {
            let (topic, sequence) = (TopicName::new(topic)?, Sequence::new(sequence));
            Ok(EventName::OfTopic { topic, sequence })
        }
        _ => {
            let problem = "an event is named by its sequence, by topic and sequence, or by its id";
            Err(Error::invalid("events", problem))
        }
    }
}

fn mark_of(field: &'static str, word: &str) -> Result<Mark> {
    let marks = [Mark::Seen, Mark::Read, Mark::Archived, Mark::Snoozed];
    marks.into_iter().find(|mark| mark.as_str() == word).ok_or_else(|| {
        let shown: String = word.chars().take(64).collect();
        Error::invalid(field, format!("{shown:?} is not one of seen, read, archived, snoozed"))
    })
}
