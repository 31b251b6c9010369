//! The requests about consumers as JSON, over HTTP and on a WebSocket alike.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::inboxes;
use crate::broker::Filter;
use crate::consumers::{
    Checkpoint, ConsumerChange, ConsumerSettings, EventName, Mark, MarkFilter, MarkRequest,
    MarkedEvents, WorkSettings,
};
use crate::cursor::{Cursor, Sequence, StartPoint};
use crate::edge::json_problem;
use crate::edge::object::Object;
use crate::edge::selection_forms::FilterJson;
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::lists::{List, UpTo};
use crate::topic::TopicName;

/// Reads a value that may be null, so that null is told from a name that is missing.
///
/// # Errors
///
/// Those of `D`.
pub(in crate::edge) fn given<'de, D, T>(value: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(value).map(Some)
}

/// The settings of a consumer; those that are missing have their defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::edge) struct SettingsJson {
    filter: FilterJson,
    from: Option<String>,
    shared: Option<Object<WorkSettings>>,
}

impl SettingsJson {
    /// Returns the settings, and the place of the first checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`], [`Error::Invalid`].
    pub(in crate::edge) fn settings(self) -> Result<(ConsumerSettings, Option<StartPoint>)> {
        let from = self.from.map(|from| from.parse()).transpose()?;
        let settings = ConsumerSettings::default().filter(self.filter.filter()?);
        let settings = match self.shared {
            Some(Object(shared)) => settings.shared(shared),
            None => settings,
        };
        Ok((settings, from))
    }
}

/// A change of settings: a name that is missing changes nothing, and null sets the default. Source:
/// RFC 7396.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::edge) struct ChangeJson {
    #[serde(deserialize_with = "given")]
    filter: Option<Option<FilterJson>>,
    #[serde(deserialize_with = "given")]
    shared: Option<Option<Object<WorkSettings>>>,
}

impl ChangeJson {
    /// Returns the change.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`]; [`Error::Invalid`]: sharing cannot be switched off.
    pub(in crate::edge) fn change(self) -> Result<ConsumerChange> {
        let change = ConsumerChange::default();
        let change = match self.filter {
            Some(filter) => change.filter(filter.unwrap_or_default().filter()?),
            None => change,
        };
        match self.shared {
            Some(Some(Object(shared))) => Ok(change.shared(shared)),
            Some(None) => {
                let problem = "is null, and a consumer that shares its events does so as long as \
                               it exists; delete it";
                Err(Error::invalid("shared", problem))
            }
            None => Ok(change),
        }
    }
}

/// A checkpoint to set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct CheckpointJson {
    pub(in crate::edge) cursor: Cursor,
    #[serde(default)]
    pub(in crate::edge) force: bool,
    /// Null stands for no checkpoint.
    #[serde(default, deserialize_with = "given")]
    pub(in crate::edge) expected: Option<Option<Cursor>>,
}

impl CheckpointJson {
    /// Returns the checkpoint.
    pub(in crate::edge) fn checkpoint(self) -> Checkpoint {
        let Self { cursor, force, expected } = self;
        let checkpoint = Checkpoint::at(cursor);
        let checkpoint = if force { checkpoint.forced() } else { checkpoint };
        match expected {
            Some(expected) => checkpoint.expecting(expected),
            None => checkpoint,
        }
    }
}

/// Marks to set or to take away.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct MarksJson {
    #[serde(default)]
    pub(in crate::edge) mark: List<Mark>,
    #[serde(default)]
    pub(in crate::edge) unmark: List<Mark>,
    pub(in crate::edge) snooze_until: Option<Timestamp>,
    pub(in crate::edge) events: Option<Box<RawValue>>,
    pub(in crate::edge) up_to: Option<Cursor>,
    pub(in crate::edge) filter: Option<FilterJson>,
    pub(in crate::edge) marks: Option<MarkFilterJson>,
}

/// Conditions on marks, as JSON.
pub(in crate::edge) type MarkFilterJson = Object<MarkConditions>;

