//! Revocations: the callers whose credentials from before a moment are refused, and whose
//! connections were ended at that moment.
//!
//! # The moment
//!
//! Tokens say in whole seconds when they were issued (`iat`). So the seconds are compared, and a
//! credential that was issued in the second of the moment counts as issued before it. A caller who
//! gets a new credential in that very second must get another one a second later. A credential that
//! does not say when it was issued is refused for ever.
//!
//! # The topic
//!
//! Each revocation is an event of [`TOPIC`], whose key is the caller. The topic is compacted, so it
//! holds one event for each caller. Nothing is dropped from it: a static key, and a token with a
//! distant end, may outlive everything. A moment is only ever moved forward, so that a repeated or
//! late revocation takes nothing back.
//!
//! In a fleet two nodes may revoke the same caller at once. The later event is the one that is
//! kept. So a node decides once it has applied all that the fleet has stored, and its event is
//! stored only if no other came before it; otherwise the node decides again.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::error;

use super::identity::problem_of_id;
use super::revokers::Revokers;
use crate::broker::{Broker, EventRef, Publish};
use crate::edge::hooks::{Refusal, Revoker};
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::own_topics::{self, FollowedTopic, MAX_DECISIONS};
use crate::topic::TopicName;

/// The name of the topic with the revocations.
const TOPIC: &str = "$revocations";

/// The type of its events.
const EVENT_TYPE: &str = "access.revoked";

/// The most callers that may be revoked.
const MAX_REVOKED: usize = 100_000;

/// The longest wait for this node to apply what the fleet has stored.
const MAX_BEHIND: Duration = Duration::from_secs(10);

/// One revocation, as it is stored and listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revocation {
    /// The id of the caller.
    pub(crate) sub: String,
    /// Credentials that were issued before this moment are refused.
    pub(crate) before: Timestamp,
}

/// The callers who are revoked. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Revocations(Arc<RevocationParts>);

#[derive(Debug)]
struct RevocationParts {
    broker: Broker,
    topic: TopicName,
    /// Held while a revocation is written: of two at once, the later moment holds.
    writing: tokio::sync::Mutex<()>,
    /// Held while a revocation takes effect, so that whoever finds it known finds it done.
    applying: Mutex<()>,
    revoked: RwLock<BTreeMap<Box<str>, Timestamp>>,
    revokers: Revokers,
    /// The task that applies what comes to the topic.
    follower: OnceLock<FollowedTopic>,
}

