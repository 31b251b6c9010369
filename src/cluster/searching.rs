//! Searching the log of a node for damage, so that it is found before somebody needs the events:
//! while other nodes have them, and can give a backup.
//!
//! The search reads all events once, from the first topic to the last, as readers do, and begins
//! anew after a pause. Besides, it looks at the places where readers have met damage.
//!
//! # Why
//!
//! The search is to cost nothing that anybody notices. So it reads a little at a time, and rests in
//! between for as long as its rate asks for. Its reads wait for turns like all others, and run on
//! threads that may block. What it reads does pass through the log's cache of pages; but the newest
//! events, which most readers want, have a place of their own in memory.
//!
//! Events that look damaged to a reader may have been trimmed a moment before. So they count only
//! if they are found damaged here, too: the node may be stopped for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::SteadyClock;
use super::replicated_log::{ReplicatedLog, SuspectEvents};
use crate::broker::{Broker, ReadStep, ReadThrough};
use crate::error::{Error, with_causes};
use crate::event::Timestamp;

/// The bytes that are read in one step: some milliseconds of work.
const STEP_BYTES: usize = 256 << 10;

/// The bytes for which a step counts at least: a read of little loads a page of the log.
const LEAST_BYTES: usize = 16 << 10;

/// The pause after the whole log was read. Disks seldom lose what they have, and a log that is
/// small, and in the system's memory, need not be read all the time.
const PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// The reads of one place that fail, after which it is damaged.
const MAX_FAILURES: u32 = 3;

/// The pause after a read that failed, and between two looks at what readers have met.
const RETRY: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How far a node has searched its log for damage since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SearchedLog {
    /// How often the whole log was read.
    pub passes: u64,
    /// The time at which it was read whole last, in milliseconds since 1970; `None` before that.
    pub last_at_ms: Option<u64>,
    /// The bytes that were read.
    pub read_bytes: u64,
}

/// The counts of a search. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct SearchCounts(Arc<SearchNumbers>);

#[derive(Debug, Default)]
struct SearchNumbers {
    passes: AtomicU64,
    /// 0 before the first pass is over.
    last_at_ms: AtomicU64,
    read_bytes: AtomicU64,
}

impl SearchCounts {
    pub(super) fn searched(&self) -> SearchedLog {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let SearchNumbers { passes, last_at_ms, read_bytes } = &*self.0;
        let last_at_ms = Some(of(last_at_ms)).filter(|at_ms| *at_ms > 0);
        SearchedLog { passes: of(passes), last_at_ms, read_bytes: of(read_bytes) }
    }

    fn end_pass(&self) {
        self.0.last_at_ms.store(Timestamp::now().as_ms(), Ordering::Relaxed);
        self.0.passes.fetch_add(1, Ordering::Relaxed);
    }
}

/// The task of a node that searches its log for damage.
pub(super) struct DamageSearch {
    pub(super) broker: Broker,
    pub(super) log: Arc<ReplicatedLog>,
    pub(super) clock: Arc<dyn SteadyClock>,
    /// The bytes that are read in a second; 0 for no search.
    pub(super) bytes_per_second: u64,
    pub(super) counts: SearchCounts,
}

impl DamageSearch {
    /// Searches for ever.
    pub(super) async fn run(self) -> Infallible {
        let (never, _) = tokio::join!(self.search(), self.look_at_suspects());
        never
    }

    /// Reads the whole log again and again, until damage is found: the node is to be repaired then.
    async fn search(&self) -> Infallible {
        while self.bytes_per_second > 0 && self.finds_none().await {
            self.counts.end_pass();
            self.sleep(PAUSE).await;
        }
        std::future::pending().await
    }

    /// Reads the whole log once. Returns `false` if it is damaged.
    async fn finds_none(&self) -> bool {
        let (mut through, mut failures) = (ReadThrough::default(), 0);
        loop {
            match self.broker.read_step(&mut through, STEP_BYTES).await {
                Ok(ReadStep::Read(bytes)) => {
                    failures = 0;
                    self.counts.0.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    let bytes = bytes.max(LEAST_BYTES) as f64;
                    let rest = Duration::from_secs_f64(bytes / self.bytes_per_second as f64);
                    self.sleep(rest).await;
                }
                Ok(ReadStep::Damaged(error)) => {
                    self.note(error);
                    return false;
                }
                Ok(ReadStep::End) => return true,
                Err(Error::ShuttingDown) => return std::future::pending().await,
                Err(error @ Error::DamagedLog { .. }) => {
                    self.note(error);
                    return false;
                }
                // A disk that cannot read a place is damaged there.
                Err(error) if failures >= MAX_FAILURES && self.broker.check_ready().is_ok() => {
                    let problem = format!("its disk cannot be read: {}", with_causes(&error));
                    self.note(Error::DamagedLog { problem });
                    return false;
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "the search for damage cannot read; it tries again");
                    self.sleep(RETRY).await;
                }
            }
        }
    }

    /// Looks whether what readers have met is damage.
    async fn look_at_suspects(&self) -> Infallible {
        let mut suspects = self.log.suspects();
        loop {
            let found = suspects.wait_for(Option::is_some).await.map(|found| found.clone());
            if let Ok(Some(SuspectEvents { topic, first })) = found {
                match self.broker.damage_at(&topic, first).await {
                    Ok(Some(error)) => self.note(error),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "what a reader met cannot be read"),
                }
            }
            self.log.forget_suspect();
            self.sleep(LOOK_AGAIN).await;
        }
    }

    fn note(&self, error: Error) {
        let _told_by_the_status = self.log.noted::<()>(Err(error));
    }

    async fn sleep(&self, time: Duration) {
        self.clock.sleep_until(self.clock.now() + time).await;
    }
}
