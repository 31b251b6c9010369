//! Webhooks as they are stored: records of the topic [`TOPIC`], one of each name.
//!
//! ```text
//! {"settings":{"topic":"orders.>","url":"https://…", …},"keys":[{"key":"whsec_…","created":…}],
//!  "created":"2026-…","updated":"2026-…","paused":null}
//! ```
//!
//! # Why
//!
//! The keys have to be known to sign with them, so they are in the topic as they are. No edge gives
//! its events to anybody (`TopicName::is_secret`). Backups have them: who has a backup can sign.

use serde::{Deserialize, Serialize};

use super::settings::WebhookSettings;
use super::signing::WebhookKey;
use crate::error::{Error, Result};
use crate::event::Timestamp;

/// The name of the topic with the webhooks.
pub(super) const TOPIC: &str = "$webhooks";

/// The type of its events.
pub(super) const EVENT_TYPE: &str = "webhook";

/// The most keys of one webhook: the present one, and the one before it.
pub(super) const MAX_KEYS: usize = 2;

/// Why a webhook is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PauseReason {
    /// An administrator has asked for it.
    Asked,
    /// It failed again and again for a long time.
    Failing,
    /// The receiver has said that it is gone for ever (410).
    Gone,
}

impl PauseReason {
    /// Returns the word for the reason on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Failing => "failing",
            Self::Gone => "gone",
        }
    }

    /// Returns how much a pause for this reason needs to end: more for a higher rank.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::Failing => 0,
            Self::Gone => 1,
            Self::Asked => 2,
        }
    }
}

/// A pause of a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct WebhookPause {
    /// Why it is paused.
    pub reason: PauseReason,
    /// Since when.
    pub since: Timestamp,
    /// The last failure, in words; empty if somebody has asked for the pause.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub problem: String,
}

/// A key, and how long requests are signed with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredKey {
    pub(super) key: WebhookKey,
    pub(super) created: Timestamp,
    /// The end of a key that was replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
}

/// A webhook, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WebhookRecord {
    pub(super) settings: WebhookSettings,
    /// The keys, the newest first.
    pub(super) keys: Vec<StoredKey>,
    pub(super) created: Timestamp,
    pub(super) updated: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) paused: Option<WebhookPause>,
    /// What tells the webhook's consumer from those of other webhooks that had its name, or were to
    /// have it; `None` for one that a broker alone has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<String>,
}

impl WebhookRecord {
    /// Returns a webhook that is made `now`.
    pub(super) fn new(settings: WebhookSettings, key: WebhookKey, now: Timestamp) -> Self {
        let keys = vec![StoredKey { key, created: now, until: None }];
        Self { settings, keys, created: now, updated: now, paused: None, queue: None }
    }

    /// Returns the webhook with another key, beside which the one before it holds until `until`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: it has this key already.
    pub(super) fn rotated(
        &self,
        key: WebhookKey,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Self> {
        if self.keys.iter().any(|known| known.key == key) {
            return Err(Error::invalid("secret", "is a key that the webhook has already"));
        }
        let mut keys = vec![StoredKey { key, created: now, until: None }];
        let old = self.keys.first().cloned();
        keys.extend(old.map(|old| StoredKey { until: Some(until), ..old }));
        keys.truncate(MAX_KEYS);
        Ok(Self { keys, updated: now, ..self.clone() })
    }

    /// Returns the keys that hold `now`, the newest first.
    pub(super) fn keys_at(&self, now: Timestamp) -> impl Iterator<Item = &StoredKey> {
        self.keys.iter().filter(move |key| key.until.is_none_or(|until| now < until))
    }

    /// Returns the signatures of a request, of all keys that hold `now`.
    pub(super) fn signatures(&self, id: &str, now: Timestamp, body: &[u8]) -> String {
        let sign = |key: &StoredKey| key.key.sign(id, now.as_ms() / 1_000, body);
        self.keys_at(now).map(sign).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::signing::SignatureKind;
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_000);

    fn record() -> WebhookRecord {
        let settings = WebhookSettings::new("orders".parse().unwrap(), "https://a.example");
        WebhookRecord::new(settings, WebhookKey::random(SignatureKind::Hmac), NOW)
    }

    #[test]
    fn a_record_reads_back_and_shows_no_key() {
        let record = record();
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains("whsec_"), "{text}");
        assert_eq!(serde_json::from_str::<WebhookRecord>(&text).unwrap(), record);
        let shown = format!("{record:?}");
        assert!(shown.contains("***") && !shown.contains("whsec_"), "{shown}");
    }

    #[test]
    fn two_keys_sign_until_the_older_one_is_over() {
        let first = record();
        let until = NOW.plus_ms(1_000);
        let signatures = |record: &WebhookRecord, now| record.signatures("e", now, b"x");
        let key = || WebhookKey::random(SignatureKind::Ed25519);
        let second = first.rotated(key(), NOW, until).unwrap();
        let both = signatures(&second, NOW);
        let (new, old) = both.split_once(' ').unwrap();
        assert!(new.starts_with("v1a,"), "{both}");
        assert_eq!(old, signatures(&first, NOW));
        assert_eq!(signatures(&second, until).split(' ').count(), 1);
        let third = second.rotated(key(), NOW, until).unwrap();
        assert_eq!(third.keys.len(), MAX_KEYS);
        assert_eq!(third.keys[1].key, second.keys[0].key, "the oldest is gone");
        let known = third.keys[1].key.clone();
        let refused = third.rotated(known, NOW, until).unwrap_err().to_string();
        assert_eq!(refused, "secret: is a key that the webhook has already");
    }
}