impl Revocations {
    /// Opens the revocations that are stored, and follows their topic from then on.
    ///
    /// # Errors
    ///
    /// As [`Broker::set_topic`] and [`Broker::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// The topic may exist afterwards.
    pub(crate) async fn open(broker: &Broker) -> Result<Self> {
        let topic = own_topics::prepare(broker, TOPIC, own_topics::keyed()).await?;
        let parts = Arc::new(RevocationParts {
            broker: broker.clone(),
            topic,
            writing: tokio::sync::Mutex::default(),
            applying: Mutex::default(),
            revoked: RwLock::default(),
            revokers: Revokers::default(),
            follower: OnceLock::new(),
        });
        let weak = Arc::downgrade(&parts);
        let apply = move |event: &EventRef<'_>| {
            if let Some(parts) = weak.upgrade() {
                parts.apply_stored(event);
            }
        };
        let follower = own_topics::follow(broker, &parts.topic, apply).await?;
        let _first = parts.follower.set(follower);
        Ok(Self(parts))
    }

    /// Ends all connections of a caller, and refuses its credentials from before a moment, by
    /// default from before `now`. Returns the revocation in effect, which is durable: that of a
    /// later moment, if there was one.
    ///
    /// # Errors
    ///
    /// Nothing has changed then, except where the outcome is unknown. [`Error::Invalid`]: no caller
    /// can have the id, or the moment is later than `now`. [`Error::Full`]: too many callers are
    /// revoked. [`Error::NotCaughtUp`]: this node is too far behind its fleet. As
    /// [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the caller may or may not be revoked.
    pub(crate) async fn revoke(
        &self,
        sub: &str,
        before: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Revocation> {
        if let Some(problem) = problem_of_id(sub) {
            return Err(Error::invalid("sub", format!("{sub:?} {problem}")));
        }
        let before = before.unwrap_or(now);
        if before > now {
            let problem = format!("{before} has not come yet, it is {now}");
            return Err(Error::invalid("before", problem));
        }
        let parts = &self.0;
        let _alone = parts.writing.lock().await;
        let mut decisions = 0;
        loop {
            decisions += 1;
            match parts.decide(sub, before).await {
                Err(Error::UnexpectedSequence { .. }) if decisions < MAX_DECISIONS => {}
                outcome => return outcome,
            }
        }
    }

    /// Returns whether the credentials of a caller that were issued at this time are revoked.
    pub(crate) fn is_revoked(&self, caller: &str, issued: Option<SystemTime>) -> bool {
        self.0.is_revoked(caller, issued)
    }

    /// Returns the moment up to which the credentials of a caller are refused, if it is one of
    /// these that was issued at this time.
    pub(super) fn moment_of(&self, caller: &str, issued: Option<SystemTime>) -> Option<Timestamp> {
        self.0.moment(caller).filter(|_| self.0.is_revoked(caller, issued))
    }

    /// Returns what ends the grants of a caller, whose credential was issued at this time.
    ///
    /// # Errors
    ///
    /// A refusal: the credential is revoked.
    pub(crate) fn admit(
        &self,
        caller: &str,
        issued: Option<SystemTime>,
    ) -> Result<Revoker, Refusal> {
        // The revoker comes first: a revocation from now on either finds it, or is found below.
        let revoker = self.0.revokers.of(caller);
        match self.0.is_revoked(caller, issued) {
            true => Err(Refusal::unauthenticated("the credential is revoked")),
            false => Ok(revoker),
        }
    }

    /// Returns up to `limit` revocations in the order of the callers' ids, after the id `after`.
    pub(crate) fn list(&self, after: &str, limit: usize) -> Vec<Revocation> {
        let revoked = self.0.revoked.read().unwrap_or_else(PoisonError::into_inner);
        let after = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
        let listed = revoked.range::<str, _>((after, Bound::Unbounded)).take(limit);
        listed.map(|(sub, before)| Revocation { sub: sub.to_string(), before: *before }).collect()
    }
}

impl RevocationParts {
    /// Revokes a caller up to a moment, if nothing more holds already. The caller holds the lock.
    ///
    /// # Errors
    ///
    /// As [`Revocations::revoke`]; [`Error::UnexpectedSequence`]: another node was faster.
    async fn decide(&self, sub: &str, before: Timestamp) -> Result<Revocation> {
        // A broker alone has applied all that it has stored.
        let applied = match self.follower.get().filter(|_| !self.broker.is_alone()) {
            Some(follower) => Some(follower.catch_up(&self.broker, MAX_BEHIND).await?),
            None => None,
        };
        let known = self.moment(sub);
        if let Some(later) = known.filter(|known| *known >= before) {
            return Ok(Revocation { sub: sub.into(), before: later });
        }
        if known.is_none() && self.count() >= MAX_REVOKED {
            return Err(Error::full("revoked callers", MAX_REVOKED as u64));
        }
        let revocation = Revocation { sub: sub.into(), before };
        let event = NewEvent::json(&revocation)?.with_key(sub).with_type(EVENT_TYPE);
        own_topics::open(&self.broker, TOPIC, own_topics::keyed()).await?;
        let publish = Publish::one(self.topic.clone(), event);
        let publish = match applied {
            Some(applied) => publish.expecting(applied),
            None => publish,
        };
        self.broker.publish(publish).await?;
        self.apply(&revocation);
        Ok(revocation)
    }