/// The members of conditions on marks.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::edge) struct MarkConditions {
    seen: Option<bool>,
    read: Option<bool>,
    archived: Option<bool>,
    snoozed: Option<bool>,
}

impl MarkFilterJson {
    /// Returns the conditions.
    pub(in crate::edge) fn filter(self) -> MarkFilter {
        let Self(MarkConditions { seen, read, archived, snoozed }) = self;
        let mut filter = MarkFilter::default();
        (filter.seen, filter.read) = (seen, read);
        (filter.archived, filter.snoozed) = (archived, snoozed);
        filter
    }
}

/// The name of an event.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "an event is named by its sequence, by {\"topic\",\"sequence\"} or by {\"id\"}"
)]
enum EventNameJson {
    Sequence(u64),
    OfTopic(Object<TopicSequenceJson>),
    Id(Object<EventIdJson>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicSequenceJson {
    topic: TopicName,
    sequence: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventIdJson {
    id: String,
}

impl From<EventNameJson> for EventName {
    fn from(name: EventNameJson) -> Self {
        match name {
            EventNameJson::Sequence(sequence) => Self::Sequence(Sequence::new(sequence)),
            EventNameJson::OfTopic(Object(TopicSequenceJson { topic, sequence })) => {
                Self::OfTopic { topic, sequence: Sequence::new(sequence) }
            }
            EventNameJson::Id(Object(EventIdJson { id })) => Self::Id { id },
        }
    }
}

impl MarksJson {
    /// Returns the request, which names at most `max_events` events. `permitted` is the filter on
    /// all that the caller reads.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: no events are named, or in two ways. [`Error::OverLimit`].
    pub(in crate::edge) fn request(
        self,
        permitted: Filter,
        max_events: usize,
    ) -> Result<MarkRequest> {
        let Self { mark, unmark, snooze_until, events, up_to, filter, marks } = self;
        let events = match (events, up_to) {
            (Some(events), None) if filter.is_none() && marks.is_none() => {
                MarkedEvents::Named(named(&events, max_events)?)
            }
            (Some(_), None) => {
                let problem = "is for up_to; events that are named need no filter";
                return Err(Error::invalid("filter", problem));
            }
            (None, Some(cursor)) => {
                let marks = match filter.is_some() || marks.is_some() {
                    true => inboxes::marks(marks.unwrap_or_default().filter()),
                    false => MarkFilter::default(),
                };
                let filter = filter.unwrap_or_default().filter()?;
                MarkedEvents::UpTo { cursor, filter, marks }
            }
            _ => return Err(Error::invalid("events", "write either events or up_to")),
        };
        let mut request = MarkRequest::of(events).permitted(permitted);
        request.mark.extend(mark.entries("mark")?);
        request.unmark.extend(unmark.entries("unmark")?);
        request.snooze_until = snooze_until;
        Ok(request)
    }
}

/// Returns the names of events in a list.
fn named(events: &RawValue, max_events: usize) -> Result<Vec<EventName>> {
    use serde::de::DeserializeSeed as _;
    let mut list = serde_json::Deserializer::from_str(events.get());
    let list = UpTo::<EventNameJson>::new(max_events).deserialize(&mut list);
    let list = list.map_err(|error| Error::invalid("events", json_problem::words(&error)))?;
    Ok(list.entries("events")?.into_iter().map(EventName::from).collect())
}

/// The counts that are wanted of one consumer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct CountsJson {
    pub(in crate::edge) consumer: String,
    pub(in crate::edge) topic: String,
    pub(in crate::edge) owner: Option<String>,
    #[serde(default)]
    pub(in crate::edge) shared: bool,
    #[serde(default)]
    pub(in crate::edge) filters: List<FilterJson>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &str) -> Result<MarkRequest> {
        let read = serde_json::from_str::<MarksJson>(json);
        let read = read.map_err(|error| Error::invalid("body", json_problem::words(&error)))?;
        read.request(Filter::default(), 2)
    }

    #[test]
    fn marks_name_their_events_in_one_way_and_are_bounded() {
        let named = request(r#"{"mark":["read"],"events":[17,{"id":"a"}]}"#).unwrap();
        let names = [EventName::Sequence(Sequence::new(17)), EventName::Id { id: "a".to_owned() }];
        assert_eq!(named.events, MarkedEvents::Named(names.to_vec()));
        let of_topic = request(r#"{"unmark":["seen"],"events":[{"topic":"a","sequence":3}]}"#);
        assert!(of_topic.unwrap().unmark.contains(&Mark::Seen));
        let up_to = r#"{"mark":["archived"],"up_to":"4","filter":{"types":["x"]},
            "marks":{"read":true}}"#;
        let MarkedEvents::UpTo { filter, marks, .. } = request(up_to).unwrap().events else {
            panic!()
        };
        assert!(filter.types.contains("x") && marks.read == Some(true) && marks.seen.is_none());
        assert_eq!(marks.archived, Some(false), "the list that was shown had no archived event");
        let all = request(r#"{"mark":["read"],"up_to":"4"}"#).unwrap().events;
        let MarkedEvents::UpTo { marks, .. } = all else { panic!() };
        assert!(marks.is_empty(), "{marks:?}");
        for (json, problem) in [
            (r#"{"mark":["read"]}"#, "write either events or up_to"),
            (r#"{"mark":["read"],"events":[1],"up_to":"4"}"#, "write either events or up_to"),
            (r#"{"mark":["read"],"events":[1],"marks":{}}"#, "events that are named need no"),
            (r#"{"mark":["read"],"events":[1,2,3]}"#, "events: 3 is over the limit of 2"),
            (r#"{"mark":["red"],"events":[1]}"#, "\"red\" is not a known value"),
            (r#"{"mark":["read"],"events":["1"]}"#, "an event is named by its sequence"),
            (r#"{"mark":["read"],"events":[{"id":"a","x":1}]}"#, "an event is named by its"),
            (r#"{"mark":["read"],"events":[["a"]]}"#, "an event is named by its"),
            (r#"{"mark":["read"],"events":[["a",1]]}"#, "an event is named by its"),
            (r#"{"mark":["read"],"up_to":"x"}"#, "is not a cursor"),
            (r#"{"mark":["read"],"up_to":"1","filter":[]}"#, "a list is not an object"),
            (r#"{"mark":["read"],"up_to":"1","marks":[true]}"#, "a list is not an object"),
            (r#"{"mark":["read"],"up_to":"1","marks":{"red":true}}"#, "\"red\" is not a known"),
        ] {
            let refused = request(json).unwrap_err().to_string();
            assert!(refused.contains(problem), "{json}: {refused}");
        }
    }

    #[test]
    fn null_is_told_from_what_is_missing() {
        let read = |json| serde_json::from_str::<CheckpointJson>(json).unwrap();
        assert_eq!(read(r#"{"cursor":"4"}"#).checkpoint().expected, None);
        assert_eq!(read(r#"{"cursor":"4","expected":null}"#).checkpoint().expected, Some(None));
        let expected = read(r#"{"cursor":"4","expected":"3","force":true}"#).checkpoint();
        assert!(expected.force && expected.expected == Some("3".parse().ok()));
        let read = |json| serde_json::from_str::<ChangeJson>(json).unwrap().change().unwrap();
        assert_eq!(read("{}").filter, None);
        assert_eq!(read(r#"{"filter":null}"#).filter, Some(Filter::default()));
        let types = read(r#"{"filter":{"types":["x"]}}"#).filter.unwrap().types;
        assert!(types.contains("x"));
        for list in [r#"{"filter":[]}"#, r#"{"filter":[["x"]]}"#, r#"{"shared":[]}"#] {
            assert!(serde_json::from_str::<ChangeJson>(list).is_err(), "{list}");
            assert!(serde_json::from_str::<SettingsJson>(list).is_err(), "{list}");
        }
    }
}
