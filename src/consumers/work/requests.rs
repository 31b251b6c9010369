//! What workers ask of a shared consumer, and what they are told: plain data.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lease_id::LeaseId;
use super::settings::MAX_LEASE_MS;
use super::totals::WorkTotals;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::event::{Event, Timestamp};
use crate::topic::TopicName;

/// The longest name of a worker, in bytes.
pub const MAX_WORKER_BYTES: usize = 128;

/// The most events of one pull.
pub const MAX_PULL: usize = 1_000;

/// The most leases that one request settles.
pub const MAX_SETTLED: usize = 10_000;

/// The longest reason of a worker that did not finish an event, in bytes.
pub const MAX_REASON_BYTES: usize = 256;

/// The longest delay before an event is leased again, in milliseconds: 7 days.
pub const MAX_DELAY_MS: u64 = 7 * 24 * 3_600_000;

/// The most bytes of events of a pull whose worker names no bound.
const DEFAULT_PULL_BYTES: usize = 1 << 20;

/// A request for work.
///
/// ```
/// use std::time::Duration;
/// use leftoff::consumers::PullRequest;
///
/// let request = PullRequest::new("mailer-3").limit(10).wait(Duration::from_secs(20));
/// assert_eq!(request.limit, 10);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PullRequest {
    /// The name of the worker: 1 to 128 bytes. Workers need not register, but two of one name
    /// share the bound on what one worker may have.
    pub worker: String,
    /// The most events; 1 to 1,000. Default: 1.
    pub limit: usize,
    /// The most bytes of events, as stored. At least one event is given, however large it is.
    /// Default: 1 MiB.
    pub max_bytes: usize,
    /// The time to wait for a first event when there is none. Default: none.
    pub wait: Duration,
}

impl PullRequest {
    /// Returns a request for one event, without waiting.
    pub fn new(worker: impl Into<String>) -> Self {
        let (limit, max_bytes, wait) = (1, DEFAULT_PULL_BYTES, Duration::ZERO);
        Self { worker: worker.into(), limit, max_bytes, wait }
    }

    /// Returns this request with `limit` as the most events.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    /// Returns this request with `max_bytes` as the most bytes of events.
    #[must_use]
    pub fn max_bytes(self, max_bytes: usize) -> Self {
        Self { max_bytes, ..self }
    }

    /// Returns this request with `wait` as the time to wait for a first event.
    #[must_use]
    pub fn wait(self, wait: Duration) -> Self {
        Self { wait, ..self }
    }

    /// Checks the request.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.worker.is_empty() {
            return Err(Error::invalid("worker", "is empty; name the worker"));
        }
        if self.worker.len() > MAX_WORKER_BYTES {
            return Err(Error::over("worker bytes", self.worker.len(), MAX_WORKER_BYTES));
        }
        if let Some(bad) = self.worker.chars().find(|c| c.is_control()) {
            let problem = format!("{:?} holds the control character {bad:?}", self.worker);
            return Err(Error::invalid("worker", problem));
        }
        match self.limit {
            0 => Err(Error::invalid("limit", "is 0; 1 is the least")),
            limit if limit > MAX_PULL => Err(Error::over("limit", limit, MAX_PULL)),
            _ => Ok(()),
        }
    }
}

/// An event that a worker has to itself for a time.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Leased {
    /// The id of the lease, which settles it.
    pub lease: LeaseId,
    /// The event's topic.
    pub topic: TopicName,
    /// The event.
    pub event: Arc<Event>,
    /// The deliveries of the event, with this one.
    pub tries: u32,
    /// The end of the lease, by the broker's clock.
    pub until: Timestamp,
}

/// What a worker says of its leases. All of it is durable when it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settlement {
    /// The leases whose events are finished.
    pub ack: Vec<LeaseId>,
    /// The leases whose events are not finished, and are to be leased again.
    pub nack: Vec<Nack>,
    /// The leases that are to hold longer: for this time from now on.
    pub extend: Vec<(LeaseId, Duration)>,
    /// The leases that are given back unused: the events are leased again at once. They never
    /// become dead letters by that.
    pub release: Vec<LeaseId>,
}

/// A lease whose event was not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Nack {
    /// The lease.
    pub lease: LeaseId,
    /// The time before which the event is not leased again; 7 days at the most.
    pub delay: Duration,
    /// The reason, for the headers of a dead letter; 256 bytes at the most.
    pub reason: String,
}

impl Nack {
    /// Returns the word of a worker that could not finish the event, for a `reason`.
    pub fn new(lease: LeaseId, reason: impl Into<String>) -> Self {
        Self { lease, delay: Duration::ZERO, reason: reason.into() }
    }

    /// Returns this with the time before which the event is not leased again.
    #[must_use]
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

impl Settlement {
    /// Returns a settlement that finishes the events of these leases.
    pub fn ack(leases: impl IntoIterator<Item = LeaseId>) -> Self {
        Self { ack: leases.into_iter().collect(), ..Self::default() }
    }

    /// Returns this settlement, with an event that was not finished.
    #[must_use]
    pub fn and_nack(mut self, nack: Nack) -> Self {
        self.nack.push(nack);
        self
    }

    /// Returns this settlement, with a lease that is to hold for `time` from now on.
    #[must_use]
    pub fn and_extend(mut self, lease: LeaseId, time: Duration) -> Self {
        self.extend.push((lease, time));
        self
    }

    /// Returns this settlement, with leases that are given back unused.
    #[must_use]
    pub fn and_release(mut self, leases: impl IntoIterator<Item = LeaseId>) -> Self {
        self.release.extend(leases);
        self
    }

    /// Returns the number of leases that are named.
    pub(crate) fn count(&self) -> usize {
        self.ack.len() + self.nack.len() + self.extend.len() + self.release.len()
    }