    fn moment(&self, caller: &str) -> Option<Timestamp> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).get(caller).copied()
    }

    fn count(&self) -> usize {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn is_revoked(&self, caller: &str, issued: Option<SystemTime>) -> bool {
        let Some(before) = self.moment(caller) else { return false };
        let seconds = |time: Timestamp| time.as_ms() / 1_000;
        issued.is_none_or(|issued| seconds(issued.into()) <= seconds(before))
    }

    /// Applies an event of the topic. What is no revocation is told, and passed over: the events
    /// after it must take effect.
    fn apply_stored(&self, event: &EventRef<'_>) {
        match serde_json::from_slice::<Revocation>(event.payload) {
            Ok(revocation) => self.apply(&revocation),
            Err(problem) => {
                error!(sequence = %event.sequence, %problem, "an event is no revocation");
                let problem = format!("event {} is no revocation: {problem}", event.sequence);
                self.broker.note_unread(&self.topic, Some(problem));
            }
        }
    }

    /// Refuses the credentials, then ends the connections. A revocation that is known already, or
    /// is of an earlier moment, has no effect.
    fn apply(&self, revocation: &Revocation) {
        let Revocation { sub, before } = revocation;
        let _alone = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.get(sub.as_str()).is_some_and(|known| *known >= *before) {
            return;
        }
        revoked.insert(sub.as_str().into(), *before);
        drop(revoked);
        self.revokers.revoke(sub);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::OpenConfig;

    fn at(ms: u64) -> Option<SystemTime> {
        Some(Timestamp::from_ms(ms).into())
    }

    const NOW: Timestamp = Timestamp::from_ms(1_800_000_000_500);

    async fn open() -> (Broker, Revocations) {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let revocations = Revocations::open(&broker).await.unwrap();
        (broker, revocations)
    }

    #[tokio::test]
    async fn credentials_up_to_the_second_of_the_moment_are_refused_and_streams_end() {
        let (broker, revocations) = open().await;
        let revoker = revocations.admit("u", at(NOW.as_ms())).unwrap();
        let other = revocations.admit("v", None).unwrap();
        let done = revocations.revoke("u", None, NOW).await.unwrap();
        assert_eq!(done, Revocation { sub: "u".into(), before: NOW });
        assert!(revoker.is_revoked() && !other.is_revoked());
        for refused in [None, at(0), at(NOW.as_ms() - 1), at(NOW.as_ms()), at(NOW.as_ms() + 499)] {
            assert!(revocations.admit("u", refused).is_err(), "{refused:?}");
        }
        let next = revocations.admit("u", at(NOW.as_ms() + 500)).unwrap();
        assert!(!next.is_revoked());
        assert!(!revocations.is_revoked("v", None));
        // What does not say when it was issued is refused from any moment on, and its streams end.
        let first = Timestamp::from_ms(0);
        revocations.revoke("v", Some(first), NOW).await.unwrap();
        assert!(revocations.is_revoked("v", None) && other.is_revoked());
        broker.close().await;
    }

    #[tokio::test]
    async fn a_moment_is_only_moved_forward_and_never_into_the_future() {
        let (broker, revocations) = open().await;
        let earlier = NOW.minus_ms(60_000);
        revocations.revoke("u", Some(earlier), NOW).await.unwrap();
        let newer = revocations.admit("u", at(NOW.as_ms())).unwrap();
        let again = revocations.revoke("u", Some(earlier.minus_ms(1)), NOW).await.unwrap();
        assert_eq!(again.before, earlier);
        assert!(!newer.is_revoked(), "what changes nothing ends nothing");
        revocations.revoke("u", Some(NOW), NOW).await.unwrap();
        assert!(newer.is_revoked());
        let refused = revocations.revoke("u", Some(NOW.plus_ms(1)), NOW).await.unwrap_err();
        assert!(refused.to_string().starts_with("before: "), "{refused}");
        let stored = broker.topic(&TopicName::new(TOPIC).unwrap()).unwrap();
        assert_eq!(stored.extent.tail.get(), 3, "nothing is written that changes nothing");
        broker.close().await;
    }

    /// Goal: what is in the topic holds, whoever wrote it: after a restart, and as it is written.
    #[tokio::test]
    async fn what_others_write_takes_effect_and_holds_after_a_restart() {
        let (broker, revocations) = open().await;
        let revoker = revocations.admit("u", at(NOW.as_ms())).unwrap();
        let written = Revocation { sub: "u".into(), before: NOW };
        let topic = TopicName::new(TOPIC).unwrap();
        let none = NewEvent::new("none").with_key("x");
        let event = NewEvent::json(&written).unwrap().with_key("u");
        broker.publish(Publish::new(topic.clone(), vec![none, event])).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), revoker.revoked()).await.unwrap();
        drop(revocations);
        let reopened = Revocations::open(&broker).await.unwrap();
        assert!(reopened.is_revoked("u", at(NOW.as_ms())));
        assert_eq!(reopened.list("", 10), [written]);
        let config = broker.topic(&topic).unwrap().effective_config;
        assert_eq!((config.key_limit(), config.age_limit_ms()), (Some(1), None));
        broker.close().await;
    }

    /// Goal: of two nodes that revoke a caller at once, the later moment holds, also after a
    /// restart. Method: two registries of one node, which decide without each other.
    #[cfg(feature = "fleet")]
    #[tokio::test]
    async fn an_earlier_moment_of_another_node_takes_nothing_back() {
        use crate::testing::fleet::TestFleet;
        use crate::testing::{Clock, START};

        let fleet = TestFleet::new(1, &Clock::following(START));
        fleet.lead(0).await;
        let broker = fleet.broker(0);
        let open = async || Revocations::open(broker).await.unwrap();
        let nodes = [open().await, open().await];
        for round in 0..10 {
            let caller = format!("u{round}");
            let moments = [NOW, NOW.minus_ms(60_000)];
            let revoke = |node: usize| nodes[node].revoke(&caller, Some(moments[node]), NOW);
            let (later, earlier) = tokio::join!(revoke(0), revoke(1));
            assert_eq!(later.unwrap().before, NOW);
            assert!(earlier.unwrap().before >= moments[1]);
        }
        let restarted = open().await;
        let listed = restarted.list("", 100);
        assert_eq!(listed.len(), 10);
        assert!(listed.iter().all(|it| it.before == NOW), "{listed:?}");
        drop((nodes, restarted));
        fleet.close().await;
    }

    #[tokio::test]
    async fn the_list_is_in_order_and_goes_on_after_an_id() {
        let (broker, revocations) = open().await;
        for sub in ["c", "a", "b"] {
            revocations.revoke(sub, None, NOW).await.unwrap();
        }
        let subs = |list: Vec<Revocation>| list.into_iter().map(|it| it.sub).collect::<Vec<_>>();
        assert_eq!(subs(revocations.list("", 2)), ["a", "b"]);
        assert_eq!(subs(revocations.list("b", 2)), ["c"]);
        broker.close().await;
    }

    /// Goal: so many callers can be revoked, and one who is can be revoked again.
    #[tokio::test]
    async fn there_are_so_many_revocations() {
        let (broker, revocations) = open().await;
        for number in 0..MAX_REVOKED {
            let before = Timestamp::from_ms(1);
            revocations.0.apply(&Revocation { sub: format!("u{number}"), before });
        }
        let full = revocations.revoke("one.more", None, NOW).await.unwrap_err();
        assert!(matches!(full, Error::Full { limit: 100_000, .. }), "{full}");
        assert_eq!(revocations.revoke("u7", None, NOW).await.unwrap().before, NOW);
        broker.close().await;
    }

    /// Goal: a caller who is let in while it is revoked is either refused, or its grant ends.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_caller_that_comes_while_it_is_revoked_does_not_slip_through() {
        let (broker, revocations) = open().await;
        for round in 0..200 {
            let caller = format!("u{round}");
            let coming: Vec<_> = (0..4)
                .map(|_| {
                    let (revocations, caller) = (revocations.clone(), caller.clone());
                    tokio::spawn(async move { revocations.admit(&caller, at(NOW.as_ms())) })
                })
                .collect();
            revocations.revoke(&caller, None, NOW).await.unwrap();
            for coming in coming {
                let admitted = coming.await.unwrap();
                assert!(admitted.is_err() || admitted.is_ok_and(|it| it.is_revoked()), "{round}");
            }
        }
        broker.close().await;
    }
}
