//! `leftoff bench publish`: measures a running broker, and compares it with a plain file.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use leftoff::TopicName;
use leftoff::edge::proto::NewEvent;
use serde_json::json;

use super::measuring::load::{Load, Measured};
use crate::cli::client::{ServerArgs, ServerClient};
use crate::cli::failure::CliResult;

/// Publishes as fast as events are acknowledged
///
/// Every acknowledgement is durable. Then the bench appends the same bytes to a plain file for the
/// same time, in the same groups: one request of each client, then an fdatasync. Both run on this
/// machine, and the client takes its share of the processors.
#[derive(Debug, Args)]
pub(super) struct BenchPublish {
    /// Clients that publish at the same time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    clients: u64,
    /// Events in one request
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Bytes of one payload
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(0..=1 << 20))]
    size: u64,
    /// The time to publish, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Requests of one client's stream that wait for their acknowledgement
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    in_flight: u64,
    /// Publish each request in a separate call instead of one stream for each client
    #[arg(long)]
    unary: bool,
    /// Connections that the clients share [default: one for each client]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: Option<u64>,
    /// The topic; with several topics, each name is this one and a number
    #[arg(long, default_value = "bench")]
    topic: TopicName,
    /// Topics that the clients are spread over
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    topics: u64,
    /// The directory of the plain file; for a fair comparison, on the broker's disk
    #[arg(long, value_name = "DIR", default_value = ".")]
    plain_dir: PathBuf,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl BenchPublish {
    pub(super) async fn run(self) -> CliResult {
        let clients = self.connect().await?;
        let until = Instant::now() + Duration::from_secs(self.seconds);
        let running: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(index, client)| {
                let load = Load {
                    client,
                    topic: self.topic_of(index as u64),
                    events: vec![self.event(); self.batch as usize],
                    in_flight: self.in_flight as usize,
                    until,
                };
                let unary = self.unary;
                tokio::spawn(
                    async move { if unary { load.unary().await } else { load.stream().await } },
                )
            })
            .collect();
        let mut published = Measured::new()?;
        for client in running {
            published.add(&client.await.map_err(std::io::Error::other)??)?;
        }
        let plain = self.plain_file()?;
        self.report(&published, &plain)
    }

    fn topic_of(&self, client: u64) -> String {
        match self.topics {
            1 => self.topic.to_string(),
            topics => format!("{}.{}", self.topic, client % topics),
        }
    }

    fn event(&self) -> NewEvent {
        let payload = Bytes::from(vec![b'x'; self.size as usize]);
        NewEvent { r#type: "bench".to_owned(), payload, ..NewEvent::default() }
    }

    async fn connect(&self) -> CliResult<Vec<ServerClient>> {
        let count = self.connections.unwrap_or(self.clients).min(self.clients);
        let mut connected = Vec::new();
        for _ in 0..count {
            connected.push(self.server.connect().await?);
        }
        Ok(connected.into_iter().cycle().take(self.clients as usize).collect())
    }

    /// Appends the bytes of one request of each client to a plain file, and syncs it, again and
    /// again for as long as the broker was measured.
    fn plain_file(&self) -> CliResult<Measured> {
        let group_events = self.clients * self.batch;
        let bytes = vec![b'x'; (group_events * self.size) as usize];
        let directory = tempfile::tempdir_in(&self.plain_dir)?;
        let mut file = File::create(directory.path().join("plain"))?;
        let mut measured = Measured::new()?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(self.seconds) {
            let sent = Instant::now();
            file.write_all(&bytes)?;
            file.sync_data()?;
            measured.count(sent, group_events);
        }
        measured.elapsed = started.elapsed();
        Ok(measured)
    }

    fn report(&self, published: &Measured, plain: &Measured) -> CliResult {
        let mut output = std::io::stdout().lock();
        let ratio = published.events_per_second() / plain.events_per_second();
        let (broker, file) = (figures(published, self.size), figures(plain, self.size));
        if self.json {
            let mut line = broker;
            line["plain_file"] = file;
            line["ratio_to_plain_file"] = json!((ratio * 1e3).round() / 1e3);
            line["settings"] = json!({
                "clients": self.clients, "batch": self.batch, "size": self.size,
                "in_flight": self.in_flight, "unary": self.unary, "topics": self.topics,
                "connections": self.connections.unwrap_or(self.clients),
            });
            writeln!(output, "{line}")?;
            return Ok(());
        }
        for (name, measured) in [("leftoff", &broker), ("plain file", &file)] {
            writeln!(
                output,
                "{name:<12} {:>10} events/s {:>8} MB/s  p50 {} ms  p99 {} ms  p99.9 {} ms",
                measured["events_per_second"],
                measured["megabytes_per_second"],
                measured["p50_ms"],
                measured["p99_ms"],
                measured["p99_9_ms"],
            )?;
        }
        writeln!(output, "ratio        {ratio:>10.3}")?;
        Ok(())
    }
}

/// Returns the figures of a run with payloads of this size.
fn figures(measured: &Measured, size: u64) -> serde_json::Value {
    let quantile_ms = |quantile| measured.latency_us.value_at_quantile(quantile) as f64 / 1e3;
    let rate = measured.events_per_second();
    json!({
        "events": measured.events,
        "seconds": measured.elapsed.as_secs_f64(),
        "events_per_second": rate.round(),
        "megabytes_per_second": (rate * size as f64 / 1e4).round() / 100.0,
        "p50_ms": quantile_ms(0.5),
        "p99_ms": quantile_ms(0.99),
        "p99_9_ms": quantile_ms(0.999),
    })
}
