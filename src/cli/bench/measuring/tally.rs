//! The tally of the deliveries to a group of followers.

use hdrhistogram::Histogram;

use super::event_stream::BenchEvent;
use super::latency::latency_histogram;
use crate::cli::failure::CliResult;

/// The counts of the deliveries to a group of followers. Times are in nanoseconds since 1970.
#[derive(Debug)]
pub(in crate::cli::bench) struct Tally {
    pub(in crate::cli::bench) opened: u64,
    pub(in crate::cli::bench) last_opened_ns: u64,
    /// Connections that could not be opened, or ended.
    pub(in crate::cli::bench) failed: u64,
    /// The reason of the first of these failures.
    pub(in crate::cli::bench) problem: Option<String>,
    pub(in crate::cli::bench) deliveries: u64,
    pub(in crate::cli::bench) first_ns: u64,
    pub(in crate::cli::bench) last_ns: u64,
    pub(in crate::cli::bench) gaps: u64,
    pub(in crate::cli::bench) repeats: u64,
    pub(in crate::cli::bench) latency_us: Histogram<u64>,
}

impl Tally {
    pub(in crate::cli::bench) fn new() -> CliResult<Self> {
        Ok(Self {
            opened: 0,
            last_opened_ns: 0,
            failed: 0,
            problem: None,
            deliveries: 0,
            first_ns: 0,
            last_ns: 0,
            gaps: 0,
            repeats: 0,
            latency_us: latency_histogram()?,
        })
    }

    pub(in crate::cli::bench) fn count(
        &mut self,
        cursor: &mut u64,
        delivery: BenchEvent,
        now_ns: u64,
    ) {
        let BenchEvent { sequence, published_ns } = delivery;
        if sequence <= *cursor {
            self.repeats += 1;
        } else if sequence > *cursor + 1 {
            self.gaps += 1;
        }
        *cursor = sequence.max(*cursor);
        if self.deliveries == 0 {
            self.first_ns = now_ns;
        }
        self.last_ns = now_ns;
        self.deliveries += 1;
        if let Some(published_ns) = published_ns {
            self.latency_us.saturating_record(now_ns.saturating_sub(published_ns) / 1_000);
        }
    }

    pub(in crate::cli::bench) fn count_failed(&mut self, problem: String) {
        self.failed += 1;
        self.problem.get_or_insert(problem);
    }

    /// Returns the deliveries per second, from the first one to the last one.
    pub(in crate::cli::bench) fn deliveries_per_second(&self) -> Result<f64, &'static str> {
        match self.last_ns.saturating_sub(self.first_ns) {
            0 => Err("too few for a rate"),
            elapsed_ns => Ok(self.deliveries as f64 * 1e9 / elapsed_ns as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_repeats_are_told_apart() {
        let mut tally = Tally::new().unwrap();
        let mut cursor = 10;
        for sequence in [11, 12, 12, 14, 13, 15, 0] {
            let published_ns = Some(1_000_000);
            tally.count(&mut cursor, BenchEvent { sequence, published_ns }, 3_000_000);
        }
        assert_eq!((cursor, tally.deliveries, tally.gaps, tally.repeats), (15, 7, 1, 3));
        assert_eq!(tally.latency_us.max(), 2_000);
    }
}
