//! The request of a reader over HTTP: the query, and `Last-Event-ID`.
//!
//! # Why
//!
//! A page is refused if anything in its query is doubtful. A stream is not: an `EventSource` that
//! gets an answer other than 200 never reconnects, and other software changes its request.
//! Polyfills append an id to a URL that has one, proxies join two headers, and a page that was
//! moved sends the id of another server. So a stream accepts:
//!
//! | input | meaning |
//! |---|---|
//! | a name given twice, an id given twice or joined, `1, 2` | the last of them |
//! | `"42-9f3c2a1b"` | 42-9f3c2a1b |
//! | `earliest`, `latest` as an id | the same as in `from` |
//! | any other id, or `from`, that is no place in these topics | a gap for the reason `unknown` |
//! | a time in `from` that is in the future | `latest`; the stream and a header say so |
//! | an unknown name, `format` or `on_gap` | ignored; the stream and a header say so |
//!
//! An error in the topics, the filter, the consumer, the member or `strict` is refused on a stream,
//! too: without them the reader would get other events, or be present under another name.

use axum::Extension;
use http::HeaderMap;

use crate::broker::{Filter, Member};
use crate::cursor::{Cursor, OnGap, Place, StartPoint};
use crate::edge::clients::Peer;
use crate::edge::consumers::asking::ReadAs;
use crate::edge::http::accept::Accepted;
use crate::edge::http::query::Query;
use crate::edge::http::spare::Purpose;
use crate::edge::permit::Permit;
use crate::edge::selection::TopicSelection;
use crate::edge::selection_forms::{self, Format};
use crate::error::{Error, Result};

/// The header with the reader's last cursor. The browsers' own `EventSource` sends the header;
/// polyfills and people use the query, with many names. In the query of a page the first value that
/// is not empty counts, in that of a stream the last.
const CURSOR_HEADER: &str = "last-event-id";
pub(in crate::edge) const CURSOR_QUERIES: [&str; 8] = [
    "last_event_id",
    "lastEventId",
    "lastEventID",
    "Last-Event-ID",
    "last-event-id",
    "evs_last_event_id",
    "after",
    "since",
];

/// The other names that a stream accepts.
const NAMES: [&str; 10] = [
    "from",
    "on_gap",
    "format",
    "consumer",
    "owner",
    "counts",
    "marks_after",
    "member",
    "member_info",
    "strict",
];

/// Parses the query of a reader that gets its answer in this form.
///
/// # Errors
///
/// As [`Query::parse_lists`] and [`Query::parse_stream`].
pub(in crate::edge) fn query(query: Option<&str>, form: Option<Accepted>) -> Result<Query> {
    if form != Some(Accepted::Stream) {
        return Query::parse_lists(query, Purpose::Page, &selection_forms::LISTS);
    }
    Query::parse_stream(query, &selection_forms::LISTS, |name| {
        if CURSOR_QUERIES.contains(&name) {
            return Some(CURSOR_QUERIES[0]);
        }
        NAMES.iter().find(|known| **known == name).copied()
    })
}

/// The request of a reader.
pub(in crate::edge) struct Asked {
    pub(in crate::edge) topics: TopicSelection,
    /// Whether the reader is refused if its caller may not read all of the topics.
    pub(in crate::edge) is_strict: bool,
    pub(in crate::edge) start: Option<StartPoint>,
    pub(in crate::edge) on_gap: Option<OnGap>,
    pub(in crate::edge) filter: Filter,
    pub(in crate::edge) format: Option<Format>,
    /// The consumer as which the reader reads.
    pub(in crate::edge) consumer: Option<ReadAs>,
    /// The member to be present.
    pub(in crate::edge) member: Option<Member>,
    /// The client that asks.
    pub(in crate::edge) peer: Option<Peer>,
    pub(in crate::edge) permit: Permit,
}

impl Asked {
    /// Reads the request from a query and `Last-Event-ID`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an invalid value; on a stream, only in the filter, the
    /// consumer, the member or `strict`.
    pub(in crate::edge) fn of(
        topics: TopicSelection,
        form: Option<Accepted>,
        headers: &HeaderMap,
        (peer, permit): (Option<Extension<Peer>>, Permit),
        query: &mut Query,
    ) -> Result<Self> {
        let is_stream = form == Some(Accepted::Stream);
        let (start, on_gap, format) = if is_stream {
            let cursor = lax_cursor(headers, query, &topics);
            let from = query.take("from").and_then(|from| lax_start(&from));
            (cursor.or(from), query.take_lax("on_gap"), query.take_lax("format"))
        } else {
            let cursor = cursor(headers, query)?;
            let from = query.take("from").map(|from| from.parse()).transpose()?;
            let on_gap = query.take("on_gap").map(|on_gap| on_gap.parse()).transpose()?;
            let format = query.take("format").map(|format| format.parse()).transpose()?;
            (cursor.or(from), on_gap, format)
        };
        let is_strict = query.take_flag("strict")?;
        Ok(Self {
            topics,
            is_strict,
            start,
            on_gap,
            filter: selection_forms::filter(query)?,
            format,
            consumer: selection_forms::read_as(query, is_stream)?,
            member: selection_forms::member(query)?,
            peer: peer.map(|Extension(peer)| peer),
            permit,
        })
    }
}

