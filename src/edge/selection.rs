//! The selection of a reader, in any protocol: its topics, its start, and its filter.

use std::sync::Arc;

use serde::Deserialize;

use super::budget::{Held, Share};
use super::json_problem;
use super::permit::Permit;
use super::permitted_page::PermittedPage;
use crate::broker::{
    Broker, Filter, MAX_PATTERNS, Member, MemberInfo, PageRequest, Presence, Reader,
};
use crate::cursor::{OnGap, StartPoint};
use crate::edge::http::query::Query;
use crate::error::{Error, Result};
use crate::lists::{self, List};
use crate::permission::Action;
use crate::topic::{TopicName, TopicPattern};

/// The query parameters that may be given more than once.
pub(super) const LISTS: [&str; 5] = ["topic", "type", "key", "key_prefix", "header"];

/// One topic, or many.
#[derive(Debug)]
pub(super) enum TopicSelection {
    /// A topic by its name. Places are sequences.
    One(TopicName),
    /// Topics by patterns. Places are positions.
    Many(Vec<TopicPattern>),
}

impl TopicSelection {
    /// Returns the topics whose names match one of `patterns`.
    ///
    /// # Errors
    ///
    /// - [`Error::OverLimit`]: there are too many; no pattern is looked at.
    /// - [`Error::Invalid`]: names the first invalid pattern.
    pub(super) fn many(patterns: &[String]) -> Result<Self> {
        lists::check("topics", patterns.len(), MAX_PATTERNS)?;
        let patterns = patterns.iter().map(|pattern| TopicPattern::new(pattern));
        patterns.collect::<Result<_>>().map(Self::Many)
    }

    /// Returns the part of the topics that the caller may read, and the patterns that were cut down
    /// to a part, or to nothing.
    ///
    /// # Errors
    ///
    /// As [`Permit::check`] and [`Permit::readable`].
    async fn permitted(self, permit: &Permit) -> Result<(Self, Vec<TopicPattern>)> {
        match self {
            Self::One(topic) => {
                permit.check(Action::Subscribe, &topic).await?;
                Ok((Self::One(topic), Vec::new()))
            }
            Self::Many(patterns) => {
                let readable = permit.readable(patterns).await?;
                Ok((Self::Many(readable.patterns), readable.cut))
            }
        }
    }

    /// Returns the reaction of a page to a gap, if its reader does not say.
    pub(super) fn page_on_gap(&self) -> OnGap {
        match self {
            Self::One(_) => OnGap::Fail,
            // A gap in one topic is no reason to withhold the events of the others.
            Self::Many(_) => OnGap::Resume,
        }
    }

    /// Returns how many topics are named. A member is present in each of them.
    fn count_names(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(patterns) => patterns.iter().filter(|pattern| pattern.is_name()).count(),
        }
    }
}

/// The request of a live reader.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) topics: TopicSelection,
    pub(super) start: StartPoint,
    pub(super) on_gap: OnGap,
    pub(super) filter: Filter,
    /// The member to be present in the named topics. A pattern with a wildcard names no topic.
    pub(super) member: Option<Member>,
}

/// The resources that a live reader holds as long as it exists: its presence and its memory.
#[derive(Debug, Default)]
pub(super) struct Kept {
    _presence: Option<Presence>,
    _held: Arc<Held>,
    /// The patterns of which the caller may not read all.
    pub(super) cut: Vec<TopicPattern>,
}

/// The memory of a waiting reader of one topic, and that of each pattern of a reader of many
/// without its text and its tokens, in bytes. Source: `hostile::memory` measures both.
const READER_BYTES: usize = 2 << 10;
const PATTERN_BYTES: usize = 256;

/// The memory of one token of a pattern, if no other pattern begins with the same tokens, in bytes.
/// Source: `hostile::patterns` measures it, with 1 to 100 tokens.
const WORD_BYTES: usize = 576;
const WILDCARD_BYTES: usize = 160;

/// Returns the approximate memory of a waiting reader, in bytes.
fn reader_bytes(topics: &TopicSelection, filter: &Filter) -> usize {
    let patterns = match topics {
        TopicSelection::One(_) => 0,
        TopicSelection::Many(patterns) => patterns.iter().map(pattern_bytes).sum::<usize>(),
    };
    READER_BYTES + patterns + filter.size_bytes()
}

