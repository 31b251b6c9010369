//! Webhooks on the nodes of a fleet: each node has all of them, as their topic says, and the node
//! that leads sends to the receivers.
//!
//! # Why
//!
//! Changes of webhooks are rare, so any node decides, once it has read all that the fleet has
//! stored: also that there is nothing to change. Its record is stored only if no other came before
//! it. Otherwise the node reads that one, and decides again. The
//! counts of requests are those of the node that sends, and begin anew with another leader.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tracing::error;

use super::kept::WebhooksParts;
use super::loading::{LoadedWebhooks, load, record_of};
use crate::broker::{LeadershipWatch, Run};
use crate::error::{Error, Result};
use crate::own_topics::{NextOwn, OwnReader};

/// The most decisions on one change.
pub(super) const MAX_DECISIONS: usize = 20;

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
                    if decisions < $crate::webhooks::nodes::MAX_DECISIONS => {}
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

    fn apply_run(&self, run: &Run) {
        for event in run.events() {
            match record_of(&event) {
                Ok((name, record)) => self.apply(&name, record.map(Arc::new)),
                Err(error) => error!(%error, "a record of a webhook is passed over"),
            }
        }
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
            () = leadership.changed() => Ok(NextOwn::None),
            next = reader.next() => next,
        };
        let Some(parts) = parts.upgrade() else { return };
        parts.send(leadership.leads());
        is_missing = match next {
            Ok(NextOwn::These(run)) => {
                parts.apply_run(&run);
                false
            }
            Ok(NextOwn::None) => false,
            Ok(NextOwn::Missing) => true,
            Ok(NextOwn::End) | Err(Error::ShuttingDown) => return,
            Err(error) => {
                error!(%error, "the webhooks cannot be read; retrying");
                tokio::time::sleep(RETRY).await;
                true
            }
        };
        if is_missing {
            match load(&parts.broker, &parts.topic).await {
                Ok(LoadedWebhooks { records, reader: after }) => {
                    parts.begin(records);
                    (reader, is_missing) = (after, false);
                }
                Err(error) => {
                    error!(%error, "the webhooks cannot be loaded; retrying");
                    tokio::time::sleep(RETRY).await;
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
}
