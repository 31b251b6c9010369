//! The limits and rules for published events. A publish with an event over a limit, or against a
//! rule, is refused whole.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp, is_of_dead_letters};
use crate::lists::MAX_ENTRIES;
use crate::topic::RESERVED_PREFIX;

/// The highest values of limits that can be configured.
pub(super) const MAX_PAYLOAD_BYTES: u64 = 16 << 20;
pub(super) const MAX_BATCH_BYTES: u64 = 64 << 20;
pub(super) const MAX_BATCH_EVENTS: u64 = 1_000_000;
pub(super) const MAX_BATCH_TOPICS: u64 = MAX_ENTRIES as u64; // Of any list that a client sends.

/// The most topics of one publish of the broker itself.
const MAX_OWN_TOPICS: u64 = 10_000;

/// The longest key of an event that the broker itself stores, in bytes.
const MAX_OWN_KEY_BYTES: u64 = 4 << 10;

/// The most bytes of the headers of such an event.
const MAX_OWN_HEADER_BYTES: u64 = 64 << 10;

/// The limits on events, on publishes and on the number of topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// The payload of one event, in bytes; up to 16 MiB. Default: 1 MiB.
    pub max_payload_bytes: u64,
    /// The size of all events of one publish as they are stored, in bytes; up to 64 MiB. Default: 4
    /// MiB.
    pub max_batch_bytes: u64,
    /// The number of events in one publish. Default: 10,000.
    pub max_batch_events: u64,
    /// The number of topics that one publish may name, up to 1,024. Its events are counted for each
    /// topic. Default: 1,000.
    pub max_batch_topics: u64,
    /// The id that a publisher gives, in bytes of UTF-8. Default: 255.
    pub max_id_bytes: u64,
    /// The event type, in bytes of UTF-8. Default: 255.
    pub max_type_bytes: u64,
    /// The key, in bytes of UTF-8. Default: 255.
    pub max_key_bytes: u64,
    /// The content type, in bytes of UTF-8. Default: 255.
    pub max_content_type_bytes: u64,
    /// The number of headers of one event; up to 1,024. Default: 100.
    pub max_headers: u64,
    /// The names and values of all headers of one event, in bytes of UTF-8. Default: 16 KiB.
    pub max_header_bytes: u64,
    /// The number of topics that exist. Each takes memory as long as it exists. Default: 1,000,000.
    pub max_topics: u64,
    /// The number of deleted topics. Each takes memory, because its sequences must never be given
    /// out again. At this number no more topics can be deleted; their events can still be purged.
    /// Default: 1,000,000.
    pub max_deleted_topics: u64,
    /// The number of topics that do not exist yet, and that readers follow or are members of. Each
    /// takes memory for as long as they do. At this number more such readers are refused,
    /// publishers never. Default: 100,000.
    pub max_unborn_topics: u64,
    /// Whether events may be dead letters: only what the broker itself stores.
    #[serde(skip)]
    pub(crate) allows_dead_letters: bool,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_batch_bytes: 4 << 20,
            max_batch_events: 10_000,
            max_batch_topics: 1_000,
            max_id_bytes: 255,
            max_type_bytes: 255,
            max_key_bytes: 255,
            max_content_type_bytes: 255,
            max_headers: 100,
            max_header_bytes: 16 << 10,
            max_topics: 1_000_000,
            max_deleted_topics: 1_000_000,
            max_unborn_topics: 100_000,
            allows_dead_letters: false,
        }
    }
}

impl LimitsConfig {
    /// Returns the limits on what the broker itself stores in its own topics: the highest that the
    /// configuration allows for clients. Clients may be allowed much less than the broker needs.
    pub(super) fn own() -> Self {
        Self {
            max_payload_bytes: MAX_PAYLOAD_BYTES,
            max_batch_bytes: MAX_BATCH_BYTES,
            max_batch_events: MAX_BATCH_EVENTS,
            max_batch_topics: MAX_OWN_TOPICS,
            max_type_bytes: MAX_OWN_KEY_BYTES,
            max_content_type_bytes: MAX_OWN_KEY_BYTES,
            max_key_bytes: MAX_OWN_KEY_BYTES,
            max_headers: MAX_ENTRIES as u64,
            max_header_bytes: MAX_OWN_HEADER_BYTES,
            allows_dead_letters: true,
            ..Self::default()
        }
    }

