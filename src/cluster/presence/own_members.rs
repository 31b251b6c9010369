//! The members at this node, and what is to be told of them.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::members_message::{MembersMessage, ToldMember};
use crate::broker::{Broker, Member, MemberRelay, Present};
use crate::topic::TopicName;

/// The most changes, and the most members of a page, in one message, and the bytes from which on it
/// takes no more of them: as JSON, both stay below the largest message, whatever their texts are.
const MAX_MESSAGE_MEMBERS: usize = 256;
const FULL_MESSAGE_BYTES: usize = 8 << 10;

/// The most changes that wait to be told. Beyond it, others hear of them by the next pass.
const MAX_CHANGES: usize = 16_384;

/// A member of a topic, by its id.
pub(super) type MemberKey = (TopicName, String);

/// The members at this node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::cluster) struct OwnMembers(Arc<OwnParts>);

#[derive(Debug, Default)]
struct OwnParts {
    keys: Mutex<OwnKeys>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct OwnKeys {
    /// All of them; bounded by the subscriptions at this node.
    all: BTreeSet<MemberKey>,
    /// Those with a change that was not told.
    changed: BTreeSet<MemberKey>,
}

impl MemberRelay for OwnMembers {
    fn note(&self, topic: &TopicName, id: &str, is_present: bool) {
        let key = (topic.clone(), id.to_owned());
        let mut keys = self.keys();
        if is_present {
            keys.all.insert(key.clone());
        } else {
            keys.all.remove(&key);
        }
        if keys.changed.len() < MAX_CHANGES {
            keys.changed.insert(key);
        }
        drop(keys);
        self.0.changed.notify_one();
    }
}

impl OwnMembers {
    fn keys(&self) -> MutexGuard<'_, OwnKeys> {
        self.0.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes wait to be told.
    pub(super) fn has_changes(&self) -> bool {
        !self.keys().changed.is_empty()
    }

    /// Waits for a change.
    ///
    /// # Cancel safety
    ///
    /// Safe: a change that came meanwhile ends the next call.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Puts changes into a message, as far as there is room: members as they are now.
    pub(super) fn put_changes(&self, broker: &Broker, message: &mut MembersMessage) {
        put(message, broker, || self.keys().changed.pop_first());
    }

    /// Puts members after `after` into a message, as far as there is room. Returns the last one;
    /// `None` if there are no more.
    pub(super) fn put_page(
        &self,
        broker: &Broker,
        after: Option<MemberKey>,
        message: &mut MembersMessage,
    ) -> Option<MemberKey> {
        let mut last = after;
        let mut is_end = false;
        put(message, broker, || {
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.keys().all.range((from, Bound::Unbounded)).next().cloned();
            is_end = next.is_none();
            last = next.clone().or(last.take());
            next
        });
        last.filter(|_| !is_end)
    }
}

/// Puts the members that `next` names into a message, as far as there is room.
fn put(message: &mut MembersMessage, broker: &Broker, mut next: impl FnMut() -> Option<MemberKey>) {
    let mut bytes = 0;
    while message.members.len() < MAX_MESSAGE_MEMBERS && bytes < FULL_MESSAGE_BYTES {
        let Some((topic, id)) = next() else { return };
        let present = broker.member_here(&topic, &id);
        let present = present.unwrap_or_else(|| gone(id));
        bytes += topic.as_str().len() + present.member.size_bytes();
        message.members.push(ToldMember::new(&topic, present));
    }
}

/// A member without subscriptions.
fn gone(id: String) -> Present {
    Present { member: Member::new(id), since_ms: 0, subscriptions: 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::broker::OpenConfig;
    use crate::cluster::messages::MAX_MESSAGE_BYTES;

    /// Goal: a pass has each member once, in messages that fit, also where every byte of their
    /// texts takes six in JSON.
    #[tokio::test]
    async fn a_pass_has_each_member_once_in_messages_that_fit() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let own = OwnMembers::default();
        broker.relay_members(Box::new(own.clone()));
        let topic: TopicName = "t".repeat(255).parse().unwrap();
        let mut present = Vec::new();
        for number in 0..1_000 {
            let long = |bytes: usize| "\u{1}".repeat(bytes);
            let member = Member::new(format!("{}{number:03}", long(252)));
            let member = if number % 2 == 0 { member.with("info", long(1_000)) } else { member };
            present.push(broker.join(std::slice::from_ref(&topic), member).await.unwrap());
        }
        let (mut after, mut told) = (None, BTreeMap::new());
        loop {
            let mut message = MembersMessage::new(1, 0, 0);
            own.put_changes(&broker, &mut message);
            after = own.put_page(&broker, after, &mut message);
            assert!(message.encode().len() <= MAX_MESSAGE_BYTES);
            assert!(message.members.len() <= 2 * MAX_MESSAGE_MEMBERS);
            for member in message.members {
                *told.entry(member.member.id).or_insert(0) += 1;
            }
            if after.is_none() {
                break;
            }
        }
        assert_eq!((told.len(), own.has_changes()), (1_000, false));
        assert!(told.values().all(|count| *count == 2), "as a change, and in the pass");
    }

    /// Goal: what waits to be told is bounded, and members beyond it are in the next pass.
    #[test]
    fn changes_that_wait_are_bounded_and_a_pass_has_what_they_lack() {
        let own = OwnMembers::default();
        let topic = "t".parse().unwrap();
        for number in 0..MAX_CHANGES + 10 {
            own.note(&topic, &number.to_string(), true);
        }
        let keys = own.keys();
        assert_eq!((keys.changed.len(), keys.all.len()), (MAX_CHANGES, MAX_CHANGES + 10));
    }
}
