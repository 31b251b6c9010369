//! The server's side of the gRPC contract: the services, and the messages that may be large, with
//! their events as bytes.
#![allow(
    missing_docs,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]

include!(concat!(env!("OUT_DIR"), "/served/leftoff.v1.rs"));
