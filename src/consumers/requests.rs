//! What callers ask of a consumer, and what they are told: plain data.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::id::{ConsumerId, ConsumerSettings};
use super::marks::{Mark, MarkFilter, Marks};
use super::name::ConsumerName;
use crate::broker::Filter;
use crate::cursor::{Cursor, Position, Sequence};
use crate::event::Timestamp;
use crate::topic::{TopicName, TopicPattern};

/// The sequences at a checkpoint that is a position of all topics that there were; `None` if they
/// are not known, because they were too many. A single one is not known if events after the
/// checkpoint were gone when it was set.
pub(super) type Reach = Option<Arc<[(TopicName, Option<Sequence>)]>>;

/// A consumer as it is at one moment.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConsumerInfo {
    /// Its identity.
    pub id: ConsumerId,
    /// Its settings.
    pub settings: ConsumerSettings,
    /// The place up to which all is finished; `None` if nothing is.
    pub checkpoint: Option<Cursor>,
    /// The cursor of its state: it rises with each change. 0 if the consumer was never written.
    pub revision: Position,
    /// The time at which it was created; 0 if it was never written.
    pub created: Timestamp,
    /// The time of its last change; 0 if it was never written.
    pub updated: Timestamp,
}

impl ConsumerInfo {
    /// Whether the consumer is stored. One that is not is told as it would be created.
    pub fn exists(&self) -> bool {
        self.revision > Position::BEFORE_ALL
    }
}

/// A consumer with its marks, as it is at one moment. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConsumerState {
    /// The consumer.
    pub info: Arc<ConsumerInfo>,
    /// Its marks.
    pub marks: Arc<Marks>,
    /// The sequences of topics at the checkpoint of a consumer of a pattern, where they are known.
    pub(super) reach: Reach,
}

/// A request for a list of consumers, in the order of owner, selection and name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerList {
    /// The owner whose consumers are listed. Default: any.
    pub owner: Option<String>,
    /// The selection whose consumers are listed. Default: any.
    pub selection: Option<TopicPattern>,
    /// The consumer after which the list begins: the last one of the list before. It need not
    /// exist.
    pub after: Option<ConsumerId>,
    /// The most consumers; 1 or more.
    pub limit: usize,
}

impl Default for ConsumerList {
    fn default() -> Self {
        Self { owner: None, selection: None, after: None, limit: DEFAULT_LIST }
    }
}

/// The length of a list whose caller names none.
const DEFAULT_LIST: usize = 100;

/// The dead letters of one topic that nobody has handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnhandledLetters {
    pub(crate) topic: TopicName,
    /// 1 or more.
    pub(crate) count: u64,
    /// Whether the count is a lower bound.
    pub(crate) more_than: bool,
    /// The time of the oldest one, if it can be read.
    pub(crate) oldest: Option<Timestamp>,
}

/// A consumer that reads a topic.
#[derive(Debug, Clone)]
pub(crate) struct TopicReader {
    pub(crate) info: ConsumerInfo,
    /// The events that it has not finished; `None` for one of a pattern, and without a checkpoint.
    pub(crate) lag: Option<u64>,
}

/// A checkpoint that a caller sets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The place up to which all is finished. A sequence if the consumer reads one topic, a
    /// position if it reads a pattern.
    pub to: Cursor,
    /// Whether the checkpoint may move back.
    pub force: bool,
    /// If given, the checkpoint is set only if the present one is this; `Some(None)` is none.
    pub expected: Option<Option<Cursor>>,
}

impl Checkpoint {
    /// Returns a checkpoint that moves forward to `to`, and stays if it is there or further.
    pub fn at(to: Cursor) -> Self {
        Self { to, force: false, expected: None }
    }

    /// Returns this checkpoint, which may move back.
    #[must_use]
    pub fn forced(self) -> Self {
        Self { force: true, ..self }
    }

    /// Returns this checkpoint, which is set only if the present one is `cursor`.
    #[must_use]
    pub fn expecting(self, cursor: Option<Cursor>) -> Self {
        Self { expected: Some(cursor), ..self }
    }
}

/// The answer to a checkpoint: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointAck {
    /// The present checkpoint.
    pub checkpoint: Option<Cursor>,
    /// Whether this request moved it. It does not where the checkpoint is there or further.
    pub moved: bool,
    /// The revision of the consumer.
    pub revision: Position,
}

/// A name of an event in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum EventName {
    /// The sequence of an event of the one topic that the consumer reads.
    Sequence(Sequence),
    /// A topic and a sequence in it.
    OfTopic {
        /// The topic.
        topic: TopicName,
        /// The event's place in it.
        sequence: Sequence,
    },
    /// The id that the event's publisher gave it. The newest event with this id is meant.
    Id {
        /// The id.
        id: String,
    },
}

/// The events that a request marks.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MarkedEvents {
    /// These.
    Named(Vec<EventName>),
    /// All up to a cursor that the filters pick. What is snoozed is left as it is, unless the
    /// filter of marks asks for it.
    UpTo {
        /// The place of the last of them.
        cursor: Cursor,
        /// The filter of events; empty for all.
        filter: Filter,
        /// The filter of marks; empty for all.
        marks: MarkFilter,
    },
}

/// A request to change marks: all of it, or nothing.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MarkRequest {
    /// The marks that the events get. With [`Mark::Snoozed`], `snooze_until` must be given.
    pub mark: BTreeSet<Mark>,
    /// The marks that the events lose.
    pub unmark: BTreeSet<Mark>,
    /// The time until which the events are snoozed: after now.
    pub snooze_until: Option<Timestamp>,
    /// The events.
    pub events: MarkedEvents,
    /// A second filter of events that are not named by their places, besides that of the consumer:
    /// what the caller is permitted to read.
    pub(crate) permitted: Filter,
}

impl MarkedEvents {
    /// Returns all events up to `cursor`.
    pub fn up_to(cursor: Cursor) -> Self {
        Self::UpTo { cursor, filter: Filter::default(), marks: MarkFilter::default() }
    }
}

impl MarkRequest {
    /// Returns a request for `events` that changes nothing yet.
    pub fn of(events: MarkedEvents) -> Self {
        let (mark, unmark, permitted) = Default::default();
        Self { mark, unmark, snooze_until: None, events, permitted }
    }

    /// Returns this request of a caller who may read the events that `filter` picks.
    pub(crate) fn permitted(self, filter: Filter) -> Self {
        Self { permitted: filter, ..self }
    }

    /// Returns this request with one more mark that the events get.
    #[must_use]
    pub fn mark(mut self, mark: Mark) -> Self {
        self.mark.insert(mark);
        self
    }

    /// Returns this request with one more mark that the events lose.
    #[must_use]
    pub fn unmark(mut self, mark: Mark) -> Self {
        self.unmark.insert(mark);
        self
    }

    /// Returns this request with the time until which the events are snoozed.
    #[must_use]
    pub fn snooze_until(mut self, until: Timestamp) -> Self {
        self.mark.insert(Mark::Snoozed);
        self.snooze_until = Some(until);
        self
    }
}

/// The answer to a request to change marks: it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MarkAck {
    /// The revision of the consumer.
    pub revision: Position,
    /// Whether the request changed something.
    pub changed: bool,
    /// The number of named events that are gone, so that there was nothing to mark.
    pub gone: u64,
}

/// The name and the selection of a consumer, for messages.
pub(super) fn shown(selection: &TopicPattern, name: &ConsumerName) -> String {
    format!("{name:?} of {:?}", selection.as_str())
}
