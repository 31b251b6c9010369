//! The settings of a topic: which events are kept, for how long, and which failures an acknowledged
//! event outlives.
//!
//! # Where the checks are
//!
//! An unknown name is refused when the JSON or the TOML is read (`deny_unknown_fields`), or, in an
//! update's list of fields, by [`TopicConfig::with_fields`]. [`TopicConfig::validate`] checks the
//! values. The committer calls it when a topic is created or changed (`broker/order/changes.rs`),
//! the start calls it for the patterns of the configuration (`broker/topic/defaults.rs`), and a
//! restore calls it for the topics of a backup (`log/backup.rs`). The limits themselves are applied
//! in `broker/maintenance/`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::Durability;

/// The time for which a tombstone is kept by default, in milliseconds: a day. A reader that comes
/// back within it learns that the key is deleted.
pub const DEFAULT_TOMBSTONE_GRACE_MS: u64 = 24 * 3_600_000;

/// The most events of a key that `max_events_per_key` can ask for.
const MAX_EVENTS_PER_KEY: u64 = 10_000;

/// The settings of a topic. A setting that is `None` is taken from the patterns of the
/// configuration file; if these do not have it either, the default holds. No limit is the default
/// of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicConfig {
    /// The age, in milliseconds, past which events are dropped; 0 is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_ms: Option<u64>,
    /// The number of events that are kept, the newest ones; 0 is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u64>,
    /// The bytes of events that are kept, the newest ones, as stored; 0 is without limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Whether only the latest events of each key are kept. Events without a key are all kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact: Option<bool>,
    /// The number of events of each key that are kept, up to 10,000. Setting it switches `compact`
    /// on. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_events_per_key: Option<u64>,
    /// The time for which a tombstone, an event with a key and without payload, is kept after it
    /// was appended, in milliseconds. Default: a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tombstone_grace_ms: Option<u64>,
    /// The failures that an acknowledged event outlives: `fsync`, or `process`. Default: `fsync`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Whether the header `leftoff-publisher` of each event that is published over an edge names
    /// its publisher, where hooks know the callers. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp_publisher: Option<bool>,
}

impl TopicConfig {
    /// Returns settings of which `set` says some.
    ///
    /// ```
    /// let config = leftoff::TopicConfig::with(|config| config.max_events = Some(1_000));
    /// assert_eq!(config.max_age_ms, None);
    /// ```
    pub fn with(set: impl FnOnce(&mut Self)) -> Self {
        let mut config = Self::default();
        set(&mut config);
        config
    }

    /// Returns these settings. A setting that they do not have is taken from `defaults`.
    pub fn over(self, defaults: TopicConfig) -> Self {
        Self {
            max_age_ms: self.max_age_ms.or(defaults.max_age_ms),
            max_events: self.max_events.or(defaults.max_events),
            max_bytes: self.max_bytes.or(defaults.max_bytes),
            compact: self.compact.or(defaults.compact),
            max_events_per_key: self.max_events_per_key.or(defaults.max_events_per_key),
            tombstone_grace_ms: self.tombstone_grace_ms.or(defaults.tombstone_grace_ms),
            durability: self.durability.or(defaults.durability),
            stamp_publisher: self.stamp_publisher.or(defaults.stamp_publisher),
        }
    }

    /// Returns the names of all settings.
    pub fn field_names() -> Vec<String> {
        let names = [
            "max_age_ms",
            "max_events",
            "max_bytes",
            "compact",
            "max_events_per_key",
            "tombstone_grace_ms",
            "durability",
            "stamp_publisher",
        ];
        names.map(str::to_owned).to_vec()
    }

