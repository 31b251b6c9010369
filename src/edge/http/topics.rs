//! The HTTP edge of topics: their settings, their state, and maintenance on request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use http::{StatusCode, Uri, header};
use serde_json::{Map, Value, json};

use crate::broker::Dropped;
use crate::cursor::{Cursor, Sequence};
use crate::edge::Edge;
use crate::edge::bounds::PIECE_BYTES;
use crate::edge::clients::{Peer, share};
use crate::edge::counters::TimeLimit;
use crate::edge::hooks::ActKind;
use crate::edge::http::listing;
use crate::edge::http::page_body;
use crate::edge::http::query::Query;
use crate::edge::http::request::{PathResult, permitted, topic, whole};
use crate::edge::http::spare::Purpose;
use crate::edge::page_token::{StateToken, page_limit};
use crate::edge::permit::Permit;
use crate::edge::rates::Rate;
use crate::edge::{fleet, json as forms, json_problem};
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::polls;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// Entries of a list, if the request names no number, and the most there can be.
const DEFAULT_LISTED: usize = 1_000;
const MAX_LISTED: usize = 10_000;

/// Largest settings, in bytes.
const MAX_CONFIG_BYTES: u64 = 64 << 10;

/// Returns the routes that show topics.
pub(in crate::edge) fn events() -> Router<Edge> {
    Router::new()
        .route("/v1/topics", get(list))
        .route("/v1/topics/{topic}", get(show))
        .route("/v1/topics/{topic}/state", get(state))
        .route("/v1/topics/{topic}/presence", get(presence))
}

/// Returns the routes that change topics.
pub(in crate::edge) fn administration() -> Router<Edge> {
    Router::new()
        .route("/v1/topics/{topic}", put(set).patch(update).delete(delete_topic))
        .route("/v1/topics/{topic}/events", delete(purge))
        .route("/v1/maintenance", post(maintain))
}

/// Returns the route of the metrics.
pub(in crate::edge) fn operations() -> Router<Edge> {
    Router::new().route("/metrics", get(metrics))
}

/// Returns how many entries of a list are requested.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`].
pub(crate) fn list_limit(query: &mut Query) -> Result<usize> {
    match query.take_number("limit")?.unwrap_or(DEFAULT_LISTED) {
        limit if limit > MAX_LISTED => Err(Error::over("limit", limit, MAX_LISTED)),
        limit => Ok(limit),
    }
}

async fn list(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let after = query.take("after");
    query.finish("after, limit")?;
    let topics = edge.broker.list_topics(after.as_deref(), limit);
    let topics = match permit.listed().await? {
        Some(is_listed) => topics.only(is_listed),
        None => topics,
    };
    let topics = listing::topics(topics);
    page_body::answer(topics, &share(peer.as_deref())).await
}

/// Refuses any query of a change that has no parameters: an ignored parameter might have limited
/// the change.
fn no_names(uri: &Uri) -> Result<()> {
    Query::parse(uri.query(), Purpose::Change)?.finish("")
}

async fn show(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    Query::parse(uri.query(), Purpose::Page)?.finish("")?;
    let name = topic(path)?;
    permit.check_shown(&name).await?;
    let info = edge.broker.topic(&name)?;
    Ok(axum::Json(forms::topic(&info)).into_response())
}

async fn set(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let is_dry_run = dry_run(&uri)?;
    let name = permitted(path, &permit, Action::Manage).await?;
    let (config, _) = config(&edge, body).await?;
    if is_dry_run {
        return foreseen(&edge, &name, config, None).await;
    }
    let is_new = edge.broker.topic(&name).is_err();
    let info = permit
        .administering(ActKind::SetTopic, Some(&name), edge.broker.set_topic(&name, config))
        .await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, axum::Json(forms::topic(&info))).into_response())
}

/// Changes the named settings of a topic; null unsets one. Source: RFC 7396.
async fn update(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
    body: Body,
) -> Result<Response> {
    let is_dry_run = dry_run(&uri)?;
    let name = permitted(path, &permit, Action::Manage).await?;
    let (config, fields) = config(&edge, body).await?;
    if is_dry_run {
        return foreseen(&edge, &name, config, Some(fields)).await;
    }
    let change = edge.broker.update_topic(&name, config, fields);
    let info = permit.administering(ActKind::UpdateTopic, Some(&name), change).await?;
    Ok(axum::Json(forms::topic(&info)).into_response())
}

/// Returns whether a change of settings is only tried.
fn dry_run(uri: &Uri) -> Result<bool> {
    let mut query = Query::parse(uri.query(), Purpose::Change)?;
    let is_dry_run = query.take_flag("dry_run")?;
    query.finish("dry_run").map(|()| is_dry_run)
}

