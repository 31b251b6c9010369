//! The HTTP edge of consumers: their settings, checkpoints and marks. Their counts are in
//! `counts.rs`, and the pages of their inboxes in `inbox.rs`.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{StatusCode, Uri};
use serde::de::DeserializeOwned;

use super::page_body;
use super::query::Query;
use super::request::{PathResult, whole};
use super::spare::Purpose;
use super::topics::list_limit;
use crate::consumers::{ConsumerId, ConsumerList, ConsumerName, Consumers};
use crate::edge::Edge;
use crate::edge::clients::{Peer, share};
use crate::edge::consumers::answers;
use crate::edge::consumers::asking::{
    ConsumerUse, Found, Named, deleted, listed, listed_owner, some,
};
use crate::edge::consumers::requests::{ChangeJson, CheckpointJson, MarksJson, SettingsJson};
use crate::edge::effort::Effort;
use crate::edge::json_problem;
use crate::edge::object::Object;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// Largest request about a consumer, in bytes: the names of as many events as one request may mark.
const MAX_CONSUMER_REQUEST_BYTES: u64 = 1 << 20;

/// The entries of a list that are read and written at once.
const LISTED_AT_ONCE: usize = 64;

/// Returns the routes.
pub(in crate::edge) fn routes() -> Router<Edge> {
    Router::new()
        .route("/v1/consumers", get(list))
        .route("/v1/consumers/{consumer}", get(show).put(set).patch(update).delete(delete))
        .route("/v1/consumers/{consumer}/checkpoint", post(checkpoint))
        .route("/v1/consumers/{consumer}/marks", get(marks).post(mark))
}

/// Returns the consumer that a path and a query name, if the caller may use it so.
///
/// # Errors
///
/// [`Error::Invalid`]; as [`Named::find`].
pub(super) async fn found(
    path: PathResult,
    query: &mut Query,
    how: ConsumerUse,
    (permit, edge): (&Permit, &Edge),
) -> Result<Found> {
    let axum::extract::Path(name) =
        path.map_err(|rejection| Error::invalid("consumer", rejection.body_text()))?;
    let missing = || Error::invalid("topic", "is missing; write the consumer's topic or pattern");
    let selection = TopicPattern::new(&query.take("topic").ok_or_else(missing)?)?;
    let named = match query.take_flag("shared")? {
        true => Named::shared(&name)?,
        false => Named::of_own(&name, query.take("owner"))?,
    };
    named.find(selection, how, permit, edge.consumers_if_any()).await
}

/// Returns the consumer of a change that has no other parameters.
async fn changed(
    path: PathResult,
    uri: &Uri,
    how: ConsumerUse,
    of: (&Permit, &Edge),
) -> Result<Found> {
    let mut query = Query::parse(uri.query(), Purpose::Change)?;
    let found = found(path, &mut query, how, of).await?;
    query.finish("topic, owner, shared")?;
    Ok(found)
}

/// Reads a body that is an object; an empty one is an object without members.
pub(super) async fn read<T: DeserializeOwned + Send + 'static>(
    body: Body,
    edge: &Edge,
) -> Result<T> {
    let Object(read) = read_json::<Object<T>>(body, edge).await?;
    Ok(read)
}

/// Reads a body of JSON; an empty one is an object without members.
pub(super) async fn read_json<T: DeserializeOwned + Send + 'static>(
    body: Body,
    edge: &Edge,
) -> Result<T> {
    let bytes = whole(body, MAX_CONSUMER_REQUEST_BYTES, edge.pace()).await?;
    let effort = Effort::of_json(&bytes);
    let read = effort.spend(move || match bytes.is_empty() {
        true => serde_json::from_slice(b"{}"),
        false => serde_json::from_slice(&bytes),
    });
    read.await.map_err(|error| Error::invalid("body", json_problem::words(&error)))
}

async fn list(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let selection = query.take("topic").map(|topic| TopicPattern::new(&topic)).transpose()?;
    let (owner, after) = (query.take("owner"), query.take("after"));
    query.finish("topic, owner, after, limit")?;
    let consumers = some(edge.consumers_if_any())?.consumers.clone();
    let is_listed = listed(&permit, owner.is_some()).await?;
    let owner = listed_owner(owner, &permit, &consumers).await?;
    let after = after.map(|after| last_of(&after, &owner)).transpose()?;
    let mut list = ConsumerList::default();
    (list.owner, list.selection, list.after) = (Some(owner), selection, after);
    let epoch = edge.broker.epoch();
    let infos = entries(consumers, list, limit, is_listed);
    let texts = infos.map(move |infos| {
        let texts = infos.iter().map(|info| answers::consumer(info, epoch).to_string());
        texts.collect::<Vec<_>>().join(",").into_bytes()
    });
    let text = page_body::list(b"{\"consumers\":[".to_vec(), texts, b"]}".to_vec());
    page_body::answer(text, &share(peer.as_deref())).await
}

