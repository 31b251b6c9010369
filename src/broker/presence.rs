//! Presence: which members are subscribed to a topic, by the names that readers give.
//!
//! A member with several subscriptions, in several tabs for example, counts once: it joins with the
//! first one, and leaves with the last one. Followers of the topic are told of both, by ephemeral
//! events.
//!
//! In a fleet, a member may have subscriptions at several nodes, and counts once all the same: it
//! has a [`MemberElsewhere`] for each other node, and a `MemberRelay` hears of those at this one.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::arrivals::{Arrival, Deposit, Leftover};
use crate::broker::shared::Shared;
use crate::broker::topic::members::{Member, MemberChange, Present};
use crate::broker::topic::topics::TopicRef;
use crate::error::Result;
use crate::event::NewEvent;
use crate::topic::TopicName;

/// A list of the members of a topic, in the order of their ids, in small steps.
#[derive(Debug)]
pub struct MemberList {
    topic: Option<TopicRef>,
    after: String,
    left: usize,
}

impl MemberList {
    /// Returns a list of up to `limit` members after the id `after`. It is empty if the broker does
    /// not know the topic.
    pub(super) fn new(topic: Option<TopicRef>, after: &str, limit: usize) -> Self {
        Self { topic, after: after.to_owned(), left: limit }
    }
}

impl Iterator for MemberList {
    type Item = Vec<Present>;

    /// Returns the next members; `None` if there are no more.
    fn next(&mut self) -> Option<Vec<Present>> {
        let some = self.topic.as_ref()?.members.some_after(&self.after, self.left);
        self.after = some.last()?.member.id.clone();
        self.left -= some.len();
        Some(some)
    }
}

/// The presence of a member in its topics, for as long as this value lives.
#[derive(Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    /// The names of the topics, until the member has joined all of them.
    names: Vec<TopicName>,
    topics: Vec<TopicRef>,
    /// The number of topics that the member has joined: the first ones.
    joined: usize,
    member: Arc<Member>,
    deposit: Option<Deposit>,
}

impl Presence {
    /// Joins these topics, all of them or none.
    pub(super) async fn join(
        shared: Arc<Shared>,
        names: &[TopicName],
        member: Member,
        deposit: Option<Deposit>,
    ) -> Result<Self> {
        member.validate()?;
        let arrivals = shared.arrivals.clone();
        let (names, member) = (names.to_vec(), Arc::new(member));
        let presence = Self { shared, names, topics: Vec::new(), joined: 0, member, deposit };
        arrivals.arrive(presence).await
    }

    /// Opens the next of the member's topics. It joins none before all are open.
    fn follow_next(&mut self) -> Result<()> {
        let name = &self.names[self.topics.len()];
        self.topics.push(self.shared.topics.follow(name)?);
        Ok(())
    }

    /// Joins the next of the member's topics.
    fn join_next(&mut self) -> Result<()> {
        let Self { shared, topics, joined, member, .. } = self;
        let topic = &topics[*joined];
        topic.members.join(member, (shared.now)(), shared.max_members, |change| {
            shared.note_member(topic, member, change, JOINED);
        })?;
        *joined += 1;
        Ok(())
    }
}

impl Arrival for Presence {
    fn put_in(&mut self, entries: usize) -> Result<bool> {
        for _ in 0..entries {
            if self.topics.len() < self.names.len() {
                self.follow_next()?;
            } else if self.joined < self.names.len() {
                self.join_next()?;
            }
        }
        let has_more = self.joined < self.names.len();
        if !has_more {
            self.names = Vec::new();
        }
        Ok(has_more)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.arrivals.leave(GoneMember {
            shared: self.shared.clone(),
            topics: std::mem::take(&mut self.topics),
            joined: self.joined,
            member: self.member.clone(),
            _deposit: self.deposit.take(),
        });
    }
}

/// The entries that are left of a member that is gone.
#[derive(Debug)]
struct GoneMember {
    shared: Arc<Shared>,
    topics: Vec<TopicRef>,
    /// The number of topics that the member is still in: the first ones.
    joined: usize,
    member: Arc<Member>,
    _deposit: Option<Deposit>,
}

impl Leftover for GoneMember {
    fn take_out(&mut self, entries: usize) -> bool {
        for _ in 0..entries {
            let Some(topic) = self.topics.pop() else { break };
            if self.topics.len() < self.joined {
                topic.members.leave(&self.member.id, |change| {
                    self.shared.note_member(&topic, &self.member, change, LEFT);
                });
            }
        }
        !self.topics.is_empty()
    }
}

impl Shared {
    /// Tells the followers of a topic, and the other nodes of a fleet, what a subscription of a
    /// member has changed.
    fn note_member(
        &self,
        topic: &TopicRef,
        member: &Member,
        change: MemberChange,
        event_type: &str,
    ) {
        if change.is_told {
            self.deliver_ephemeral(topic, told(event_type, member));
        }
        #[cfg(feature = "fleet")]
        if let Some(relay) = self.members.get() {
            relay.note(&topic.name, &member.id, change.here > 0);
        }
    }
}

/// The presence of a member in a topic at another node, for as long as this value lives. Followers
/// here are told when the member comes and goes, as if it were here.
#[cfg(feature = "fleet")]
#[derive(Debug)]
pub(crate) struct MemberElsewhere {
    shared: Arc<Shared>,
    topic: TopicRef,
    told: Present,
}

