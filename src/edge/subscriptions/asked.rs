//! The subscription that a client asks for, as JSON.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cursor::Cursor;
use crate::edge::consumers::asking::{Named, ReadAs};
use crate::edge::json_problem;
use crate::edge::selection::{TopicSelection, Wanted};
use crate::edge::selection_forms::{FilterJson, MemberJson};
use crate::error::{Error, Result};
use crate::lists::List;
use crate::topic::TopicName;

/// Longest name that a client gives to a subscription, or to a request, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// A subscription to open, under the client's name for it.
#[derive(Debug)]
pub(in crate::edge) struct Subscribe {
    pub(in crate::edge) subscription: String,
    pub(in crate::edge) wanted: Wanted,
}

/// A subscription of a list that is refused, and with it the list.
#[derive(Debug)]
pub(in crate::edge) struct RefusedSubscription {
    /// The client's name for it, if it has one.
    pub(in crate::edge) name: Option<String>,
    pub(in crate::edge) error: Error,
}

/// The name of a subscription, whatever else is wrong with it.
#[derive(Deserialize)]
struct NameJson<'a> {
    #[serde(borrow)]
    subscription: Cow<'a, str>,
}

impl RefusedSubscription {
    /// Returns the refusal of the subscription that this JSON asks for.
    pub(in crate::edge) fn of(json: &RawValue, error: Error) -> Self {
        let read = serde_json::from_str::<NameJson<'_>>(json.get()).ok();
        let name = read.and_then(|NameJson { subscription }| {
            name("subscription", subscription.into_owned()).ok()
        });
        Self { name, error }
    }
}

/// Reads one subscription of a list.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`]; and which one of the list is refused.
pub(in crate::edge) fn one_of_many(json: &RawValue) -> Result<Subscribe, RefusedSubscription> {
    let read = serde_json::from_str::<SubscribeJson>(json.get());
    let read =
        read.map_err(|error| Error::invalid("subscriptions", json_problem::without_place(&error)));
    read.and_then(SubscribeJson::subscribe).map_err(|error| RefusedSubscription::of(json, error))
}

/// A subscription, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct SubscribeJson {
    /// The type of the message; a request that has only subscriptions need not have it.
    r#type: Option<String>,
    subscription: String,
    topic: Option<String>,
    topics: Option<List<String>>,
    from: Option<String>,
    on_gap: Option<String>,
    #[serde(default)]
    filter: FilterJson,
    consumer: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    counts: bool,
    marks_after: Option<Cursor>,
    member: Option<MemberJson>,
    #[serde(default)]
    strict: bool,
}

impl SubscribeJson {
    /// Returns the subscription.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`].
    pub(in crate::edge) fn subscribe(self) -> Result<Subscribe> {
        if let Some(other) = self.r#type.filter(|kind| kind != "subscribe") {
            let shown: String = other.chars().take(64).collect();
            let problem = format!("{shown:?} is no subscription; write subscribe, or leave it out");
            return Err(Error::invalid("type", problem));
        }
        let topics = match (self.topic, self.topics) {
            (Some(topic), None) => TopicSelection::One(TopicName::new(&topic)?),
            (None, Some(topics)) => TopicSelection::many(&topics.entries("topics")?)?,
            _ => return Err(Error::invalid("topic", "write either topic or topics")),
        };
        let (counts, marks_after) = (self.counts, self.marks_after);
        let consumer = match self.consumer {
            Some(name) => {
                let named = Named::of_own(&name, self.owner)?;
                Some(Box::new(ReadAs { named, counts, marks_after }))
            }
            None if self.owner.is_some() || counts || marks_after.is_some() => {
                let problem = "is missing, and other fields are about it";
                return Err(Error::invalid("consumer", problem));
            }
            None => None,
        };
        let wanted = Wanted {
            topics,
            start: self.from.map(|from| from.parse()).transpose()?,
            on_gap: self.on_gap.map(|on_gap| on_gap.parse()).transpose()?.unwrap_or_default(),
            filter: self.filter.filter()?,
            member: self.member.map(MemberJson::member).transpose()?,
            is_strict: self.strict,
            consumer,
        };
        Ok(Subscribe { subscription: name("subscription", self.subscription)?, wanted })
    }
}

/// Returns a name, if it is neither empty nor too long.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`].
pub(in crate::edge) fn name(field: &'static str, text: String) -> Result<String> {
    match text.len() {
        1..=MAX_NAME_BYTES => Ok(text),
        0 => Err(Error::invalid(field, "is empty")),
        size_bytes => Err(Error::over(format!("{field} bytes"), size_bytes, MAX_NAME_BYTES)),
    }
}