/// Begins to read a page of `topics`. The reader's memory is taken from `share` until the returned
/// [`Held`] is dropped.
///
/// # Errors
///
/// As [`Broker::page`] and [`Broker::page_of_many`]; [`Error::Invalid`] for many topics with
/// `before`; [`Error::NoRoom`]; as [`Permit::check`].
pub(super) async fn page(
    topics: TopicSelection,
    mut request: PageRequest,
    permit: &Permit,
    (broker, share): (&Broker, &Share),
) -> Result<(PermittedPage, Arc<Held>)> {
    let (topics, _cut) = topics.permitted(permit).await?;
    request.permitted = permit.filter();
    let held = Arc::new(share.take(reader_bytes(&topics, &request.filter))?);
    let reader = match topics {
        TopicSelection::One(topic) => broker.page(&topic, request).await?,
        TopicSelection::Many(_) if request.before.is_some() => {
            return Err(Error::invalid("before", "is for one topic alone"));
        }
        TopicSelection::Many(patterns) => {
            // The broker remembers a reader of many topics for a while after it has gone.
            broker.page_of_many_with(patterns, request, Some(held.clone())).await?
        }
    };
    Ok((PermittedPage::new(reader, permit.clone()), held))
}

fn pattern_bytes(pattern: &TopicPattern) -> usize {
    let token_bytes = |token| if matches!(token, "*" | ">") { WILDCARD_BYTES } else { WORD_BYTES };
    let tokens = pattern.tokens().map(token_bytes).sum::<usize>();
    PATTERN_BYTES + 2 * pattern.as_str().len() + tokens
}

impl Wanted {
    /// Begins to read. The reader's memory is taken from `share` until the returned [`Kept`] is
    /// dropped.
    ///
    /// # Errors
    ///
    /// As [`Broker::join`], [`Broker::subscribe`] and [`Broker::feed`]; [`Error::NoRoom`]; as
    /// [`Permit::check`].
    pub(super) async fn open(
        self,
        permit: &Permit,
        broker: &Broker,
        share: &Share,
    ) -> Result<(Reader, Kept)> {
        let Self { topics, start, on_gap, filter, member } = self;
        let (topics, cut) = topics.permitted(permit).await?;
        let member = permit.member(member)?;
        let member_bytes = member.as_ref().map_or(0, Member::size_bytes) * topics.count_names();
        let held = Arc::new(share.take(reader_bytes(&topics, &filter) + member_bytes)?);
        let presence = join(broker, &topics, (member, permit), &held).await?;
        let reader = match topics {
            TopicSelection::One(topic) => broker.subscribe(&topic, start, on_gap).await?,
            TopicSelection::Many(patterns) => {
                // The broker remembers a reader of many topics for a while after it has gone.
                let feed = broker.feed_with(patterns, start, on_gap, Some(held.clone()));
                feed.await?
            }
        };
        let reader = reader.filtered(filter)?.filtered(permit.filter())?;
        Ok((reader, Kept { _presence: presence, _held: held, cut }))
    }
}

/// Makes `member`, if there is one, present in the topics that are named without a wildcard.
///
/// # Errors
///
/// As [`Broker::join`]; as [`Permit::check`].
async fn join(
    broker: &Broker,
    topics: &TopicSelection,
    (member, permit): (Option<Member>, &Permit),
    held: &Arc<Held>,
) -> Result<Option<Presence>> {
    let Some(member) = member else { return Ok(None) };
    let names: Vec<TopicName> = match topics {
        TopicSelection::One(topic) => vec![topic.clone()],
        TopicSelection::Many(patterns) => {
            let literal = patterns.iter().filter(|pattern| pattern.is_name());
            literal.map(|pattern| TopicName::new(pattern.as_str())).collect::<Result<_>>()?
        }
    };
    for name in &names {
        permit.check(Action::Presence, name).await?;
    }
    broker.join_with(&names, member, Some(held.clone())).await.map(Some)
}

/// Takes the member out of a query: `member=` and, as JSON, `member_info=`.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn member(query: &mut Query) -> Result<Option<Member>> {
    let info = query.take("member_info");
    let Some(id) = query.take("member") else {
        let is_missing = info.map(|_| Error::invalid("member", "is missing; member_info needs it"));
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

/// A member, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberJson {
    id: String,
    #[serde(default, deserialize_with = "lists::members")]
    info: List<(String, MemberInfo)>,
}

impl MemberJson {
    /// Returns the member.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(super) fn member(self) -> Result<Member> {
        let Self { id, info } = self;
        Ok(Member { id, info: info.members("member info")?.into_iter().collect() })
    }
}

/// A filter, as JSON.
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
    /// Returns the filter.
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

/// The format in which a stream writes events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    /// The payload alone, unchanged.
    Data,
    /// JSON with topic, places, time, type, key, headers and payload.
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
                let problem = format!("{text:?} is not one of data, envelope, cloudevents");
                Err(Error::invalid("format", problem))
            }
        }
    }
}

/// Takes a filter out of a query: `type=`, `key=`, `key_prefix=`, `header=name:value`, each any
/// number of times.
///
/// # Errors
///
/// [`Error::Invalid`] for a header without a colon.
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
