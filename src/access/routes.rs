//! The routes of access control over HTTP: tickets, revocations, and what a credential permits.

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Extension, Router};
use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::control::AccessControl;
use super::explain::{Presented, explain_by};
use super::requests::AskingCaller;
use super::revocations::Revocation;
use crate::edge::clients::{Peer, share};
use crate::edge::http::{Purpose, Query, answer, list, list_limit, whole};
use crate::edge::json_problem;
use crate::edge::permit::Permit;
use crate::edge::{Edge, Parts};
use crate::error::{Error, Result};
use crate::event::Timestamp;
use crate::topic::TopicName;

/// Largest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// The entries of a list that are written at once.
const LISTED_AT_ONCE: usize = 64;

impl AccessControl {
    /// Returns the routes of some parts: tickets are of [`Parts::EVENTS`], and revocations of
    /// [`Parts::ADMINISTRATION`].
    pub(crate) fn routes(&self, parts: Parts) -> Router<Edge> {
        let mut routes = Router::new();
        if parts.has(Parts::EVENTS) {
            routes = routes.route("/v1/tickets", post(make_ticket));
        }
        if parts.has(Parts::ADMINISTRATION) {
            routes = routes
                .route("/v1/access/revocations", post(revoke).get(list_revocations))
                .route("/v1/access/explain", post(explain));
        }
        routes.layer(Extension(self.clone()))
    }
}

/// A request to revoke a caller.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    /// The id of the caller.
    sub: String,
    /// The moment from before which credentials are refused. Default: now.
    before: Option<Timestamp>,
}

/// A request to explain a credential.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainRequest {
    /// A key, a token, or claims in JSON. Without it, callers without a credential are explained.
    credential: Option<String>,
    /// The topic that it is about. Default: all patterns are told.
    topic: Option<TopicName>,
}

/// Returns the caller of a request, and what it sends. Only the body of a caller who is let in is
/// read.
async fn asked<T: DeserializeOwned>(
    edge: &Edge,
    request: Request,
    is_permitted: impl AsyncFnOnce(&Permit) -> Result<()>,
) -> Result<(AskingCaller, T)> {
    let (head, body) = request.into_parts();
    let permit = Permit::ask(edge, &head).await?;
    is_permitted(&permit).await?;
    Query::parse(head.uri.query(), Purpose::Change)?.finish("")?;
    let caller = AskingCaller::new(permit, &head);
    drop(head);
    let bytes = whole(body, MAX_REQUEST_BYTES, edge.pace()).await?;
    let invalid = |error| Error::invalid("body", json_problem::words(&error));
    Ok((caller, serde_json::from_slice(&bytes).map_err(invalid)?))
}

async fn make_ticket(
    State(edge): State<Edge>,
    Extension(control): Extension<AccessControl>,
    request: Request,
) -> Result<Response> {
    let (caller, asked) = asked(&edge, request, async |_| Ok(())).await?;
    let ticket = caller.ticket(&control, &asked).await?;
    Ok((StatusCode::CREATED, axum::Json(ticket)).into_response())
}

async fn revoke(
    State(edge): State<Edge>,
    Extension(control): Extension<AccessControl>,
    request: Request,
) -> Result<Response> {
    let is_permitted = async |permit: &Permit| permit.check_administers().await;
    let (caller, asked) = asked(&edge, request, is_permitted).await?;
    let RevokeRequest { sub, before } = asked;
    Ok(axum::Json(caller.revoke(&control, &sub, before).await?).into_response())
}

/// Explains a credential, as the broker takes or refuses it now. It is neither kept nor logged, and
/// no answer has it.
async fn explain(
    State(edge): State<Edge>,
    Extension(control): Extension<AccessControl>,
    request: Request,
) -> Result<Response> {
    let is_permitted = async |permit: &Permit| permit.check_administers().await;
    let (_caller, asked) = asked::<ExplainRequest>(&edge, request, is_permitted).await?;
    let presented = Presented::of(asked.credential);
    let (prover, revocations) = (control.prover(), control.revocations());
    let told = explain_by(prover, Some(revocations), &presented, asked.topic.as_ref()).await;
    let told = json!({"refused": told.is_refused(), "lines": told.lines()});
    Ok(axum::Json(told).into_response())
}

async fn list_revocations(
    State(edge): State<Edge>,
    Extension(control): Extension<AccessControl>,
    request: Request,
) -> Result<Response> {
    let (head, _no_body) = request.into_parts();
    let caller = AskingCaller::new(Permit::ask(&edge, &head).await?, &head);
    let mut query = Query::parse(head.uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let after = query.take("after").unwrap_or_default();
    query.finish("after, limit")?;
    let listed = caller.revocations(&control, &after, limit).await?;
    let text = list(b"{\"revocations\":[".to_vec(), entries(listed), b"]}".to_vec());
    answer(text, &share(head.extensions.get::<Peer>())).await
}

/// Returns revocations as JSON, some at a time, separated by commas.
fn entries(listed: Vec<Revocation>) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    let mut listed = listed.into_iter();
    std::iter::from_fn(move || {
        let some: Vec<String> =
            listed.by_ref().take(LISTED_AT_ONCE).map(|it| json!(it).to_string()).collect();
        (!some.is_empty()).then(|| some.join(",").into_bytes())
    })
}
