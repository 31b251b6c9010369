//! The forms in which clients of HTTP write a selection: names in a query, and JSON.

use serde::Deserialize;

use super::consumers::asking::{Named, ReadAs};
use super::json_problem;
use super::object::Object;
use crate::broker::{Filter, Member, MemberInfo};
use crate::cursor::Cursor;
use crate::edge::http::query::Query;
use crate::error::{Error, Result};
use crate::lists::{self, List};

/// The query parameters that may be given more than once.
pub(super) const LISTS: [&str; 5] = ["topic", "type", "key", "key_prefix", "header"];

/// Takes the member out of a query: `member=` and, as JSON, `member_info=`. Its id may be left out:
/// the caller's grant may have one.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(super) fn member(query: &mut Query) -> Result<Option<Member>> {
    let (id, info) = (query.take("member"), query.take("member_info"));
    if id.is_none() && info.is_none() {
        return Ok(None);
    }
    let info = match info {
        Some(info) => {
            let info = lists::members(&mut serde_json::Deserializer::from_str(&info));
            info.map_err(|error| Error::invalid("member_info", json_problem::words(&error)))?
        }
        None => List::default(),
    };
    MemberJson { id: id.unwrap_or_default(), info }.member().map(Some)
}

/// Takes the consumer as which a reader reads out of a query: `consumer=` and `owner=`; of a stream
/// also `counts=` and `marks_after=`. Without `consumer=` the others are left as unknown names.
///
/// # Errors
///
/// [`Error::Invalid`] for an invalid name, and for `counts` that is neither true nor false.
pub(super) fn read_as(query: &mut Query, is_stream: bool) -> Result<Option<ReadAs>> {
    let Some(name) = query.take("consumer") else { return Ok(None) };
    let named = Named::of_own(&name, query.take("owner"))?;
    let (counts, marks_after) = match is_stream {
        true => (query.take_flag("counts")?, query.take_lax::<Cursor>("marks_after")),
        false => (false, None),
    };
    Ok(Some(ReadAs { named, counts, marks_after }))
}

/// A member, as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberJson {
    /// Empty for the id of the caller's grant.
    #[serde(default)]
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
pub(super) type FilterJson = Object<FilterMembers>;

/// The members of a filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct FilterMembers {
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
        let Self(FilterMembers { types, keys, key_prefixes, headers }) = self;
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
#[non_exhaustive]
pub enum Format {
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
