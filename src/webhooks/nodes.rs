//! Webhooks on the nodes of a fleet: each node has all of them, as their topic says, and the node
//! that leads sends to the receivers.
//!
//! # Why
//!
//! Changes of webhooks are rare, so any node decides, once it has read all that the fleet has
//! stored: also that there is nothing to change. Its record is stored only if no other came before
//! it. Otherwise the node reads that one, and decides again. The counts of requests are those of
//! the node that sends, and begin anew with another leader.
//!
//! A webhook that is made has a consumer of its own, which no other one of its name has or had. So
//! a node that was late, and whose record is not stored, never deletes the place of the one that
//! is.
//!
//! A record that this version cannot read is never passed over: the node would decide on less than
//! there is, and would not start any more. It keeps the webhooks as they were before, changes none,
//! and says so, until it can read the record.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::error;

use super::kept::WebhooksParts;
use super::loading::{LoadedWebhooks, load, record_of};
use crate::broker::{LeadershipWatch, Run};
use crate::error::{Error, Result};
use crate::own_topics::{NextOwn, OwnReader};

/// Decides on a change, and again each time that another node was faster. A closure would do, but
/// the compiler could not tell that its future is `Send`.
macro_rules! decided {
    ($parts:expr, $decide:expr) => {{
        let mut decisions = 0;
        loop {
            decisions += 1;
            if let Err(error) = $parts.catch_up().await {
                break Err(error);
            }
            match $decide.await {
                Err($crate::error::Error::UnexpectedSequence { .. })
                    if decisions < $crate::own_topics::MAX_DECISIONS => {}
                outcome => break outcome,
            }
        }
    }};
}

pub(super) use decided;

/// The longest wait for this node to read a record that is stored.
const MAX_BEHIND: Duration = Duration::from_secs(10);

/// The pause after a failed read.
const RETRY: Duration = Duration::from_secs(1);

impl WebhooksParts {
    /// Waits until everything is applied that the fleet has stored by now. Of a broker alone, all
    /// is applied.
    ///
    /// # Errors
    ///
    /// [`Error::NotLeading`]: the leader cannot be asked; [`Error::NotCaughtUp`]: this node is too
    /// far behind. Nothing was changed.
    pub(super) async fn catch_up(&self) -> Result<()> {
        if self.broker.is_alone() {
            return Ok(());
        }
        let stored = self.broker.stored_through(&self.topic).await?;
        let late = |_| Error::NotCaughtUp { waited_ms: MAX_BEHIND.as_millis() as u64 };
        self.read_to(stored).await.map_err(late)
    }

    /// Waits until the record with this sequence is applied.
    ///
    /// # Errors
    ///
    /// [`Error::OutcomeUnknown`]: that takes too long.
    pub(super) async fn read_to(&self, sequence: u64) -> Result<()> {
        let mut reached = self.reached.subscribe();
        let read = tokio::time::timeout(MAX_BEHIND, reached.wait_for(|it| *it >= sequence)).await;
        read.map(drop).map_err(|_late| {
            let problem = "another node has stored it, and it is not read here";
            Error::OutcomeUnknown(std::io::Error::other(problem).into())
        })
    }

    /// Applies records, up to one that cannot be read.
    ///
    /// # Errors
    ///
    /// As [`record_of`].
    fn apply_run(&self, run: &Run) -> Result<()> {
        for event in run.events() {
            let (name, record) = record_of(&event)?;
            self.apply(&name, record.map(Arc::new));
        }
        Ok(())
    }

    /// Tells those who operate the broker that the records cannot be read, or can be again.
    fn note(&self, problem: Option<&Error>) {
        if let Some(error) = problem {
            error!(%error, "the webhooks cannot be read; retrying");
        }
        self.broker.note_unread(&self.topic, problem.map(|error| error.to_string()));
    }
}

