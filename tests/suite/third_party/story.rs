//! The test of all clients: a replay, silence, kills and a stop while earthquake reports are
//! published, and a purge while the clients are away. At the end, each client has received the
//! acknowledged events.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::Client;
use crate::common::{PATIENCE, Process, lasting_address, quakes, send, text, to, try_post};

/// A name that proxies like to change on its way to the broker.
pub(super) const TOPIC: &str = "quakes/all";
pub(super) const EVENTS: &str = "/v1/topics/quakes%2Fall/events";

const KILLS: usize = 3;

/// The number of kills before the broker is once stopped in order, which it tells its clients.
const KILLS_BEFORE_STOP: usize = 1;

/// The number of events before the clients connect, and the least number in each life of the
/// broker: together, at least all reports that come with the project.
const HISTORY: usize = 250;
const LIFE: u64 = 30;

/// Settings with a short reconnection time, so that the tests are quick, and frequent heartbeats.
const SETTINGS: [&str; 4] = ["--set", "follow.retry_ms=200", "--set", "follow.heartbeat_ms=100"];

/// A time that is long enough for some heartbeats.
const SILENCE: Duration = Duration::from_millis(500);

/// The pause between two publishes, and between two checks of a condition that is waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// A message that a client received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Event { sequence: u64, event_type: String, data: String },
    Gap { requested: u64, earliest: u64, lost: u64, reason: String },
}

impl Seen {
    pub(super) fn event(sequence: u64, event_type: &str, data: &str) -> Self {
        let (event_type, data) = (event_type.to_owned(), data.to_owned());
        Self::Event { sequence, event_type, data }
    }

    /// Returns the same message with its JSON in a common spelling.
    pub(super) fn respelt(&self) -> Self {
        match self {
            Self::Event { sequence, event_type, data } => {
                Self::event(*sequence, event_type, &plain(data))
            }
            Self::Gap { .. } => self.clone(),
        }
    }

    /// Returns the message's sequence; for a gap, that of the event after it.
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Self::Event { sequence, .. } => *sequence,
            Self::Gap { earliest, .. } => *earliest,
        }
    }

    pub(super) fn gap(json: &str) -> Self {
        let gap: Value = serde_json::from_str(json).unwrap();
        let number = |name: &str| gap[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"));
        Self::Gap {
            requested: number("requested"),
            earliest: number("earliest"),
            lost: number("lost"),
            reason: gap["reason"].as_str().unwrap().to_owned(),
        }
    }
}

/// Returns the same JSON in a common spelling, since clients that parse and write it have their
/// own.
fn plain(json: &str) -> String {
    fn with_one_kind_of_number(value: Value) -> Value {
        match value {
            Value::Number(number) => json!(number.as_f64()),
            Value::Array(items) => items.into_iter().map(with_one_kind_of_number).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(k, v)| (k, with_one_kind_of_number(v))).collect()
            }
            other => other,
        }
    }
    let value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    with_one_kind_of_number(value).to_string()
}

/// An earthquake report, as it is published.
#[derive(Deserialize)]
struct Report {
    #[serde(rename = "type")]
    event_type: String,
    data: Box<RawValue>,
}

