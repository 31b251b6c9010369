//! The task of one webhook: takes events from its queue and has them sent.
//!
//! ```text
//!            ┌────────── a failure: one request at a time, after a pause ──────────┐
//!            ▼                                                                     │
//! open: pull, send up to max_in_flight requests ──▶ success ── all of them again ──┘
//!            │ many failures over a long time, or 410
//!            ▼
//! paused ── after webhooks.probe_after_ms: one event is tried ──▶ success ──▶ open
//! ```
//!
//! # Why
//!
//! An event that failed goes back into the queue with a delay, which the queue stores. So the task
//! keeps nothing that a restart would lose, and events of other keys go on. While a receiver is
//! down, few events use up their tries: one request at a time finds out whether it is back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::kept::WebhooksParts;
use super::nodes::decided;
use super::sending::{LEASE_PARTS, Sender, SentOutcome};
use super::settings::WebhookName;
use super::state::HookState;
use super::stored::{PauseReason, WebhookRecord};
use crate::consumers::{Leased, PullRequest, WorkQueue};
use crate::error::{Error, Result};
use crate::event::Timestamp;

/// The longest wait of a pull, and the pause after one that failed.
const PULL_WAIT: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// The most events of one pull.
const MAX_PULL: usize = 1_000;

/// The name of the worker that takes the events of a webhook.
const WORKER: &str = "webhook";

type Pulling = Pin<Box<dyn Future<Output = Result<Vec<Leased>>> + Send>>;

/// The task of a webhook.
pub(super) struct Runner {
    pub(super) parts: Arc<WebhooksParts>,
    pub(super) name: WebhookName,
    pub(super) record: watch::Receiver<Arc<WebhookRecord>>,
    pub(super) state: Arc<HookState>,
    /// The last time that a paused webhook was tried.
    pub(super) probed: Option<Instant>,
}

/// Why a webhook is served no more as it was.
#[derive(Debug, PartialEq, Eq)]
enum ServedUntil {
    /// Its settings are others, or it is paused or resumed.
    Changed,
    /// It is tried once, while it is paused.
    Probed,
    /// The broker stops, or the webhook is gone.
    Stopped,
}

impl Runner {
    /// Runs until the webhook is gone or the broker stops.
    pub(super) async fn run(mut self) {
        loop {
            let record = self.record.borrow_and_update().clone();
            let is_paused = record.paused.is_some();
            if is_paused && !self.probe_is_due(&record).await {
                if self.is_over() {
                    return;
                }
                continue;
            }
            match self.serve(record.clone(), is_paused).await {
                ServedUntil::Changed => {
                    // What one receiver has failed at says nothing of another one.
                    let is_another = self.record.borrow().settings.url != record.settings.url;
                    if is_another {
                        self.state.forgive(Instant::now());
                    }
                }
                ServedUntil::Probed => self.probed = Some(Instant::now()),
                ServedUntil::Stopped => return,
            }
        }
    }