/// Applies what comes to the topic, and begins and ends sending with the leadership, for as long as
/// somebody has the webhooks.
pub(super) async fn follow(
    parts: Weak<WebhooksParts>,
    mut reader: OwnReader,
    mut leadership: LeadershipWatch,
) {
    let mut is_missing = false;
    loop {
        let next = tokio::select! {
            () = std::future::ready(()), if is_missing => Ok(NextOwn::Missing),
            () = leadership.changed(), if !is_missing => Ok(NextOwn::None),
            next = reader.next(), if !is_missing => next,
        };
        let Some(parts) = parts.upgrade() else { return };
        parts.send(leadership.leads());
        let read = match next {
            Ok(NextOwn::These(run)) => parts.apply_run(&run).map(|()| false),
            Ok(NextOwn::None) => Ok(false),
            Ok(NextOwn::Missing) => Ok(true),
            Ok(NextOwn::End) | Err(Error::ShuttingDown) => return,
            Err(error) => Err(error),
        };
        is_missing = match read {
            Ok(is_missing) => is_missing,
            Err(error) => {
                parts.note(Some(&error));
                tokio::time::sleep(RETRY).await;
                true
            }
        };
        if is_missing {
            match load(&parts.broker, &parts.topic).await {
                Ok(LoadedWebhooks { records, reader: after }) => {
                    parts.begin(records);
                    parts.note(None);
                    (reader, is_missing) = (after, false);
                }
                Err(Error::ShuttingDown) => return,
                Err(error) => {
                    parts.note(Some(&error));
                    tokio::time::sleep(RETRY).await;
                    continue; // Nothing more is reached.
                }
            }
        }
        parts.reached.send_replace(reader.reached().get());
    }
}

#[cfg(test)]
#[cfg(feature = "fleet")]
mod tests {
    use super::super::WebhooksConfig;
    use super::super::registry::Webhooks;
    use super::super::settings::{PutWebhook, WebhookName, WebhookSettings};
    use super::super::state::WebhookCounts;
    use crate::consumers::{Consumers, ConsumersConfig};
    use crate::testing::fleet::TestFleet;
    use crate::testing::{Clock, START, until};

    async fn webhooks(fleet: &TestFleet, node: usize) -> Webhooks {
        let broker = fleet.broker(node);
        let consumers = Consumers::open(broker, &ConsumersConfig::default()).await.unwrap();
        Webhooks::open(broker, &consumers, &WebhooksConfig::default()).await.unwrap()
    }

    fn wanted() -> PutWebhook {
        let settings = WebhookSettings::new("orders".parse().unwrap(), "https://example.com/");
        PutWebhook::new(settings)
    }

    fn name(text: &str) -> WebhookName {
        text.parse().unwrap()
    }

    /// Goal: each node has all webhooks, and the one that leads sends.
    #[tokio::test]
    async fn every_node_has_all_webhooks_and_the_leader_sends() {
        let fleet = TestFleet::new(2, &Clock::following(START));
        let nodes = [webhooks(&fleet, 0).await, webhooks(&fleet, 1).await];
        let (first, second) = (name("first"), name("second"));
        for leader in [0, 1] {
            fleet.lead(leader).await;
            let other = &nodes[1 - leader];
            let made = if leader == 0 { &first } else { &second };
            nodes[leader].put(made, wanted()).await.unwrap();
            assert!(nodes[leader].has(made), "it is there once it is answered");
            until("the other node has it", || other.has(made)).await;
            until("the leader sends", || nodes[leader].parts().is_sending(&first)).await;
            until("the other does not", || !other.parts().is_sending(&first)).await;
            let info = nodes[leader].pause(made).await.unwrap();
            let is_paused = || other.list(None, 9).iter().any(|it| it.paused == info.paused);
            until("the other node knows that it is paused", is_paused).await;
            assert_eq!(nodes[0].list(None, 9).len(), leader + 1);
        }
        nodes[1].delete(&first).await.unwrap();
        until("it is gone", || !nodes[0].has(&first) && nodes[0].has(&second)).await;
        assert_eq!(nodes[0].list(None, 9)[0].state, WebhookCounts::default());
        drop(nodes);
        fleet.close().await;
    }

