//! Webhooks: consumers that push. Each sends the events of its topics to a URL, in signed requests.
//!
//! ```text
//! topic ──▶ the queue of a shared consumer ──▶ runner ──▶ sender ──▶ client ──▶ receiver
//!            leases, tries, order per key,      one for    signs,     checks addresses,
//!            dead letters: all durable          each       settles    TLS, bounds
//! ```
//!
//! `registry.rs` is what a host has of them, `kept.rs` what is stored of them in the topic
//! `$webhooks`, in the form of `stored.rs`. `runner.rs` is the task of one, `sending.rs` one
//! request. `client.rs` sends it, through `connector.rs`, which asks `resolver.rs` for addresses,
//! and `guard.rs` about each of them. `cleaning.rs` deletes what a killed node has left.
//! `routes.rs` and `service.rs` have what administrators may do over HTTP and gRPC.
//!
//! # Why
//!
//! A webhook is a consumer that shares its events with one worker, the runner. So where it was, how
//! often an event was tried, and which events are dead is stored as for every other worker, and
//! survives a kill. The broker below knows nothing of webhooks.

mod cleaning;
mod client;
mod config;
mod connector;
mod format;
mod guard;
mod hosts;
mod info;
mod kept;
mod loading;
mod networks;
mod nodes;
mod pauses;
mod receiver_url;
mod registry;
mod requests;
mod resolver;
mod routes;
mod runner;
mod sending;
mod service;
mod settings;
mod signing;
mod state;
mod stored;
mod telling;

pub use config::WebhooksConfig;
pub use format::WebhookFormat;
pub use info::{MadeWebhook, WebhookInfo, WebhookKeyInfo, WebhookLag};
pub use registry::Webhooks;
pub(crate) use service::GrpcWebhooks;
pub use settings::{PutWebhook, RotateWebhook, WebhookName, WebhookSettings};
pub use signing::SignatureKind;
pub use state::{WebhookAttempt, WebhookCounts};
pub use stored::{PauseReason, WebhookPause};
