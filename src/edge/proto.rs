//! The wire contract of the gRPC edge: messages, and, with the feature `grpc`, a client.
#![allow(
    missing_docs,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]

include!(concat!(env!("OUT_DIR"), "/leftoff.v1.rs"));
