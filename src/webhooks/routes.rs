//! The routes of webhooks over HTTP. All of them are for administrators.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::info::WebhookInfo;
use super::registry::Webhooks;
use super::requests;
use super::settings::WebhookName;
use crate::edge::Edge;
use crate::edge::clients::{Peer, share};
use crate::edge::hooks::ActKind;
use crate::edge::http::{Purpose, Query, answer, list, list_limit, whole};
use crate::edge::permit::Permit;
use crate::error::{Error, Result};

/// Largest request, in bytes.
const MAX_REQUEST_BYTES: u64 = 64 << 10;

/// The entries of a list that are written at once.
const LISTED_AT_ONCE: usize = 16;

type NamePath = Result<Path<String>, PathRejection>;

impl Webhooks {
    /// Returns the routes.
    pub(crate) fn routes(&self) -> Router<Edge> {
        let one = get(show).put(put).patch(update).delete(delete);
        Router::new()
            .route("/v1/webhooks", get(list_all))
            .route("/v1/webhooks/{webhook}", one)
            .route("/v1/webhooks/{webhook}/pause", post(pause))
            .route("/v1/webhooks/{webhook}/resume", post(resume))
            .route("/v1/webhooks/{webhook}/rotate", post(rotate))
            .route("/v1/webhooks/{webhook}/test", post(test))
            .layer(Extension(self.clone()))
    }
}

/// What every request to one webhook begins with: an administrator, a name, and no query.
async fn asked(
    edge: &Edge,
    path: NamePath,
    request: Request,
    purpose: Purpose,
) -> Result<(Permit, WebhookName, Body)> {
    let (head, body) = request.into_parts();
    let permit = Permit::ask(edge, &head).await?;
    permit.check_administers().await?;
    let Path(name) = path.map_err(|refused| Error::invalid("webhook", refused.body_text()))?;
    Query::parse(head.uri.query(), purpose)?.finish("")?;
    Ok((permit, name.parse()?, body))
}

async fn members(edge: &Edge, body: Body) -> Result<Map<String, Value>> {
    requests::object(&whole(body, MAX_REQUEST_BYTES, edge.pace()).await?)
}

/// Refuses a body of a request that has none: it might have been meant to limit what is done.
async fn no_members(edge: &Edge, body: Body) -> Result<()> {
    match members(edge, body).await?.keys().next() {
        Some(name) => Err(Error::invalid("body", format!("{name:?} is not known here"))),
        None => Ok(()),
    }
}

async fn put(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let (permit, name, body) = asked(&edge, path, request, Purpose::Change).await?;
    let wanted = requests::put(members(&edge, body).await?)?;
    let is_new = !hooks.has(&name);
    let work = hooks.put(&name, wanted);
    let made = permit.administering_webhook(ActKind::SetWebhook, name.as_str(), work).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(made)).into_response())
}

/// Changes the named settings of a webhook; null unsets one. Source: RFC 7396.
async fn update(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let (permit, name, body) = asked(&edge, path, request, Purpose::Change).await?;
    let work = hooks.update(&name, members(&edge, body).await?);
    let info = permit.administering_webhook(ActKind::UpdateWebhook, name.as_str(), work).await?;
    Ok(axum::Json(info).into_response())
}

async fn show(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let (_permit, name, _no_body) = asked(&edge, path, request, Purpose::Page).await?;
    Ok(axum::Json(hooks.get(&name).await?).into_response())
}

async fn delete(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let (permit, name, _no_body) = asked(&edge, path, request, Purpose::Change).await?;
    let work = hooks.delete(&name);
    permit.administering_webhook(ActKind::DeleteWebhook, name.as_str(), work).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Answers a request without members: does `act` to a webhook, and returns what comes of it.
async fn plain<T: Serialize, F: Future<Output = Result<T>>>(
    edge: &Edge,
    (path, request): (NamePath, Request),
    kind: ActKind,
    act: impl FnOnce(WebhookName) -> F,
) -> Result<Response> {
    let (permit, name, body) = asked(edge, path, request, Purpose::Change).await?;
    no_members(edge, body).await?;
    let work = act(name.clone());
    let outcome = permit.administering_webhook(kind, name.as_str(), work).await?;
    Ok(axum::Json(outcome).into_response())
}

async fn pause(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let act = async move |name| hooks.pause(&name).await;
    plain(&edge, (path, request), ActKind::PauseWebhook, act).await
}

async fn resume(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let act = async move |name| hooks.resume(&name).await;
    plain(&edge, (path, request), ActKind::ResumeWebhook, act).await
}

async fn test(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let act = async move |name| hooks.test(&name).await;
    plain(&edge, (path, request), ActKind::TestWebhook, act).await
}

async fn rotate(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    path: NamePath,
    request: Request,
) -> Result<Response> {
    let (permit, name, body) = asked(&edge, path, request, Purpose::Change).await?;
    let wanted = requests::rotate(members(&edge, body).await?)?;
    let work = hooks.rotate(&name, wanted);
    let made = permit.administering_webhook(ActKind::RotateWebhook, name.as_str(), work).await?;
    Ok(axum::Json(made).into_response())
}

async fn list_all(
    State(edge): State<Edge>,
    Extension(hooks): Extension<Webhooks>,
    request: Request,
) -> Result<Response> {
    let (head, _no_body) = request.into_parts();
    Permit::ask(&edge, &head).await?.check_administers().await?;
    let mut query = Query::parse(head.uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let after = query.take("after").map(|after| after.parse::<WebhookName>()).transpose()?;
    query.finish("after, limit")?;
    let text = list(b"{\"webhooks\":[".to_vec(), entries(hooks, after, limit), b"]}".to_vec());
    answer(text, &share(head.extensions.get::<Peer>())).await
}

/// Returns webhooks as JSON, some at a time, separated by commas.
fn entries(
    hooks: Webhooks,
    mut after: Option<WebhookName>,
    mut left: usize,
) -> impl Iterator<Item = Vec<u8>> + Send + 'static {
    std::iter::from_fn(move || {
        let some = hooks.list(after.as_ref(), left.min(LISTED_AT_ONCE));
        left -= some.len();
        after = Some(some.last()?.name.clone());
        let one = |info: &WebhookInfo| json!(info).to_string();
        Some(some.iter().map(one).collect::<Vec<_>>().join(",").into_bytes())
    })
}
