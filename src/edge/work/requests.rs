//! Pulls and settlements as clients write them in JSON.

use std::time::Duration;

use serde::Deserialize;

use crate::consumers::{LeaseId, Nack, PullRequest, Settlement};
use crate::edge::config::FollowConfig;
use crate::error::{Error, Result};

/// A request for work.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct PullJson {
    worker: String,
    #[serde(default = "one")]
    limit: usize,
    max_bytes: Option<usize>,
    #[serde(default)]
    wait_ms: u64,
}

fn one() -> usize {
    1
}

impl PullJson {
    /// Returns the request. A wait that is too long is cut, as that of a long poll.
    pub(in crate::edge) fn request(self, config: &FollowConfig, max_bytes: usize) -> PullRequest {
        let Self { worker, limit, max_bytes: wanted_bytes, wait_ms } = self;
        pull(worker, (limit, wanted_bytes), wait_ms, (config, max_bytes))
    }
}

/// Returns a request for work, bounded as pages are.
pub(in crate::edge) fn pull(
    worker: String,
    (limit, wanted_bytes): (usize, Option<usize>),
    wait_ms: u64,
    (config, max_bytes): (&FollowConfig, usize),
) -> PullRequest {
    let wait = Duration::from_millis(wait_ms.min(config.max_wait_ms));
    let request = PullRequest::new(worker).limit(limit).wait(wait);
    let bytes = wanted_bytes.unwrap_or(request.max_bytes).min(max_bytes);
    request.max_bytes(bytes)
}

/// A settlement of leases.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::edge) struct SettleJson {
    pub(in crate::edge) ack: Vec<LeaseId>,
    pub(in crate::edge) nack: Vec<NackJson>,
    pub(in crate::edge) extend: Vec<ExtendJson>,
    pub(in crate::edge) release: Vec<LeaseId>,
}

/// A lease whose event was not finished.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct NackJson {
    lease: LeaseId,
    #[serde(default)]
    delay_ms: u64,
    #[serde(default)]
    reason: String,
}

/// A lease that is to hold longer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::edge) struct ExtendJson {
    lease: LeaseId,
    for_ms: u64,
}

impl SettleJson {
    /// Returns the settlement.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: no lease is named.
    pub(in crate::edge) fn settlement(self) -> Result<Settlement> {
        let Self { ack, nack, extend, release } = self;
        let mut settlement = Settlement::ack(ack).and_release(release);
        for NackJson { lease, delay_ms, reason } in nack {
            let nack = Nack::new(lease, reason).delay(Duration::from_millis(delay_ms));
            settlement = settlement.and_nack(nack);
        }
        for ExtendJson { lease, for_ms } in extend {
            settlement = settlement.and_extend(lease, Duration::from_millis(for_ms));
        }
        match settlement.count() {
            0 => Err(Error::invalid("settle", "names no lease in ack, nack, extend or release")),
            _ => Ok(settlement),
        }
    }
}