/// Tells what a change of settings would drop. Nothing is changed, so nobody is told of an act.
async fn foreseen(
    edge: &Edge,
    name: &TopicName,
    config: TopicConfig,
    fields: Option<Vec<String>>,
) -> Result<Response> {
    let before = edge.broker.effective_config(name).key_limit();
    let (effective, dropped) = edge.broker.foresee(name, config, fields).await?;
    let compacts = match (before, effective.key_limit()) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(before), Some(limit)) => limit < before,
    };
    let told = json!({
        "would_drop": dropped,
        "compacts": compacts,
        "effective_config": effective,
    });
    Ok(axum::Json(told).into_response())
}

async fn delete_topic(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    no_names(&uri)?;
    let name = permitted(path, &permit, Action::Manage).await?;
    let deletion = edge.broker.delete_topic(&name);
    permit.administering(ActKind::DeleteTopic, Some(&name), deletion).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Returns the settings in a body, and the names that it has; an empty body has none.
async fn config(edge: &Edge, body: Body) -> Result<(TopicConfig, Vec<String>)> {
    let bytes = whole(body, MAX_CONFIG_BYTES, edge.pace()).await?;
    let invalid = |error| Error::invalid("body", json_problem::words(&error));
    let object: Map<String, Value> = match bytes.is_empty() {
        true => Map::new(),
        false => serde_json::from_slice(&bytes).map_err(invalid)?,
    };
    let fields = object.keys().cloned().collect();
    let config = serde_json::from_value(Value::Object(object)).map_err(invalid)?;
    Ok((config, fields))
}

/// Answers `DELETE` of the events of a topic: drops those below `before`, or all.
async fn purge(
    State(edge): State<Edge>,
    path: PathResult,
    permit: Permit,
    uri: Uri,
) -> Result<Response> {
    let name = permitted(path, &permit, Action::Manage).await?;
    let mut query = Query::parse(uri.query(), Purpose::Change)?;
    let before = query.take_number("before")?.map_or(Sequence::new(u64::MAX), Sequence::new);
    query.finish("before")?;
    let purge = edge.broker.purge(&name, before);
    permit.administering(ActKind::PurgeTopic, Some(&name), purge).await?;
    Ok(axum::Json(forms::topic(&edge.broker.topic(&name)?)).into_response())
}

async fn state(
    State(edge): State<Edge>,
    path: PathResult,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let name = permitted(path, &permit, Action::Subscribe).await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let key_prefix = query.take("key_prefix").unwrap_or_default();
    let limit = query.take_number("limit")?.unwrap_or(0);
    let limit = page_limit("limit", limit, edge.config.max_page_events)?;
    let token: StateToken = query.take("page_token").unwrap_or_default().parse()?;
    query.finish("key_prefix, limit, page_token")?;
    let share = share(peer.as_deref());
    let (request, mut held) = token.request(key_prefix, limit, &share)?;
    let page = permit.picked(edge.broker.state(&name, request).await?);
    held.keep(page.size_bytes() + PIECE_BYTES);
    let cursor = Cursor::after(page.at, edge.broker.epoch());
    let next = StateToken::next(&page);
    let body = page_body::state(name, page, &cursor, &next).await;
    let mut response = ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    response.extensions_mut().insert(Arc::new(held));
    Ok(response)
}

/// Lists the members of a topic.
async fn presence(
    State(edge): State<Edge>,
    path: PathResult,
    (peer, permit): (Option<Extension<Peer>>, Permit),
    uri: Uri,
) -> Result<Response> {
    let name = permitted(path, &permit, Action::Presence).await?;
    let mut query = Query::parse(uri.query(), Purpose::Page)?;
    let limit = list_limit(&mut query)?;
    let after = query.take("after").unwrap_or_default();
    query.finish("after, limit")?;
    let members = listing::members(edge.broker.list_members(&name, &after, limit));
    page_body::answer(members, &share(peer.as_deref())).await
}

async fn maintain(State(edge): State<Edge>, permit: Permit, uri: Uri) -> Result<Response> {
    permit.check_administers().await?;
    let mut query = Query::parse(uri.query(), Purpose::Change)?;
    let name = query.take("topic").map(|name| TopicName::new(&name)).transpose()?;
    query.finish("topic")?;
    let work = edge.broker.maintain(name.as_ref());
    let report = permit.administering(ActKind::Maintain, name.as_ref(), work).await?;
    Ok(axum::Json(forms::maintained(&report)).into_response())
}

/// Returns all metrics. Source: the text format of Prometheus, 0.0.4.
async fn metrics(
    State(edge): State<Edge>,
    (peer, permit): (Option<Extension<Peer>>, Permit),
) -> Result<Response> {
    permit.check_administers().await?;
    let done = edge.broker.maintenance_totals();
    let mut text = String::new();
    if let Some(Extension(peer)) = peer {
        let help = "Memory that waits for clients or comes from them, in bytes.";
        let bytes = peer.clients.held_bytes();
        text.push_str(&format!(
            "# HELP leftoff_client_bytes {help}\n# TYPE leftoff_client_bytes gauge\n\
             leftoff_client_bytes {bytes}\n"
        ));
    }
    let mut metric = |name: &str, help: &str, samples: &[(String, u64)]| {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        samples
            .iter()
            .for_each(|(labels, value)| text.push_str(&format!("{name}{labels} {value}\n")));
    };
    let by_reason = |count: fn(Dropped) -> u64| {
        let label = |reason| format!("{{reason=\"{reason}\"}}");
        done.dropped().map(|(reason, dropped)| (label(reason), count(dropped)))
    };
    let plain = |value| [(String::new(), value)];
    let help = "Events that were dropped, since the start.";
    metric("leftoff_dropped_events_total", help, &by_reason(|dropped| dropped.events));
    let help = "Bytes of the events that were dropped, since the start.";
    metric("leftoff_dropped_bytes_total", help, &by_reason(|dropped| dropped.bytes));
    let help = "Blocks that were written again as part of a larger one, since the start.";
    metric("leftoff_merged_blocks_total", help, &plain(done.merged_blocks));
    let help = "Bytes of blocks that maintenance removed, since the start.";
    metric("leftoff_reclaimed_bytes_total", help, &plain(done.reclaimed_bytes));
    let help = "Tasks of the runtime that exist now.";
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    metric("leftoff_tasks", help, &plain(tasks as u64));
    let help = "Steps of a few milliseconds in which readers read the log, since the start.";
    metric("leftoff_log_read_steps_total", help, &plain(edge.broker.read_steps()));
    let help = "Publishes that storage refused, or for which there was no room, since the start.";
    metric("leftoff_refused_publishes_total", help, &plain(edge.broker.refused_publishes()));
    let help = "Topics of the broker's own with records that this version cannot read.";
    metric("leftoff_unread_topics", help, &plain(edge.broker.unread_topics().len() as u64));
    let help = "Ids that were forgotten early because memory was short, since the start.";
    metric("leftoff_forgotten_ids_total", help, &plain(edge.broker.forgotten_ids()));
    if let Some(kept) = edge.consumers_if_any() {
        let help = "Consumers that are stored.";
        metric("leftoff_consumers", help, &plain(kept.consumers.count() as u64));
        let help = "Checkpoints of clients that were acknowledged, since the start.";
        metric("leftoff_checkpoints_total", help, &plain(edge.counters.checkpoints.get()));
        let help = "Requests of clients for marks that were acknowledged, since the start.";
        metric("leftoff_marks_total", help, &plain(edge.counters.marks.get()));
    }
    let help = "WebSocket clients that stopped answering pings, since the start.";
    metric("leftoff_dead_peers_total", help, &plain(edge.counters.dead_peers.get()));
    let help = "WebSocket clients that stopped taking the data sent to them, since the start.";
    metric("leftoff_slow_peers_total", help, &plain(edge.counters.slow_peers.get()));
    let help = "Clients that took too long, by the time limit that they exceeded, since the start.";
    let struck = TimeLimit::ALL
        .map(|limit| (format!("{{limit=\"{}\"}}", limit.name()), edge.counters.time_limits(limit)));
    metric("leftoff_time_limits_total", help, &struck);
    let help = "Requests, messages and connections that were refused by a rate, since the start.";
    let refused = Rate::ALL.map(|rate| {
        let count = edge.counters.refused_by_rate[rate as usize].get();
        (format!("{{rate=\"{}\"}}", rate.name()), count)
    });
    metric("leftoff_refused_by_rate_total", help, &refused);
    let polls = polls::long_polls();
    let labelled = |task| format!("{{task=\"{task}\"}}");
    let help = "Polls in which a task held its worker for more than 10 ms, since the start.";
    let counts = polls.map(|(task, count, _)| (labelled(task), count));
    metric("leftoff_long_polls_total", help, &counts);
    let help = "The longest of these polls of each task, since the start, in microseconds.";
    let longest = polls.map(|(task, _, longest)| (labelled(task), longest.as_micros() as u64));
    metric("leftoff_longest_poll_us", help, &longest);
    text.push_str(&edge.webhook_metrics());
    text.push_str(&edge.fleet().map(|it| fleet::metrics(&**it)).unwrap_or_default());
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
