//! Settings of topics by patterns of their names, from the configuration.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::section;
use crate::topic::{TopicName, TopicPattern};
use crate::topic_config::TopicConfig;

/// The most different settings that are kept once for all topics that share them.
const MAX_SHARED_DEFAULTS: usize = 64;

/// The settings of topics by patterns of their names, from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicDefaults(
    #[serde(deserialize_with = "section::by_name")] BTreeMap<TopicPattern, TopicConfig>,
);

impl TopicDefaults {
    /// Sets the settings of a pattern, in place of those it had.
    pub fn set(&mut self, pattern: TopicPattern, config: TopicConfig) {
        self.0.insert(pattern, config);
    }

    /// Returns the settings that a topic has by default. Each setting comes from the most specific
    /// pattern that matches the name and has the setting.
    pub fn of(&self, name: &TopicName) -> TopicConfig {
        let mut matching: Vec<_> = self.0.iter().filter(|(p, _)| p.matches(name)).collect();
        matching.sort_by_cached_key(|(pattern, _)| Reverse(pattern.specificity()));
        matching.iter().fold(TopicConfig::default(), |config, (_, next)| config.over(**next))
    }

    /// Checks each pattern, which must be able to match a new topic, and its settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the pattern and the problem.
    pub fn validate(&self) -> Result<()> {
        for (pattern, config) in &self.0 {
            pattern.check_new().and_then(|()| config.validate()).map_err(|error| {
                Error::invalid(format!("topics.{:?}", pattern.as_str()), error.to_string())
            })?;
        }
        Ok(())
    }
}

/// The default settings of topics. Equal settings are kept once, for all topics that share them.
#[derive(Debug)]
pub(super) struct SharedDefaults {
    patterns: TopicDefaults,
    known: Mutex<Vec<Arc<TopicConfig>>>,
}

impl SharedDefaults {
    pub(super) fn new(patterns: TopicDefaults) -> Self {
        Self { patterns, known: Mutex::default() }
    }

    pub(super) fn of(&self, name: &TopicName) -> Arc<TopicConfig> {
        let config = self.patterns.of(name);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|other| ***other == config) {
            return same.clone();
        }
        let config = Arc::new(config);
        if known.len() < MAX_SHARED_DEFAULTS {
            known.push(config.clone());
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_special_pattern_says_what_a_topic_does_not() {
        let mut defaults = TopicDefaults::default();
        let limits =
            |max_events, max_bytes| TopicConfig { max_events, max_bytes, ..TopicConfig::default() };
        defaults.set(">".parse().unwrap(), limits(Some(1), Some(1)));
        defaults.set("users.>".parse().unwrap(), limits(Some(2), None));
        defaults.set("users.*.inbox".parse().unwrap(), limits(None, Some(3)));
        let of = |name: &str| {
            let config = defaults.of(&TopicName::new(name).unwrap());
            (config.max_events, config.max_bytes)
        };
        assert_eq!(of("orders"), (Some(1), Some(1)));
        assert_eq!(of("users.7"), (Some(2), Some(1)));
        assert_eq!(of("users.7.inbox"), (Some(2), Some(3)));
    }
}