    /// Checks the number of topics of one publish.
    ///
    /// # Errors
    ///
    /// [`Error::OverLimit`], and [`Error::Invalid`] if there is none.
    pub(crate) fn check_topics(&self, count: usize) -> Result<()> {
        if count == 0 {
            return Err(Error::invalid("topics", "is empty; name at least one"));
        }
        at_most("topics in a publish", count, self.max_batch_topics)
    }

    /// Checks the events of one publish.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`], with the first event and field that break a
    /// rule.
    pub fn check(&self, events: &[NewEvent]) -> Result<()> {
        self.check_count(events.len())?;
        for (index, event) in events.iter().enumerate() {
            self.check_event(event).map_err(|error| locate(error, index, events.len()))?;
        }
        Ok(())
    }

    /// Checks the number of events of one publish.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(super) fn check_count(&self, count: usize) -> Result<()> {
        if count == 0 {
            return Err(Error::invalid("events", "is empty; publish at least one"));
        }
        at_most("events in a batch", count, self.max_batch_events)
    }

    /// Checks the number of events of one publish, for all its topics, and their size as they are
    /// stored.
    ///
    /// # Errors
    ///
    /// As [`Self::check`].
    pub(crate) fn check_batch(&self, count: usize, size_bytes: usize) -> Result<()> {
        self.check_count(count)?;
        at_most("batch bytes", size_bytes, self.max_batch_bytes)
    }

    /// Checks one event.
    ///
    /// # Errors
    ///
    /// As [`Self::check`], without the index of the event.
    pub(super) fn check_event(&self, event: &NewEvent) -> Result<()> {
        at_most("payload bytes", event.payload.len(), self.max_payload_bytes)?;
        check_text("id", &event.id, self.max_id_bytes)?;
        check_text("type", &event.event_type, self.max_type_bytes)?;
        check_text("key", &event.key, self.max_key_bytes)?;
        check_text("content_type", &event.content_type, self.max_content_type_bytes)?;
        if event.event_type.starts_with(RESERVED_PREFIX) {
            let problem =
                format!("{:?} begins with the reserved {RESERVED_PREFIX:?}", event.event_type);
            return Err(Error::invalid("type", problem));
        }
        if event.publisher_time.is_some_and(|time| time > Timestamp::MAX) {
            return Err(Error::invalid("publisher_time_ms", "is beyond the year 9999"));
        }
        if event.ttl_ms == Some(0) {
            let problem = "is 0, and nobody could ever read the event; give 1 or more, or leave it \
                           out for an event that never expires";
            return Err(Error::invalid("ttl_ms", problem));
        }
        at_most("headers", event.headers.len(), self.max_headers)?;
        let mut header_bytes = 0;
        for (name, value) in &event.headers {
            header_bytes += name.len() + value.len();
            if name.is_empty() {
                return Err(Error::invalid("headers", "one has an empty name"));
            }
            if is_of_dead_letters(name) && !self.allows_dead_letters {
                let problem =
                    format!("{name:?} is set by the broker, on dead letters; leave it out");
                return Err(Error::invalid("headers", problem));
            }
            refuse_controls("headers", name)?;
            refuse_controls("headers", value)?;
        }
        at_most("header bytes", header_bytes, self.max_header_bytes)
    }
}

/// Refuses a `value` above `limit`.
pub(super) fn at_most(name: &str, value: usize, limit: u64) -> Result<()> {
    if value as u64 > limit {
        return Err(Error::OverLimit { name: name.to_owned(), value: value as u64, limit });
    }
    Ok(())
}

fn check_text(field: &str, text: &str, limit: u64) -> Result<()> {
    at_most(&format!("{field} bytes"), text.len(), limit)?;
    refuse_controls(field, text)
}

/// Refuses control characters, such as NUL and line ends: they would break the lines and frames in
/// which a text is sent.
fn refuse_controls(field: &str, text: &str) -> Result<()> {
    match text.chars().find(|c| c.is_control()) {
        Some(bad) => Err(Error::invalid(field, format!("holds the control character {bad:?}"))),
        None => Ok(()),
    }
}

