//! A worker on a stream: it is given leases as long as it holds fewer than it takes.
//!
//! ```text
//! takes 3    holds  a b c          nothing comes
//!            a is settled ──▶      one more comes
//!            b runs out ──▶        one more comes
//! ```
//!
//! # Why
//!
//! The number of leases that a worker takes is set, and not counted up and down: a message that is
//! repeated does no harm, and 0 is a pause. The leases that the worker holds are remembered here,
//! so that they can be given back when its stream ends. The stream has two ends: one waits for
//! leases, and the other hears what the client says meanwhile. Both share what the worker holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::asking::PermittedQueue;
use crate::consumers::{LeaseId, Leased, PullRequest, Settled, Settlement};
use crate::error::{Error, Result};

/// The most leases that a worker on a stream can take at the same time.
pub(in crate::edge) const MAX_CREDIT: u32 = 10_000;

/// The most events that are given at once.
const MAX_GIVEN: usize = 100;

/// The most bytes of events that are given at once. One event is given, however large it is.
const MAX_GIVEN_BYTES: usize = 64 << 10;

/// The longest wait for events at once.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// The most leases that one settlement gives back.
const RELEASED_AT_ONCE: usize = 1_000;

/// The wish of a worker on a stream.
#[derive(Debug, Clone)]
pub(in crate::edge) struct WorkerWish {
    pub(in crate::edge) worker: String,
    /// The most leases that it holds at the same time.
    pub(in crate::edge) credit: u32,
    /// Whether its leases are given back when the stream ends.
    pub(in crate::edge) releases: bool,
}

impl WorkerWish {
    /// Checks the wish.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`].
    pub(in crate::edge) fn check(&self) -> Result<()> {
        PullRequest::new(self.worker.as_str()).check()?;
        check_credit(self.credit)
    }
}

/// Checks how many leases a worker takes at the same time.
///
/// # Errors
///
/// [`Error::OverLimit`].
fn check_credit(credit: u32) -> Result<()> {
    match credit {
        0..=MAX_CREDIT => Ok(()),
        _ => Err(Error::over("credit", credit as usize, MAX_CREDIT as usize)),
    }
}

/// The end of a worker's stream that waits for leases.
#[derive(Debug)]
pub(in crate::edge) struct StreamWorker {
    handle: WorkerHandle,
    worker: String,
    /// Whether the worker's leases are given back when the stream ends.
    releases: bool,
}

/// The end of a worker's stream that hears what the client says. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::edge) struct WorkerHandle(Arc<WorkerParts>);

#[derive(Debug)]
struct WorkerParts {
    queue: PermittedQueue,
    holding: Mutex<Holding>,
    /// Told when the worker may take more leases, or fewer.
    changed: Notify,
}

/// What a worker holds, and how much it takes.
#[derive(Debug)]
struct Holding {
    credit: u32,
    /// The leases that the worker holds, with the time at which each runs out.
    held: HashMap<LeaseId, Instant>,
}

impl Holding {
    /// Returns how many more leases the worker takes now, and the time at which it takes more
    /// without a word.
    fn free(&mut self, now: Instant) -> (usize, Option<Instant>) {
        self.held.retain(|_, end| *end > now);
        let free = (self.credit as usize).saturating_sub(self.held.len());
        (free, self.held.values().min().copied())
    }
}

impl StreamWorker {
    /// Returns a worker that holds nothing yet.
    ///
    /// # Errors
    ///
    /// As [`WorkerWish::check`]; as [`WorkQueue::settings`], if there is no such shared consumer.
    pub(in crate::edge) fn new(queue: PermittedQueue, wish: WorkerWish) -> Result<Self> {
        wish.check()?;
        queue.queue().settings()?;
        let WorkerWish { worker, credit, releases } = wish;
        let holding = Mutex::new(Holding { credit, held: HashMap::new() });
        let changed = Notify::new();
        let parts = WorkerParts { queue, holding, changed };
        Ok(Self { handle: WorkerHandle(Arc::new(parts)), worker, releases })
    }

    /// Returns the other end.
    pub(in crate::edge) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Waits for leases, as long as the worker takes more than it holds.
    ///
    /// # Errors
    ///
    /// As [`PermittedQueue::pull`]: the worker is given nothing more.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: leases that were not returned are taken back.
    pub(in crate::edge) async fn next(&mut self) -> Result<Vec<Leased>> {
        let parts = &self.handle.0;
        loop {
            let changed = parts.changed.notified();
            let (free, end) = parts.holding().free(Instant::now());
            if free == 0 {
                let ran_out = async {
                    match end {
                        Some(end) => tokio::time::sleep_until(end).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = changed => {}
                    () = ran_out => {}
                }
                continue;
            }
            let request = PullRequest::new(self.worker.as_str()).limit(free.min(MAX_GIVEN));
            let request = request.max_bytes(MAX_GIVEN_BYTES).wait(MAX_WAIT);
            let leased = tokio::select! {
                leased = parts.queue.pull(request) => leased?,
                () = changed => continue, // It takes more leases now, or fewer.
            };
            if leased.is_empty() {
                continue;
            }
            let lease_ms = parts.queue.queue().settings()?.lease_ms;
            let end = Instant::now() + Duration::from_millis(lease_ms);
            let held = leased.iter().map(|leased| (leased.lease, end));
            parts.holding().held.extend(held);
            return Ok(leased);
        }
    }
}

impl WorkerParts {
    fn holding(&self) -> MutexGuard<'_, Holding> {
        self.holding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerHandle {
    /// Sets how many leases the worker takes at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`].
    pub(in crate::edge) fn set_credit(&self, credit: u32) -> Result<()> {
        check_credit(credit)?;
        self.0.holding().credit = credit;
        self.0.changed.notify_one();
        Ok(())
    }

    /// Settles leases. What is settled makes room for more.
    ///
    /// # Errors
    ///
    /// As [`PermittedQueue::settle`].
    pub(in crate::edge) async fn settle(self, settlement: Settlement) -> Result<Settled> {
        let parts = &self.0;
        let settled = parts.queue.settle(settlement.clone()).await?;
        {
            let held = &mut parts.holding().held;
            let ended = settlement.ack.iter().chain(&settlement.release);
            let ended = ended.chain(settlement.nack.iter().map(|nack| &nack.lease));
            for lease in ended {
                held.remove(lease);
            }
            for (lease, length) in &settlement.extend {
                if let Some(end) = held.get_mut(lease) {
                    *end = Instant::now() + *length;
                }
            }
        }
        parts.changed.notify_one();
        Ok(settled)
    }
}

impl Drop for StreamWorker {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.handle.0.holding().held);
        if !self.releases || held.is_empty() {
            return;
        }
        let queue = self.handle.0.queue.queue().clone(); // What is given back is told nobody.
        // Without a runtime nobody can be told, and the leases run out.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let leases: Vec<LeaseId> = held.into_keys().collect();
        runtime.spawn(async move {
            for some in leases.chunks(RELEASED_AT_ONCE) {
                let release = Settlement::default().and_release(some.iter().copied());
                let _runs_out_otherwise = queue.settle(release).await;
            }
        });
    }
}
