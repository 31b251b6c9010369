//! One request: from leased events to their acknowledgement, with the leases held meanwhile.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::client::{ReceiverAnswer, WebhookClient, WebhookRequest};
use super::config::WebhooksConfig;
use super::format::SentBody;
use super::pauses;
use super::state::{HookState, WebhookAttempt};
use super::stored::WebhookRecord;
use crate::consumers::{LeaseId, Leased, Nack, SettleOutcome, Settlement, WorkQueue};
use crate::cursor::{Epoch, Position};
use crate::event::{Event, Timestamp};
use crate::topic::TopicName;

/// The longest reason that is told of a failure, in bytes.
const MAX_PROBLEM_BYTES: usize = 256;

/// The parts of a lease after which it is extended while a request is under way.
pub(super) const LEASE_PARTS: u64 = 3;

const USER_AGENT: &str = concat!("leftoff/", env!("CARGO_PKG_VERSION"));

/// What all requests of one webhook have in common.
pub(super) struct Sender {
    pub(super) record: WebhookRecord,
    pub(super) config: WebhooksConfig,
    pub(super) client: WebhookClient,
    pub(super) host: std::sync::Arc<tokio::sync::Semaphore>,
    pub(super) state: std::sync::Arc<HookState>,
    pub(super) queue: WorkQueue,
    pub(super) epoch: Epoch,
    /// Told when no further request begins: the webhook is paused, changed or gone.
    pub(super) ended: CancellationToken,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SentOutcome {
    /// The receiver has taken the events.
    Taken,
    /// The request failed, for this reason.
    Failed(String),
    /// The receiver says that it is gone.
    Gone(String),
    /// There was no room at the host before the webhook was to send nothing more.
    Unsent,
}

/// Returns the id of a request with one event. It is the same each time that the event is sent, and
/// that of no other event: no position is given twice in one epoch.
pub(super) fn event_id(position: Position, epoch: Epoch) -> String {
    format!("evt_{position}_{epoch}")
}

/// Returns the id of a request with these events.
fn request_id(leased: &[Leased], epoch: Epoch) -> String {
    let id = |leased: &Leased| event_id(leased.event.position, epoch);
    if let [one] = leased {
        return id(one);
    }
    let ids: Vec<String> = leased.iter().map(id).collect();
    let digest = Sha256::digest(ids.join(","));
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("bat_{hex}")
}

/// Returns the request that is sent, and its time.
pub(super) fn signed(
    record: &WebhookRecord,
    url: http::Uri,
    id: &str,
    body: SentBody,
) -> WebhookRequest {
    let now = Timestamp::now();
    let SentBody { mut headers, bytes } = body;
    let seconds = (now.as_ms() / 1_000).to_string();
    let signatures = record.signatures(id, now, &bytes);
    for (name, text) in
        [("webhook-id", id), ("webhook-timestamp", &seconds), ("webhook-signature", &signatures)]
    {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let max_redirects = record.settings.max_redirects;
    WebhookRequest { url, headers, body: bytes, max_redirects }
}

/// Returns the body of a request that only asks whether the receiver is there.
pub(super) fn ping(webhook: &str) -> SentBody {
    let body = serde_json::json!({
        "type": "leftoff.ping",
        "timestamp": Timestamp::now(),
        "data": { "webhook": webhook },
    });
    let media = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, media)]);
    SentBody { headers, bytes: Bytes::from(body.to_string()) }
}

impl Sender {
    /// Sends events in one request, and settles their leases.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the leases run out, and the events are sent again.
    pub(super) async fn send(&self, leased: Vec<Leased>) -> SentOutcome {
        let _under_way = self.state.under_way();
        let leases: Vec<LeaseId> = leased.iter().map(|it| it.lease).collect();
        let mut request = std::pin::pin!(self.attempt(&leased));
        let pause = Duration::from_millis(self.config.lease_ms / LEASE_PARTS);
        let attempted = loop {
            tokio::select! {
                attempted = &mut request => break attempted,
                () = sleep(pause) => drop(self.extend(&leases).await),
            }
        };
        let Some((attempt, asked)) = attempted else {
            self.give_back(leases).await;
            return SentOutcome::Unsent;
        };
        self.settle(&leased, &attempt, asked).await;
        let problem = problem_of(&attempt);
        let failures = self.state.failures_in_a_row().saturating_add(1);
        let (is_taken, status) = (attempt.is_success(), attempt.status);
        let hold = pauses::after(&self.config, failures, asked);
        let asked = asked.map(|asked| pauses::obeyed(&self.config, asked));
        self.state.note(attempt, (hold, asked), Instant::now());
        match status {
            _ if is_taken => SentOutcome::Taken,
            Some(410) => SentOutcome::Gone(problem),
            _ => SentOutcome::Failed(problem),
        }
    }

