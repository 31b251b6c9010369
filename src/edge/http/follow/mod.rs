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
use axum::response::Response;
use http::{HeaderMap, StatusCode, Uri};
use serde::Deserialize;

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
use crate::edge::subscriptions::asked::{Subscribe, SubscribeJson};
use crate::error::{Error, Result};
use crate::lists::{self, List};

/// Largest body with subscriptions, in bytes.
const MAX_BODY_BYTES: u64 = 1 << 20;

/// A posted body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowJson {
    subscriptions: List<SubscribeJson>,
}

/// Answers `POST`: follows the topics of all subscriptions, in the form that `Accept` asks for.
pub(super) async fn follow(
    State(edge): State<Edge>,
    headers: HeaderMap,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
    body: Body,
) -> Result<Response> {
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
        return Err(Error::ShuttingDown);
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
/// [`Error::Invalid`], [`Error::OverLimit`].
fn read(body: &[u8], limit: usize) -> Result<Vec<Subscribe>> {
    let posted = serde_json::from_slice::<FollowJson>(body);
    let posted = posted.map_err(|error| Error::invalid("body", json_problem::words(&error)))?;
    let posted = posted.subscriptions.entries("subscriptions")?;
    lists::check("subscriptions", posted.len(), limit)?;
    let asked = posted.into_iter().map(SubscribeJson::subscribe).collect::<Result<Vec<_>>>()?;
    if asked.is_empty() {
        return Err(Error::invalid("subscriptions", "is empty; write at least one"));
    }
    let mut seen = HashSet::with_capacity(asked.len());
    let twice = asked.iter().find(|asked| !seen.insert(&asked.subscription));
    if let Some(Subscribe { subscription, .. }) = twice {
        return Err(Error::invalid("subscription", format!("{subscription:?} is given twice")));
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
            let refused = read(body.as_bytes(), 2).unwrap_err().to_string();
            assert!(refused.contains(reason), "{body}: {refused}");
        }
        for body in ["", "[]", "{}", r#"{"subscriptions":[],"wait":"1s"}"#] {
            assert!(matches!(read(body.as_bytes(), 2), Err(Error::Invalid { .. })), "{body}");
        }
        let asked = read(format!(r#"{{"subscriptions":[{two}]}}"#).as_bytes(), 2).unwrap();
        let names: Vec<_> = asked.into_iter().map(|asked| asked.subscription).collect();
        assert_eq!(names, ["s", "t"]);
    }
}
