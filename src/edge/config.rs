//! Settings of live subscriptions, the same on every edge.

use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::broker::Patience;

/// How live subscriptions are served, on every edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FollowConfig {
    /// Silence, in milliseconds, before a heartbeat is sent. Default: 15,000.
    /// Source: WHATWG HTML, server-sent events, authoring notes: a comment line every 15 seconds
    /// or so, for proxies that drop quiet connections.
    pub heartbeat_ms: u64,
    /// How long a browser waits before it reconnects, in milliseconds; each is told a time between
    /// half of it and half as much again, so that they do not come back all at once.
    /// Default: 2,000.
    pub retry_ms: u64,
    /// Over how long streams are ended when the broker stops, in milliseconds, at the most; a
    /// millisecond for each connection, and half of what a stop may take, if that is less. So they
    /// do not come back all at once. Default: 5,000.
    pub drain_ms: u64,
    /// Longest wait of a long poll, in milliseconds. Default: 60,000.
    pub max_wait_ms: u64,
    /// Silence in the middle of a body, or of a message of a stream, in milliseconds, before it is
    /// given up: 408, `DEADLINE_EXCEEDED`, or the close code 4108. Default: 30,000.
    pub body_read_ms: u64,
    /// The least at which a body, or a message of a stream, has to come in, in bytes a second, once
    /// it was waited for as long as a silence may last; slower ones are given up. 0 is no limit.
    /// Default: 240. Source: ASP.NET Core, Kestrel, `MinRequestBodyDataRate`.
    pub min_body_bytes_per_second: u64,
    /// Most events in one page. Default: 10,000.
    pub max_page_events: u64,
    /// Publishes of one `PublishStream`, or of one NDJSON body, that wait for their
    /// acknowledgement before more is read. Default: 64.
    pub max_in_flight: u64,
    /// Subscriptions on one WebSocket. Default: 256.
    pub max_subscriptions: u64,
    /// Whether `GET /v1/connections` tells everybody who is connected, with addresses.
    /// Default: false.
    pub list_connections: bool,
}

impl Default for FollowConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 15_000,
            retry_ms: 2_000,
            drain_ms: 5_000,
            max_wait_ms: 60_000,
            body_read_ms: 30_000,
            min_body_bytes_per_second: 240,
            max_page_events: 10_000,
            max_in_flight: 64,
            max_subscriptions: 256,
            list_connections: false,
        }
    }
}

impl FollowConfig {
    /// With silence, up to the next heartbeat.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(Duration::from_millis(self.heartbeat_ms))
    }

    /// Waits for one stream's turn to end, of all the streams of so many connections.
    pub(super) fn turn_to_end(&self, connections: usize) -> tokio::time::Sleep {
        let window_ms = self.drain_ms.min(connections as u64);
        let turn_ms = rand::rng().random_range(0..=window_ms);
        tokio::time::sleep(Duration::from_millis(turn_ms))
    }

    /// A time around `retry_ms`, another one each time.
    pub(super) fn jittered_retry_ms(&self) -> u64 {
        let half = self.retry_ms / 2;
        rand::rng().random_range(half..=half.saturating_add(self.retry_ms))
    }
}
