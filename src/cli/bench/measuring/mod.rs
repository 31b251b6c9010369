//! The measuring part of a bench: loads a broker, and counts what comes back.
//!
//! ```text
//!  process.rs      the broker that is measured     pacing.rs    publishes at a rate
//!  subscribers.rs  many followers on one thread    tally.rs     counts what they get
//!  event_stream.rs the SSE that they get           load.rs      publishes as fast as it goes
//!  latency.rs      the clock, and latencies
//! ```

pub(super) mod event_stream;
pub(super) mod latency;
pub(super) mod load;
pub(super) mod pacing;
pub(super) mod process;
pub(super) mod subscribers;
pub(super) mod tally;
