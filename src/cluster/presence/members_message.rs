//! The wire form of what a node tells of its members: an object of JSON.
//!
//! ```text
//! number   0        1        2         3         4         5
//!        begin…   page   page, end   change    change    begin…
//!        └──────── pass 0 ─────────┘                     └─ pass 1
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::broker::{Member, Present};
use crate::topic::TopicName;

/// The number of the form that is written; messages of another form are skipped.
const FORM: u8 = 1;

/// A message with members of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MembersMessage {
    form: u8,
    /// The process that tells it.
    pub(super) incarnation: u64,
    /// The number of the message; each one of the process has the next number.
    pub(super) number: u64,
    /// The pass over all members to which the message belongs, or after which it comes.
    pub(super) pass: u64,
    /// Whether it is the first message of the pass, and whether it is the last one.
    pub(super) begins: bool,
    pub(super) ends: bool,
    pub(super) members: Vec<ToldMember>,
}

/// A member of a topic. One without subscriptions is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ToldMember {
    pub(super) topic: String,
    pub(super) member: Member,
    since_ms: u64,
    pub(super) subscriptions: u32,
}

impl MembersMessage {
    /// Returns an empty message.
    pub(super) fn new(incarnation: u64, number: u64, pass: u64) -> Self {
        let members = Vec::new();
        Self { form: FORM, incarnation, number, pass, begins: false, ends: false, members }
    }

    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("texts and numbers are JSON").into()
    }

    /// Reads a message; `None` if it is none that this version knows.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(message).ok().filter(|message| message.form == FORM)
    }
}

impl ToldMember {
    pub(super) fn new(topic: &TopicName, present: Present) -> Self {
        let Present { member, since_ms, subscriptions } = present;
        Self { topic: topic.to_string(), member, since_ms, subscriptions }
    }

    pub(super) fn into_present(self) -> Present {
        let Self { topic: _, member, since_ms, subscriptions } = self;
        Present { member, since_ms, subscriptions }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_and_one_of_another_form_is_skipped() {
        let member = Member::new("ann").with("name", "Ann").with("age", serde_json::json!(41));
        let topic = "rooms.7".parse().unwrap();
        let mut message = MembersMessage::new(u64::MAX, 7, 3);
        let present = Present { member, since_ms: 1_234, subscriptions: 2 };
        message.members.push(ToldMember::new(&topic, present));
        let bytes = message.encode();
        assert_eq!(MembersMessage::decode(&bytes), Some(message.clone()));
        assert_eq!(MembersMessage::decode(&bytes[1..]), None);
        message.form += 1;
        assert_eq!(MembersMessage::decode(&message.encode()), None);
    }
}
