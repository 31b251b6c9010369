//! The overview as it is told: one JSON object.

use std::collections::BTreeMap;

use serde::Serialize;

use super::history::{STEP, Sample, Steps};
use super::letters;
use super::problems::{Problem, problems, refusal, troubles};
use crate::broker::{Broker, LogSpace};
use crate::cursor::Position;
use crate::edge::clients::Clients;
use crate::edge::mounting::Edge;
use crate::event::Timestamp;

/// The state of a server now, and its newest minutes.
#[derive(Debug, Serialize)]
pub(in crate::edge) struct Overview {
    version: &'static str,
    started: Timestamp,
    now: Timestamp,
    epoch: String,
    role: &'static str,
    topics: usize,
    last_position: Position,
    log: LogState,
    /// Absent where a host serves the routes itself, as the two after it are.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<ClientMemory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<ConnectionCounts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryJson>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct LogState {
    /// Null without a disk.
    size_bytes: Option<u64>,
    /// Null if the file system does not say.
    free_bytes: Option<u64>,
    writes: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct ClientMemory {
    client_bytes: u64,
    max_client_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ConnectionCounts {
    count: u64,
    max: u64,
    by_protocol: BTreeMap<&'static str, u64>,
}

/// The numbers of each step, the oldest first.
#[derive(Debug, Serialize)]
struct HistoryJson {
    step_ms: u64,
    published: Vec<u64>,
    delivered: Vec<u64>,
    connections: Vec<u64>,
}

/// Returns what the broker does: it is alone, or does something in its fleet.
fn role(edge: &Edge) -> &'static str {
    edge.fleet().map_or("single", |fleet| fleet.state().role.name())
}

/// Returns the space of the log; `None` if it has no disk, or the system does not answer.
///
/// # Cancel safety
///
/// Nothing is left behind: a question that was begun ends by itself.
pub(super) async fn space(broker: &Broker) -> Option<LogSpace> {
    let broker = broker.clone();
    // The file system may be on a network.
    let asked = tokio::task::spawn_blocking(move || broker.log_space());
    asked.await.ok()?.ok()?
}

/// Adds the numbers of now to the history, and notes which problems there are.
pub(super) fn sample(edge: &Edge, clients: &Clients, space: Option<&LogSpace>) {
    let now = edge.broker.now();
    clients.history.add(Sample {
        at: now,
        published: edge.broker.last_position().get(),
        delivered: clients.traffic.delivered.get(),
        connections: clients.count() as u64,
        troubles: troubles(edge, clients),
    });
    let _their_beginnings_are_noted = problems(edge, clients, (space, None), now);
}

/// Returns the overview. Without `clients` there is neither a history, nor what depends on it.
///
/// # Cancel safety
///
/// As [`space`].
pub(in crate::edge) async fn overview(edge: &Edge, clients: Option<&Clients>) -> Overview {
    let broker = &edge.broker;
    let space = space(broker).await;
    let letters = match clients {
        Some(clients) => letters::waiting(edge, &clients.history.letters).await,
        None => None,
    };
    let (now, running_ms) = broker.times();
    let reason = refusal(edge, space.as_ref());
    let log = LogState {
        size_bytes: space.as_ref().map(|space| space.size_bytes),
        free_bytes: space.as_ref().and_then(|space| space.free_bytes),
        writes: if reason.is_none() { "accepted" } else { "refused" },
        reason,
    };
    Overview {
        version: env!("CARGO_PKG_VERSION"),
        started: now.minus_ms(running_ms),
        now,
        epoch: broker.epoch().to_string(),
        role: role(edge),
        topics: broker.topic_count(),
        last_position: broker.last_position(),
        log,
        memory: clients.map(|clients| ClientMemory {
            client_bytes: clients.held_bytes() as u64,
            max_client_bytes: clients.limits().max_bytes,
        }),
        connections: clients.map(|clients| ConnectionCounts {
            count: clients.count() as u64,
            max: clients.limits().connections,
            by_protocol: clients.traffic.by_protocol().collect(),
        }),
        history: clients.map(|clients| {
            let Steps { published, delivered, connections } = clients.history.steps();
            let step_ms = STEP.as_millis() as u64;
            HistoryJson { step_ms, published, delivered, connections }
        }),
        problems: clients
            .map(|clients| problems(edge, clients, (space.as_ref(), letters), now))
            .unwrap_or_default(),
    }
}
