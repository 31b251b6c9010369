//! What a reader asks for, in whatever protocol: topics, where to begin, and which events.

use std::sync::Arc;

use serde::Deserialize;

use super::budget::{Held, Share};
use super::json_problem;
use crate::broker::{
    Broker, Filter, MAX_PATTERNS, Member, MemberInfo, PageReader, PageRequest, Presence, Reader,
};
use crate::cursor::{OnGap, StartPoint};
use crate::edge::http::query::Query;
use crate::error::{Error, Result};
use crate::lists::{self, List};
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
    /// - [`Error::OverLimit`], before any of them is looked at.
    /// - [`Error::Invalid`], of the first pattern that is none.
    pub(super) fn many(patterns: &[String]) -> Result<Self> {
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        let patterns = patterns.iter().map(|pattern| TopicPattern::new(pattern));
        patterns.collect::<Result<_>>().map(Self::Many)
    }

    /// How many topics are named: a member is present in each of them.
    fn count_names(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(patterns) => patterns.iter().filter(|pattern| pattern.is_name()).count(),
        }
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
    _held: Arc<Held>,
}

/// What a reader of one topic takes in memory while it waits, and what each pattern of a reader of
/// many does besides its text and its tokens, in bytes. Source: `hostile::memory` measures both.
const READER_BYTES: usize = 2 << 10;
const PATTERN_BYTES: usize = 256;

/// The memory of one token of a pattern, where no other pattern begins with the same tokens, in
/// bytes. Source: `hostile::patterns` measures it, with 1 to 100 tokens.
const WORD_BYTES: usize = 576;
const WILDCARD_BYTES: usize = 160;

/// About what a reader takes in memory while it waits, in bytes.
fn reader_bytes(topics: &Topics, filter: &Filter) -> usize {
    let patterns = match topics {
        Topics::One(_) => 0,
        Topics::Many(patterns) => patterns.iter().map(pattern_bytes).sum::<usize>(),
    };
    READER_BYTES + patterns + filter.size_bytes()
}

/// Begins to read a page of `topics`. What the reader takes in memory is held for as long as it is
/// there.
///
/// # Errors
///
/// As [`Broker::page`] and [`Broker::page_of_many`]; [`Error::Invalid`] for many topics with
/// `before`; [`Error::NoRoom`].
pub(super) async fn page(
    topics: Topics,
    request: PageRequest,
    broker: &Broker,
    share: &Share,
) -> Result<(PageReader, Arc<Held>)> {
    let held = Arc::new(share.take(reader_bytes(&topics, &request.filter))?);
    let reader = match topics {
        Topics::One(topic) => broker.page(&topic, request).await?,
        Topics::Many(_) if request.before.is_some() => {
            return Err(Error::invalid("before", "is for one topic alone"));
        }
        Topics::Many(patterns) => {
            // Of a reader of many topics the broker knows something for a while after it.
            broker.page_of_many_with(patterns, request, Some(held.clone())).await?
        }
    };
    Ok((reader, held))
}

fn pattern_bytes(pattern: &TopicPattern) -> usize {
    let token_bytes = |token| if matches!(token, "*" | ">") { WILDCARD_BYTES } else { WORD_BYTES };
    let tokens = pattern.tokens().map(token_bytes).sum::<usize>();
    PATTERN_BYTES + 2 * pattern.as_str().len() + tokens
}

impl Wanted {
    /// Begins to read, with memory of `share`.
    ///
    /// # Errors
    ///
    /// As [`Broker::join`], [`Broker::subscribe`] and [`Broker::feed`]; [`Error::NoRoom`].
    pub(super) async fn open(self, broker: &Broker, share: &Share) -> Result<(Reader, Kept)> {
        let Self { topics, start, on_gap, filter, member } = self;
        let member_bytes = member.as_ref().map_or(0, Member::size_bytes) * topics.count_names();
        let held = Arc::new(share.take(reader_bytes(&topics, &filter) + member_bytes)?);
        let presence = join(broker, &topics, member, &held).await?;
        let reader = match topics {
            Topics::One(topic) => Reader::One(broker.subscribe(&topic, start, on_gap).await?),
            Topics::Many(patterns) => {
                // Of a reader of many topics the broker knows something for a while after it.
                let feed = broker.feed_with(patterns, start, on_gap, Some(held.clone()));
                Reader::Many(feed.await?)
            }
        };
        Ok((reader.filtered(filter)?, Kept { _presence: presence, _held: held }))
    }
}

/// Makes `member`, if there is one, present in the topics that it names; patterns name none.
///
/// # Errors
///
/// As [`Broker::join`].
async fn join(
    broker: &Broker,
    topics: &Topics,
    member: Option<Member>,
    held: &Arc<Held>,
) -> Result<Option<Presence>> {
    let Some(member) = member else { return Ok(None) };
    let names: Vec<TopicName> = match topics {
        Topics::One(topic) => vec![topic.clone()],
        Topics::Many(patterns) => {
            let literal = patterns.iter().filter(|pattern| pattern.is_name());
            literal.map(|pattern| TopicName::new(pattern.as_str())).collect::<Result<_>>()?
        }
    };
    broker.join_with(&names, member, Some(held.clone())).await.map(Some)
}

/// Takes who reads out of a query: `member=` and, as JSON, `member_info=`.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn member(query: &mut Query) -> Result<Option<Member>> {
    let info = query.take("member_info");
    let Some(id) = query.take("member") else {
        let is_missing = info.map(|_| Error::invalid("member", "is missing beside member_info"));
        return is_missing.map_or(Ok(None), Err);
    };
    let info = match info {
        Some(info) => {
            let info = lists::members(&mut serde_json::Deserializer::from_str(&info));
            info.map_err(|error| Error::invalid("member_info", json_problem::words(&error)))?
        }
        None => List::default(),
    };
    MemberJson { id, info }.member().map(Some)
}

/// Who reads, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberJson {
    id: String,
    #[serde(default, deserialize_with = "lists::members")]
    info: List<(String, MemberInfo)>,
}

impl MemberJson {
    /// The member.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(super) fn member(self) -> Result<Member> {
        let Self { id, info } = self;
        Ok(Member { id, info: info.members("member info")?.into_iter().collect() })
    }
}

/// What a reader wants, as JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilterJson {
    types: List<String>,
    keys: List<String>,
    key_prefixes: List<String>,
    #[serde(deserialize_with = "lists::members")]
    headers: List<(String, String)>,
}

impl FilterJson {
    /// The filter.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(super) fn filter(self) -> Result<Filter> {
        let Self { types, keys, key_prefixes, headers } = self;
        Ok(Filter {
            types: types.entries("filter types")?.into_iter().collect(),
            keys: keys.entries("filter keys")?.into_iter().collect(),
            key_prefixes: key_prefixes.entries("filter key_prefixes")?.into_iter().collect(),
            headers: headers.members("filter headers")?.into_iter().collect(),
        })
    }
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
