//! Protocol edges: they translate and refuse, and decide nothing.
//!
//! Every edge promises the same:
//!
//! - A bad request changes nothing, and is answered with the name, the value and the limit.
//! - An error has one meaning on all protocols: `status.rs` is the one map from errors to codes.
//! - A reader gets the same events, cursors and gaps: every edge reads through the one [`Reader`],
//!   of one topic or of many.
//! - A client holds a bounded amount of memory, and is ended when it is too slow.
//!
//! # How to add a transport
//!
//! 1. **Mount.** Over HTTP: a route in `http.rs`, and its operation in `openapi/operations.rs`.
//!    Another protocol on the port: routes beside those of gRPC in `server.rs`. The server puts a
//!    `Peer` into the extensions of each request: the client's address, rates and memory. Origin
//!    and host (`access.rs`) and the rates of requests (`rates/layer.rs`) are checked before the
//!    route.
//! 2. **Ask.** `selection.rs` has topics, start, filter and member for all protocols, and opens the
//!    reader. A start or a cursor is parsed by `cursor.rs` alone.
//! 3. **Count.** Take what is held for the client from its share (`budget.rs`) before there are
//!    bytes: patterns, a message that is not whole, an answer that waits. Give it back by dropping.
//! 4. **Follow.** Loop over [`Reader::next_within`]: events, gap, caught up, ephemeral event,
//!    silence, stopping. Write one delivery before the next is read, so that a client that takes
//!    nothing holds nothing. On silence, send the cursor if it moved. On stopping, wait for
//!    `FollowConfig::turn_to_end`, and tell the client when to come back. Keep the reader in the
//!    list of connections (`clients::Following`).
//! 5. **Write.** The wire forms of a block are built once and shared: [`Run::encoded`] with a
//!    [`Form`]. JSON of events is in `json.rs`, of CloudEvents in `cloudevents/`.
//! 6. **Refuse.** Return [`Error`]; `status.rs` has its codes. Tell gaps with all their numbers.
//! 7. **Publish.** Hand in with `receiving.rs`, which counts what is not handed in yet. Long work
//!    on a body goes through `effort.rs`, away from the runtime's workers.
//! 8. **Prove.** Add the transport to `tests/suite/ways.rs` and to the soak's transports: every
//!    reader's promise is then a promise of the new transport, too.
//!
//! [`Error`]: crate::Error
//! [`Form`]: crate::broker::Form
//! [`Reader`]: crate::broker::Reader
//! [`Reader::next_within`]: crate::broker::Reader::next_within
//! [`Run::encoded`]: crate::broker::Run::encoded

mod accept;
pub(crate) mod access;
mod asked;
pub(crate) mod budget;
mod checked_body;
pub(crate) mod clients;
mod cloudevents;
mod codec;
mod coding;
pub(crate) mod counters;
mod effort;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod grpc;
pub mod http;
mod http_events;
mod http_lines;
mod http_topics;
mod ignored;
pub(crate) mod intake;
pub mod json;
mod json_problem;
mod listing;
mod media;
mod messages;
pub mod ndjson;
mod openapi;
pub(crate) mod pace;
mod page_body;
mod page_token;
mod query;
pub(crate) mod rates;
pub(crate) mod receiving;
pub(crate) mod refused;
mod selection;
mod spare;
mod sse;
pub(crate) mod status;
mod tag;
pub(crate) mod websocket;
mod wire;

use std::time::Duration;

pub use access::AccessConfig;
use rand::RngExt;
pub use rates::RatesConfig;
use serde::{Deserialize, Serialize};

use crate::broker::{LimitsConfig, Patience};

/// The wire contract of the gRPC edge: messages, and a client.
#[allow(
    missing_docs,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]
pub mod proto {
    tonic::include_proto!("leftoff.v1");
}

/// The server's side of the same contract: the service, and those messages that a client makes as
/// large as it likes, with their events as bytes.
#[allow(
    missing_docs,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]
pub mod served {
    include!(concat!(env!("OUT_DIR"), "/served/leftoff.v1.rs"));
}

/// What a request may take before any of it can be handed in, in bytes.
pub(crate) fn max_request_bytes(limits: &LimitsConfig) -> u64 {
    grpc::max_message_bytes(limits).max(http_lines::max_line_bytes(limits))
}

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
    fn patience(&self) -> Patience {
        Patience::new(Duration::from_millis(self.heartbeat_ms))
    }

    /// Waits for one stream's turn to end, of all the streams of so many connections.
    fn turn_to_end(&self, connections: usize) -> tokio::time::Sleep {
        let window_ms = self.drain_ms.min(connections as u64);
        let turn_ms = rand::rng().random_range(0..=window_ms);
        tokio::time::sleep(Duration::from_millis(turn_ms))
    }

    /// A time around `retry_ms`, another one each time.
    fn jittered_retry_ms(&self) -> u64 {
        let half = self.retry_ms / 2;
        rand::rng().random_range(half..=half.saturating_add(self.retry_ms))
    }
}
