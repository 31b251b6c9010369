//! The HTTP edge of many subscriptions at once: `POST /v1/follow`, for clients that have no
//! WebSocket. One stream, or one long poll, carries the messages of all of them.
//!
//! ```text
//! body ─▶ Subscriptions ─┬▶ stream.rs  a task; a message is a block of server-sent events
//!                        └▶ poll.rs    one list of messages, and the place of each subscription
//! ```

#![doc = include_str!("../../follow.md")]

mod last;
mod poll;
mod stream;

use std::collections::HashSet;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::accept::{Accepted, accepted};
use super::query::Query;
use super::request::whole;
use super::spare::Purpose;
use super::tag;
use crate::edge::Edge;
use crate::edge::clients::Peer;
use crate::edge::effort::Effort;
use crate::edge::json_problem;
use crate::edge::permit::Permit;
use crate::edge::rates::{CallerRates, Rate};
use crate::edge::status;
use crate::edge::subscriptions::asked::{RefusedSubscription, Subscribe, one_of_many};
use crate::error::{Error, Result};
use crate::lists::List;

/// Largest body with subscriptions, in bytes.
const MAX_BODY_BYTES: u64 = 1 << 20;

/// A posted body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowJson<'a> {
    #[serde(borrow)]
    subscriptions: List<&'a RawValue>,
}

impl From<Error> for RefusedSubscription {
    /// Returns the refusal of a request for a reason that is of no subscription alone.
    fn from(error: Error) -> Self {
        Self { name: None, error }
    }
}

impl IntoResponse for RefusedSubscription {
    /// Returns the problem, with the member `subscription` if one of them alone is wrong.
    fn into_response(self) -> Response {
        status::problem(&self.error, self.name.map(|name| ("subscription", name.into())))
    }
}

/// Answers `POST`: follows the topics of all subscriptions, in the form that `Accept` asks for.
pub(super) async fn follow(
    State(edge): State<Edge>,
    headers: HeaderMap,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
    body: Body,
) -> Result<Response, RefusedSubscription> {
    let peer = peer.map(|Extension(peer)| peer);
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let Some(form) = accepted(&headers) else {
        return Ok(status::plain_problem(
            StatusCode::NOT_ACCEPTABLE,
            "this resource comes as text/event-stream or application/json",
        ));
    };
    let wait = match form {
        Accepted::Page => query.take_wait(edge.config.max_wait_ms)?,
        Accepted::Stream => Duration::ZERO,
    };
    query.finish(if form == Accepted::Page { "wait" } else { "" })?;
    let body = whole(body, MAX_BODY_BYTES, edge.pace()).await?;
    let (effort, limit) = (Effort::of_json(&body), edge.config.max_subscriptions as usize);
    let asked = effort.spend(move || read(&body, limit)).await?;
    if edge.broker.is_draining() {
        return Err(Error::ShuttingDown.into());
    }
    CallerRates::of(peer.as_ref()).take(Rate::Subscriptions, asked.len())?;
    let caller = (&edge, peer.as_ref(), &permit);
    let mut response = match form {
        Accepted::Stream => stream::answer(asked, caller)?,
        Accepted::Page => poll::answer(asked, wait, caller).await?,
    };
    tag::vary(&mut response);
    Ok(response)
}

