//! The wire contract of the gRPC edge: messages, and a client.
#![allow(
    missing_docs,
    clippy::all,
    clippy::missing_errors_doc,
    reason = "generated; documented in the proto"
)]

tonic::include_proto!("leftoff.v1");
