//! What is kept of webhooks: the records in their topic and in memory, and each change of them.
//!
//! The file is long, because each change is one act on the record and on the state beside it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::client::WebhookClient;
use super::config::WebhooksConfig;
use super::hosts::HostLimits;
use super::info::{MadeWebhook, WebhookInfo, WebhookLag};
use super::loading::{LoadedWebhooks, load};
use super::settings::{PutWebhook, RotateWebhook, WebhookName, WebhookSettings};
use super::signing::{SignatureKind, WebhookKey};
use super::state::HookState;
use super::stored::{EVENT_TYPE, PauseReason, TOPIC, WebhookPause, WebhookRecord};
use super::telling::{self, Happening, STATUS_TOPIC};
use crate::broker::{Broker, Publish};
use crate::consumers::{
    ConsumerId, ConsumerName, ConsumerSettings, Consumers, OF_WEBHOOKS, WorkQueue, WorkSettings,
};
use crate::cursor::StartPoint;
use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};
use crate::own_topics;
use crate::secret::Secret;
use crate::topic::TopicName;

/// How long the key before a new one still signs, if nobody says otherwise, and the longest.
const KEEP_OLD_KEY: Duration = Duration::from_secs(24 * 3_600);
const MAX_KEEP_OLD_KEY: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What the webhooks and their tasks share.
pub(super) struct WebhooksParts {
    pub(super) broker: Broker,
    pub(super) config: WebhooksConfig,
    pub(super) client: WebhookClient,
    pub(super) hosts: HostLimits,
    pub(super) consumers: Consumers,
    pub(super) topic: TopicName,
    status_topic: TopicName,
    /// The last record on which the present change is decided.
    decided_on: AtomicU64,
    /// Held while a change is decided and stored.
    writing: tokio::sync::Mutex<()>,
    hooks: RwLock<BTreeMap<WebhookName, Hook>>,
    start: StartTask,
    /// Whether this node sends to receivers: that which leads does.
    pub(super) sends: AtomicBool,
    /// The sequence of the last record that is applied, on a node of a fleet.
    pub(super) reached: watch::Sender<u64>,
    /// Told when no further request begins.
    stopping: CancellationToken,
}

/// Starts the task of a webhook; `None` if the webhooks are gone.
pub(super) type StartTask = Box<dyn Fn(HookParts) -> Option<AbortOnDropHandle<()>> + Send + Sync>;

/// What the task of a webhook has of it.
pub(super) struct HookParts {
    pub(super) name: WebhookName,
    pub(super) record: watch::Receiver<Arc<WebhookRecord>>,
    pub(super) state: Arc<HookState>,
}

/// One webhook, with its task.
pub(super) struct Hook {
    pub(super) record: watch::Sender<Arc<WebhookRecord>>,
    pub(super) state: Arc<HookState>,
    /// `None` where this node sends nothing, and once somebody waits for the task's end.
    task: Option<AbortOnDropHandle<()>>,
}

impl WebhooksParts {
    /// Opens what is stored. No task begins before [`Self::begin`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a file of the settings is wrong, or a stored webhook. As
    /// [`Broker::subscribe`].
    pub(super) async fn open(
        broker: &Broker,
        consumers: &Consumers,
        config: &WebhooksConfig,
        start: StartTask,
    ) -> Result<(Self, LoadedWebhooks)> {
        let client = WebhookClient::new(config)?;
        let (topic, status_topic) = (TopicName::new(TOPIC)?, TopicName::new(STATUS_TOPIC)?);
        let loaded = load(broker, &topic).await?;
        let parts = Self {
            broker: broker.clone(),
            config: config.clone(),
            client,
            hosts: HostLimits::default(),
            consumers: consumers.clone().of_webhooks(),
            topic,
            status_topic,
            decided_on: AtomicU64::new(0),
            writing: tokio::sync::Mutex::default(),
            hooks: RwLock::default(),
            start,
            sends: AtomicBool::new(broker.leads()),
            reached: watch::Sender::new(loaded.reader.reached().get()),
            stopping: CancellationToken::new(),
        };
        Ok((parts, loaded))
    }

    /// Has the webhooks be those that are stored.
    pub(super) fn begin(&self, records: BTreeMap<WebhookName, WebhookRecord>) {
        let gone = |name: &&WebhookName| !records.contains_key(*name);
        let gone: Vec<WebhookName> = self.hooks().keys().filter(gone).cloned().collect();
        gone.iter().for_each(|name| self.apply(name, None));
        for (name, record) in records {
            self.apply(&name, Some(Arc::new(record)));
        }
    }

