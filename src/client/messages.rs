//! The messages of the wire that a client sends and gets, as the types of the vocabulary.

use crate::broker::{Ack, Duplicate, Filter, Receipt, TopicEvent};
use crate::cursor::{Cursor, Gap, GapReason, OnGap, Place, Position, Requested, Sequence};
use crate::edge::proto;
use crate::event::{Durability, Event, NewEvent, Timestamp};
use crate::topic::{TopicName, TopicPattern};

use super::error::ClientError;

/// The topics that a client follows: one, whose places are sequences, or patterns, whose places are
/// positions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FollowedTopics {
    /// One topic.
    One(TopicName),
    /// All topics that one of these patterns matches, at most 1,024 patterns.
    Matching(Vec<TopicPattern>),
}

impl From<TopicName> for FollowedTopics {
    fn from(topic: TopicName) -> Self {
        Self::One(topic)
    }
}

impl From<&TopicName> for FollowedTopics {
    fn from(topic: &TopicName) -> Self {
        Self::One(topic.clone())
    }
}

impl From<TopicPattern> for FollowedTopics {
    fn from(pattern: TopicPattern) -> Self {
        Self::Matching(vec![pattern])
    }
}

impl From<Vec<TopicPattern>> for FollowedTopics {
    fn from(patterns: Vec<TopicPattern>) -> Self {
        Self::Matching(patterns)
    }
}

/// One thing that a client's reader is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientDelivery {
    /// The next event.
    Event(TopicEvent),
    /// Events that come next are gone. The reader goes on after them. In a gap of one topic among
    /// many, `resume` is the first place that is readable.
    Gap(Gap),
    /// All stored events came; what follows is live. Comes again after each reconnect.
    CaughtUp,
    /// An event that is not stored, and has no places.
    Ephemeral {
        /// The event's topic.
        topic: TopicName,
        /// The time of its publish.
        time: Timestamp,
        /// The event.
        event: NewEvent,
    },
    /// These topics may not be read; the others are. Comes again only if the list changes.
    Denied(Vec<TopicName>),
}

pub(super) fn filter(filter: Filter) -> proto::Filter {
    let Filter { types, keys, key_prefixes, headers } = filter;
    proto::Filter {
        types: types.into_iter().collect(),
        keys: keys.into_iter().collect(),
        key_prefixes: key_prefixes.into_iter().collect(),
        headers,
    }
}

pub(super) fn on_gap(on_gap: OnGap) -> proto::OnGap {
    match on_gap {
        OnGap::Resume => proto::OnGap::Resume,
        OnGap::Earliest => proto::OnGap::Earliest,
        OnGap::Latest => proto::OnGap::Latest,
        OnGap::Fail => proto::OnGap::Fail,
    }
}

pub(super) fn topic(name: &str) -> Result<TopicName, ClientError> {
    TopicName::new(name).map_err(|error| ClientError::Unreadable(error.to_string()))
}

pub(super) fn cursor(text: &str) -> Result<Cursor, ClientError> {
    text.parse().map_err(|error: crate::error::Error| ClientError::Unreadable(error.to_string()))
}

/// Returns the event. `only` is the topic of a reader of one.
pub(super) fn event(
    event: proto::Event,
    only: Option<&TopicName>,
) -> Result<TopicEvent, ClientError> {
    let topic = match only {
        Some(topic) => topic.clone(),
        None => topic(&event.topic)?,
    };
    let content = NewEvent {
        id: event.id,
        event_type: event.r#type,
        key: event.key,
        headers: event.headers,
        content_type: event.content_type,
        payload: event.payload,
        publisher_time: event.publisher_time_ms.map(Timestamp::from_ms),
        ttl_ms: event.ttl_ms,
    };
    let event = Event {
        sequence: Sequence::new(event.sequence),
        position: Position::new(event.position),
        time: Timestamp::from_ms(event.time_ms),
        content,
    };
    Ok(TopicEvent { topic, event })
}