/// Reads a body: at least one subscription, and at most `limit`, each with a name of its own.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`]; and which subscription is wrong, if one alone is.
fn read(body: &[u8], limit: usize) -> Result<Vec<Subscribe>, RefusedSubscription> {
    let posted = serde_json::from_slice::<FollowJson<'_>>(body);
    let posted = posted.map_err(|error| Error::invalid("body", json_problem::words(&error)))?;
    let posted = posted.subscriptions.entries("subscriptions")?;
    if let Some(first_too_many) = posted.get(limit) {
        let error = Error::over("subscriptions", posted.len(), limit);
        return Err(RefusedSubscription::of(first_too_many, error));
    }
    let asked = posted.into_iter().map(one_of_many).collect::<Result<Vec<_>, _>>()?;
    if asked.is_empty() {
        return Err(Error::invalid("subscriptions", "is empty; write at least one").into());
    }
    let mut seen = HashSet::with_capacity(asked.len());
    let twice = asked.iter().find(|asked| !seen.insert(&asked.subscription));
    if let Some(Subscribe { subscription, .. }) = twice {
        let error = Error::invalid("subscription", format!("{subscription:?} is given twice"));
        return Err(RefusedSubscription { name: Some(subscription.clone()), error });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_wrong_is_refused_with_the_reason() {
        let two = r#"{"subscription":"s","topic":"a"},{"subscription":"t","topics":["b.>"]}"#;
        let long = format!(r#"{{"subscription":"{}","topic":"a"}}"#, "x".repeat(256));
        let refusals = [
            ("", "subscriptions: is empty"),
            (r#"{"subscription":"s"}"#, "either topic or topics"),
            (r#"{"topic":"a"}"#, "subscription is missing"),
            (r#"{"subscription":"s","topic":"a","frm":"1"}"#, "\"frm\" is not a known name"),
            (r#"{"subscription":"s","topic":"a","type":"publish"}"#, "is no subscription"),
            (r#"{"subscription":"s","topic":"a","from":"x"}"#, "start"),
            (r#"{"subscription":"s","topic":"a"},{"subscription":"s","topic":"b"}"#, "given twice"),
            (&format!("{two},{{\"subscription\":\"u\",\"topic\":\"a\"}}"), "over the limit of 2"),
            (&long, "256 is over the limit of 255"),
        ];
        for (list, reason) in refusals {
            let body = format!(r#"{{"subscriptions":[{list}]}}"#);
            let refused = read(body.as_bytes(), 2).unwrap_err().error.to_string();
            assert!(refused.contains(reason), "{body}: {refused}");
        }
        for body in ["", "[]", "{}", r#"{"subscriptions":[],"wait":"1s"}"#] {
            let refused = read(body.as_bytes(), 2).unwrap_err();
            assert!(matches!(refused.error, Error::Invalid { .. }), "{body}");
            assert_eq!(refused.name, None, "{body}");
        }
        let asked = read(format!(r#"{{"subscriptions":[{two}]}}"#).as_bytes(), 2).unwrap();
        let names: Vec<_> = asked.into_iter().map(|asked| asked.subscription).collect();
        assert_eq!(names, ["s", "t"]);
    }

    #[test]
    fn a_refusal_names_the_subscription_that_is_wrong_and_says_what_its_fields_say() {
        let good = r#"{"subscription":"s","topic":"a"}"#;
        let too_many = (good, r#"{"subscription":"t","topic":"b"}"#, r#"{"subscription":"u"}"#);
        for ((first, second, third), name, reason) in [
            ((good, r#"{"topic":"a b","subscription":"t"}"#, ""), Some("t"), "topic: holds ' '"),
            ((r#"{"subscription":"\u0074","topics":["a.>.b"]}"#, good, ""), Some("t"), "topic"),
            ((good, r#"{"subscription":"t","topic":5}"#, ""), Some("t"), "5 is not a string"),
            ((good, r#"{"subscription":"t","frm":1}"#, ""), Some("t"), "\"frm\" is not a known"),
            ((good, good, ""), Some("s"), "given twice"),
            (too_many, Some("u"), "3 is over the limit of 2"),
            ((good, r#"{"subscription":7,"topic":"a"}"#, ""), None, "7 is not a string"),
            ((good, "7", ""), None, "7 is not an object"),
        ] {
            let list = [first, second, third].join(",");
            let body = format!(r#"{{"subscriptions":[{}]}}"#, list.trim_end_matches(','));
            let refused = read(body.as_bytes(), 2).unwrap_err();
            let said = refused.error.to_string();
            assert_eq!(refused.name.as_deref(), name, "{body}: {said}");
            assert!(said.contains(reason) && !said.contains("column"), "{body}: {said}");
        }
    }
}