    /// Checks the settlement for the consumer with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`].
    pub(super) fn check(&self, consumer: u64) -> Result<()> {
        if self.count() > MAX_SETTLED {
            return Err(Error::over("settled leases", self.count(), MAX_SETTLED));
        }
        let named = self.ack.iter().chain(&self.release);
        let named = named.chain(self.nack.iter().map(|nack| &nack.lease));
        let mut named = named.chain(self.extend.iter().map(|(lease, _)| lease));
        if let Some(other) = named.find(|lease| lease.consumer != consumer) {
            let problem = format!("{:?} is of another consumer", other.to_string());
            return Err(Error::invalid("lease", problem));
        }
        for Nack { delay, reason, .. } in &self.nack {
            if reason.len() > MAX_REASON_BYTES {
                return Err(Error::over("reason bytes", reason.len(), MAX_REASON_BYTES));
            }
            if milliseconds(*delay) > MAX_DELAY_MS {
                let problem = format!("{delay:?} is over {MAX_DELAY_MS} ms, which are 7 days");
                return Err(Error::invalid("delay", problem));
            }
        }
        for (_, time) in &self.extend {
            if !(1..=MAX_LEASE_MS).contains(&milliseconds(*time)) {
                let problem = format!("{time:?} is not within 1 to {MAX_LEASE_MS} ms");
                return Err(Error::invalid("extend", problem));
            }
        }
        Ok(())
    }
}

/// Returns the whole milliseconds of a time.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What became of one lease of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum SettleOutcome {
    /// It was done, now or before.
    Done,
    /// The lease holds until this time.
    Extended(Timestamp),
    /// The lease is over: its time ran out, the event was leased again, or is finished. Nothing was
    /// changed.
    Over,
}

impl SettleOutcome {
    /// Returns the word for the outcome on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Extended(_) => "extended",
            Self::Over => "over",
        }
    }
}

/// The outcomes of a settlement, each list in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Settled {
    /// Those of the finished events.
    pub ack: Vec<SettleOutcome>,
    /// Those of the events that were not finished.
    pub nack: Vec<SettleOutcome>,
    /// Those of the leases that are to hold longer.
    pub extend: Vec<SettleOutcome>,
    /// Those of the leases that are given back.
    pub release: Vec<SettleOutcome>,
}

/// The most workers that a status names.
pub(super) const MAX_SHOWN_WORKERS: usize = 100;

/// How a shared consumer stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct WorkStatus {
    /// The place up to which all events are finished; absent if no event was leased yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Cursor>,
    /// The events that are leased.
    pub in_flight: u64,
    /// The events that failed, and are not leased again before their delay is over.
    pub delayed: u64,
    /// The events that have no try left, and are about to become dead letters.
    pub dying: u64,
    /// The pulls that wait for events.
    pub waiting: u64,
    /// How many events came to an end, and how.
    #[serde(flatten)]
    pub totals: WorkTotals,
    /// The problem with the dead-letter topic, while one keeps events from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The workers that have leases, by name, with the number of their leases; 100 at the most.
    pub workers: Vec<(String, u64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> LeaseId {
        "1-1-1-1".parse().unwrap()
    }

    #[test]
    fn a_pull_names_its_worker_and_how_much_it_wants() {
        let long = "w".repeat(MAX_WORKER_BYTES + 1);
        let refused = [
            (PullRequest::new(""), "worker: is empty"),
            (PullRequest::new(long), "worker bytes: 129 is over the limit of 128"),
            (PullRequest::new("a\nb"), "control character"),
            (PullRequest::new("a").limit(0), "limit: is 0"),
            (PullRequest::new("a").limit(1_001), "limit: 1001 is over the limit of 1000"),
        ];
        for (request, words) in refused {
            let told = request.check().unwrap_err().to_string();
            assert!(told.contains(words), "{told}");
        }
        let good = PullRequest::new("w".repeat(MAX_WORKER_BYTES)).limit(MAX_PULL);
        good.check().unwrap();
    }

    #[test]
    fn a_settlement_is_bounded_and_is_for_one_consumer() {
        let nack = |delay_ms, reason: &str| {
            let nack = Nack::new(lease(), reason).delay(Duration::from_millis(delay_ms));
            Settlement::default().and_nack(nack)
        };
        let extend = |ms| Settlement::default().and_extend(lease(), Duration::from_millis(ms));
        let longest = "r".repeat(MAX_REASON_BYTES);
        for good in [nack(MAX_DELAY_MS, &longest), extend(1), extend(MAX_LEASE_MS)] {
            good.check(1).unwrap();
        }
        Settlement::ack(vec![lease(); MAX_SETTLED]).check(1).unwrap();
        let refused = [
            (nack(MAX_DELAY_MS + 1, ""), "delay: "),
            (nack(0, &format!("{longest}r")), "reason bytes: 257 is over the limit of 256"),
            (extend(0), "extend: "),
            (extend(MAX_LEASE_MS + 1), "extend: "),
            (
                Settlement::ack(vec![lease(); MAX_SETTLED]).and_release([lease()]),
                "settled leases: 10001 is over the limit of 10000",
            ),
        ];
        for (settlement, words) in refused {
            let told = settlement.check(1).unwrap_err().to_string();
            assert!(told.contains(words), "{told}");
        }
        let lists = [
            Settlement::ack([lease()]),
            nack(0, ""),
            extend(1),
            Settlement::default().and_release([lease()]),
        ];
        for settlement in lists {
            let told = settlement.check(2).unwrap_err().to_string();
            assert_eq!(told, "lease: \"1-1-1-1\" is of another consumer");
        }
    }
}
