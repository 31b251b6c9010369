//! The HTTP edge of many topics at once: one resource with the events of all topics that a reader
//! names.

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Uri, header};
use serde::Deserialize;

use crate::cursor::Cursor;
use crate::edge::Edge;
use crate::edge::clients::Peer;
use crate::edge::consumers::asking::{Named, ReadAs};
use crate::edge::effort::Effort;
use crate::edge::http::accept::accepted;
use crate::edge::http::asked::{self, Asked};
use crate::edge::http::request::whole;
use crate::edge::http::tag;
use crate::edge::json_problem;
use crate::edge::object::Object;
use crate::edge::permit::Permit;
use crate::edge::selection::TopicSelection;
use crate::edge::selection_forms::{FilterJson, Format, MemberJson};
use crate::error::{Error, Result};
use crate::lists::List;

/// Largest body with topics, in bytes: 1,024 patterns and as many values of a filter.
const MAX_BODY_BYTES: u64 = 1 << 20;

/// Answers `GET`: topics and patterns are in the query, as `topic=`, any number of times.
pub(in crate::edge) async fn read(
    State(edge): State<Edge>,
    headers: HeaderMap,
    caller: (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let form = accepted(&headers);
    let mut query = asked::query(uri.query(), form)?;
    let topics = TopicSelection::many(&query.take_all("topic"))?;
    let asked = Asked::of(topics, form, &headers, caller, &mut query)?;
    edge.answer(form, &headers, asked, query).await
}

/// A posted body, which replaces a query with long lists.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedJson {
    topics: List<String>,
    from: Option<String>,
    on_gap: Option<String>,
    #[serde(default)]
    filter: FilterJson,
    format: Option<Format>,
    consumer: Option<String>,
    owner: Option<String>,
    #[serde(default)]
    counts: bool,
    marks_after: Option<Cursor>,
    member: Option<MemberJson>,
    #[serde(default)]
    strict: bool,
}

/// Answers `POST`: the same as JSON. A value in the query comes before one in the body.
pub(in crate::edge) async fn read_posted(
    State(edge): State<Edge>,
    mut headers: HeaderMap,
    caller: (Option<Extension<Peer>>, Permit),
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let form = accepted(&headers);
    let mut query = asked::query(uri.query(), form)?;
    let body = whole(body, MAX_BODY_BYTES, edge.pace()).await?;
    let effort = Effort::of_json(&body);
    let posted = effort.spend(move || serde_json::from_slice::<Object<AskedJson>>(&body));
    let invalid = |error| Error::invalid("body", json_problem::words(&error));
    let Object(posted) = posted.await.map_err(invalid)?;
    let topics = TopicSelection::many(&posted.topics.entries("topics")?)?;
    let (filter, member) = (posted.filter.filter()?, posted.member.map(MemberJson::member));
    let asked = Asked::of(topics, form, &headers, caller, &mut query)?;
    let (counts, marks_after) = (posted.counts, posted.marks_after);
    let consumer = posted.consumer.map(|name| {
        let named = Named::of_own(&name, posted.owner)?;
        Ok::<_, Error>(ReadAs { named, counts, marks_after })
    });
    let from = posted.from.map(|from| from.parse()).transpose()?;
    let on_gap = posted.on_gap.map(|on_gap| on_gap.parse()).transpose()?;
    let asked = Asked {
        start: asked.start.or(from),
        on_gap: asked.on_gap.or(on_gap),
        filter: if asked.filter.is_empty() { filter } else { asked.filter },
        format: asked.format.or(posted.format),
        consumer: asked.consumer.or(consumer.transpose()?),
        member: asked.member.or(member.transpose()?),
        // Each of the two may ask for it, so that neither weakens the other.
        is_strict: asked.is_strict || posted.strict,
        ..asked
    };
    // Only GET and HEAD may be answered with 304. Source: RFC 9110, 13.1.2.
    headers.remove(header::IF_NONE_MATCH);
    let mut answer = edge.answer(form, &headers, asked, query).await?;
    tag::not_kept(&mut answer);
    Ok(answer)
}
