//! The measuring part of a bench: loads a broker, and counts deliveries and acknowledgements.
//!
//! ```text
//!  process.rs      the broker that is measured     pacing.rs    publishes at a rate
//!  subscribers.rs  many followers on one thread    tally.rs     counts their deliveries
//!  event_stream.rs parses their SSE answers        load.rs      publishes as fast as possible
//!  latency.rs      the clock, and latencies
//! ```

pub(super) mod event_stream;
pub(super) mod latency;
pub(super) mod load;
pub(super) mod pacing;
pub(super) mod process;
pub(super) mod subscribers;
pub(super) mod tally;