    /// Returns these settings, with the `fields` taken from `other`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a field that is not a setting.
    pub fn with_fields(mut self, other: &Self, fields: &[String]) -> Result<Self> {
        for field in fields {
            match field.as_str() {
                "max_age_ms" => self.max_age_ms = other.max_age_ms,
                "max_events" => self.max_events = other.max_events,
                "max_bytes" => self.max_bytes = other.max_bytes,
                "compact" => self.compact = other.compact,
                "max_events_per_key" => self.max_events_per_key = other.max_events_per_key,
                "tombstone_grace_ms" => self.tombstone_grace_ms = other.tombstone_grace_ms,
                "durability" => self.durability = other.durability,
                "stamp_publisher" => self.stamp_publisher = other.stamp_publisher,
                unknown => {
                    let problem = format!("{unknown:?} is not a setting of a topic");
                    return Err(Error::invalid("update_mask", problem));
                }
            }
        }
        Ok(self)
    }

    /// Checks the values.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`], with the name of the setting.
    pub fn validate(&self) -> Result<()> {
        if let Some(asked @ (Durability::Memory | Durability::Replicated)) = self.durability {
            let problem = format!("is \"{asked}\"; write fsync or process");
            return Err(Error::invalid("durability", problem));
        }
        match self.max_events_per_key {
            Some(0) => Err(Error::invalid("max_events_per_key", "is 0; 1 is the least")),
            Some(count) if count > MAX_EVENTS_PER_KEY => {
                Err(Error::over("max_events_per_key", count as usize, MAX_EVENTS_PER_KEY as usize))
            }
            _ => Ok(()),
        }
    }

    /// Returns the age past which events are dropped, in milliseconds, if that is limited.
    pub fn age_limit_ms(&self) -> Option<u64> {
        self.max_age_ms.filter(|limit| *limit > 0)
    }

    /// Returns the number of events that are kept, if that is limited.
    pub fn event_limit(&self) -> Option<u64> {
        self.max_events.filter(|limit| *limit > 0)
    }

    /// Returns the number of bytes that are kept, if that is limited.
    pub fn byte_limit(&self) -> Option<u64> {
        self.max_bytes.filter(|limit| *limit > 0)
    }

    /// Returns the number of events of each key that are kept, if the topic is compacted.
    pub fn key_limit(&self) -> Option<u64> {
        match self.compact {
            Some(false) => None,
            Some(true) => Some(self.max_events_per_key.unwrap_or(1)),
            None => self.max_events_per_key,
        }
    }

    /// Returns whether a header of each event names its publisher.
    pub fn stamps_publisher(&self) -> bool {
        self.stamp_publisher.unwrap_or(false)
    }

    /// Returns the time for which tombstones are kept, in milliseconds.
    pub fn tombstone_grace_ms(&self) -> u64 {
        self.tombstone_grace_ms.unwrap_or(DEFAULT_TOMBSTONE_GRACE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_topic_does_not_say_is_as_its_defaults_say() {
        let own = TopicConfig { max_events: Some(0), compact: Some(true), ..Default::default() };
        let defaults = TopicConfig {
            max_events: Some(5),
            max_bytes: Some(6),
            max_events_per_key: Some(3),
            ..Default::default()
        };
        let both = own.over(defaults);
        assert_eq!(
            (both.event_limit(), both.byte_limit(), both.age_limit_ms()),
            (None, Some(6), None)
        );
        assert_eq!(both.key_limit(), Some(3));
        assert_eq!(own.key_limit(), Some(1));
        assert_eq!(defaults.key_limit(), Some(3));
        let off = TopicConfig { compact: Some(false), ..Default::default() };
        assert_eq!(off.over(defaults).key_limit(), None);
    }

    #[test]
    fn values_that_cannot_be_are_refused_by_name() {
        let refusals = [
            (r#"{"max_events_per_key":0}"#, "max_events_per_key: is 0"),
            (r#"{"max_events_per_key":10001}"#, "max_events_per_key: 10001 is over"),
            (r#"{"durability":"memory"}"#, "durability: is \"memory\""),
        ];
        for (json, reason) in refusals {
            let config: TopicConfig = serde_json::from_str(json).unwrap();
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(reason), "{message}");
        }
        assert!(serde_json::from_str::<TopicConfig>(r#"{"max_evens":1}"#).is_err());
    }
}