/// Returns the cursor that the reader of a page sent, if there is one. An empty value counts as
/// none.
fn cursor(headers: &HeaderMap, query: &mut Query) -> Result<Option<StartPoint>> {
    let header = match headers.get(CURSOR_HEADER) {
        Some(value) => {
            let text = std::str::from_utf8(value.as_bytes());
            Some(text.map_err(|_| Error::invalid("Last-Event-ID", "is not UTF-8"))?.to_owned())
        }
        None => None,
    };
    // All names are taken, so that none is left over as unknown.
    let queries = CURSOR_QUERIES.map(|name| query.take(name));
    let text = header.into_iter().chain(queries.into_iter().flatten()).find(|t| !t.is_empty());
    let start = |text: String| match word(&text) {
        Some(start) => Ok(start),
        None => text.parse().map(StartPoint::After),
    };
    text.map(start).transpose()
}

/// Returns the cursor that the reader of a stream sent, if there is one. The header comes first,
/// because a browser repeats the URL unchanged. If the header is not a cursor, the URL counts.
fn lax_cursor(
    headers: &HeaderMap,
    query: &mut Query,
    topics: &TopicSelection,
) -> Option<StartPoint> {
    let header = headers.get_all(CURSOR_HEADER).into_iter();
    let header = header.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let header = header.collect::<Vec<_>>().join(",");
    let query = query.take(CURSOR_QUERIES[0]).unwrap_or_default();
    let mut starts = [header, query].into_iter().filter_map(|text| {
        let last = text.split(',').map(unquoted).rfind(|text| !text.is_empty())?;
        Some(known_place(last, topics))
    });
    let first = starts.next()?;
    Some(first.or_else(|| starts.next().flatten()).unwrap_or(StartPoint::Unknown))
}

/// Returns the start that `from` names; `None` if `from` is empty.
fn lax_start(from: &str) -> Option<StartPoint> {
    let from = unquoted(from);
    (!from.is_empty()).then(|| from.parse().unwrap_or(StartPoint::Unknown))
}

/// Returns `text` without the white space and quotes around it.
fn unquoted(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
}

/// Returns the start that an id names, if the id is valid for these topics.
fn known_place(text: &str, topics: &TopicSelection) -> Option<StartPoint> {
    let cursor = || text.parse::<Cursor>().ok();
    let is_for_them = |cursor: &Cursor| match (topics, cursor.after) {
        (TopicSelection::One(_), _) | (TopicSelection::Many(_), Place::Position(_)) => true,
        (TopicSelection::Many(_), Place::Sequence(_)) => false,
    };
    word(text).or_else(|| cursor().filter(is_for_them).map(StartPoint::After))
}

