//! The settings of work sharing, for all shared consumers together.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much work sharing may take of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WorkConfig {
    /// The most shared consumers in use at the same time. One without pulls, leases and dead
    /// letters goes out of use after `idle_ms`. 1 to 1,000,000. Default: 1,000.
    pub max_queues: u64,
    /// The time, in milliseconds, after which a shared consumer that nobody uses frees its memory.
    /// 1 to 3,600,000. Default: 10,000.
    pub idle_ms: u64,
    /// The most pulls of one consumer that wait for events. 1 to 1,000,000. Default: 10,000.
    pub max_waiting: u64,
    /// The most bytes of events that are held in memory for one consumer until they are leased;
    /// others are read again then. Up to 2^30. Default: 4 MiB.
    pub max_held_bytes: u64,
    /// The time, in milliseconds, after which events are tried again that could not become dead
    /// letters. 1 to 86,400,000. Default: 30,000.
    pub dead_retry_ms: u64,
}

impl Default for WorkConfig {
    fn default() -> Self {
        Self {
            max_queues: 1_000,
            idle_ms: 10_000,
            max_waiting: 10_000,
            max_held_bytes: 4 << 20,
            dead_retry_ms: 30_000,
        }
    }
}

impl WorkConfig {
    /// Checks the bounds of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with the key, the value and the bound.
    pub fn validate(&self) -> Result<()> {
        let bounds = [
            ("max_queues", self.max_queues, 1, 1_000_000),
            ("idle_ms", self.idle_ms, 1, 3_600_000),
            ("max_waiting", self.max_waiting, 1, 1_000_000),
            ("max_held_bytes", self.max_held_bytes, 0, 1 << 30),
            ("dead_retry_ms", self.dead_retry_ms, 1, 86_400_000),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                let problem = format!("{value} is not within {least} to {most}");
                return Err(Error::invalid(format!("consumers.work.{name}"), problem));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_has_bounds_and_a_refusal_names_it_with_its_value() {
        WorkConfig::default().validate().unwrap();
        let bounds = [
            ("max_queues", Some(0), 1_000_001),
            ("idle_ms", Some(0), 3_600_001),
            ("max_waiting", Some(0), 1_000_001),
            ("max_held_bytes", None, (1 << 30) + 1),
            ("dead_retry_ms", Some(0), 86_400_001),
        ];
        for (name, under, over) in bounds {
            for value in under.into_iter().chain([over]) {
                let json = format!("{{\"{name}\":{value}}}");
                let config: WorkConfig = serde_json::from_str(&json).unwrap();
                let told = config.validate().unwrap_err().to_string();
                let expected = format!("consumers.work.{name}: {value} is not within");
                assert!(told.starts_with(&expected), "{told}");
            }
        }
    }
}
