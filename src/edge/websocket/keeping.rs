//! The messages of a WebSocket about consumers: a checkpoint, and marks.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::reference::Reference;
use crate::broker::Filter;
use crate::consumers::Mark;
use crate::cursor::{Cursor, Epoch};
use crate::edge::consumers::answers;
use crate::edge::consumers::asking::{ConsumerUse, Found, Named};
use crate::edge::consumers::begun::BegunChange;
use crate::edge::consumers::requests::{CheckpointJson, MarkFilterJson, MarksJson, given};
use crate::edge::selection_forms::FilterJson;
use crate::edge::subscriptions::subscription::message;
use crate::error::Result;
use crate::event::Timestamp;
use crate::lists::List;
use crate::topic::TopicPattern;

/// A request about a consumer.
#[derive(Debug)]
pub(super) struct Keep {
    pub(super) reference: Option<Reference>,
    pub(super) named: Named,
    pub(super) selection: TopicPattern,
    what: What,
}

#[derive(Debug)]
enum What {
    Checkpoint(CheckpointJson),
    Marks(Box<MarksJson>),
}

/// The message that answers a request, once it is durable.
pub(super) type KeepAnswer = BegunChange<Result<Map<String, Value>>>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    topic: TopicPattern,
    consumer: String,
    owner: Option<String>,
    #[serde(default)]
    shared: bool,
    cursor: Cursor,
    #[serde(default)]
    force: bool,
    #[serde(default, deserialize_with = "given")]
    expected: Option<Option<Cursor>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkMessage<'a> {
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "ref", borrow)]
    reference: Option<&'a RawValue>,
    topic: TopicPattern,
    consumer: String,
    owner: Option<String>,
    #[serde(default)]
    shared: bool,
    #[serde(default)]
    mark: List<Mark>,
    #[serde(default)]
    unmark: List<Mark>,
    snooze_until: Option<Timestamp>,
    events: Option<Box<RawValue>>,
    up_to: Option<Cursor>,
    filter: Option<FilterJson>,
    marks: Option<MarkFilterJson>,
}

/// Returns the consumer that a message names.
fn named(consumer: &str, owner: Option<String>, is_shared: bool) -> Result<Named> {
    match is_shared {
        true => Named::shared(consumer),
        false => Named::of_own(consumer, owner),
    }
}

impl Keep {
    /// Reads a message of the type `checkpoint`.
    ///
    /// # Errors
    ///
    /// Those of serde, for JSON that is no such message; then
    /// [`Error::Invalid`](crate::Error::Invalid) for an invalid name or reference.
    pub(super) fn checkpoint(text: &str) -> serde_json::Result<Result<Self>> {
        let CheckpointMessage {
            reference,
            topic,
            consumer,
            owner,
            shared,
            cursor,
            force,
            expected,
            ..
        } = serde_json::from_str(text)?;
        let what = What::Checkpoint(CheckpointJson { cursor, force, expected });
        Ok(Self::of(reference, topic, named(&consumer, owner, shared), what))
    }

    /// Reads a message of the type `mark`.
    ///
    /// # Errors
    ///
    /// As [`Self::checkpoint`].
    pub(super) fn mark(text: &str) -> serde_json::Result<Result<Self>> {
        let message: MarkMessage<'_> = serde_json::from_str(text)?;
        let named = named(&message.consumer, message.owner, message.shared);
        let what = What::Marks(Box::new(MarksJson {
            mark: message.mark,
            unmark: message.unmark,
            snooze_until: message.snooze_until,
            events: message.events,
            up_to: message.up_to,
            filter: message.filter,
            marks: message.marks,
        }));
        Ok(Self::of(message.reference, message.topic, named, what))
    }

    fn of(
        reference: Option<&RawValue>,
        selection: TopicPattern,
        named: Result<Named>,
        what: What,
    ) -> Result<Self> {
        let reference = reference.map(Reference::read).transpose()?;
        Ok(Self { reference, named: named?, selection, what })
    }

    /// Returns the use that is made of the consumer.
    pub(super) fn how(&self) -> ConsumerUse {
        match self.what {
            What::Checkpoint(_) => ConsumerUse::Keep,
            What::Marks(_) => ConsumerUse::Mark,
        }
    }

    /// Begins to do what is asked of the consumer that was found. `permitted` is the filter on all
    /// that the caller reads.
    ///
    /// # Errors
    ///
    /// As [`MarksJson::request`].
    pub(super) fn begin(self, found: Found, permitted: Filter, epoch: Epoch) -> Result<KeepAnswer> {
        Ok(match self.what {
            What::Checkpoint(checkpoint) => Box::pin(async move {
                let ack = found.checkpoint(checkpoint.checkpoint()).await?;
                Ok(answer("checkpointed", answers::checkpoint(&ack, epoch)))
            }),
            What::Marks(marks) => {
                let max_events = found.consumers.config().max_marked_events;
                let request = marks.request(permitted, max_events)?;
                Box::pin(async move {
                    let ack = found.mark(request).await?;
                    Ok(answer("ack", answers::marked_ack(&ack, epoch)))
                })
            }
        })
    }
}

fn answer(kind: &str, answer: Value) -> Map<String, Value> {
    let mut message = message(kind);
    if let Value::Object(answer) = answer {
        message.extend(answer);
    }
    message
}
