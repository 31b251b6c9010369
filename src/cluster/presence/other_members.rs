//! The members at other nodes, as they were heard.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::members_message::{MembersMessage, ToldMember};
use super::own_members::MemberKey;
use crate::broker::{Broker, MemberElsewhere};
use crate::cluster::peers::MAX_PEERS;
use crate::topic::TopicName;

/// The most members that are taken out before others have their turn.
pub(super) const MEMBERS_PER_STEP: usize = 64;

/// The most subscriptions of a member at one node: those of all nodes together can be counted.
const MAX_SUBSCRIPTIONS: u32 = 1 << 24;

/// The members at all other nodes.
#[derive(Debug)]
pub(super) struct OtherMembers {
    broker: Broker,
    /// By the number of the process.
    nodes: HashMap<u64, NodeMembers>,
    max_members: usize,
    /// Members that were told, and are not shown, because there is no room.
    cut: u64,
}

/// The members at one other node.
#[derive(Debug)]
struct NodeMembers {
    /// The number that its next message has.
    next: u64,
    pass: u64,
    /// Whether all messages of the pass were heard, from its first one on.
    is_whole: bool,
    heard: Duration,
    members: BTreeMap<MemberKey, HeardMember>,
}

#[derive(Debug)]
struct HeardMember {
    /// The pass in which the member was told last.
    pass: u64,
    presence: MemberElsewhere,
}

impl OtherMembers {
    pub(super) fn new(broker: Broker, max_members: usize) -> Self {
        Self { broker, nodes: HashMap::new(), max_members, cut: 0 }
    }

    /// Returns the number of members that are shown.
    pub(super) fn count(&self) -> usize {
        self.nodes.values().map(|node| node.members.len()).sum()
    }

    /// Returns how often a member was not shown, because there was no room.
    pub(super) fn cut(&self) -> u64 {
        self.cut
    }

    /// Takes a message of another node at the time `now`. Returns whether the node is new.
    pub(super) async fn hear(&mut self, message: MembersMessage, now: Duration) -> bool {
        let MembersMessage { incarnation, number, pass, begins, ends, members, .. } = message;
        let is_new = !self.nodes.contains_key(&incarnation);
        if is_new && self.nodes.len() >= MAX_PEERS {
            self.cut += members.len() as u64;
            return false;
        }
        let node = self.nodes.entry(incarnation).or_insert_with(NodeMembers::unheard);
        node.heard = now;
        node.is_whole = begins || (node.is_whole && number == node.next && pass == node.pass);
        (node.next, node.pass) = (number.wrapping_add(1), pass);
        for member in members {
            self.put(incarnation, pass, member);
        }
        if ends {
            self.end_pass(incarnation).await;
        }
        is_new
    }

    /// Shows, changes or takes out a member of a node.
    fn put(&mut self, incarnation: u64, pass: u64, told: ToldMember) {
        let Ok(topic) = TopicName::new(&told.topic) else { return };
        let count = self.count();
        let Some(node) = self.nodes.get_mut(&incarnation) else { return };
        let key = (topic, told.member.id.clone());
        if told.subscriptions == 0 {
            node.members.remove(&key);
            return;
        }
        if told.subscriptions > MAX_SUBSCRIPTIONS {
            self.cut += 1;
            return;
        }
        if let Some(heard) = node.members.get_mut(&key) {
            heard.pass = pass;
            if heard.presence.change(told.into_present()).is_err() {
                self.cut += 1;
            }
            return;
        }
        if count >= self.max_members {
            self.cut += 1;
            return;
        }
        match self.broker.member_elsewhere(&key.0, told.into_present()) {
            Ok(presence) => {
                node.members.insert(key, HeardMember { pass, presence });
            }
            Err(_) => self.cut += 1,
        }
    }

    /// Takes out the members of a node that its last pass has not named, if all of that was heard.
    async fn end_pass(&mut self, incarnation: u64) {
        let Some(node) = self.nodes.get_mut(&incarnation).filter(|node| node.is_whole) else {
            return;
        };
        let pass = node.pass;
        let is_gone = |heard: &HeardMember| heard.pass < pass;
        let gone = node.members.iter().filter(|(_, heard)| is_gone(heard));
        let gone: Vec<MemberKey> = gone.map(|(key, _)| key.clone()).collect();
        for some in gone.chunks(MEMBERS_PER_STEP) {
            for key in some {
                node.members.remove(key);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes out the members of nodes that were not heard since the time `since`.
    pub(super) async fn forget_silent(&mut self, since: Duration) {
        let silent: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.heard < since)
            .map(|(&incarnation, _)| incarnation)
            .collect();
        for incarnation in silent {
            let Some(node) = self.nodes.get_mut(&incarnation) else { continue };
            while !node.members.is_empty() {
                for _ in 0..MEMBERS_PER_STEP {
                    node.members.pop_first();
                }
                tokio::task::yield_now().await;
            }
            self.nodes.remove(&incarnation);
        }
    }
}

impl NodeMembers {
    /// A node of which nothing was heard.
    fn unheard() -> Self {
        let members = BTreeMap::new();
        Self { next: 0, pass: 0, is_whole: false, heard: Duration::ZERO, members }
    }
}