    /// Goal: with each record it is said again who sends, which waits for nobody who reads the
    /// webhooks, unless it changes.
    #[tokio::test]
    async fn who_sends_is_said_again_while_the_webhooks_are_read() {
        let fleet = TestFleet::new(1, &Clock::following(START));
        fleet.lead(0).await;
        let hooks = webhooks(&fleet, 0).await;
        let sends = || hooks.parts().sends.load(std::sync::atomic::Ordering::SeqCst);
        until("the leader sends", sends).await;
        let (said, told) = std::sync::mpsc::sync_channel(1);
        let (parts, read) = (hooks.parts(), hooks.parts().hooks());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                parts.send(true);
                said.send(()).unwrap();
            });
            let told = told.recv_timeout(std::time::Duration::from_secs(10));
            drop(read);
            told.expect("it waits for those who read");
        });
        drop(hooks);
        fleet.close().await;
    }

    /// Goal: of two changes at the same time on two nodes none is lost.
    /// Method: two registries of one node, which decide without each other.
    #[tokio::test]
    async fn changes_of_two_nodes_at_once_are_both_made() {
        let fleet = TestFleet::new(1, &Clock::following(START));
        fleet.lead(0).await;
        let nodes = [webhooks(&fleet, 0).await, webhooks(&fleet, 0).await];
        let name = name("one");
        nodes[0].put(&name, wanted()).await.unwrap();
        until("both have it", || nodes[1].has(&name)).await;
        for round in 0..20 {
            let (paused, rotated) =
                tokio::join!(nodes[0].pause(&name), nodes[1].rotate(&name, Default::default()));
            paused.unwrap();
            let key = rotated.unwrap().info.keys;
            let is_both = |node: usize| {
                let listed = nodes[node].list(None, 1);
                listed[0].paused.is_some() && listed[0].keys == key
            };
            until("each has both changes", || is_both(0) && is_both(1)).await;
            nodes[round % 2].resume(&name).await.unwrap();
        }
        drop(nodes);
        fleet.close().await;
    }

    /// Goal: a node that was late, and whose webhook is not stored, leaves the place of the one
    /// that is; also one that deletes what was made anew meanwhile. Method: the late node decides
    /// on what it knew before.
    #[tokio::test]
    async fn a_node_that_is_late_never_takes_the_place_of_a_webhook_away() {
        let fleet = TestFleet::new(2, &Clock::following(START));
        fleet.connect();
        fleet.lead(0).await;
        let nodes = [webhooks(&fleet, 0).await, webhooks(&fleet, 1).await];
        let (name, broker) = (name("one"), fleet.broker(0));
        let publish = async || {
            let event = crate::NewEvent::new("order");
            broker.publish(crate::Publish::one("orders".parse().unwrap(), event)).await.unwrap();
        };
        publish().await;
        fleet.read_all(1).await;
        fleet.hold(1, true);
        nodes[0].put(&name, wanted()).await.unwrap();
        nodes[0].pause(&name).await.unwrap();
        publish().await;
        let waiting = async || nodes[0].get(&name).await.unwrap().lag.unwrap().unfinished;
        assert_eq!(waiting().await, 1);
        nodes[1].parts().put(&name, wanted()).await.unwrap_err();
        assert_eq!(waiting().await, 1, "its place is as it was");
        fleet.hold(1, false);
        until("the other node has it", || nodes[1].has(&name)).await;
        fleet.hold(1, true);
        nodes[0].delete(&name).await.unwrap();
        nodes[0].put(&name, wanted()).await.unwrap();
        nodes[0].pause(&name).await.unwrap();
        publish().await;
        nodes[1].parts().delete(&name).await.unwrap_err();
        assert_eq!(waiting().await, 1, "its place is as it was");
        fleet.hold(1, false);
        drop(nodes);
        fleet.close().await;
    }

    /// Goal: a record that cannot be read is passed over by no node: it is told, nothing is changed
    /// on less than there is, and all goes on once it can be read.
    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_told_and_nothing_is_changed_meanwhile() {
        let fleet = TestFleet::new(1, &Clock::following(START));
        fleet.lead(0).await;
        let broker = fleet.broker(0);
        let hooks = webhooks(&fleet, 0).await;
        let (one, two) = (name("one"), name("two"));
        hooks.put(&one, wanted()).await.unwrap();
        let topic: crate::TopicName = "$webhooks".parse().unwrap();
        let publish = async |event| {
            broker.publish(crate::Publish::one(topic.clone(), event)).await.unwrap();
        };
        publish(crate::NewEvent::new("of a later version").with_key("two")).await;
        let told = || broker.unread_topics().into_iter().find(|(unread, _)| *unread == topic);
        until("it is told", || told().is_some()).await;
        assert!(told().unwrap().1.contains("two at sequence 2"), "{:?}", told());
        assert!(hooks.has(&one) && !hooks.has(&two));
        let consumers = Consumers::open(broker, &ConsumersConfig::default()).await.unwrap();
        let start = Webhooks::open(broker, &consumers, &WebhooksConfig::default()).await;
        start.unwrap_err();
        let refused = hooks.parts().read_to(2);
        let refused = tokio::time::timeout(std::time::Duration::from_millis(100), refused).await;
        assert!(refused.is_err(), "nothing is decided on less than there is");
        publish(crate::NewEvent::tombstone("two")).await;
        hooks.put(&two, wanted()).await.unwrap();
        assert!(hooks.has(&two) && told().is_none());
        drop(hooks);
        fleet.close().await;
    }
}