/// Adds the index of the publish to `error`, if there are several publishes.
pub(super) fn locate_publish(error: Error, index: usize, count: usize) -> Error {
    if count == 1 {
        return error;
    }
    match error {
        Error::Invalid { field, problem } => {
            Error::Invalid { field: format!("publishes[{index}].{field}"), problem }
        }
        Error::OverLimit { name, value, limit } => {
            Error::OverLimit { name: format!("publishes[{index}] {name}"), value, limit }
        }
        other => other,
    }
}

/// Adds the index of the event to `error`, if the publish has several events.
pub(super) fn locate(error: Error, index: usize, count: usize) -> Error {
    if count == 1 {
        return error;
    }
    match error {
        Error::Invalid { field, problem } => {
            Error::Invalid { field: format!("events[{index}].{field}"), problem }
        }
        Error::OverLimit { name, value, limit } => {
            Error::OverLimit { name: format!("events[{index}] {name}"), value, limit }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_held_to_its_limit_and_its_rules() {
        let limits = LimitsConfig::default();
        let long = "x".repeat(256);
        let event = NewEvent::default;
        let headers = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let many = (0..101).map(|n| (n.to_string(), String::new())).collect();
        let refusals = [
            (
                NewEvent { payload: vec![0; (1 << 20) + 1].into(), ..event() },
                "payload bytes: 1048577",
            ),
            (NewEvent { id: long.clone(), ..event() }, "id bytes: 256 is over the limit of 255"),
            (NewEvent { id: "a\nb".into(), ..event() }, "id: holds the control character '\\n'"),
            (NewEvent { id: "a\0".into(), ..event() }, "id: holds the control character '\\0'"),
            (NewEvent { event_type: long.clone(), ..event() }, "type bytes: 256"),
            (NewEvent { event_type: "a\r".into(), ..event() }, "type: holds the control"),
            (NewEvent { event_type: "leftoff.gap".into(), ..event() }, "reserved \"leftoff.\""),
            (NewEvent { key: long.clone(), ..event() }, "key bytes: 256"),
            (NewEvent { key: "\0".into(), ..event() }, "key: holds the control"),
            (NewEvent { content_type: long, ..event() }, "content_type bytes: 256"),
            (NewEvent { content_type: "a\n".into(), ..event() }, "content_type: holds the control"),
            (NewEvent { headers: headers("", "v"), ..event() }, "headers: one has an empty name"),
            (NewEvent { headers: headers("a\0", "v"), ..event() }, "headers: holds the control"),
            (NewEvent { headers: headers("a", "v\n"), ..event() }, "headers: holds the control"),
            (
                NewEvent { headers: headers("Leftoff-Dead-x", ""), ..event() },
                "headers: \"Leftoff-Dead-x\" is set by the broker, on dead letters; leave it out",
            ),
            (
                NewEvent { headers: headers("a", &"v".repeat(16 << 10)), ..event() },
                "header bytes: 16385",
            ),
            (NewEvent { headers: many, ..event() }, "headers: 101 is over the limit of 100"),
            (NewEvent { publisher_time: Some(Timestamp::from_ms(u64::MAX)), ..event() }, "9999"),
            (NewEvent { ttl_ms: Some(0), ..event() }, "ttl_ms: is 0"),
        ];
        for (bad, reason) in refusals {
            let alone = limits.check(std::slice::from_ref(&bad)).unwrap_err().to_string();
            assert!(alone.contains(reason), "{alone}");
            let second = limits.check(&[event(), bad]).unwrap_err().to_string();
            assert!(second.contains("events[1]"), "{second}");
        }
        let near =
            ["leftoff-dea", "leftoff-dead", "leftoff-deadline", "leftoff-deä-", "x-leftoff-dead-"];
        for near in near {
            limits.check(&[NewEvent { headers: headers(near, ""), ..event() }]).unwrap();
        }
        let letter = NewEvent { headers: headers("leftoff-dead-topic", "t"), ..event() };
        LimitsConfig::own().check(&[letter]).unwrap();
        assert!(limits.check(&[]).unwrap_err().to_string().contains("is empty"));
        let error = limits.check(&vec![event(); 10_001]).unwrap_err().to_string();
        assert!(error.contains("10001 is over the limit of 10000"), "{error}");
        limits.check(&vec![event(); 10_000]).unwrap();
    }
}
