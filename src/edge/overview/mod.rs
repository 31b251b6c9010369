//! The overview of a server for people who operate it: its size, its newest minutes, and what is
//! wrong now.
//!
//! ```text
//! every 5 s ─▶ history.rs: totals of events, connections, counters of troubles
//!                  │
//! GET /v1/overview ┴▶ report.rs: the state of now    problems.rs: what is wrong, in words
//!                                                    letters.rs: dead letters that wait
//!
//! GET /v1/overview/topics ─▶ topics.rs: all topics, read at most once a second
//!                            topic_table.rs: searched and sorted
//!
//! GET /v1/overview/consumers ─▶ readers.rs: who reads a topic, and is how far behind
//! ```
//!
//! All of it is in memory, and bounded. The counters are those that the edges have anyway: an event
//! costs nothing more.

pub(super) mod history;
mod known_letters;
mod letters;
mod problems;
pub(super) mod readers;
pub(super) mod report;
pub(super) mod topic_table;
pub(super) mod topics;
pub(super) mod traffic;

use std::sync::Arc;
use std::time::Instant;

use tokio::time::MissedTickBehavior;

use super::clients::Clients;
use super::mounting::Edge;

/// Adds a sample to the history of a server every five seconds.
///
/// # Cancel safety
///
/// Nothing is left behind.
pub(crate) async fn watch(edge: Edge, clients: Arc<Clients>) {
    let mut step = tokio::time::interval(history::STEP);
    step.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        step.tick().await;
        let space = report::space(&edge.broker).await;
        report::sample(&edge, &clients, space.as_ref());
        if let Ok(mut tables) = edge.topic_tables.try_lock() {
            tables.forget_unused(Instant::now());
        }
    }
}
