//! Shared work on every edge: which queue a client means, its requests and answers as JSON, and a
//! worker that is given leases on a stream.
//!
//! # Why
//!
//! A worker on a stream says how many leases it takes at the same time. It is given more as it
//! settles them, so it is never given more than it can do, and waits for no round trip.

#[cfg(feature = "http")]
pub(in crate::edge) mod answers;
pub(in crate::edge) mod asking;
pub(in crate::edge) mod requests;
pub(in crate::edge) mod worker;