#[cfg(feature = "fleet")]
impl MemberElsewhere {
    /// Makes a member present.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid), [`Error::OverLimit`](crate::Error::OverLimit):
    /// nothing is changed.
    pub(super) fn join(shared: Arc<Shared>, topic: &TopicName, told: Present) -> Result<Self> {
        told.member.validate()?;
        let topic = shared.topics.follow(topic)?;
        put_elsewhere(&shared, &topic, &told, None)?;
        Ok(Self { shared, topic, told })
    }

    /// Changes what is told of the member.
    ///
    /// # Errors
    ///
    /// As for [`Broker::member_elsewhere`](crate::Broker): nothing is changed.
    pub(crate) fn change(&mut self, told: Present) -> Result<()> {
        told.member.validate()?;
        put_elsewhere(&self.shared, &self.topic, &told, Some(&self.told))?;
        self.told = told;
        Ok(())
    }
}

#[cfg(feature = "fleet")]
fn put_elsewhere(
    shared: &Shared,
    topic: &TopicRef,
    told: &Present,
    was: Option<&Present>,
) -> Result<()> {
    topic.members.join_elsewhere(told, was, shared.max_members, || {
        shared.deliver_ephemeral(topic, self::told(JOINED, &told.member));
    })
}

#[cfg(feature = "fleet")]
impl Drop for MemberElsewhere {
    fn drop(&mut self) {
        let Self { shared, topic, told } = self;
        topic.members.leave_elsewhere(&told.member.id, told.subscriptions, || {
            shared.deliver_ephemeral(topic, self::told(LEFT, &told.member));
        });
    }
}

/// The types of the events that tell of members.
const JOINED: &str = "leftoff.joined";
const LEFT: &str = "leftoff.left";

fn told(event_type: &str, member: &Member) -> NewEvent {
    NewEvent {
        event_type: event_type.to_owned(),
        key: member.id.clone(),
        content_type: "application/json".to_owned(),
        payload: Bytes::from(serde_json::to_vec(member).expect("texts and JSON are JSON")),
        ..NewEvent::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use futures_util::poll;

    use super::*;
    use crate::broker::topic::members::MEMBERS_PER_LOCK;
    use crate::broker::{Broker, OpenConfig};

    fn member(id: &str) -> Member {
        Member { id: id.to_owned(), info: BTreeMap::default() }
    }

    fn names(count: usize) -> Vec<TopicName> {
        (0..count).map(|number| format!("t.{number}").parse().unwrap()).collect()
    }

    async fn until_dropped(deposit: &Deposit) {
        let wait = async {
            while Arc::strong_count(deposit) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the member leaves");
    }

    /// Goal: a member of a thousand topics joins in small steps. Wherever that is given up, and
    /// when the member goes, it is in none of the topics, and no other member has left.
    #[tokio::test]
    async fn a_member_that_is_given_up_anywhere_while_it_joins_is_in_no_topic() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let (topics, deposit): (_, Deposit) = (names(1_000), Arc::new(()));
        let _other = broker.join(&topics[..500], member("other")).await.unwrap();
        let present = |id: &str| {
            let is_there = |topic: &&TopicName| {
                broker.presence(topic, "", 9).iter().any(|present| present.member.id == id)
            };
            topics.iter().filter(is_there).count()
        };
        for wanted in [0, 1, 300, 600, topics.len(), topics.len() + 1] {
            let join = broker.join_with(&topics, member("m"), Some(deposit.clone()));
            let mut join = Box::pin(join);
            if wanted > topics.len() {
                let joined = join.await.unwrap();
                assert_eq!(present("m"), topics.len());
                drop(joined);
            } else {
                // The thread may have joined all topics before the poll returns.
                let begun = if wanted > 0 { Some(poll!(join.as_mut())) } else { None };
                let wait = async {
                    while present("m") < wanted {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it comes");
                drop((join, begun));
            }
            until_dropped(&deposit).await;
            assert_eq!((present("m"), present("other")), (0, 500));
        }
    }

    /// Goal: a list of members that is read in steps has each member that stays exactly once, in
    /// the order of ids, whoever comes and goes between two steps.
    #[tokio::test]
    async fn a_list_has_each_member_who_stays_once_while_others_come_and_go() {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let topic = names(1);
        let join = async |id: String| broker.join(&topic, member(&id)).await.unwrap();
        let (mut stay, mut go) = (Vec::new(), Vec::new());
        for number in 0..10 * MEMBERS_PER_LOCK {
            let members = if number % 2 == 0 { &mut stay } else { &mut go };
            members.push(join(format!("m{number:03}")).await);
        }
        let mut listed = Vec::new();
        for (step, some) in broker.list_members(&topic[0], "m001", usize::MAX).enumerate() {
            assert!(some.len() <= MEMBERS_PER_LOCK);
            listed.extend(some.into_iter().map(|present| present.member.id));
            go.pop();
            go.push(join(format!("m{step:03}x")).await);
        }
        let sorted: std::collections::BTreeSet<_> = listed.iter().cloned().collect();
        assert_eq!(Vec::from_iter(sorted), listed, "in order, and nobody twice");
        let stayed: Vec<_> = stay.iter().map(|presence| presence.member.id.clone()).collect();
        let found: Vec<_> = listed.into_iter().filter(|id| stayed.contains(id)).collect();
        assert_eq!(found, stayed[1..]);
        let two = broker.presence(&topic[0], "", 2);
        assert_eq!(two.iter().map(|p| p.member.id.as_str()).collect::<Vec<_>>(), ["m000", "m001"]);
        assert!(broker.presence(&"nobody".parse().unwrap(), "", 9).is_empty());
    }
}