/// Returns the reports, which are published in turn.
fn reports() -> Vec<Report> {
    let lines = std::fs::read_to_string(quakes()).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The acknowledged events, by sequence.
type Acknowledged = Arc<Mutex<BTreeMap<u64, Seen>>>;

/// A broker that is killed and started again at the same address with the same data.
pub(super) struct Story {
    pub(super) address: SocketAddr,
    directory: TempDir,
    process: Process,
    reports: Arc<Vec<Report>>,
    acknowledged: Acknowledged,
    /// The time without a broker after a kill.
    away: Duration,
}

impl Story {
    /// Starts the broker, and publishes the history.
    pub(super) async fn begin() -> Self {
        Self::with_absences(Duration::ZERO).await
    }

    /// Does the same as [`Self::begin`], with a time without a broker after each kill.
    pub(super) async fn with_absences(away: Duration) -> Self {
        let story = Self { away, ..Self::without_history() };
        story.publish(story.address, 0..HISTORY).await;
        story
    }

    /// Starts the broker without any event.
    pub(super) fn without_history() -> Self {
        let (address, directory) = (lasting_address(), tempfile::tempdir().unwrap());
        let process = Process::serve_at(address, directory.path(), &SETTINGS);
        let (reports, acknowledged) = (Arc::new(reports()), Acknowledged::default());
        Self { address, directory, process, reports, acknowledged, away: Duration::ZERO }
    }

    /// Returns the acknowledged events.
    pub(super) fn acknowledged(&self) -> Vec<Seen> {
        self.acknowledged.lock().unwrap().values().cloned().collect()
    }

    /// Takes `clients` through the whole test. All of them must follow from the earliest event.
    pub(super) async fn tell(mut self, clients: &[Client]) {
        self.all_see_all(clients).await;
        tokio::time::sleep(SILENCE).await;
        self.kill_again_and_again(clients).await;
        self.all_see_all(clients).await;
        let gap = self.purge_while_they_are_away().await;
        let count = self.acknowledged.lock().unwrap().len();
        self.publish(self.address, count..count + 1).await;
        self.all_see_all(clients).await;
        self.compare(clients, gap);
    }

    /// Publishes the reports with these numbers, whatever happens to the broker meanwhile.
    async fn publish(&self, address: SocketAddr, numbers: Range<usize>) {
        for number in numbers {
            publish_one(address, number, &self.reports, &self.acknowledged).await;
        }
    }

    async fn all_see_all(&self, clients: &[Client]) {
        let last = last_of(&self.acknowledged);
        for client in clients {
            client.saw(last).await;
        }
    }

    /// Kills or stops the broker each time that all clients follow it again, while events are
    /// published all the time.
    async fn kill_again_and_again(&mut self, clients: &[Client]) {
        let enough = Arc::new(AtomicBool::new(false));
        let publisher = {
            let (address, reports) = (self.address, self.reports.clone());
            let (acknowledged, enough) = (self.acknowledged.clone(), enough.clone());
            tokio::spawn(async move {
                for number in HISTORY.. {
                    if enough.load(Ordering::Relaxed) {
                        return;
                    }
                    publish_one(address, number, &reports, &acknowledged).await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        for end in 0..=KILLS {
            // These events are of this life of the broker: a client that receives them has
            // reconnected.
            let before = last_of(&self.acknowledged);
            let started = Instant::now();
            while last_of(&self.acknowledged) < before + LIFE {
                assert!(started.elapsed() < PATIENCE, "nothing is acknowledged");
                tokio::time::sleep(PAUSE).await;
            }
            self.all_see_all(clients).await;
            match end {
                KILLS_BEFORE_STOP => self.stop_and_start().await,
                _ => self.restart(self.address).await,
            }
        }
        enough.store(true, Ordering::Relaxed);
        publisher.await.unwrap();
    }

    async fn stop_and_start(&mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.exit_code().await, Some(0), "the broker did not stop in order");
        tokio::time::sleep(self.away).await;
        self.process = Process::serve_at(self.address, self.directory.path(), &SETTINGS);
    }

    /// Kills the broker, and starts it again at this address.
    pub(super) async fn restart(&mut self, address: SocketAddr) {
        // The old process must give up its directory before the new one opens it.
        self.process.crash();
        tokio::time::sleep(self.away).await;
        self.process = Process::serve_at(address, self.directory.path(), &SETTINGS);
    }

    /// Publishes ten events at an address that no client knows, and purges seven of them.
    async fn purge_while_they_are_away(&mut self) -> Seen {
        let count = self.acknowledged.lock().unwrap().len();
        let last = last_of(&self.acknowledged);
        self.restart(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let elsewhere = self.process.address;
        self.publish(elsewhere, count..count + 10).await;
        let path = format!("{EVENTS}?before={}", last + 8);
        let purged = send(to(elsewhere, "DELETE", &path), "").await;
        assert_eq!(purged.status, 200, "{}", text(&purged.body));
        self.restart(self.address).await;
        let reason = "purged".to_owned();
        Seen::Gap { requested: last + 1, earliest: last + 8, lost: 7, reason }
    }

    /// Compares the messages of each client with the acknowledged events and the gap.
    fn compare(&self, clients: &[Client], gap: Seen) {
        let Seen::Gap { requested, earliest, .. } = gap else { panic!("{gap:?} is no gap") };
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        let mut expected: Vec<Seen> =
            acknowledged.range(..requested).map(|(_, event)| event.clone()).collect();
        expected.push(gap);
        expected.extend(acknowledged.range(earliest..).map(|(_, event)| event.clone()));
        for client in clients {
            client.saw_all(&expected);
            assert!(acknowledged.len() > self.reports.len(), "not all reports were published");
            let (name, count) = (&client.name, expected.len() - 1);
            println!("{name}: {count} events and 1 gap through {KILLS} kills and a stop");
        }
    }
}

fn last_of(acknowledged: &Acknowledged) -> u64 {
    acknowledged.lock().unwrap().keys().next_back().copied().unwrap_or(0)
}

/// Publishes the report with this number, and repeats the request until it is acknowledged.
async fn publish_one(
    address: SocketAddr,
    number: usize,
    reports: &[Report],
    acknowledged: &Acknowledged,
) {
    let Report { event_type, data } = &reports[number % reports.len()];
    let data = data.get();
    // With an id, the report is stored once, however often it is published.
    let path = format!("{EVENTS}?id=report-{number}&type={event_type}");
    let started = Instant::now();
    loop {
        let request = to(address, "POST", &path).header("content-type", "application/json");
        if let Some(receipt) = try_post(request, data.to_owned()).await {
            let event = Seen::event(receipt.sequence, event_type, data);
            let earlier = acknowledged.lock().unwrap().insert(receipt.sequence, event);
            assert_eq!(earlier, None, "a sequence was given twice");
            return;
        }
        assert!(started.elapsed() < PATIENCE, "report {number} is never acknowledged");
        tokio::time::sleep(PAUSE).await;
    }
}
