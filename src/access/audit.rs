//! The audit: refusals, and acts of administration, as events of the topic [`AUDIT_TOPIC`] and as
//! log lines with the target `leftoff::audit`.
//!
//! ```text
//! {"who":"ops","what":"topic.purge","topic":"orders","from":"192.0.2.7:49152","outcome":"done"}
//! {"who":null,"what":"/v1/topics/orders/events","from":"192.0.2.7:49153","outcome":"refused",
//!  "reason":"the token is over","left_out":311}
//! ```
//!
//! No entry holds a credential, a ticket or a payload. `left_out` counts entries before this one
//! that are missing: refusals over their limit, and what found no room in the queue.
//!
//! # Why
//!
//! A request never waits for the audit: it puts an entry into a bounded queue, and a task of its
//! own publishes what is there in one batch. The log line is written first, so that an entry
//! which is lost with the process, or for lack of room, is seen at least there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::refusal_limit::{RefusalLimit, WINDOW};
use super::rights::AUDIT_TOPIC;
use crate::broker::{Broker, Publish};
use crate::edge::PeerAddress;
use crate::edge::hooks::{ActOutcome, AdminAct, Grant, RefusalContext};
use crate::error::Result;
use crate::event::{Durability, NewEvent};
use crate::own_topics;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The age and the bytes past which entries are dropped, if `[topics."$audit"]` does not say
/// otherwise: 30 days, and 256 MiB.
const MAX_AGE_MS: u64 = 30 * 24 * 3_600_000;
const MAX_BYTES: u64 = 256 << 20;

/// The most entries that wait to be published, and the most that are published at once.
const MAX_WAITING: usize = 1_024;
const MAX_BATCH: usize = 64;

/// The longest path that an entry shows, in bytes.
const MAX_WHAT_BYTES: usize = 256;

/// One entry, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct AuditEntry {
    /// The type of the event.
    #[serde(skip)]
    pub(crate) event_type: String,
    /// The id of the caller; `None` if nobody knows it.
    pub(crate) who: Option<String>,
    pub(crate) what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) topic: Option<String>,
    /// The name of a webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<String>,
    /// The address of the client.
    pub(crate) from: Option<String>,
    /// `done`, `failed`, `refused`, or `unknown`.
    pub(crate) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// The number of entries that are missing before this one.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The audit. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Audit(Arc<AuditParts>);

#[derive(Debug)]
struct AuditParts {
    waiting: mpsc::Sender<AuditEntry>,
    limit: Mutex<RefusalLimit>,
    /// The limit on tickets: pages ask for one whenever they are opened.
    tickets: Mutex<RefusalLimit>,
    left_out: Arc<AtomicU64>,
}

impl Audit {
    /// Opens the audit: makes its topic, and begins its task, which ends with the last clone.
    ///
    /// # Errors
    ///
    /// As [`Broker::set_topic`].
    ///
    /// # Cancel safety
    ///
    /// The topic may exist afterwards.
    pub(crate) async fn open(broker: &Broker) -> Result<Self> {
        let name = TopicName::new(AUDIT_TOPIC)?;
        let topic = own_topics::prepare(broker, AUDIT_TOPIC, settings(broker, &name)).await?;
        let (waiting, entries) = mpsc::channel(MAX_WAITING);
        let left_out = Arc::<AtomicU64>::default();
        let writer = AuditWriter { broker: broker.clone(), topic, left_out: left_out.clone() };
        tokio::spawn(writer.run(entries));
        let limit = || Mutex::new(RefusalLimit::new(Instant::now()));
        let (limit, tickets) = (limit(), limit());
        Ok(Self(Arc::new(AuditParts { waiting, limit, tickets, left_out })))
    }

    /// Tells a refusal, unless there were too many lately.
    pub(crate) fn refused(&self, refused: &RefusalContext<'_>) {
        let address = refused.address;
        if !self.is_told(&self.0.limit, address) {
            return;
        }
        let who = refused.grant.map(Grant::caller);
        let what = refused.path.unwrap_or("request");
        let reason = Some(refused.refusal.reason().to_owned());
        self.tell(entry("access.refused", who, what, address).with(None, "refused", reason));
    }

    /// Tells that a ticket was made for a caller, unless there were too many lately.
    pub(crate) fn ticket_made(&self, who: &str, from: Option<PeerAddress>) {
        if self.is_told(&self.0.tickets, from) {
            self.tell(entry("access.ticket", Some(who), "ticket", from));
        }
    }

    /// Returns whether an entry of a client at this address is within a limit. Counts it otherwise.
    fn is_told(&self, limit: &Mutex<RefusalLimit>, from: Option<PeerAddress>) -> bool {
        let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = limit.tells(from.map(PeerAddress::ip), Instant::now());
        drop(limit);
        if !is_told {
            self.0.left_out.fetch_add(1, Ordering::Relaxed);
        }
        is_told
    }

