//! Settings of live subscriptions and of request bodies, the same on every edge.

use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::broker::{Patience, all_within};
use crate::error::Result;

/// The settings of live subscriptions and request bodies, on every edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct FollowConfig {
    /// Silence before a heartbeat is sent, in milliseconds. Default: 15,000. Source: WHATWG HTML,
    /// server-sent events, authoring notes: a comment line every 15 seconds or so, for proxies that
    /// drop quiet connections.
    pub heartbeat_ms: u64,
    /// Time for which a browser waits before it reconnects, in milliseconds. Each browser gets a
    /// random time between half of it and one and a half times it, so that not all reconnect at
    /// once. Default: 2,000.
    pub retry_ms: u64,
    /// Longest time over which streams are ended when the broker stops, in milliseconds, so that
    /// not all clients reconnect at once. The time is a millisecond per connection, and at most
    /// half of `server.shutdown_ms`. Default: 5,000.
    pub drain_ms: u64,
    /// Longest wait of a long poll, in milliseconds. Default: 60,000.
    pub max_wait_ms: u64,
    /// Longest silence within a body, or within a message of a stream, in milliseconds. A longer
    /// one ends it with 408, `DEADLINE_EXCEEDED`, or the close code 4108. Default: 30,000.
    pub body_read_ms: u64,
    /// Lowest rate of a body, or of a message of a stream, in bytes per second. The rate counts
    /// once the broker has waited for `body_read_ms`; slower ones are ended. 0 is no limit.
    /// Default: 240. Source: ASP.NET Core, Kestrel, `MinRequestBodyDataRate`.
    pub min_body_bytes_per_second: u64,
    /// Most events in one page. Default: 10,000.
    pub max_page_events: u64,
    /// Publishes of one `PublishStream`, or of one NDJSON body, that wait for their acknowledgement
    /// before more of it is read. Default: 64.
    pub max_in_flight: u64,
    /// Subscriptions on one WebSocket, or of one `POST /v1/follow`. Default: 256.
    pub max_subscriptions: u64,
    /// Whether `GET /v1/connections` shows all connections, with addresses, to everybody. Default:
    /// false.
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
    /// Checks the bounds of each setting.
    pub(crate) fn validate(&self) -> Result<()> {
        all_within(&[
            ("follow.heartbeat_ms", self.heartbeat_ms, 10, 3_600_000),
            ("follow.drain_ms", self.drain_ms, 0, 3_600_000),
            ("follow.retry_ms", self.retry_ms, 1, 3_600_000),
            ("follow.max_wait_ms", self.max_wait_ms, 0, 3_600_000),
            ("follow.max_page_events", self.max_page_events, 1, 1_000_000),
            ("follow.max_in_flight", self.max_in_flight, 1, 100_000),
            ("follow.max_subscriptions", self.max_subscriptions, 1, 100_000),
            ("follow.body_read_ms", self.body_read_ms, 1, 3_600_000),
            ("follow.min_body_bytes_per_second", self.min_body_bytes_per_second, 0, 1 << 30),
        ])
    }

    /// Returns the wait for a delivery: up to the next heartbeat.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(Duration::from_millis(self.heartbeat_ms))
    }

    /// Waits until a stream may end. The streams of all `connections` end at random times within
    /// the window.
    pub(super) fn turn_to_end(&self, connections: usize) -> tokio::time::Sleep {
        let window_ms = self.drain_ms.min(connections as u64);
        let turn_ms = rand::rng().random_range(0..=window_ms);
        tokio::time::sleep(Duration::from_millis(turn_ms))
    }

    /// Returns a random time around `retry_ms`, in milliseconds.
    pub(super) fn jittered_retry_ms(&self) -> u64 {
        let half = self.retry_ms / 2;
        rand::rng().random_range(half..=half.saturating_add(self.retry_ms))
    }
}
