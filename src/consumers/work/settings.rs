//! The settings of one consumer that shares its events among workers.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::topic::{TopicName, TopicPattern};

/// The longest lease, and the longest extension of one, in milliseconds: 12 hours.
pub const MAX_LEASE_MS: u64 = 12 * 3_600_000;

/// The most tries that a setting can name.
const MAX_TRIES: u32 = 1_000_000;

/// The most leases that a setting can allow at the same time.
const MAX_IN_FLIGHT: u32 = 100_000;

/// The most events beyond the oldest unfinished one that a setting can allow.
const MAX_AHEAD: u32 = 1_000_000;

/// The end of the name of a dead-letter topic that no setting names.
const DEAD_SUFFIX: &str = ".dead";

/// The way in which a shared consumer gives its events to workers.
///
/// ```
/// use leftoff::consumers::WorkSettings;
///
/// let settings = WorkSettings::default();
/// assert_eq!((settings.lease_ms, settings.max_tries), (30_000, 10));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct WorkSettings {
    /// The time, in milliseconds, for which a worker has an event to itself. 1 to 43,200,000, which
    /// is 12 hours. Default: 30,000.
    pub lease_ms: u64,
    /// The deliveries of an event after which it becomes a dead letter, unless it is finished; 0 is
    /// without end. Up to 1,000,000. Default: 10.
    pub max_tries: u32,
    /// The topic of the dead letters. Default: the consumer's topic with `.dead` after its name.
    /// A consumer of a pattern with wildcards must name one, unless `max_tries` is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<TopicName>,
    /// The most events that are leased at the same time. 1 to 100,000. Default: 1,000.
    pub max_in_flight: u32,
    /// The most events that one worker has leased at the same time. 1 to 100,000. Default: 100.
    pub max_in_flight_per_worker: u32,
    /// The most events that are looked at from the oldest unfinished one on. While that one stays
    /// unfinished, no event is leased beyond them. 1 to 1,000,000. Default: 10,000.
    pub max_ahead: u32,
}

impl Default for WorkSettings {
    fn default() -> Self {
        Self {
            lease_ms: 30_000,
            max_tries: 10,
            dead_letter: None,
            max_in_flight: 1_000,
            max_in_flight_per_worker: 100,
            max_ahead: 10_000,
        }
    }
}