/// Returns the gap. `only` is the topic of a reader of one; `by_time` says that the reader began at
/// a time, and nothing came since.
pub(super) fn gap(
    gap: &proto::Gap,
    only: Option<&TopicName>,
    by_time: bool,
) -> Result<Gap, ClientError> {
    let named = if gap.topic.is_empty() { None } else { Some(topic(&gap.topic)?) };
    let after = cursor(&gap.cursor)?.after;
    let in_one_topic = named.is_some() || only.is_some();
    let place = |number| match in_one_topic {
        true => Place::Sequence(Sequence::new(number)),
        false => Place::Position(Position::new(number)),
    };
    let reason = reason(&gap.reason);
    let requested = match reason {
        GapReason::Unknown => Requested::Unknown,
        _ if by_time => Requested::Time(Timestamp::from_ms(gap.requested)),
        _ => Requested::Place(place(gap.requested)),
    };
    let is_of_one_among_many = named.is_some() && only.is_none();
    let resume = match is_of_one_among_many {
        false => after.next(),
        true if reason == GapReason::Tombstones => place(gap.requested),
        true => place(gap.earliest),
    };
    Ok(Gap {
        topic: named.or_else(|| only.cloned()),
        requested,
        earliest: place(gap.earliest),
        tail: place(gap.tail),
        lost: gap.lost,
        reason,
        resume,
    })
}

/// Returns the reason with this word. A word of a newer broker is `Unknown`.
fn reason(word: &str) -> GapReason {
    use GapReason as Reason;
    let known = [
        Reason::Retention,
        Reason::Expired,
        Reason::Purged,
        Reason::Deleted,
        Reason::Epoch,
        Reason::Ahead,
        Reason::Tombstones,
    ];
    known.into_iter().find(|reason| reason.as_str() == word).unwrap_or(Reason::Unknown)
}

pub(super) fn ack(ack: proto::Ack) -> Ack {
    let duplicate = |duplicate: proto::Duplicate| Duplicate {
        index: duplicate.index as usize,
        receipt: receipt(duplicate.receipt.unwrap_or_default()),
    };
    Ack {
        count: ack.count as usize,
        durability: match ack.durability() {
            proto::Durability::Memory => Durability::Memory,
            proto::Durability::Process => Durability::Process,
            proto::Durability::Replicated => Durability::Replicated,
            proto::Durability::Fsync | proto::Durability::Unspecified => Durability::Fsync,
        },
        first_appended: ack.first_appended.map(receipt),
        duplicates: ack.duplicates.into_iter().map(duplicate).collect(),
    }
}

fn receipt(receipt: proto::Receipt) -> Receipt {
    Receipt {
        sequence: Sequence::new(receipt.sequence),
        position: Position::new(receipt.position),
        time: Timestamp::from_ms(receipt.time_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_the_numbers_and_the_kinds_of_place_that_its_reader_counts_in() {
        let told = |topic: &str, reason: &str, cursor: &str| proto::Gap {
            requested: 3,
            earliest: 6,
            tail: 10,
            lost: Some(3),
            reason: reason.to_owned(),
            cursor: cursor.to_owned(),
            topic: topic.to_owned(),
        };
        let sequence = |number| Place::Sequence(Sequence::new(number));
        let position = |number| Place::Position(Position::new(number));
        let orders = topic("orders").unwrap();

        let one = gap(&told("", "retention", "5-9f3c2a1b"), Some(&orders), false).unwrap();
        assert_eq!(one.topic, Some(orders.clone()));
        assert_eq!((one.requested, one.resume), (Requested::Place(sequence(3)), sequence(6)));
        assert_eq!((one.earliest, one.tail, one.lost), (sequence(6), sequence(10), Some(3)));

        let of_all = gap(&told("", "epoch", "@8-9f3c2a1b"), None, false).unwrap();
        assert_eq!((of_all.topic, of_all.reason), (None, GapReason::Epoch));
        assert_eq!((of_all.earliest, of_all.resume), (position(6), position(9)));

        let of_one = gap(&told("orders", "purged", "@8-9f3c2a1b"), None, true).unwrap();
        assert_eq!(of_one.topic, Some(orders));
        assert_eq!(of_one.requested, Requested::Time(Timestamp::from_ms(3)));
        assert_eq!(of_one.resume, sequence(6));

        let newer = gap(&told("orders", "burnt", "@8-9f3c2a1b"), None, false).unwrap();
        assert_eq!(newer.reason, GapReason::Unknown);
        assert!(gap(&told("", "purged", "?"), None, false).is_err());
    }
}
