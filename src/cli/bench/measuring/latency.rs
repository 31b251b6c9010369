//! Latencies, and the clock that stamps payloads.

use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The longest latency that is recorded, in microseconds. Longer ones count as this one.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Makes an empty histogram of latencies in microseconds.
pub(in crate::cli::bench) fn latency_histogram() -> CliResult<Histogram<u64>> {
    Histogram::new_with_max(MAX_LATENCY_US, 3)
        .map_err(|error| CliError::new(ExitReason::Other, error.to_string()))
}

/// Returns the time in nanoseconds since 1970. Publishers stamp payloads with it.
pub(in crate::cli::bench) fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
