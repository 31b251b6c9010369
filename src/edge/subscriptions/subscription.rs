//! One subscription, and its messages.

use bytes::Bytes;
use futures_util::future::Aborted;
use serde_json::{Map, Value, json};

use crate::broker::{Delivery, Ephemeral, EventRef, Reader, Run, Waited};
use crate::edge::consumers::answers;
use crate::edge::consumers::telling::News;
use crate::edge::cut_topics::denied_json;
use crate::edge::following::{FollowTurn, Following};
use crate::edge::json::{Carrier, write_ephemeral, write_event};
use crate::edge::{forms, status};
use crate::error::{Error, Result};

/// A subscription, under the client's name for it.
pub(in crate::edge) struct NamedFollowing {
    pub(in crate::edge) name: String,
    pub(in crate::edge) following: Following,
}

/// The outcome of opening a subscription, or of waiting for its next delivery.
pub(in crate::edge) enum SubscriptionTurn {
    Opened(String, Result<Box<NamedFollowing>>),
    Waited(Box<NamedFollowing>, Result<FollowTurn>),
}

impl NamedFollowing {
    /// Returns the beginning of a message that tells the reader's place.
    pub(super) fn tell(&mut self, kind: &str) -> Map<String, Value> {
        let mut message = message(kind);
        message.insert("subscription".to_owned(), json!(self.name));
        message.insert("cursor".to_owned(), json!(self.following.tell().to_string()));
        message
    }

    /// Returns the message with the reader's place, if it has moved since the client was told.
    pub(in crate::edge) fn moved(&mut self) -> Option<String> {
        let has_moved = self.following.has_moved();
        has_moved.then(|| Value::Object(self.tell("cursor")).to_string())
    }

    /// Returns the message with news of the consumer as which the subscription reads. It has no
    /// cursor: no event was passed.
    pub(super) fn news(&self, news: &News) -> Map<String, Value> {
        let (kind, state) = answers::news(news);
        let mut message = message(kind);
        message.insert("subscription".to_owned(), json!(self.name));
        if let Value::Object(state) = state {
            message.extend(state);
        }
        message
    }

    /// Returns the message about topics that the client named and may not read, if there are any.
    /// The topics are forgotten then.
    pub(super) fn denied(&mut self) -> Option<Map<String, Value>> {
        let denied = self.following.left_out().map(|left_out| denied_json(&left_out.denied));
        self.following.forget_left_out();
        let mut error = denied?;
        let topics = error.as_object_mut()?.remove("topics")?;
        if topics.as_array().is_none_or(Vec::is_empty) {
            return None;
        }
        let mut message = message("denied");
        message.insert("subscription".to_owned(), json!(self.name));
        message.insert("topics".to_owned(), topics);
        message.insert("error".to_owned(), error);
        Some(message)
    }

    /// Returns the message of an event that is not stored, for this medium.
    pub(in crate::edge) fn ephemeral(&self, event: &Ephemeral, carrier: Carrier) -> String {
        let name = Value::from(self.name.as_str());
        let write = |event: &Ephemeral, carrier| {
            let mut rest = Vec::new();
            write_ephemeral(event, carrier, &mut rest);
            rest.push(b'}');
            Bytes::from(rest)
        };
        let mut rest = event.encoded(forms::MESSAGE, |event| write(event, Carrier::Whole));
        if !is_carried(carrier, &rest) {
            rest = write(event, carrier);
        }
        let rest = String::from_utf8_lossy(&rest);
        format!(r#"{{"type":"ephemeral","subscription":{name},"event":{rest}"#)
    }

    /// Returns the beginning that the messages of all events have.
    pub(in crate::edge) fn event_prefix(&self) -> String {
        let name = Value::from(self.name.as_str());
        format!(r#"{{"type":"event","subscription":{name},"#)
    }

    /// Returns the messages of the events of `run` without their beginnings, for this medium, and
    /// notes that the client is sent them. A beginning names the client's own subscription; the
    /// rest is the same for all clients, and shared by them.
    pub(in crate::edge) fn event_rests(&mut self, run: &Run, carrier: Carrier) -> Vec<Bytes> {
        self.following.tell_events(run);
        let reader = self.following.reader();
        let form = match reader.is_of_many() {
            false => forms::MESSAGE,
            true => forms::MESSAGE_OF_MANY,
        };
        let write = |event: &EventRef<'_>, bytes: &mut Vec<u8>| {
            write_rest(reader, run, (event, Carrier::Whole), bytes);
        };
        let mut rests: Vec<Bytes> = match reader.has_own_cursors(run) {
            true => run.encoded_alone(write).map(Bytes::from).collect(),
            false => run.encoded_each(form, write),
        };
        if carrier != Carrier::Whole {
            for (rest, event) in rests.iter_mut().zip(run.events()) {
                if !is_carried(carrier, rest) {
                    let mut bytes = Vec::new();
                    write_rest(reader, run, (&event, carrier), &mut bytes);
                    *rest = bytes.into();
                }
            }
        }
        rests
    }
}

/// Whether the medium leaves a message unchanged that was written for one that changes nothing. In
/// JSON, line ends occur only between tokens.
fn is_carried(carrier: Carrier, message: &[u8]) -> bool {
    match carrier {
        Carrier::Whole => true,
        Carrier::DataLines => !message.contains(&b'\r'),
        Carrier::OneLine => !message.iter().any(|byte| matches!(byte, b'\n' | b'\r')),
    }
}

fn write_rest(
    reader: &Reader,
    run: &Run,
    (event, carrier): (&EventRef<'_>, Carrier),
    bytes: &mut Vec<u8>,
) {
    let cursor = match reader.has_own_cursors(run) {
        true => reader.cursor_after(event),
        false => reader.shared_cursor_after(event),
    };
    bytes.extend_from_slice(format!(r#""cursor":"{cursor}","event":"#).as_bytes());
    write_event(run.topic(), event, carrier, bytes);
    bytes.push(b'}');
}

/// Returns the memory that an outcome holds, in bytes.
pub(super) fn held_bytes(turn: &Result<SubscriptionTurn, Aborted>) -> usize {
    match turn {
        Ok(SubscriptionTurn::Waited(
            _,
            Ok(FollowTurn::Waited(Waited::Delivery(Delivery::Events(run)))),
        )) => run.held_bytes(),
        _ => 0,
    }
}

/// Returns the message that a subscription is over.
pub(super) fn ended(name: &str, error: &Error) -> Map<String, Value> {
    let mut message = message("ended");
    message.insert("subscription".to_owned(), json!(name));
    message.insert("error".to_owned(), status::problem_json(error));
    message
}

/// Returns a message of this type, without other fields.
pub(in crate::edge) fn message(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), json!(kind))])
}
