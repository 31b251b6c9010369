//! What the nodes of a fleet say to each other: messages, services and clients.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]

include!(concat!(env!("OUT_DIR"), "/leftoff.cluster.v1.rs"));
