//! Latencies, and the clock that payloads are stamped by.

use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::cli::failure::{CliError, CliResult, ExitReason};

/// Longest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Makes an empty histogram of latencies in microseconds.
pub(in crate::cli::bench) fn latency_histogram() -> CliResult<Histogram<u64>> {
    Histogram::new_with_max(MAX_LATENCY_US, 3)
        .map_err(|error| CliError::new(ExitReason::Other, error.to_string()))
}

/// The time in nanoseconds since 1970: publishers stamp payloads with it.
pub(in crate::cli::bench) fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
