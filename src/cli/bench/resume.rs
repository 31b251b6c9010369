//! `leftoff bench resume`: many clients come back at once, while others follow another topic.

use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::measuring::latency::wall_ns;
use super::measuring::pacing::{
    GRACE, MIN_PAYLOAD_BYTES, PacedLoad, Published, fresh_topic, publish_all,
};
use super::measuring::process::{MeasuredBroker, TargetArgs, Usage, check_open_files};
use super::measuring::subscribers::{Followers, LoadThread};
use super::telling::faults::Faults;
use super::telling::report::{Goal, Report, quantile_ms};
use crate::cli::client::ServerClient;
use crate::cli::failure::CliResult;

/// The time for which the followers of the other topic are alone, for comparison.
const QUIET: Duration = Duration::from_secs(1);

/// Has many clients come back at once with a `Last-Event-ID`
///
/// The clients are some events behind on one topic, and get them over SSE. Meanwhile events are
/// published to another topic, whose followers should not notice the load: their latency in the
/// second before is printed for comparison. All clients are on one thread of this machine, which
/// takes its share of the processors.
///
/// Targets are printed beside the figures with 5000 clients that are 100 events behind, and 100
/// live events/s.
///
/// The exit code is 1 if an event was lost or repeated, or did not come in time. A missed target is
/// only printed.
#[derive(Debug, Args)]
pub(super) struct BenchResume {
    /// Clients that come back
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    clients: u64,
    /// Events that each of them has missed
    #[arg(long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    behind: u64,
    /// Events that are published per second to the other topic
    #[arg(long, default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    live_rate: u64,
    /// Followers of the other topic
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    followers: u64,
    /// Bytes of one payload
    #[arg(long, default_value_t = 256)]
    #[arg(value_parser = clap::value_parser!(u64).range(MIN_PAYLOAD_BYTES..=1 << 20))]
    size: u64,
    /// The most seconds that the clients may take; events that come later count as missing
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Print one object of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// The other topic, which is published to meanwhile.
struct Live {
    topic: String,
    followers: Followers,
    publishing: tokio::task::JoinHandle<CliResult<Published>>,
    stop: CancellationToken,
}

/// The outcome of the clients that came back.
struct Resumed {
    clients: Followers,
    missing: u64,
    elapsed_s: f64,
    before: Result<Usage, &'static str>,
    end: Result<Usage, &'static str>,
}

impl BenchResume {
    pub(super) async fn run(self) -> CliResult {
        check_open_files(self.clients + self.followers)?;
        let target = MeasuredBroker::start(&self.target).await?;
        let mut client = target.connect().await?;
        let topic = fresh_topic("resume");
        publish_all(&mut client, &topic, self.behind, self.size).await?;
        let thread = LoadThread::start()?;
        let live = self.go_live(&thread, &target, client.clone()).await?;
        tokio::time::sleep(QUIET).await;
        let quiet_us = live.followers.take_latency()?;

        let resumed = self.come_back(&thread, &target, &topic).await?;
        let during_us = live.followers.take_latency()?;

        live.stop.cancel();
        let published = live.publishing.await.map_err(std::io::Error::other)??;
        let expected = published.events * self.followers;
        let missing = live.followers.all_delivered(expected, GRACE).await;
        let mut faults = Faults::default();
        faults.add(&live.followers, missing);
        faults.add(&resumed.clients, resumed.missing);

        self.report(&resumed, &quiet_us, &during_us, faults)?;
        let judged = faults.judge(&[&resumed.clients, &live.followers]);
        drop(thread); // The clients go before the topics do.
        target.forget(&mut client, &topic).await;
        target.forget(&mut client, &live.topic).await;
        judged
    }

    /// Begins to publish to the other topic, for its followers.
    async fn go_live(
        &self,
        thread: &LoadThread,
        target: &MeasuredBroker,
        client: ServerClient,
    ) -> CliResult<Live> {
        let topic = fresh_topic("live");
        let followers = Followers::open(thread, target, &topic, self.followers, None)?;
        followers.all_open().await?;
        let stop = CancellationToken::new();
        let pace = PacedLoad {
            topic: topic.clone(),
            rate: self.live_rate,
            size: self.size,
            events: u64::MAX, // The token ends it.
        };
        let publishing = tokio::spawn(pace.publish(client, stop.clone()));
        Ok(Live { topic, followers, publishing, stop })
    }

    /// Opens the clients, and waits until they have the events that they missed.
    async fn come_back(
        &self,
        thread: &LoadThread,
        target: &MeasuredBroker,
        topic: &str,
    ) -> CliResult<Resumed> {
        let before = target.usage();
        let started_ns = wall_ns();
        let clients = Followers::open(thread, target, topic, self.clients, Some(0))?;
        let bound = Duration::from_secs(self.seconds);
        let missing = clients.all_delivered(self.clients * self.behind, bound).await;
        let end = target.usage();
        let last_ns = clients.look(|tally| tally.last_ns);
        let elapsed_s = last_ns.saturating_sub(started_ns) as f64 / 1e9;
        Ok(Resumed { clients, missing, elapsed_s, before, end })
    }

    fn report(
        &self,
        resumed: &Resumed,
        quiet_us: &Histogram<u64>,
        during_us: &Histogram<u64>,
        faults: Faults,
    ) -> CliResult {
        let is_standard = (self.clients, self.behind, self.live_rate) == (5_000, 100, 100);
        let goal = |goal| is_standard.then_some(goal);
        let deliveries = resumed.clients.look(|tally| tally.deliveries);
        let all_s = match resumed.missing {
            0 => Ok(resumed.elapsed_s),
            _ => Err("events are missing"),
        };
        let rate = (deliveries as f64 / resumed.elapsed_s.max(1e-9)).round();
        let (before, end) = (resumed.before, resumed.end);
        let cpu = before.and_then(|before| end?.cpu_us_each(before, deliveries));

        let mut report = Report::default();
        report.add("clients", "clients", Ok(self.clients as f64), "");
        report.add("behind", "  behind", Ok(self.behind as f64), "events");
        report.add_with(("all_resumed_s", "all resumed in"), all_s, "s", goal(Goal::AtMost(2.0)));
        report.add("deliveries_per_second", "deliveries", Ok(rate), "/s");
        report.add("live_p99_before_ms", "live p99 before", quantile_ms(quiet_us, 0.99), "ms");
        let during = quantile_ms(during_us, 0.99);
        let name = ("live_p99_ms", "live p99 meanwhile");
        report.add_with(name, during, "ms", goal(Goal::Below(50.0)));
        report.add("live_max_ms", "live max meanwhile", quantile_ms(during_us, 1.0), "ms");
        report.add("server_cpu_us_per_delivery", "server CPU per delivery", cpu, "µs");
        let peak_mib = end.map(|end| end.peak_kib / 1_024.0);
        report.add("server_peak_mib", "server peak memory", peak_mib, "MiB");
        faults.report(&mut report);
        report.print(
            self.json,
            json!({"clients": self.clients, "behind": self.behind, "live_rate": self.live_rate,
                "followers": self.followers, "size": self.size}),
        )
    }
}