    /// Waits while the webhook is paused. Returns true when it is to be tried, and false when
    /// something has changed.
    async fn probe_is_due(&mut self, record: &WebhookRecord) -> bool {
        let after_ms = self.parts.config.probe_after_ms;
        let pause = record.paused.as_ref().filter(|_| after_ms > 0);
        let pause = pause.filter(|pause| pause.reason == PauseReason::Failing);
        let due = pause.map(|pause| match self.probed {
            Some(probed) => probed + Duration::from_millis(after_ms),
            None => {
                let due_ms = pause.since.as_ms().saturating_add(after_ms);
                let left_ms = due_ms.saturating_sub(Timestamp::now().as_ms()).min(after_ms);
                Instant::now() + Duration::from_millis(left_ms)
            }
        });
        let asked = self.state.asked_until();
        let due = async {
            match due {
                Some(due) => sleep_until(asked.map_or(due, |asked| due.max(asked))).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.parts.ending() => false,
            _ = self.record.changed() => {
                self.record.mark_changed();
                self.probed = None;
                false
            }
            () = due => true,
        }
    }

    /// Opens the queue of the webhook; `None` when something has changed meanwhile.
    async fn queue(&mut self, record: &WebhookRecord) -> Option<WorkQueue> {
        loop {
            match self.parts.queue(&self.name, record).await {
                Ok(queue) => return Some(queue),
                Err(Error::ShuttingDown) => return None,
                Err(error) => warn!(webhook = %self.name, %error, "a webhook cannot be served"),
            }
            tokio::select! {
                _ = self.record.changed() => {
                    self.record.mark_changed();
                    return None;
                }
                () = self.parts.ending() => return None,
                () = sleep(RETRY) => {}
            }
        }
    }

    /// Sends events until something changes; one request alone if `is_probe`.
    async fn serve(&mut self, record: Arc<WebhookRecord>, is_probe: bool) -> ServedUntil {
        let Some(queue) = self.queue(&record).await else { return self.changed_or_stopped() };
        let sender = Arc::new(self.sender(&record, queue.clone()));
        let mut sending = JoinSet::<SentOutcome>::new();
        // What was pulled and waits for a request that ends.
        let mut ready = VecDeque::<Vec<Leased>>::new();
        let mut pulling: Option<Pulling> = None;
        let mut retry_at: Option<Instant> = None;
        // The leases of what waits are extended when this time has come.
        let part = Duration::from_millis(self.parts.config.lease_ms / LEASE_PARTS);
        let mut keep_at = Instant::now();
        let until = loop {
            let (most, now) = (self.most_in_flight(&record, is_probe), Instant::now());
            let hold = self.state.hold_until(now).max(retry_at.filter(|at| *at > now));
            let may_send = hold.is_none() || is_probe;
            if may_send {
                start(&mut sending, &mut ready, &sender, most);
            }
            if pulling.is_none() && ready.is_empty() && sending.len() < most && may_send {
                let request = self.pull(&record, most - sending.len());
                let queue = queue.clone();
                pulling = Some(Box::pin(async move { queue.pull(request).await }));
            }
            tokio::select! {
                biased;
                () = self.parts.ending() => break ServedUntil::Stopped,
                changed = self.record.changed() => break match changed {
                    Ok(()) => {
                        self.record.mark_changed();
                        ServedUntil::Changed
                    }
                    Err(_) => ServedUntil::Stopped,
                },
                Some(done) = sending.join_next() => {
                    let outcome = done.unwrap_or_else(|_| SentOutcome::Failed(String::new()));
                    self.heed(&record, outcome).await;
                    if is_probe {
                        break ServedUntil::Probed;
                    }
                }
                pulled = wait_for(&mut pulling) => {
                    pulling = None;
                    match pulled {
                        Ok(leased) => {
                            ready.extend(requests(leased, &record));
                            keep_at = Instant::now() + part;
                        }
                        Err(Error::ShuttingDown) => break ServedUntil::Stopped,
                        Err(error) => {
                            warn!(webhook = %self.name, %error, "no events for a webhook");
                            retry_at = Some(Instant::now() + RETRY);
                        }
                    }
                }
                () = sleep_until(keep_at), if !ready.is_empty() => {
                    sender.keep(&mut ready).await;
                    keep_at = Instant::now() + part;
                }
                () = self.state.woken() => retry_at = None,
                () = sleep_until(hold.unwrap_or_else(Instant::now)), if hold.is_some() => {}
            }
        };
        drop(pulling);
        sender.ended.cancel();
        sender.give_back(ready.into_iter().flatten().map(|it| it.lease).collect()).await;
        // What is under way has its time, and is settled.
        while sending.join_next().await.is_some() {}
        until
    }

    /// Returns whether the broker stops, or the webhook is gone.
    fn is_over(&self) -> bool {
        self.parts.is_ending() || self.record.has_changed().is_err()
    }

    fn changed_or_stopped(&self) -> ServedUntil {
        if self.is_over() { ServedUntil::Stopped } else { ServedUntil::Changed }
    }

    fn sender(&self, record: &WebhookRecord, queue: WorkQueue) -> Sender {
        let parts = &self.parts;
        let url = record.settings.url.parse().unwrap_or_default();
        Sender {
            record: record.clone(),
            config: parts.config.clone(),
            client: parts.client.clone(),
            host: parts.hosts.of(&url, parts.config.max_in_flight_per_host),
            state: self.state.clone(),
            queue,
            epoch: parts.broker.epoch(),
            ended: CancellationToken::new(),
        }
    }

    /// Returns how many requests may be under way: one, after a failure.
    fn most_in_flight(&self, record: &WebhookRecord, is_probe: bool) -> usize {
        match is_probe || self.state.failures_in_a_row() > 0 {
            true => 1,
            false => record.settings.max_in_flight as usize,
        }
    }

    /// Returns the request for the events of `room` requests. With batches, of one: events that
    /// failed before are sent alone, so there may be more. After a failure one event is enough.
    fn pull(&self, record: &WebhookRecord, room: usize) -> PullRequest {
        let limit = match record.settings.max_batch_events as usize {
            1 => room,
            _ if self.state.failures_in_a_row() > 0 => 1,
            batch => batch,
        };
        PullRequest::new(WORKER)
            .limit(limit.min(MAX_PULL))
            .max_bytes(self.parts.config.max_request_bytes as usize)
            .wait(PULL_WAIT)
    }

    /// Pauses the webhook if it has failed for too long, and ends a pause after a success.
    async fn heed(&self, record: &WebhookRecord, outcome: SentOutcome) {
        let config = &self.parts.config;
        let ails = || {
            u64::from(self.state.failures_in_a_row()) >= config.pause_after_failures
                && self.state.ailing_for(Instant::now())
                    >= Duration::from_millis(config.pause_after_ms)
        };
        let heeded = match outcome {
            SentOutcome::Taken if record.paused.is_some() => {
                info!(webhook = %self.name, "a paused webhook is well again");
                decided!(self.parts, self.parts.resume(&self.name, true))
            }
            SentOutcome::Gone(problem) => {
                let pause = || self.parts.pause(&self.name, PauseReason::Gone, problem.clone());
                decided!(self.parts, pause())
            }
            SentOutcome::Failed(problem) if record.paused.is_none() && ails() => {
                let pause = || self.parts.pause(&self.name, PauseReason::Failing, problem.clone());
                decided!(self.parts, pause())
            }
            _ => Ok(()),
        };
        if let Err(error) = heeded {
            warn!(webhook = %self.name, %error, "the pause of a webhook cannot be stored");
        }
    }
}

/// Begins with requests that wait, until `most` are under way.
fn start(
    sending: &mut JoinSet<SentOutcome>,
    ready: &mut VecDeque<Vec<Leased>>,
    sender: &Arc<Sender>,
    most: usize,
) {
    while sending.len() < most
        && let Some(leased) = ready.pop_front()
    {
        let sender = sender.clone();
        sending.spawn(async move { sender.send(leased).await });
    }
}

/// Waits for a pull, if there is one.
async fn wait_for(pulling: &mut Option<Pulling>) -> Result<Vec<Leased>> {
    match pulling {
        Some(pulling) => pulling.await,
        None => std::future::pending().await,
    }
}

/// Returns the events of each request. Events that failed before are sent alone: one that is
/// refused again and again must not take others with it.
fn requests(leased: Vec<Leased>, record: &WebhookRecord) -> Vec<Vec<Leased>> {
    let most = record.settings.max_batch_events as usize;
    let (fresh, again): (Vec<_>, Vec<_>) = leased.into_iter().partition(|it| it.tries == 1);
    let mut requests: Vec<Vec<Leased>> = again.into_iter().map(|one| vec![one]).collect();
    requests.extend(fresh.chunks(most).map(<[Leased]>::to_vec));
    requests
}