fn word(text: &str) -> Option<StartPoint> {
    match text {
        "earliest" => Some(StartPoint::Earliest),
        "latest" => Some(StartPoint::Latest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;
    use crate::edge::http::ignored::{Ignored, KNOWN};

    fn topics(one: bool) -> TopicSelection {
        match one {
            true => TopicSelection::One("a".parse().expect("a name")),
            false => TopicSelection::many(&["a.*".to_owned()]).expect("a pattern"),
        }
    }

    /// Returns the start of a stream with these ids and this query, and the names that it ignored.
    fn start(is_one: bool, ids: &[&str], text: &str) -> (Option<StartPoint>, Ignored) {
        let mut headers = HeaderMap::new();
        for id in ids {
            let value = HeaderValue::from_bytes(id.as_bytes()).expect("a header's value");
            headers.append(CURSOR_HEADER, value);
        }
        let form = Some(Accepted::Stream);
        let mut query = query(Some(text), form).expect("a query");
        let asked = Asked::of(topics(is_one), form, &headers, Default::default(), &mut query);
        let start = asked.expect("nothing is refused").start;
        (start, query.into_ignored())
    }

    #[test]
    fn whatever_a_client_comes_back_with_is_a_place_or_unknown_and_the_last_of_several_counts() {
        let after = |text: &str| Some(StartPoint::After(text.parse().expect("a cursor")));
        let unknown = Some(StartPoint::Unknown);
        let cases: [(&[&str], &str, Option<StartPoint>); 28] = [
            (&[], "", None),
            (&[""], "lastEventId=&after=", None),
            (&[], "lastEventId=1&lastEventId=5", after("5")),
            (&[], "after=3&lastEventId=7-9f3c2a1b", after("7-9f3c2a1b")),
            (&[], "lastEventId=7&after=3", after("3")),
            (&[], "lastEventId=7&since=", after("7")),
            (&["4"], "lastEventId=7", after("4")),
            (&["4", "6"], "", after("6")),
            (&["1, 1"], "", after("1")),
            (&["1, 2-9f3c2a1b,"], "", after("2-9f3c2a1b")),
            (&["\"42-9f3c2a1b\""], "", after("42-9f3c2a1b")),
            (&["'42'"], "", after("42")),
            (&[" 42 "], "", after("42")),
            (&["earliest"], "from=latest", Some(StartPoint::Earliest)),
            (&["latest"], "from=earliest", Some(StartPoint::Latest)),
            (&[], "lastEventId=earliest", Some(StartPoint::Earliest)),
            (&["null"], "from=latest", unknown),
            (&[], "lastEventId=undefined", unknown),
            (&["urn:uuid:5e94c686-2c0b-4f9b-958c-92ccc3bbb4eb"], "", unknown),
            (&["1526919030474-55"], "", unknown),
            (&["last:5"], "", unknown),
            (&["größe"], "", unknown),
            (&[], "after=%ff", unknown),
            (&["18446744073709551615"], "", unknown),
            (&["null"], "after=5", after("5")),
            (&["5"], "after=null", after("5")),
            (&[], "from=last:5", Some(StartPoint::Last(5))),
            (&[], "from=earliest&from=last:5", Some(StartPoint::Last(5))),
        ];
        for (ids, text, expected) in cases {
            assert_eq!(start(true, ids, text), (expected, Ignored::default()), "{ids:?} {text}");
        }
        assert_eq!(start(false, &["@42-9f3c2a1b"], "").0, after("@42-9f3c2a1b"));
        assert_eq!(start(false, &["42-9f3c2a1b"], "").0, unknown, "a cursor of one topic");
    }

    #[test]
    fn names_that_mean_nothing_are_told_up_to_a_bound() {
        let ignored = |text: &str| start(true, &[], text).1;
        let told =
            |text: &str| ignored(text).header().map(|v| v.to_str().expect("ASCII").to_owned());
        assert_eq!(told("from=1&type=a&type=b&_=17&r=0.5&evs_preamble=1&&=x"), None);
        assert_eq!(told("form=earliest&form=1&limit=5").as_deref(), Some(r#""form", "limit""#));
        let odd = told("gr%C3%B6%22%0d%ff=1").expect("a name");
        assert_eq!(odd, r#""gr%C3%B6%22%0D%EF%BF%BD""#);
        let many: String = (0..500).map(|n| format!("{}{n}&", "x".repeat(99))).collect();
        assert_eq!(told(&many).map(|text| text.len()), Some(64 + 2), "all begin alike");
        let many: String = (0..500).map(|n| format!("n{n}&")).collect();
        let told = told(&many).expect("names");
        // The count of ignored names is bounded by the names that a page may have.
        assert!(told.starts_with(r#""n0", "n1""#) && told.ends_with(r#""n7";more=56"#), "{told}");
        let again = "n0&n1&n2&n3&n4&n5&n6&n7&n8&n9&".repeat(50);
        let json = ignored(&again).json().expect("names");
        assert_eq!(json["more"], 2, "a repeated name counts once");
        let names = KNOWN.split(", ").filter(|name| !["last_event_id", "after"].contains(name));
        let known = selection_forms::LISTS.iter().chain(&NAMES).copied();
        assert!(names.eq(known), "{KNOWN}");
        let json = ignored("form=earliest").json().expect("a name");
        assert_eq!((&json["ignored"], &json["more"]), (&json!(["form"]), &json!(0)));
        let detail = json["detail"].as_str().expect("a text");
        assert!(detail.starts_with("\"form\" means nothing to a stream; known are topic, type"));
        let json = ignored("counts=true").json().expect("a name");
        assert_eq!(json["detail"], "\"counts\" needs consumer=NAME, whose state is told");
    }

    #[test]
    fn a_page_is_refused_for_what_a_stream_lets_be() {
        let refusal = |text: &str| {
            let mut query = query(Some(text), Some(Accepted::Page))?;
            let asked =
                Asked::of(topics(true), None, &HeaderMap::new(), Default::default(), &mut query)?;
            query.finish("from")?;
            Ok::<_, Error>(asked.start)
        };
        for text in ["after=1&after=2", "after=null", "after=%ff", "form=earliest", "after=1,1"] {
            assert!(matches!(refusal(text), Err(Error::Invalid { .. })), "{text}");
        }
        assert_eq!(refusal("after=earliest").ok().flatten(), Some(StartPoint::Earliest));
    }
}