impl WorkSettings {
    /// Checks the settings of a consumer of `selection`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], with the setting, its value and its bounds.
    pub fn validate(&self, selection: &TopicPattern) -> Result<()> {
        let bounds = [
            ("lease_ms", self.lease_ms, 1, MAX_LEASE_MS),
            ("max_tries", self.max_tries.into(), 0, MAX_TRIES.into()),
            ("max_in_flight", self.max_in_flight.into(), 1, MAX_IN_FLIGHT.into()),
            (
                "max_in_flight_per_worker",
                self.max_in_flight_per_worker.into(),
                1,
                MAX_IN_FLIGHT.into(),
            ),
            ("max_ahead", self.max_ahead.into(), 1, MAX_AHEAD.into()),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                let problem = format!("{value} is not within {least} to {most}");
                return Err(Error::invalid(format!("shared.{name}"), problem));
            }
        }
        self.dead_letter_of(selection).map(drop)
    }

    /// Whether `topic` is the one that a consumer of `selection` has for its dead letters if no
    /// setting names one.
    pub(crate) fn is_default(topic: &TopicName, selection: &TopicPattern) -> bool {
        topic.as_str().strip_suffix(DEAD_SUFFIX) == Some(selection.as_str())
    }

    /// Returns the topic of the dead letters of a consumer of `selection`; `None` if events never
    /// become dead letters.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `shared.dead_letter`: a topic is needed and none is named, or
    /// it cannot have dead letters.
    pub(crate) fn dead_letter_of(&self, selection: &TopicPattern) -> Result<Option<TopicName>> {
        const FIELD: &str = "shared.dead_letter";
        let pattern = selection.as_str();
        let topic = match &self.dead_letter {
            Some(topic) => topic.clone(),
            None if self.max_tries == 0 => return Ok(None),
            None if selection.is_name() => {
                let name = TopicName::new(&format!("{selection}{DEAD_SUFFIX}"));
                name.map_err(|error| Error::invalid(FIELD, error.to_string()))?
            }
            None => {
                let problem = format!(
                    "is missing: {pattern:?} has wildcards, so name a topic, or set max_tries to \
                     0 to try without end"
                );
                return Err(Error::invalid(FIELD, problem));
            }
        };
        if topic.is_own() {
            let problem = format!("{topic:?} is one of the broker's own topics; name another one");
            return Err(Error::invalid(FIELD, problem));
        }
        if selection.matches(&topic) {
            let problem = format!(
                "{topic:?} fits {pattern:?}, so its dead letters would be work again, without \
                 end; name a topic that the consumer does not read, or set max_tries to 0 to try \
                 without end"
            );
            return Err(Error::invalid(FIELD, problem));
        }
        topic.check_new().map_err(|error| Error::invalid(FIELD, error.to_string()))?;
        Ok((self.max_tries > 0).then_some(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: impl FnOnce(&mut WorkSettings), selection: &str) -> String {
        let mut settings = WorkSettings::default();
        change(&mut settings);
        settings.validate(&selection.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn each_setting_has_bounds_and_a_refusal_names_it_with_its_value() {
        type Set = fn(&mut WorkSettings, u32);
        let settings: [(&str, Set, u32, u32); 5] = [
            ("lease_ms", |s, n| s.lease_ms = n.into(), 1, 43_200_000),
            ("max_tries", |s, n| s.max_tries = n, 0, 1_000_000),
            ("max_in_flight", |s, n| s.max_in_flight = n, 1, 100_000),
            ("max_in_flight_per_worker", |s, n| s.max_in_flight_per_worker = n, 1, 100_000),
            ("max_ahead", |s, n| s.max_ahead = n, 1, 1_000_000),
        ];
        let selection = "jobs".parse().unwrap();
        for (name, set, least, most) in settings {
            for within in [least, most] {
                let mut settings = WorkSettings::default();
                set(&mut settings, within);
                settings.validate(&selection).unwrap();
            }
            for beyond in [least.checked_sub(1), Some(most + 1)].into_iter().flatten() {
                let told = refusal(|settings| set(settings, beyond), "jobs");
                let expected = format!("shared.{name}: {beyond} is not within {least} to {most}");
                assert_eq!(told, expected);
            }
        }
    }

    #[test]
    fn dead_letters_go_to_a_topic_of_clients_that_the_consumer_does_not_read() {
        let dead = |selection: &str, settings: &WorkSettings| {
            settings.dead_letter_of(&selection.parse().unwrap()).unwrap()
        };
        let mut settings = WorkSettings::default();
        assert_eq!(dead("jobs", &settings).unwrap(), "jobs.dead");
        settings.dead_letter = Some("graves".parse().unwrap());
        assert_eq!(dead("jobs.>", &settings).unwrap(), "graves");
        settings = WorkSettings { max_tries: 0, ..WorkSettings::default() };
        assert_eq!(dead("jobs.>", &settings), None);

        let named = |name: &'static str| {
            move |settings: &mut WorkSettings| settings.dead_letter = Some(name.parse().unwrap())
        };
        let refused = [
            (refusal(|_| {}, "jobs.>"), "is missing: \"jobs.>\" has wildcards"),
            (refusal(named("$consumers"), "jobs"), "is one of the broker's own topics"),
            (refusal(named("jobs.dead"), "jobs.>"), "\"jobs.dead\" fits \"jobs.>\""),
            (refusal(|_| {}, &"j".repeat(253)), "shared.dead_letter: "),
        ];
        for (told, expected) in refused {
            assert!(told.contains(expected), "{told}");
        }
    }
}
