//! A webhook, as it is shown: without its keys.

use serde::Serialize;

use super::settings::{WebhookName, WebhookSettings};
use super::signing::SignatureKind;
use super::state::WebhookCounts;
use super::stored::{StoredKey, WebhookPause, WebhookRecord};
use crate::consumers::{EventCounts, WorkStatus};
use crate::event::Timestamp;
use crate::secret::Secret;

/// A key, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WebhookKeyInfo {
    /// The kind of its signatures.
    pub kind: SignatureKind,
    /// What stands for the secret: `***`.
    pub secret: Secret,
    /// The public key of Ed25519, with which receivers check signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// The end of a key that was replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A webhook as it is now.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct WebhookInfo {
    /// Its name.
    pub name: WebhookName,
    /// Its settings.
    #[serde(flatten)]
    pub settings: WebhookSettings,
    /// Its keys, the newest first; two while they are changed.
    pub keys: Vec<WebhookKeyInfo>,
    /// When it was made.
    pub created: Timestamp,
    /// When its settings or keys were changed last.
    pub updated: Timestamp,
    /// Its pause; absent while events are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<WebhookPause>,
    /// Its counts and last requests, since the broker was started.
    pub state: WebhookCounts,
    /// How its queue stands; absent while that cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<WorkStatus>,
    /// How far it is behind. It takes time to count, so it is told of one webhook that is asked
    /// for, and is absent in lists and in the answers to changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<WebhookLag>,
}

/// How far a webhook is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WebhookLag {
    /// The events that its filter picks, and no receiver has taken yet.
    pub unfinished: u64,
    /// Whether `unfinished` is a lower bound, because more events would have had to be looked at
    /// than `consumers.max_counted`.
    pub more_than: bool,
    /// The events that retention or a purge took before they were sent, whatever the filter picks.
    pub lost: u64,
    /// Whether `lost` is a lower bound.
    pub lost_more_than: bool,
}

impl From<EventCounts> for WebhookLag {
    fn from(counts: EventCounts) -> Self {
        let EventCounts { unfinished, more_than, lost, lost_more_than, .. } = counts;
        Self { unfinished, more_than, lost, lost_more_than }
    }
}

/// A webhook with the key that it was given just now. The key is told here alone.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct MadeWebhook {
    /// The webhook.
    #[serde(flatten)]
    pub info: WebhookInfo,
    /// The new key: the secret of HMAC, which the receiver needs. Absent for Ed25519, whose
    /// receivers have the public key, and where no key is new.
    #[serde(serialize_with = "told", skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// Writes a secret as it is. This is the one place where it is told.
fn told<S: serde::Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => to.serialize_str(secret.expose()),
        None => to.serialize_none(),
    }
}

impl From<&StoredKey> for WebhookKeyInfo {
    fn from(stored: &StoredKey) -> Self {
        let StoredKey { key, created, until } = stored;
        let secret = Secret::from("");
        let public_key = key.public_text();
        Self { kind: key.kind(), secret, public_key, created: *created, until: *until }
    }
}

impl WebhookInfo {
    /// Returns what is shown of a record.
    pub(super) fn of(
        name: &WebhookName,
        record: &WebhookRecord,
        state: WebhookCounts,
        queue: Option<WorkStatus>,
    ) -> Self {
        Self {
            name: name.clone(),
            settings: record.settings.clone(),
            keys: record.keys_at(Timestamp::now()).map(WebhookKeyInfo::from).collect(),
            created: record.created,
            updated: record.updated,
            paused: record.paused.clone(),
            state,
            queue,
            lag: None,
        }
    }
}
