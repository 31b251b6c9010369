//! The subscriptions of one client, on every edge that has many of them at once: a WebSocket, and
//! `POST /v1/follow`.
//!
//! ```text
//! asked.rs         what a client asks for, in JSON
//! set.rs           all subscriptions of the client: opened, waited for, ended
//! subscription.rs  one of them, and its messages
//! told.rs          what an outcome means for the client
//! ```
//!
//! The messages are those of `leftoff.v1.json`, which `src/edge/websocket/protocol.md` describes.
//! An edge decides only how messages are put on the wire, and when it takes the next outcome.
//!
//! # Why
//!
//! A subscription is a place in its topics, and no queue: its next delivery is read when the
//! previous one is written. So at most one delivery of each subscription waits for the client.

pub(in crate::edge) mod asked;
pub(in crate::edge) mod set;
pub(in crate::edge) mod subscription;
pub(in crate::edge) mod told;