    /// Sends the request once there is room at its host. Returns what became of it, and the time
    /// for which the receiver wants no further one; `None` if it is not to be sent any more.
    async fn attempt(&self, leased: &[Leased]) -> Option<(WebhookAttempt, Option<Duration>)> {
        let _room = tokio::select! {
            biased;
            () = self.ended.cancelled() => return None,
            room = self.host.acquire() => room, // It is never closed.
        };
        let id = request_id(leased, self.epoch);
        let settings = &self.record.settings;
        let events: Vec<(&TopicName, &Event)> =
            leased.iter().map(|it| (&it.topic, &*it.event)).collect();
        let in_batches = settings.max_batch_events > 1;
        let (time, started) = (Timestamp::now(), Instant::now());
        let answer = match self.client.url(&settings.url) {
            // The settings of the broker may have changed since it was checked.
            Err(problem) => Err(format!("the URL {problem}")),
            Ok(url) => {
                let body = SentBody::of(settings.format, in_batches, &events, self.epoch);
                self.client.send(&signed(&self.record, url, &id, body)).await
            }
        };
        let asked = answer.as_ref().ok().and_then(|answer| answer.retry_after);
        let tries = leased.first().map_or(1, |it| it.tries);
        let attempt = attempt_of(answer, id, time, started);
        Some((WebhookAttempt { events: leased.len() as u32, tries, ..attempt }, asked))
    }

    /// Gives events back that were taken and not sent.
    pub(super) async fn give_back(&self, leases: Vec<LeaseId>) {
        if leases.is_empty() {
            return;
        }
        if let Err(error) = self.queue.settle(Settlement::default().and_release(leases)).await {
            warn!(%error, "events of a webhook cannot be given back, and wait for their leases");
        }
    }

    /// Has the leases of requests hold that wait, and leaves out the events that are over.
    pub(super) async fn keep(&self, waiting: &mut VecDeque<Vec<Leased>>) {
        let leases: Vec<LeaseId> = waiting.iter().flatten().map(|it| it.lease).collect();
        let Some(outcomes) = self.extend(&leases).await else { return };
        let over: HashSet<LeaseId> = leases
            .into_iter()
            .zip(outcomes)
            .filter(|(_, outcome)| *outcome == SettleOutcome::Over)
            .map(|(lease, _)| lease)
            .collect();
        waiting.iter_mut().for_each(|request| request.retain(|it| !over.contains(&it.lease)));
        waiting.retain(|request| !request.is_empty());
    }

    /// Has leases hold for their whole time from now on. Returns the outcomes; `None` if that is
    /// not known.
    async fn extend(&self, leases: &[LeaseId]) -> Option<Vec<SettleOutcome>> {
        let time = Duration::from_millis(self.config.lease_ms);
        let extend = leases.iter().map(|lease| (*lease, time)).collect();
        let settlement = Settlement { extend, ..Settlement::default() };
        let settled = self.queue.settle(settlement).await;
        let warned = settled.inspect_err(|error| {
            warn!(%error, "leases of a webhook cannot be extended");
        });
        warned.ok().map(|settled| settled.extend)
    }

    /// Settles the leases of a request. What cannot be settled is sent again when its lease is
    /// over.
    async fn settle(&self, leased: &[Leased], attempt: &WebhookAttempt, asked: Option<Duration>) {
        let leases = leased.iter().map(|it| it.lease);
        let settlement = match attempt.status {
            _ if attempt.is_success() => Settlement::ack(leases),
            // The events are not to blame, and wait until somebody resumes the webhook.
            Some(410) => Settlement::default().and_release(leases),
            _ => {
                let problem = problem_of(attempt);
                leased.iter().fold(Settlement::default(), |settlement, it| {
                    let delay = pauses::after(&self.config, it.tries, asked);
                    settlement.and_nack(Nack::new(it.lease, problem.clone()).delay(delay))
                })
            }
        };
        if let Err(error) = self.queue.settle(settlement).await {
            warn!(%error, "events of a webhook cannot be settled, and are sent again");
        }
    }
}

/// Returns what became of a request with one event, at its first try.
pub(super) fn attempt_of(
    answer: Result<ReceiverAnswer, String>,
    webhook_id: String,
    time: Timestamp,
    started: Instant,
) -> WebhookAttempt {
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (status, answer) = match answer {
        Ok(answer) => (Some(answer.status.as_u16()), answer.text),
        Err(problem) => (None, problem),
    };
    WebhookAttempt { time, webhook_id, events: 1, tries: 1, duration_ms, status, answer }
}

/// Returns the reason of a failure, in few words.
fn problem_of(attempt: &WebhookAttempt) -> String {
    let status = attempt.status.and_then(|status| StatusCode::from_u16(status).ok());
    let mut problem = match status {
        None => attempt.answer.clone(),
        Some(status) if attempt.answer.is_empty() => status.to_string(),
        Some(status) => format!("{status}: {}", attempt.answer),
    };
    problem.retain(|it| !it.is_control());
    let is_end = |end: &usize| problem.is_char_boundary(*end);
    let end = (0..=MAX_PROBLEM_BYTES.min(problem.len())).rev().find(is_end);
    problem.truncate(end.unwrap_or_default());
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_status_and_a_bounded_beginning_of_the_answer() {
        let attempt = |status: Option<u16>, answer: &str| {
            let id = "evt_1_1".to_owned();
            let attempt = attempt_of(Err(answer.into()), id, Timestamp::now(), Instant::now());
            problem_of(&WebhookAttempt { status, ..attempt })
        };
        assert_eq!(attempt(Some(503), ""), "503 Service Unavailable");
        assert_eq!(attempt(Some(500), "a\nb"), "500 Internal Server Error: ab");
        assert_eq!(attempt(None, "no answer"), "no answer");
        let long = attempt(None, &format!("x{}", "é".repeat(300)));
        assert_eq!(long.len(), MAX_PROBLEM_BYTES - 1);
    }
}