/// Returns the consumers of a list that are shown, at most `limit`, some at a time.
fn entries(
    consumers: Consumers,
    mut list: ConsumerList,
    limit: usize,
    is_shown: impl Fn(&ConsumerId) -> bool,
) -> impl Iterator<Item = Vec<crate::consumers::ConsumerInfo>> {
    let mut left = limit;
    list.limit = LISTED_AT_ONCE;
    let mut is_over = false;
    std::iter::from_fn(move || {
        if left == 0 || is_over {
            return None;
        }
        let mut some = consumers.list(&list);
        is_over = some.len() < list.limit;
        list.after = some.last().map(|info| info.id.clone());
        some.retain(|info| is_shown(&info.id));
        some.truncate(left);
        left -= some.len();
        Some(some)
    })
}

/// Returns the last consumer of the page before, which `after` names as `TOPIC/CONSUMER`.
fn last_of(after: &str, owner: &str) -> Result<ConsumerId> {
    let malformed = || {
        let shown: String = after.chars().take(64).collect();
        Error::invalid("after", format!("{shown:?} is not like TOPIC/CONSUMER"))
    };
    let (selection, name) = after.rsplit_once('/').ok_or_else(malformed)?;
    let selection = TopicPattern::new(selection).map_err(|_| malformed())?;
    let name = ConsumerName::new(name).map_err(|_| malformed())?;
    Ok(ConsumerId::new(selection, name).of_owner(owner))
}

async fn show(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let found = found(path, &mut query, ConsumerUse::Read, (&permit, &edge)).await?;
    query.finish("topic, owner, shared")?;
    let info = found.consumers.get(&found.id)?;
    Ok(Json(answers::consumer(&info, edge.broker.epoch())).into_response())
}

async fn set(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let found = changed(path, &uri, ConsumerUse::Keep, (&permit, &edge)).await?;
    let (settings, from) = read::<SettingsJson>(body, &edge).await?.settings()?;
    let found = match &settings.shared {
        Some(shared) => found.for_sharing(shared, &permit).await?,
        None => found,
    };
    let Found { consumers, id, .. } = found;
    let is_new = !consumers.get(&id).is_ok_and(|info| info.exists());
    let info = consumers.put(id, settings, from).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(answers::consumer(&info, edge.broker.epoch()))).into_response())
}

/// Changes the settings that are named; null unsets one. Source: RFC 7396.
async fn update(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let found = changed(path, &uri, ConsumerUse::Keep, (&permit, &edge)).await?;
    let change = read::<ChangeJson>(body, &edge).await?.change()?;
    let found = match &change.shared {
        Some(shared) => found.for_sharing(shared, &permit).await?,
        None => found,
    };
    let Found { consumers, id, .. } = found;
    let info = consumers.update(&id, change).await?;
    Ok(Json(answers::consumer(&info, edge.broker.epoch())).into_response())
}

async fn delete(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let found = changed(path, &uri, ConsumerUse::Keep, (&permit, &edge)).await?;
    deleted(&found.consumers, &found.id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn checkpoint(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let found = changed(path, &uri, ConsumerUse::Keep, (&permit, &edge)).await?;
    let to = read::<CheckpointJson>(body, &edge).await?.checkpoint();
    let ack = found.checkpoint(to).await?;
    Ok(Json(answers::checkpoint(&ack, edge.broker.epoch())).into_response())
}

async fn marks(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let Found { consumers, id, .. } =
        found(path, &mut query, ConsumerUse::Read, (&permit, &edge)).await?;
    query.finish("topic, owner, shared")?;
    consumers.get(&id)?; // Refused, if nothing reads as a consumer that is not there.
    let state = consumers.state(&id);
    Ok(Json(answers::whole(&state, edge.broker.epoch())).into_response())
}

async fn mark(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let found = changed(path, &uri, ConsumerUse::Mark, (&permit, &edge)).await?;
    let marks = read::<MarksJson>(body, &edge).await?;
    let max_events = found.consumers.config().max_marked_events;
    let ack = found.mark(marks.request(permit.filter(), max_events)?).await?;
    Ok(Json(answers::marked_ack(&ack, edge.broker.epoch())).into_response())
}
