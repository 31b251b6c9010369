//! The settings of shared work as messages.

use crate::consumers::WorkSettings;
use crate::edge::proto;
use crate::error::Result;
use crate::topic::TopicName;

/// Returns the settings of a message: what is not set has its default.
///
/// # Errors
///
/// [`Error::Invalid`](crate::Error::Invalid): the dead-letter topic is no topic.
pub(super) fn of(message: proto::WorkSettings) -> Result<WorkSettings> {
    let proto::WorkSettings {
        lease_ms,
        max_tries,
        dead_letter,
        max_in_flight,
        max_in_flight_per_worker,
        max_ahead,
    } = message;
    let mut settings = WorkSettings::default();
    settings.lease_ms = lease_ms.unwrap_or(settings.lease_ms);
    settings.max_tries = max_tries.unwrap_or(settings.max_tries);
    let named = Some(dead_letter).filter(|name| !name.is_empty());
    settings.dead_letter = named.map(|name| TopicName::new(&name)).transpose()?;
    settings.max_in_flight = max_in_flight.unwrap_or(settings.max_in_flight);
    let per_worker = max_in_flight_per_worker.unwrap_or(settings.max_in_flight_per_worker);
    settings.max_in_flight_per_worker = per_worker;
    settings.max_ahead = max_ahead.unwrap_or(settings.max_ahead);
    Ok(settings)
}

/// Returns settings as a message.
pub(super) fn message(settings: &WorkSettings) -> proto::WorkSettings {
    proto::WorkSettings {
        lease_ms: Some(settings.lease_ms),
        max_tries: Some(settings.max_tries),
        dead_letter: settings.dead_letter.as_ref().map(ToString::to_string).unwrap_or_default(),
        max_in_flight: Some(settings.max_in_flight),
        max_in_flight_per_worker: Some(settings.max_in_flight_per_worker),
        max_ahead: Some(settings.max_ahead),
    }
}
