//! `leftoff bench`: measures a broker from outside, over its sockets.
//!
//! ```text
//!  publish.rs    how fast events are acknowledged
//!  fanout.rs     what many live followers get     resume.rs   what a rush of returning ones gets
//!  process.rs    the broker that is measured      pacing.rs   publishes at a rate
//!  subscribers.rs, event_stream.rs                many followers on one thread
//!  report.rs     figures beside their targets
//! ```

mod event_stream;
mod fanout;
mod pacing;
mod process;
mod publish;
mod report;
mod resume;
mod subscribers;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use hdrhistogram::Histogram;

use super::{CliError, CliResult, Failure};

/// Longest latency that is told apart, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;

/// How long opening all connections may take.
const OPENING_TIMEOUT: Duration = Duration::from_secs(30);

/// How long is waited for what was published last, beyond the time that was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Measures a broker
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Publish(publish::BenchPublish),
    Fanout(fanout::BenchFanout),
    Resume(resume::BenchResume),
}

impl Bench {
    pub(super) async fn run(self) -> CliResult {
        match self.command {
            Command::Publish(publish) => publish.run().await,
            Command::Fanout(fanout) => fanout.run().await,
            Command::Resume(resume) => resume.run().await,
        }
    }
}

fn latency_histogram() -> CliResult<Histogram<u64>> {
    Histogram::new_with_max(MAX_LATENCY_US, 3)
        .map_err(|error| CliError::new(Failure::Other, error.to_string()))
}

/// A quantile of latencies in microseconds, in milliseconds; `Err` with the reason when none were
/// measured.
fn quantile_ms(latency_us: &Histogram<u64>, quantile: f64) -> Result<f64, &'static str> {
    match latency_us.len() {
        0 => Err("nothing was delivered"),
        _ => Ok(latency_us.value_at_quantile(quantile) as f64 / 1e3),
    }
}

/// The time in nanoseconds since 1970: publishers stamp payloads with it.
fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}

/// A topic that no other run has.
fn fresh_topic(purpose: &str) -> String {
    format!("bench.{purpose}.{}", wall_ns())
}