    /// Begins to send to receivers, or ends it at once. Events whose requests were under way are
    /// sent again when their leases run out.
    pub(super) fn send(&self, sends: bool) {
        if self.sends.load(Ordering::SeqCst) == sends {
            return; // It is asked for with each record, and changes with the leadership only.
        }
        let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
        self.sends.store(sends, Ordering::SeqCst);
        for (name, hook) in hooks.iter_mut() {
            if !sends {
                hook.task = None;
            } else if hook.task.is_none() && !self.stopping.is_cancelled() {
                let (record, state) = (hook.record.subscribe(), hook.state.clone());
                hook.task = (self.start)(HookParts { name: name.clone(), record, state });
            }
        }
    }

    /// Ends all tasks.
    pub(super) fn end(&self) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Has no further request begin, and waits until those that are under way have ended.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the requests that are left are given up.
    pub(super) async fn finish(&self) {
        self.stopping.cancel();
        let tasks: Vec<AbortOnDropHandle<()>> = {
            let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
            hooks.values_mut().filter_map(|hook| hook.task.take()).collect()
        };
        for task in tasks {
            let _ended = task.await;
        }
    }

    /// Waits until no further request begins, because the webhooks or the broker stop.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub(super) async fn ending(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.broker.draining() => {}
        }
    }

    /// Returns whether no further request begins.
    pub(super) fn is_ending(&self) -> bool {
        self.stopping.is_cancelled() || self.broker.is_draining()
    }

    /// Returns all webhooks.
    pub(super) fn hooks(&self) -> RwLockReadGuard<'_, BTreeMap<WebhookName, Hook>> {
        self.hooks.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node sends for a webhook.
    #[cfg(test)]
    pub(super) fn is_sending(&self, name: &WebhookName) -> bool {
        self.hooks().get(name).is_some_and(|hook| hook.task.is_some())
    }

    /// Returns a webhook's record and state.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`].
    pub(super) fn hook(&self, name: &WebhookName) -> Result<(Arc<WebhookRecord>, Arc<HookState>)> {
        let hooks = self.hooks();
        let hook = hooks.get(name).ok_or_else(|| Error::UnknownWebhook(name.to_string()))?;
        Ok((hook.record.borrow().clone(), hook.state.clone()))
    }

    /// Returns a webhook as it is shown.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`].
    pub(super) fn info(&self, name: &WebhookName) -> Result<WebhookInfo> {
        let (record, state) = self.hook(name)?;
        let queue = self.consumers.work(&consumer_of(name, &record)?);
        Ok(WebhookInfo::of(name, &record, state.counts(), queue.status().ok()))
    }

    /// Returns how far a webhook is behind.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`]; as [`Consumers::counts`].
    pub(super) async fn lag(&self, name: &WebhookName) -> Result<WebhookLag> {
        let (record, _) = self.hook(name)?;
        let counts = self.consumers.counts(&consumer_of(name, &record)?, &[]).await?;
        // Without filters there is one count.
        Ok(counts.counts.first().copied().unwrap_or_default().into())
    }

    /// Returns the queue of a webhook. Its consumer is given the settings of the webhook first.
    ///
    /// # Errors
    ///
    /// As [`Consumers::put`] and [`Consumers::work`].
    pub(super) async fn queue(
        &self,
        name: &WebhookName,
        record: &WebhookRecord,
    ) -> Result<WorkQueue> {
        let id = consumer_of(name, record)?;
        let settings = self.consumer_settings(name, &record.settings)?;
        self.consumers.put(id.clone(), settings, None).await?;
        Ok(self.consumers.work(&id))
    }

    fn consumer_settings(
        &self,
        name: &WebhookName,
        settings: &WebhookSettings,
    ) -> Result<ConsumerSettings> {
        let dead_letter = match &settings.dead_letter {
            Some(topic) => topic.clone(),
            None => format!("webhooks.{name}.dead").parse()?,
        };
        let max_tries = settings.max_tries.map_or(self.config.max_tries, u64::from);
        // With batches, up to as many are taken besides those that are sent.
        let events = settings.max_batch_events.saturating_mul(settings.max_in_flight + 1);
        let shared = WorkSettings {
            lease_ms: self.config.lease_ms,
            max_tries: max_tries as u32,
            dead_letter: Some(dead_letter).filter(|_| max_tries > 0),
            max_in_flight: events.min(100_000),
            max_in_flight_per_worker: events.min(100_000),
            ..WorkSettings::default()
        };
        shared.validate(&settings.topic)?;
        let filter = settings.filter.clone();
        Ok(ConsumerSettings { filter, shared: Some(shared), ..ConsumerSettings::default() })
    }

    /// Makes a webhook, or gives it other settings.
    ///
    /// # Errors
    ///
    /// As [`Webhooks::put`](super::Webhooks::put).
    pub(super) async fn put(&self, name: &WebhookName, wanted: PutWebhook) -> Result<MadeWebhook> {
        let PutWebhook { settings, from, signature, secret } = wanted;
        settings.check(&self.config, &self.client)?;
        let consumer = self.consumer_settings(name, &settings)?;
        let given = secret.map(|secret| WebhookKey::parse(secret.expose())).transpose()?;
        if let (Some(given), Some(kind)) = (&given, signature)
            && given.kind() != kind
        {
            return Err(Error::invalid("signature", "is not that of the secret"));
        }
        let _alone = self.alone().await;
        let now = self.broker.now();
        if let Ok((record, _)) = self.hook(name) {
            let has = |key: &WebhookKey| record.keys.first().is_some_and(|it| it.key == *key);
            let kind = record.keys.first().map(|it| it.key.kind());
            if given.as_ref().is_some_and(|given| !has(given))
                || signature.is_some_and(|wanted| Some(wanted) != kind)
            {
                let problem = "is that of a webhook that exists; give it another by rotating it";
                return Err(Error::invalid("secret", problem));
            }
            self.give(name, &record, settings, now).await?;
            return Ok(MadeWebhook { info: self.info(name)?, secret: None });
        }
        if self.hooks().len() as u64 >= self.config.max_webhooks {
            return Err(Error::full("webhooks", self.config.max_webhooks));
        }
        let key = given.unwrap_or_else(|| WebhookKey::random(signature.unwrap_or_default()));
        // Another node may make one of this name at this moment, whose consumer is never this one.
        let queue = (!self.broker.is_alone()).then(|| format!("{:08x}", rand::random::<u32>()));
        let record = WebhookRecord { queue, ..WebhookRecord::new(settings, key.clone(), now) };
        let id = consumer_of(name, &record)?;
        if record.queue.is_none() {
            // One of an earlier webhook of that name may be left, if the broker was killed.
            self.delete_consumer(&id).await?;
        }
        let from = Some(from.unwrap_or(StartPoint::Latest));
        self.consumers.put(id.clone(), consumer, from).await?;
        let is_of_fleet = record.queue.is_some();
        if let Err(error) = self.write(name, Some(record), Happening::Created).await {
            if is_of_fleet && !error.outcome_unknown() {
                // No record names it. If that fails, it is left until a node begins to lead.
                let _left = self.delete_consumer(&id).await;
            }
            return Err(error);
        }
        info!(webhook = %name, "a webhook is made");
        Ok(MadeWebhook { info: self.info(name)?, secret: told(&key) })
    }

    /// Changes the named settings of a webhook.
    ///
    /// # Errors
    ///
    /// As [`Webhooks::update`](super::Webhooks::update).
    pub(super) async fn update(
        &self,
        name: &WebhookName,
        change: Map<String, Value>,
    ) -> Result<WebhookInfo> {
        let _alone = self.alone().await;
        let (record, _) = self.hook(name)?;
        let invalid = |error: serde_json::Error| Error::invalid("body", error.to_string());
        let mut settings = serde_json::to_value(&record.settings).map_err(invalid)?;
        for (field, value) in change {
            match value {
                Value::Null => drop(settings.as_object_mut().and_then(|it| it.remove(&field))),
                value => settings[field] = value,
            }
        }
        let settings: WebhookSettings = serde_json::from_value(settings).map_err(invalid)?;
        settings.check(&self.config, &self.client)?;
        self.consumer_settings(name, &settings)?;
        self.give(name, &record, settings, self.broker.now()).await?;
        self.info(name)
    }

    /// Gives a webhook other settings.
    async fn give(
        &self,
        name: &WebhookName,
        record: &WebhookRecord,
        settings: WebhookSettings,
        now: Timestamp,
    ) -> Result<()> {
        if settings.topic != record.settings.topic {
            let problem = format!(
                "is {:?} and cannot be changed; make another webhook, and delete this one",
                record.settings.topic.as_str()
            );
            return Err(Error::invalid("topic", problem));
        }
        if settings == record.settings {
            return Ok(());
        }
        let record = WebhookRecord { settings, updated: now, ..record.clone() };
        self.write(name, Some(record), Happening::Updated).await
    }

    /// Deletes a webhook with its consumer.
    ///
    /// # Errors
    ///
    /// As [`Webhooks::delete`](super::Webhooks::delete).
    pub(super) async fn delete(&self, name: &WebhookName) -> Result<()> {
        let _alone = self.alone().await;
        let (record, _) = self.hook(name)?;
        self.write(name, None, Happening::Deleted).await?;
        info!(webhook = %name, "a webhook is deleted");
        self.delete_consumer(&consumer_of(name, &record)?).await
    }

    /// Deletes a consumer, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Consumers::delete`].
    pub(super) async fn delete_consumer(&self, id: &ConsumerId) -> Result<()> {
        match self.consumers.delete(id).await {
            Err(Error::UnknownConsumer(_)) => Ok(()),
            outcome => outcome,
        }
    }

    /// Pauses a webhook, unless it is paused.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`]; as [`Broker::publish`].
    pub(super) async fn pause(
        &self,
        name: &WebhookName,
        reason: PauseReason,
        problem: String,
    ) -> Result<()> {
        let _alone = self.alone().await;
        let (record, _) = self.hook(name)?;
        // A pause that does not end by itself takes the place of one that does.
        let is_kept = |pause: &WebhookPause| pause.reason.rank() >= reason.rank();
        if record.paused.as_ref().is_some_and(is_kept) {
            return Ok(());
        }
        let pause = WebhookPause { reason, since: self.broker.now(), problem };
        info!(webhook = %name, reason = reason.as_str(), problem = pause.problem, "paused");
        let record = WebhookRecord { paused: Some(pause.clone()), ..(*record).clone() };
        self.write(name, Some(record), Happening::Paused(pause)).await
    }

    /// Ends the pause of a webhook, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Self::pause`].
    pub(super) async fn resume(&self, name: &WebhookName, by_itself: bool) -> Result<()> {
        let _alone = self.alone().await;
        let (record, state) = self.hook(name)?;
        state.forgive(Instant::now());
        match &record.paused {
            None => return Ok(()),
            Some(pause) if by_itself && pause.reason != PauseReason::Failing => return Ok(()),
            Some(_) => {}
        }
        info!(webhook = %name, by_itself, "resumed");
        let record = WebhookRecord { paused: None, ..(*record).clone() };
        self.write(name, Some(record), Happening::Resumed { by_itself }).await
    }

    /// Ends the delays of the events that failed.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`]; as [`WorkQueue::hasten`].
    pub(super) async fn hasten(&self, name: &WebhookName) -> Result<()> {
        let (record, _) = self.hook(name)?;
        let queue = self.consumers.work(&consumer_of(name, &record)?);
        // A webhook that has sent nothing yet has no consumer.
        match queue.status() {
            Ok(status) if status.delayed > 0 => queue.hasten().await,
            _ => Ok(()),
        }
    }

    /// Gives a webhook another key.
    ///
    /// # Errors
    ///
    /// As [`Webhooks::rotate`](super::Webhooks::rotate).
    pub(super) async fn rotate(
        &self,
        name: &WebhookName,
        wanted: RotateWebhook,
    ) -> Result<MadeWebhook> {
        let RotateWebhook { signature, secret, keep_old } = wanted;
        let keep_old = keep_old.unwrap_or(KEEP_OLD_KEY);
        if keep_old > MAX_KEEP_OLD_KEY {
            let problem = format!(
                "{} is over the most, {}",
                keep_old.as_millis(),
                MAX_KEEP_OLD_KEY.as_millis()
            );
            return Err(Error::invalid("keep_old_ms", problem));
        }
        let given = secret.map(|secret| WebhookKey::parse(secret.expose())).transpose()?;
        let _alone = self.alone().await;
        let (record, _) = self.hook(name)?;
        let kind = record.keys.first().map(|it| it.key.kind());
        let kind = signature.or(kind).unwrap_or_default();
        let key = given.unwrap_or_else(|| WebhookKey::random(kind));
        if key.kind() != kind && signature.is_some() {
            return Err(Error::invalid("signature", "is not that of the secret"));
        }
        let now = self.broker.now();
        let until = now.plus_ms(keep_old.as_millis() as u64);
        let rotated = record.rotated(key.clone(), now, until)?;
        self.write(name, Some(rotated), Happening::Rotated).await?;
        Ok(MadeWebhook { info: self.info(name)?, secret: told(&key) })
    }

    /// Returns the right to change webhooks. What is known by then is what a change is decided on:
    /// it is not stored if others have changed a webhook since.
    pub(super) async fn alone(&self) -> tokio::sync::MutexGuard<'_, ()> {
        let alone = self.writing.lock().await;
        self.decided_on.store(*self.reached.borrow(), Ordering::SeqCst);
        alone
    }

    /// Stores a webhook, or its end, with the event that tells of it; then applies it. The caller
    /// holds the lock.
    async fn write(
        &self,
        name: &WebhookName,
        record: Option<WebhookRecord>,
        happening: Happening,
    ) -> Result<()> {
        let stored = event_of(name, record.as_ref())?;
        telling::open(&self.broker).await?;
        let told = Publish::one(self.status_topic.clone(), happening.event(name)?);
        if !self.broker.is_alone() {
            return self.store_expecting(stored, Some(told)).await;
        }
        // A broker without webhooks has no topic of them.
        own_topics::open(&self.broker, TOPIC, own_topics::keyed()).await?;
        let stored = Publish::one(self.topic.clone(), stored);
        self.broker.publish_own(vec![stored, told]).await?;
        self.apply(name, record.map(Arc::new));
        Ok(())
    }

    /// Stores an event of a webhook at a node of a fleet, and what is told of it. Waits until it is
    /// read, and so holds here.
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedSequence`]: another node has changed a webhook meanwhile. As
    /// [`Broker::publish`].
    async fn store_expecting(&self, stored: NewEvent, told: Option<Publish>) -> Result<()> {
        own_topics::open(&self.broker, TOPIC, own_topics::keyed()).await?;
        let stored = Publish::one(self.topic.clone(), stored)
            .expecting(self.decided_on.load(Ordering::SeqCst));
        let publishes = std::iter::once(stored).chain(told).collect();
        let acks = self.broker.publish_own(publishes).await?;
        self.read_to(acks.first().map_or(0, |ack| ack.last().sequence.get())).await
    }

    /// Stores a webhook as it is once more, or that there is none of this name: what another node
    /// of the fleet has decided before that is not stored any more. The caller holds the lock.
    ///
    /// # Errors
    ///
    /// [`Error::UnexpectedSequence`]: another node was faster. As [`Broker::publish`].
    pub(super) async fn store_again(&self, name: &WebhookName) -> Result<()> {
        if self.broker.is_alone() {
            return Ok(());
        }
        let record = self.hook(name).ok().map(|(record, _)| record);
        self.store_expecting(event_of(name, record.as_deref())?, None).await
    }

    /// Makes a webhook what is stored of it.
    pub(super) fn apply(&self, name: &WebhookName, record: Option<Arc<WebhookRecord>>) {
        let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = record else {
            hooks.remove(name); // Its task ends.
            return;
        };
        if let Some(hook) = hooks.get(name) {
            hook.record.send_replace(record);
            return;
        }
        let (record, changes) = watch::channel(record);
        let state = Arc::new(HookState::new(Instant::now()));
        let parts = HookParts { name: name.clone(), record: changes, state: state.clone() };
        let sends = self.sends.load(Ordering::SeqCst) && !self.stopping.is_cancelled();
        let task = if sends { (self.start)(parts) } else { None };
        hooks.insert(name.clone(), Hook { record, state, task });
    }
}

/// Returns the event that stores a webhook, or that there is none of this name.
fn event_of(name: &WebhookName, record: Option<&WebhookRecord>) -> Result<NewEvent> {
    Ok(match record {
        Some(record) => NewEvent::json(record)?.with_key(name.as_str()).with_type(EVENT_TYPE),
        None => NewEvent::tombstone(name.as_str()),
    })
}

/// Returns the consumer of a webhook.
pub(super) fn consumer_of(name: &WebhookName, record: &WebhookRecord) -> Result<ConsumerId> {
    let name = match &record.queue {
        Some(queue) => format!("{OF_WEBHOOKS}{name}:{queue}"),
        None => format!("{OF_WEBHOOKS}{name}"),
    };
    Ok(ConsumerId::new(record.settings.topic.clone(), ConsumerName::new(&name)?))
}

/// Returns the key that is told: the secret that the receiver needs, too.
fn told(key: &WebhookKey) -> Option<Secret> {
    (key.kind() == SignatureKind::Hmac).then(|| Secret::from(key.to_text()))
}
