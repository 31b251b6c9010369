//! One subscription of a WebSocket, and the messages of its events.

use futures_util::future::Aborted;
use serde_json::{Map, Value, json};

use crate::broker::{Delivery, EventRef, Reader, Run, Waited};
use crate::edge::consumers::answers;
use crate::edge::consumers::telling::News;
use crate::edge::cut_topics::denied_json;
use crate::edge::following::{FollowTurn, Following};
use crate::edge::forms;
use crate::edge::json::{Carrier, write_event};
use crate::error::Result;

/// A subscription of the connection, under the client's name for it.
pub(super) struct NamedFollowing {
    pub(super) name: String,
    pub(super) following: Following,
}

/// The outcome of opening a subscription, or of waiting for its next delivery.
pub(super) enum SubscriptionTurn {
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
}

impl NamedFollowing {
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

pub(super) fn message(kind: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), json!(kind))])
}

/// Returns the messages of the events of `run` without their beginnings. A beginning names the
/// client's own subscription; the rest is the same for all clients, and shared by them.
pub(super) fn rests(reader: &Reader, run: &Run) -> Vec<bytes::Bytes> {
    let form = match reader.is_of_many() {
        false => forms::MESSAGE,
        true => forms::MESSAGE_OF_MANY,
    };
    let is_own = reader.has_own_cursors(run);
    let encode = |event: &EventRef<'_>, bytes: &mut Vec<u8>| {
        let cursor = match is_own {
            true => reader.cursor_after(event),
            false => reader.shared_cursor_after(event),
        };
        bytes.extend_from_slice(format!(r#""cursor":"{cursor}","event":"#).as_bytes());
        write_event(run.topic(), event, Carrier::Whole, bytes);
        bytes.push(b'}');
    };
    match is_own {
        true => run.encoded_alone(encode).map(bytes::Bytes::from).collect(),
        false => run.encoded_each(form, encode),
    }
}
