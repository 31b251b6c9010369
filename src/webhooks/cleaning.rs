//! Cleaning: consumers of webhooks that no webhook has are deleted.
//!
//! A webhook is made in two steps: first its consumer, then its record. A node that ends in between
//! leaves the consumer behind, and so does one that ends while it deletes a webhook. The node that
//! leads, or the broker alone, looks for such consumers when it begins to.
//!
//! # Why
//!
//! Another node may be between the two steps at this moment, for as long as its system suspends it.
//! So the record of that name is stored once more, or its end, before the consumer is deleted: a
//! record is stored only if none came since its node had decided on it, so the other one is
//! refused, and its node decides again, with another consumer.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use tracing::{info, warn};

use super::kept::{WebhooksParts, consumer_of};
use super::nodes::decided;
use super::settings::WebhookName;
use crate::broker::LeadershipWatch;
use crate::consumers::{ConsumerId, ConsumerList, OF_WEBHOOKS};
use crate::error::Result;
use crate::polls;

/// The consumers that are listed at once.
const LIST: usize = 1_000;

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// Cleans each time that this node begins to lead, for as long as somebody has the webhooks.
pub(super) async fn clean_while_leading(
    parts: Weak<WebhooksParts>,
    mut leadership: LeadershipWatch,
) {
    loop {
        if leadership.leads() {
            let Some(parts) = parts.upgrade() else { return };
            let cleaned = parts.clean().await;
            drop(parts);
            if let Err(error) = &cleaned {
                warn!(%error, "consumers of webhooks that are gone cannot be found; retrying");
            }
            if !matches!(cleaned, Ok(0)) {
                tokio::select! {
                    () = leadership.changed() => {}
                    () = tokio::time::sleep(RETRY) => {}
                }
                continue;
            }
        }
        leadership.changed().await;
    }
}

impl WebhooksParts {
    /// Deletes the consumers of webhooks that no webhook has. Returns the number of those that are
    /// left because that failed, or because this node leads no longer, or ends.
    ///
    /// # Errors
    ///
    /// As [`Self::catch_up`]. Nothing was deleted.
    pub(super) async fn clean(&self) -> Result<usize> {
        self.catch_up().await?;
        let left = self.left_behind().await?;
        let mut count = left.len();
        for (name, id) in left {
            if self.is_ending() || !self.broker.leads() {
                break;
            }
            let deleted: Result<()> = decided!(self, self.delete_left(&name, &id));
            match deleted {
                Ok(()) => count -= 1,
                Err(error) => {
                    let id = id.name.as_str();
                    warn!(consumer = id, %error, "a consumer of no webhook cannot be deleted yet");
                }
            }
        }
        Ok(count)
    }

    /// Deletes a consumer, unless its webhook was made meanwhile.
    async fn delete_left(&self, name: &WebhookName, id: &ConsumerId) -> Result<()> {
        let _alone = self.alone().await;
        if self.has_consumer(id)? {
            return Ok(());
        }
        self.store_again(name).await?;
        self.delete_consumer(id).await?;
        info!(webhook = %name, consumer = id.name.as_str(), "a consumer of no webhook is deleted");
        Ok(())
    }

    /// Returns the consumers of webhooks that no webhook has, each with the name of its webhook.
    /// One that does not share its events is none of a webhook: an earlier version let a host make
    /// it.
    async fn left_behind(&self) -> Result<Vec<(WebhookName, ConsumerId)>> {
        let mut known = BTreeSet::new();
        for (name, hook) in &*self.hooks() {
            known.insert(consumer_of(name, &hook.record.borrow())?);
        }
        let mut left = Vec::new();
        let mut of = ConsumerList::default();
        (of.owner, of.limit) = (Some(String::new()), LIST);
        loop {
            let listed = self.consumers.list(&of);
            for info in &listed {
                if let Some(name) = webhook_of(&info.id)
                    && info.settings.shared.is_some()
                    && !known.contains(&info.id)
                {
                    left.push((name, info.id.clone()));
                }
            }
            if listed.len() < LIST {
                return Ok(left);
            }
            of.after = listed.into_iter().next_back().map(|info| info.id);
            polls::rest().await;
        }
    }

    /// Whether a webhook has this consumer.
    fn has_consumer(&self, id: &ConsumerId) -> Result<bool> {
        let Some(name) = webhook_of(id) else { return Ok(false) };
        let Ok((record, _)) = self.hook(&name) else { return Ok(false) };
        Ok(consumer_of(&name, &record)? == *id)
    }
}

