//! The settings of webhooks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::guard::AddressGuard;
use crate::broker::all_within;
use crate::error::Result;

/// An hour and a day, in milliseconds.
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// The settings of webhooks, of all of them together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhooksConfig {
    /// The most webhooks. Each that is not paused takes one of `consumers.work.max_queues`. 1 to
    /// 100,000. Default: 500.
    pub max_webhooks: u64,
    /// The most requests of one webhook at the same time. 1 to 1,000. Default: 32.
    pub max_in_flight: u64,
    /// The most requests to one host at the same time, of all webhooks. 1 to 10,000. Default: 64.
    pub max_in_flight_per_host: u64,
    /// The most events in one request. 1 to 10,000. Default: 1,000.
    pub max_batch_events: u64,
    /// Bytes of events after which no more of them go into one request. A single event may be
    /// larger. 1,024 to 64 MiB. Default: 1 MiB.
    pub max_request_bytes: u64,
    /// Bytes of an answer that are read. A longer one counts by its status, and its connection is
    /// closed. 0 to 1 MiB. Default: 64 KiB.
    pub max_answer_bytes: u64,
    /// Longest time to resolve a name and to connect, in milliseconds, TLS included. 1 to 60,000.
    /// Default: 5,000.
    pub connect_timeout_ms: u64,
    /// Longest time of a request, in milliseconds, from the connection to the end of its answer. 1
    /// to 300,000. Default: 20,000. Source: Standard Webhooks, "Request timeouts": 15 to 30 s.
    pub timeout_ms: u64,
    /// Longest pause after the first failure of an event, in milliseconds. Each further failure
    /// doubles it; the pause is a random time up to it. 1 to 3,600,000. Default: 1,000.
    pub retry_min_ms: u64,
    /// Longest pause after any failure, in milliseconds, from `retry_min_ms` to 24 hours.
    /// Default: 3,600,000 (1 h).
    pub retry_max_ms: u64,
    /// Longest `Retry-After` that is obeyed, in milliseconds. A longer one is cut to it. 0 to 7
    /// days. Default: 86,400,000 (24 h).
    pub max_retry_after_ms: u64,
    /// The most requests with one event. After the last failure it goes to the topic of dead
    /// letters. 1 to 1,000. Default: 50.
    pub max_tries: u64,
    /// Time after which an event is given to another request if the broker was killed while one was
    /// sent, in milliseconds. 1,000 to 600,000. Default: 15,000.
    pub lease_ms: u64,
    /// A webhook is paused that had no success for this time, in milliseconds, and has failed
    /// `pause_after_failures` times since. 0 to 30 days. Default: 86,400,000 (24 h).
    pub pause_after_ms: u64,
    /// Failures in a row before a webhook is paused. 1 to 1,000,000. Default: 20.
    pub pause_after_failures: u64,
    /// Time after which a webhook that was paused for its failures is tried again with one event,
    /// in milliseconds; 0 for never. 0 to 30 days. Default: 3,600,000 (1 h).
    pub probe_after_ms: u64,
    /// Whether URLs may be `http`, without TLS. Default: false.
    pub allow_http: bool,
    /// Networks that may be reached although they are not public, such as `10.0.0.0/8`.
    /// Default: none.
    pub allowed_networks: Vec<String>,
    /// A file of certificates in PEM by which receivers are trusted, in place of those of the
    /// system.
    pub trusted_ca: Option<PathBuf>,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            max_webhooks: 500,
            max_in_flight: 32,
            max_in_flight_per_host: 64,
            max_batch_events: 1_000,
            max_request_bytes: 1 << 20,
            max_answer_bytes: 64 << 10,
            connect_timeout_ms: 5_000,
            timeout_ms: 20_000,
            retry_min_ms: 1_000,
            retry_max_ms: HOUR_MS,
            max_retry_after_ms: DAY_MS,
            max_tries: 50,
            lease_ms: 15_000,
            pause_after_ms: DAY_MS,
            pause_after_failures: 20,
            probe_after_ms: HOUR_MS,
            allow_http: false,
            allowed_networks: Vec::new(),
            trusted_ca: None,
        }
    }
}

impl WebhooksConfig {
    /// Checks the bounds of each setting. Files are read when a server is bound.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) with the setting, the value and the bounds;
    /// [`Error::OverLimit`](crate::Error::OverLimit).
    pub fn validate(&self) -> Result<()> {
        all_within(&[
            ("webhooks.max_webhooks", self.max_webhooks, 1, 100_000),
            ("webhooks.max_in_flight", self.max_in_flight, 1, 1_000),
            ("webhooks.max_in_flight_per_host", self.max_in_flight_per_host, 1, 10_000),
            ("webhooks.max_batch_events", self.max_batch_events, 1, 10_000),
            ("webhooks.max_request_bytes", self.max_request_bytes, 1 << 10, 64 << 20),
            ("webhooks.max_answer_bytes", self.max_answer_bytes, 0, 1 << 20),
            ("webhooks.connect_timeout_ms", self.connect_timeout_ms, 1, 60_000),
            ("webhooks.timeout_ms", self.timeout_ms, 1, 300_000),
            ("webhooks.retry_min_ms", self.retry_min_ms, 1, HOUR_MS),
            ("webhooks.retry_max_ms", self.retry_max_ms, self.retry_min_ms, DAY_MS),
            ("webhooks.max_retry_after_ms", self.max_retry_after_ms, 0, 7 * DAY_MS),
            ("webhooks.max_tries", self.max_tries, 1, 1_000),
            ("webhooks.lease_ms", self.lease_ms, 1_000, 600_000),
            ("webhooks.pause_after_ms", self.pause_after_ms, 0, 30 * DAY_MS),
            ("webhooks.pause_after_failures", self.pause_after_failures, 1, 1_000_000),
            ("webhooks.probe_after_ms", self.probe_after_ms, 0, 30 * DAY_MS),
        ])?;
        AddressGuard::parse(&self.allowed_networks).map(drop)
    }
}
