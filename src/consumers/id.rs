//! The identity of a consumer, and the settings that callers give it.

use serde::{Deserialize, Serialize};

use super::name::ConsumerName;
use super::work::WorkSettings;
use crate::broker::Filter;
use crate::error::{Error, Result};
use crate::topic::TopicPattern;

/// The longest id of an owner, in bytes.
pub const MAX_OWNER_BYTES: usize = 512;

/// The identity of a consumer: whose it is, what it reads, and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct ConsumerId {
    /// The caller whose consumer it is; empty if it is common to all callers.
    pub owner: String,
    /// The topics that it reads: the name of one topic, or a pattern of names.
    pub selection: TopicPattern,
    /// Its name, among those of the same owner and selection.
    pub name: ConsumerName,
}

impl ConsumerId {
    /// Returns the identity of a consumer that is common to all callers.
    pub fn new(selection: TopicPattern, name: ConsumerName) -> Self {
        Self { owner: String::new(), selection, name }
    }

    /// Returns the identity of the consumer of that name which belongs to `owner`.
    #[must_use]
    pub fn of_owner(self, owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), ..self }
    }

    /// Whether its places are positions: it may read several topics.
    pub fn has_positions(&self) -> bool {
        !self.selection.is_name()
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    ///
    /// As [`check_owner`].
    pub(crate) fn check(&self) -> Result<()> {
        check_owner(&self.owner)
    }
}

/// Checks the id of an owner.
///
/// # Errors
///
/// [`Error::Invalid`], [`Error::OverLimit`] with field `owner`.
pub(crate) fn check_owner(owner: &str) -> Result<()> {
    if owner.len() > MAX_OWNER_BYTES {
        return Err(Error::over("owner bytes", owner.len(), MAX_OWNER_BYTES));
    }
    if let Some(bad) = owner.chars().find(|c| c.is_control()) {
        let problem = format!("{owner:?} holds the control character {bad:?}");
        return Err(Error::invalid("owner", problem));
    }
    Ok(())
}

/// The settings of a consumer.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ConsumerSettings {
    /// The events of its topics that it reads. Default: all.
    #[serde(skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// How its events are shared among workers. Default: they are not. Only a consumer that is
    /// common to all callers can share its events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<WorkSettings>,
}

impl ConsumerSettings {
    /// Returns these settings with a filter.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter, ..self }
    }

    /// Returns these settings for a consumer that shares its events among workers.
    #[must_use]
    pub fn shared(self, shared: WorkSettings) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Checks the settings for this consumer.
    ///
    /// # Errors
    ///
    /// As [`Filter::validate`] and [`WorkSettings::validate`]; [`Error::Invalid`] with field
    /// `shared`: the consumer has an owner.
    pub(super) fn check(&self, id: &ConsumerId) -> Result<()> {
        self.filter.validate()?;
        let Some(shared) = &self.shared else { return Ok(()) };
        if !id.owner.is_empty() {
            let problem = "is for consumers without an owner, which are common to all callers";
            return Err(Error::invalid("shared", problem));
        }
        shared.validate(&id.selection)
    }

    /// Returns the bytes that the settings take in memory.
    pub(super) fn size_bytes(&self) -> usize {
        let shared = self.shared.as_ref().map_or(0, |_| size_of::<WorkSettings>());
        self.filter.size_bytes() + shared
    }

    /// Whether all settings are the defaults.
    pub(super) fn is_default(&self) -> bool {
        self.filter.is_empty() && self.shared.is_none()
    }
}

/// A change of a consumer's settings: what is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ConsumerChange {
    /// The new filter.
    pub filter: Option<Filter>,
    /// The new settings of sharing, whole. A consumer that shares its events does so for ever.
    pub shared: Option<WorkSettings>,
}

impl ConsumerChange {
    /// Returns this change with a new filter.
    #[must_use]
    pub fn filter(self, filter: Filter) -> Self {
        Self { filter: Some(filter), ..self }
    }

    /// Returns this change with new settings of sharing.
    #[must_use]
    pub fn shared(self, shared: WorkSettings) -> Self {
        Self { shared: Some(shared), ..self }
    }

    /// Returns `settings` after the change.
    pub(super) fn applied(self, settings: &ConsumerSettings) -> ConsumerSettings {
        ConsumerSettings {
            filter: self.filter.unwrap_or_else(|| settings.filter.clone()),
            shared: self.shared.or_else(|| settings.shared.clone()),
        }
    }
}
