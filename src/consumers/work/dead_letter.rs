//! Dead letters: what an event becomes that no worker finished.
//!
//! A dead letter is the event as it was published, in another topic, with headers that say why and
//! where from. No publisher can set them (`DEAD_LETTER_PREFIX`). A dead letter has no id, because a
//! publish that repeats an id is stored once, and no time to live.

use super::window_entry::WindowEntry;
use crate::event::{Event, NewEvent};

/// The header with the reason that the last worker gave, or that its lease ran out.
pub const DEAD_REASON_HEADER: &str = "leftoff-dead-reason";

/// The header with the topic that the event was in.
pub const DEAD_TOPIC_HEADER: &str = "leftoff-dead-topic";

/// The header with the sequence that the event had there.
pub const DEAD_SEQUENCE_HEADER: &str = "leftoff-dead-sequence";

/// The header with the number of deliveries.
pub const DEAD_TRIES_HEADER: &str = "leftoff-dead-tries";

/// The header with the name of the consumer.
pub const DEAD_CONSUMER_HEADER: &str = "leftoff-dead-consumer";

/// The header with the publisher's own id of the event, if it had one.
pub const DEAD_ID_HEADER: &str = "leftoff-dead-id";

/// The reason where no worker has given one.
const RAN_OUT: &str = "the lease ran out";

/// Returns the dead letter of an event; `None` if its topic is not known, because it is gone.
pub(super) fn dead_letter(consumer: &str, entry: &WindowEntry, event: &Event) -> Option<NewEvent> {
    let topic = entry.topic.as_ref()?;
    let reason = if entry.ran_out { RAN_OUT } else { &entry.reason };
    // Workers send what their errors say, of many lines, and a header has one.
    let reason = reason.replace(char::is_control, " ");
    let mut letter = NewEvent { id: String::new(), ttl_ms: None, ..event.content.clone() };
    let id = &event.content.id;
    let headers = [
        (DEAD_REASON_HEADER, reason),
        (DEAD_TOPIC_HEADER, topic.to_string()),
        (DEAD_SEQUENCE_HEADER, event.sequence.to_string()),
        (DEAD_TRIES_HEADER, entry.tries.to_string()),
        (DEAD_CONSUMER_HEADER, consumer.to_owned()),
        (DEAD_ID_HEADER, id.clone()),
    ];
    for (name, value) in headers {
        match value.is_empty() {
            true => drop(letter.headers.remove(name)),
            false => drop(letter.headers.insert(name.to_owned(), value)),
        }
    }
    Some(letter)
}
