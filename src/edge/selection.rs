//! What a reader asks for, in whatever protocol: topics, where to begin, and which events.

use serde::Deserialize;

use super::budget::{Held, Share};
use super::query::Query;
use crate::broker::{Broker, Filter, Member, Presence, Reader};
use crate::cursor::{OnGap, StartPoint};
use crate::error::{Error, Result};
use crate::topic::{TopicName, TopicPattern};

/// Names in a query that may come more than once.
pub(super) const LISTS: [&str; 5] = ["topic", "type", "key", "key_prefix", "header"];

/// One topic, or many.
#[derive(Debug)]
pub(super) enum Topics {
    /// By its name: places are sequences.
    One(TopicName),
    /// By patterns: places are positions.
    Many(Vec<TopicPattern>),
}

impl Topics {
    /// All whose names fit.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], of the first pattern that is none.
    pub(super) fn many(patterns: impl IntoIterator<Item = String>) -> Result<Self> {
        let patterns = patterns.into_iter().map(|pattern| TopicPattern::new(&pattern));
        patterns.collect::<Result<_>>().map(Self::Many)
    }
}

/// What a live reader asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) topics: Topics,
    pub(super) start: StartPoint,
    pub(super) on_gap: OnGap,
    pub(super) filter: Filter,
    /// Who is to be present, in the topics that are named; patterns name none.
    pub(super) member: Option<Member>,
}

/// What a live reader keeps besides itself, for as long as it is there.
#[derive(Debug, Default)]
pub(super) struct Kept {
    _presence: Option<Presence>,
    _held: Held,
}

/// What a reader of one topic takes in memory while it waits, and what each pattern of a reader of
/// many does besides its text, in bytes. Source: `hostile::memory` measures both.
const READER_BYTES: usize = 2 << 10;
const PATTERN_BYTES: usize = 256;

impl Wanted {
    /// About what the reader takes in memory while it waits, in bytes.
    fn size_bytes(&self) -> usize {
        let Self { topics, filter, member, .. } = self;
        let patterns = match topics {
            Topics::One(_) => 0,
            Topics::Many(patterns) => {
                let sizes =
                    patterns.iter().map(|pattern| PATTERN_BYTES + 2 * pattern.as_str().len());
                sizes.sum::<usize>()
            }
        };
        let member = member.as_ref().map_or(0, Member::size_bytes);
        READER_BYTES + patterns + filter.size_bytes() + member
    }

    /// Begins to read, with memory of `share`.
    ///
    /// # Errors
    ///
    /// As [`Broker::join`], [`Broker::subscribe`] and [`Broker::feed`]; [`Error::NoRoom`].
    pub(super) async fn open(self, broker: &Broker, share: &Share) -> Result<(Reader, Kept)> {
        let held = share.take(self.size_bytes())?;
        let Self { topics, start, on_gap, filter, member } = self;
        let presence = join(broker, &topics, member)?;
        let reader = match topics {
            Topics::One(topic) => Reader::One(broker.subscribe(&topic, start, on_gap).await?),
            Topics::Many(patterns) => Reader::Many(broker.feed(patterns, start, on_gap).await?),
        };
        Ok((reader.filtered(filter)?, Kept { _presence: presence, _held: held }))
    }
}

/// Makes `member`, if there is one, present in the topics that it names; patterns name none.
///
/// # Errors
///
/// As [`Broker::join`].
fn join(broker: &Broker, topics: &Topics, member: Option<Member>) -> Result<Option<Presence>> {
    let Some(member) = member else { return Ok(None) };
    let names: Vec<TopicName> = match topics {
        Topics::One(topic) => vec![topic.clone()],
        Topics::Many(patterns) => {
            let literal = patterns.iter().filter(|pattern| pattern.is_name());
            literal.map(|pattern| TopicName::new(pattern.as_str())).collect::<Result<_>>()?
        }
    };
    broker.join(&names, member).map(Some)
}

/// Takes who reads out of a query: `member=` and, as JSON, `member_info=`.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn member(query: &mut Query) -> Result<Option<Member>> {
    let info = query.take("member_info").map(|info| serde_json::from_str(&info)).transpose();
    let info = info.map_err(|error| Error::invalid("member_info", error.to_string()))?;
    let id = query.take("member");
    if id.is_none() && info.is_some() {
        return Err(Error::invalid("member", "is missing beside member_info"));
    }
    Ok(id.map(|id| Member { id, info: info.unwrap_or_default() }))
}

/// How the data of an event is written in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// The payload as it is.
    Data,
    /// JSON that names topic, places, time, type, key and headers, too.
    Envelope,
    /// A CloudEvent in JSON.
    CloudEvents,
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "data" => Ok(Self::Data),
            "envelope" => Ok(Self::Envelope),
            "cloudevents" => Ok(Self::CloudEvents),
            _ => {
                let problem = format!("{text:?} is none of data, envelope, cloudevents");
                Err(Error::invalid("format", problem))
            }
        }
    }
}

/// Takes a filter out of a query: `type=`, `key=`, `key_prefix=`, `header=name:value`, each as
/// often as one likes.
///
/// # Errors
///
/// [`Error::Invalid`] of a header without a colon.
pub(super) fn filter(query: &mut Query) -> Result<Filter> {
    let header = |text: String| match text.split_once(':') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Error::invalid("header", format!("{text:?} is not like name:value"))),
    };
    Ok(Filter {
        types: query.take_all("type").into_iter().collect(),
        keys: query.take_all("key").into_iter().collect(),
        key_prefixes: query.take_all("key_prefix").into_iter().collect(),
        headers: query.take_all("header").into_iter().map(header).collect::<Result<_>>()?,
    })
}