/// Returns the webhook of a consumer by its name; `None` if that is none of a webhook.
fn webhook_of(id: &ConsumerId) -> Option<WebhookName> {
    let name = id.name.as_str().strip_prefix(OF_WEBHOOKS)?;
    name.split_once(':').map_or(name, |(name, _queue)| name).parse().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::WebhooksConfig;
    use super::super::registry::Webhooks;
    use super::super::settings::{PutWebhook, WebhookSettings};
    use super::*;
    use crate::broker::{Broker, Publish};
    use crate::consumers::{
        Checkpoint, ConsumerChange, ConsumerName, ConsumerSettings, Consumers, ConsumersConfig,
        Mark, MarkRequest, MarkedEvents, WorkSettings,
    };
    use crate::event::NewEvent;
    use crate::testing::{Builder, Fault, FaultyLog, until};

    fn wanted() -> PutWebhook {
        let settings = WebhookSettings::new("orders".parse().unwrap(), "https://example.com/");
        PutWebhook::new(settings)
    }

    fn name(text: &str) -> WebhookName {
        text.parse().unwrap()
    }

    async fn opened(broker: &Broker) -> (Consumers, Webhooks) {
        let consumers = Consumers::open(broker, &ConsumersConfig::default()).await.unwrap();
        let hooks = Webhooks::open(broker, &consumers, &WebhooksConfig::default()).await.unwrap();
        (consumers, hooks)
    }

    fn id(name: &str) -> ConsumerId {
        ConsumerId::new("orders".parse().unwrap(), ConsumerName::new(name).unwrap())
    }

    /// Makes a consumer of this name, as a node does that ends before it stores its webhook.
    async fn leave(consumers: &Consumers, name: &str) {
        let settings = ConsumerSettings::default().shared(WorkSettings::default());
        consumers.clone().of_webhooks().put(id(name), settings, None).await.unwrap();
    }

    fn names(consumers: &Consumers) -> Vec<String> {
        let listed = consumers.list(&ConsumerList::default());
        listed.iter().map(|info| info.id.name.as_str().to_owned()).collect()
    }

    /// Goal: a broker alone deletes the consumers of webhooks that are not there when it is opened,
    /// and no others.
    #[tokio::test]
    async fn what_a_killed_broker_has_left_goes_when_it_is_opened() {
        let broker = crate::testing::broker();
        let (consumers, hooks) = opened(&broker).await;
        hooks.put(&name("kept"), wanted()).await.unwrap();
        leave(&consumers, "webhook:left").await;
        consumers.put(id("mine"), ConsumerSettings::default(), None).await.unwrap();
        assert_eq!(names(&consumers), ["mine", "webhook:kept", "webhook:left"]);
        drop(hooks);
        let (consumers, hooks) = opened(&broker).await;
        until("it is gone", || names(&consumers) == ["mine", "webhook:kept"]).await;
        assert!(hooks.has(&name("kept")));
    }

    /// Goal: a consumer that cannot be deleted keeps no other from being deleted, and goes later.
    #[tokio::test]
    async fn one_that_cannot_be_deleted_stays_alone_and_goes_later() {
        let log = Arc::new(FaultyLog::default());
        let broker = Builder::default().log(log.clone()).open().unwrap();
        let (consumers, hooks) = opened(&broker).await;
        drop(hooks);
        for name in ["webhook:a", "webhook:b", "webhook:c"] {
            leave(&consumers, name).await;
        }
        log.fail(log.appends() + 1, Fault::DiskFull);
        let hooks = Webhooks::open(&broker, &consumers, &WebhooksConfig::default()).await.unwrap();
        until("the others are gone", || names(&consumers) == ["webhook:a"]).await;
        assert_eq!(hooks.parts().clean().await.unwrap(), 0);
        assert_eq!(names(&consumers), Vec::<String>::new());
    }

    /// Goal: nobody but webhooks makes or changes a consumer whose name is one of theirs. One that
    /// a host has made all the same, with an earlier version, is not taken for one that is left.
    #[tokio::test]
    async fn a_hosts_own_consumer_is_never_taken_for_one_of_a_webhook() {
        let broker = crate::testing::broker();
        let (consumers, hooks) = opened(&broker).await;
        let (mine, settings) = (id("webhook:mine"), ConsumerSettings::default());
        let order = Publish::one("orders".parse().unwrap(), NewEvent::new("order"));
        broker.publish(order).await.unwrap();
        let first = "1".parse().unwrap();
        let marks = MarkRequest::of(MarkedEvents::up_to(first)).mark(Mark::Read);
        let refused = [
            consumers.put(mine.clone(), settings.clone(), None).await.map(drop),
            consumers.update(&mine, ConsumerChange::default()).await.map(drop),
            consumers.checkpoint(&mine, Checkpoint::at(first)).await.map(drop),
            consumers.mark(&mine, marks, "me").await.map(drop),
        ];
        for refused in refused {
            let told = refused.unwrap_err().to_string();
            assert!(told.contains("\"webhook:mine\" is of a webhook; names that begin"), "{told}");
        }
        assert_eq!(names(&consumers), Vec::<String>::new());
        consumers.clone().of_webhooks().put(mine.clone(), settings, None).await.unwrap();
        assert_eq!(hooks.parts().clean().await.unwrap(), 0);
        assert_eq!(names(&consumers), ["webhook:mine"]);
        consumers.delete(&mine).await.unwrap();
    }

    /// Goal: a node that begins to lead deletes what others have left behind. The place of a
    /// webhook stays, also one of the same name.
    #[cfg(feature = "fleet")]
    #[tokio::test]
    async fn what_a_killed_node_has_left_goes_when_another_one_leads() {
        use crate::testing::fleet::TestFleet;
        use crate::testing::{Clock, START};

        let fleet = TestFleet::new(2, &Clock::following(START));
        fleet.connect();
        fleet.lead(0).await;
        let (consumers, first) = opened(fleet.broker(0)).await;
        let (_, second) = opened(fleet.broker(1)).await;
        let kept = name("kept");
        first.put(&kept, wanted()).await.unwrap();
        let place = names(&consumers);
        assert!(place.len() == 1 && place[0].starts_with("webhook:kept:"), "{place:?}");
        for name in ["webhook:kept:00000001", "webhook:left:00000002"] {
            leave(&consumers, name).await;
        }
        fleet.lead(1).await;
        until("they are gone", || names(&consumers) == place).await;
        assert!(first.has(&kept) && second.has(&kept));
        assert!(!first.has(&name("left")) && !second.has(&name("left")));
        drop((first, second));
        fleet.close().await;
    }
}