    /// Tells an act of administration.
    pub(crate) fn administered(&self, grant: &Grant, act: &AdminAct<'_>) {
        let (outcome, reason) = match act.outcome {
            ActOutcome::Done => ("done", None),
            ActOutcome::Failed(error) => ("failed", Some(error.to_string())),
            ActOutcome::GivenUp => ("unknown", Some("the client did not wait".to_owned())),
        };
        let what = act.kind.as_str();
        let entry = entry(&format!("admin.{what}"), Some(grant.caller()), what, act.address);
        let entry = entry.with(act.topic.map(|it| it.to_string()), outcome, reason);
        self.tell(AuditEntry { webhook: act.webhook.map(str::to_owned), ..entry });
    }

    /// Writes an entry to the log, and puts it into the queue.
    pub(crate) fn tell(&self, mut entry: AuditEntry) {
        entry.left_out = self.0.left_out.swap(0, Ordering::Relaxed);
        let AuditEntry { who, what, topic, webhook, from, outcome, reason, left_out, .. } = &entry;
        info!(
            target: "leftoff::audit",
            who, what, topic, webhook, from, outcome, reason, left_out, "audit"
        );
        if let Err(refused) = self.0.waiting.try_send(entry) {
            let lost = 1 + refused.into_inner().left_out;
            self.0.left_out.fetch_add(lost, Ordering::Relaxed);
        }
    }
}

/// Returns the beginning of an entry.
pub(crate) fn entry(
    event_type: &str,
    who: Option<&str>,
    what: &str,
    from: Option<PeerAddress>,
) -> AuditEntry {
    let is_boundary = |end: &usize| what.is_char_boundary(*end);
    let end = (0..=MAX_WHAT_BYTES.min(what.len())).rev().find(is_boundary).unwrap_or_default();
    AuditEntry {
        event_type: event_type.to_owned(),
        who: who.map(str::to_owned),
        what: what[..end].to_owned(),
        topic: None,
        webhook: None,
        from: from.map(|from| from.to_string()),
        outcome: "done",
        reason: None,
        left_out: 0,
    }
}

impl AuditEntry {
    /// Returns the entry with its topic and its outcome.
    pub(crate) fn with(
        self,
        topic: Option<String>,
        outcome: &'static str,
        reason: Option<String>,
    ) -> Self {
        Self { topic, outcome, reason, ..self }
    }
}

/// Returns the settings of the topic. What the configuration says about it is left to the
/// configuration.
fn settings(broker: &Broker, name: &TopicName) -> TopicConfig {
    let configured = broker.default_config(name);
    let has_limit = configured.max_age_ms.or(configured.max_bytes).is_some();
    TopicConfig {
        max_age_ms: (!has_limit).then_some(MAX_AGE_MS),
        max_bytes: (!has_limit).then_some(MAX_BYTES),
        durability: Some(Durability::Fsync),
        ..TopicConfig::default()
    }
}

/// The task that publishes the entries.
struct AuditWriter {
    broker: Broker,
    topic: TopicName,
    left_out: Arc<AtomicU64>,
}

impl AuditWriter {
    /// Publishes entries until the last handle of the audit is dropped.
    async fn run(self, mut entries: mpsc::Receiver<AuditEntry>) {
        let most = MAX_BATCH.min(self.broker.limits().max_batch_events as usize);
        let mut batch = Vec::with_capacity(most);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + WINDOW, WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                count = entries.recv_many(&mut batch, most) => {
                    if count == 0 {
                        return;
                    }
                }
                _ = ticks.tick() => batch.extend(self.rest()),
            }
            self.publish(batch.drain(..)).await;
        }
    }

    /// Returns an entry for what was left out and is not told yet.
    fn rest(&self) -> Option<AuditEntry> {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let rest = entry("access.refused", None, "left out", None);
        (left_out > 0).then(|| AuditEntry { left_out, ..rest.with(None, "refused", None) })
    }

    async fn publish(&self, entries: impl Iterator<Item = AuditEntry>) {
        let event = |entry: AuditEntry| {
            NewEvent::json(&entry).ok().map(|event| event.with_type(entry.event_type))
        };
        let events: Vec<NewEvent> = entries.filter_map(event).collect();
        let count = events.len();
        if count == 0 {
            return;
        }
        let made = settings(&self.broker, &self.topic);
        let made = own_topics::open(&self.broker, AUDIT_TOPIC, made).await;
        let published = async {
            made?;
            self.broker.publish(Publish::new(self.topic.clone(), events)).await
        };
        if let Err(error) = published.await {
            warn!(target: "leftoff::audit", %error, count, "entries of the audit are not stored");
            self.left_out.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
