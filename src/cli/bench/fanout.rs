//! `leftoff bench fanout`: one topic, many live followers.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::measuring::latency::wall_ns;
use super::measuring::pacing::{GRACE, MIN_PAYLOAD_BYTES, PacedLoad, Published, fresh_topic};
use super::measuring::process::{MeasuredBroker, TargetArgs, Usage, check_open_files};
use super::measuring::subscribers::{Followers, LoadThread};
use super::telling::faults::Faults;
use super::telling::report::{Goal, Report, quantile_ms};
use crate::cli::failure::CliResult;

/// The pause before the broker's memory is measured, without connections and with them. A broker
/// that has just started takes some MiB more within its first second.
const REST: Duration = Duration::from_secs(1);

/// Publishes at a rate to many SSE followers
///
/// Opens the followers of one new topic, publishes to it over gRPC, and counts the deliveries. The
/// latency is from publishing to reading, and each id must follow the one before. All followers are
/// on one thread of this machine, which takes its share of the processors.
///
/// The memory of a connection is the growth of the broker's resident memory, divided by the
/// clients. With few clients it comes out too low, because the broker has some free memory from its
/// start.
///
/// Targets are printed beside the figures: memory of an idle connection always; latency and CPU
/// with 1000 clients at 100 events/s; deliveries with 1000 clients at 1000 events/s; the last
/// delivery with 10000 clients at 1 event/s.
///
/// The exit code is 1 if an event was lost or repeated. A missed target is only printed.
#[derive(Debug, Args)]
pub(super) struct BenchFanout {
    /// The number of followers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    clients: u64,
    /// Events that are published per second
    #[arg(long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Bytes of one payload
    #[arg(long, default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(MIN_PAYLOAD_BYTES..=1 << 20))]
    size: u64,
    /// The time to publish, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// The resources that the broker and the bench have used, if the system tells them.
struct Uses {
    before: Result<Usage, &'static str>,
    idle: Result<Usage, &'static str>,
    end: Result<Usage, &'static str>,
    /// The usage of the bench itself, before and after publishing.
    client: Result<(Usage, Usage), &'static str>,
}

impl BenchFanout {
    pub(super) async fn run(self) -> CliResult {
        check_open_files(self.clients)?;
        let target = MeasuredBroker::start(&self.target).await?;
        let mut publisher = target.connect().await?;
        let topic = fresh_topic("fanout");
        let thread = LoadThread::start()?;

        tokio::time::sleep(REST).await;
        let before = target.usage();
        let opening_ns = wall_ns();
        let group = Followers::open(&thread, &target, &topic, self.clients, None)?;
        group.all_open().await?;
        let opened_ns = group.look(|tally| tally.last_opened_ns);
        tokio::time::sleep(REST).await;
        let (idle, client_idle) = (target.usage(), Usage::own());

        let (published, missing) = self.publish(&group, publisher.clone(), &topic).await?;
        let client = client_idle.and_then(|idle| Ok((idle, Usage::own()?)));
        let uses = Uses { before, idle, end: target.usage(), client };
        let mut faults = Faults::default();
        faults.add(&group, missing);

        let mut report = Report::default();
        let opening_s = opened_ns.saturating_sub(opening_ns) as f64 / 1e9;
        report.add("clients", "clients connected", Ok(self.clients as f64), "");
        report.add("connect_s", "  in", Ok(opening_s), "s");
        self.report_deliveries(&mut report, &group, published)?;
        self.report_uses(&mut report, &group, &uses);
        faults.report(&mut report);
        report.print(
            self.json,
            json!({"clients": self.clients, "rate": self.rate, "size": self.size,
                "seconds": self.seconds}),
        )?;
        let judged = faults.judge(&[&group]);
        drop(thread); // The followers go before the topic does.
        target.forget(&mut publisher, &topic).await;
        judged
    }

    /// Publishes the events, and waits for their deliveries. Returns the number of missing ones,
    /// too.
    async fn publish(
        &self,
        group: &Followers,
        publisher: crate::cli::client::ServerClient,
        topic: &str,
    ) -> CliResult<(Published, u64)> {
        let events = self.rate * self.seconds;
        let pace = PacedLoad { topic: topic.to_owned(), rate: self.rate, size: self.size, events };
        let stop = CancellationToken::new();
        let mut publishing = tokio::spawn(pace.publish(publisher, stop.clone()));
        let bound = Duration::from_secs(self.seconds) + GRACE;
        let delivering = group.all_delivered(self.clients * events, bound);
        tokio::pin!(delivering);
        // A publisher that fails ends the run, because no more deliveries would come.
        let (published, missing) = tokio::select! {
            missing = &mut delivering => {
                stop.cancel();
                (publishing.await, missing)
            }
            published = &mut publishing => match published {
                Ok(Ok(published)) => (Ok(Ok(published)), delivering.await),
                failed => (failed, 0),
            },
        };
        Ok((published.map_err(std::io::Error::other)??, missing))
    }

    fn has(&self, clients: u64, rate: u64) -> bool {
        (self.clients, self.rate) == (clients, rate)
    }

    fn report_deliveries(
        &self,
        report: &mut Report,
        group: &Followers,
        published: Published,
    ) -> CliResult {
        let rate = published.events as f64 / published.elapsed.as_secs_f64().max(1e-9);
        report.add("published", "published", Ok(published.events as f64), "events");
        report.add("published_per_second", "  at", Ok(rate.round()), "events/s");
        let per_second = group.look(|tally| tally.deliveries_per_second()).map(f64::round);
        let goal = self.has(1_000, 1_000).then_some(Goal::AtLeast(900_000.0));
        report.add_with(("deliveries_per_second", "deliveries"), per_second, "/s", goal);

        let latency = group.take_latency()?;
        let p99_goal = self.has(1_000, 100).then_some(Goal::Below(50.0));
        let max_goal = self.has(10_000, 1).then_some(Goal::AtMost(150.0));
        for (key, label, quantile, goal) in [
            ("p50_ms", "latency p50", 0.5, None),
            ("p99_ms", "latency p99", 0.99, p99_goal),
            ("p99_9_ms", "latency p99.9", 0.999, None),
            ("max_ms", "latency max", 1.0, max_goal),
        ] {
            report.add_with((key, label), quantile_ms(&latency, quantile), "ms", goal);
        }
        Ok(())
    }

    fn report_uses(&self, report: &mut Report, group: &Followers, uses: &Uses) {
        let deliveries = group.look(|tally| tally.deliveries);
        let Uses { before, idle, end, client } = *uses;
        let cpu = idle.and_then(|idle| end?.cpu_us_each(idle, deliveries));
        let cpu_goal = self.has(1_000, 100).then_some(Goal::AtMost(5.0));
        let name = ("server_cpu_us_per_delivery", "server CPU per delivery");
        report.add_with(name, cpu, "µs", cpu_goal);
        let client_cpu = client.and_then(|(idle, end)| end.cpu_us_each(idle, deliveries));
        report.add("client_cpu_us_per_delivery", "client CPU per delivery", client_cpu, "µs");
        let grown_kib = before.and_then(|before| Ok(idle?.resident_kib - before.resident_kib));
        let each_kib = grown_kib.map(|grown_kib| grown_kib / self.clients as f64);
        let name = ("server_idle_connection_kib", "server idle connection");
        report.add_with(name, each_kib, "KiB", Some(Goal::AtMost(10.0)));
        let peak_mib = end.map(|end| end.peak_kib / 1_024.0);
        report.add("server_peak_mib", "server peak memory", peak_mib, "MiB");
    }
}
