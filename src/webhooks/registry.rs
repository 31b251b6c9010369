//! The webhooks of a broker, as a host and the edges have them.

use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};

use serde_json::{Map, Value};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::cleaning::clean_while_leading;
use super::config::WebhooksConfig;
use super::info::{MadeWebhook, WebhookInfo};
use super::kept::{Hook, HookParts, StartTask, WebhooksParts};
use super::nodes::{self, decided};
use super::runner::Runner;
use super::sending::{attempt_of, ping, signed};
use super::settings::{PutWebhook, RotateWebhook, WebhookName};
use super::state::{WebhookAttempt, WebhookCounts};
use super::stored::PauseReason;
use crate::broker::Broker;
use crate::consumers::Consumers;
use crate::edge::mounting::{PausedWebhook, ShownWebhooks};
use crate::error::{Error, Result};
use crate::event::Timestamp;

/// The webhooks of a broker. Cheap to clone; all clones are one, and their tasks end with the last.
#[derive(Clone)]
pub struct Webhooks(Arc<LiveWebhooks>);

/// The webhooks while somebody has them: dropped, their tasks end, which have the parts, too.
struct LiveWebhooks {
    parts: Arc<WebhooksParts>,
    /// The task that reads what other nodes of a fleet change; `None` for a broker alone.
    _follower: Option<AbortOnDropHandle<()>>,
    /// The task that deletes what killed nodes have left.
    _cleaner: AbortOnDropHandle<()>,
}

impl Drop for LiveWebhooks {
    fn drop(&mut self) {
        self.parts.end();
    }
}

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks")
            .field("count", &self.parts().hooks().len())
            .finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Opens the webhooks of a broker, and goes on where each of them was.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: a setting is wrong, a file of them, or a stored webhook. As
    /// [`Broker::subscribe`].
    ///
    /// # Cancel safety
    ///
    /// Nothing is left behind.
    pub async fn open(
        broker: &Broker,
        consumers: &Consumers,
        config: &WebhooksConfig,
    ) -> Result<Self> {
        config.validate()?;
        let me = Arc::new(OnceLock::<Weak<WebhooksParts>>::new());
        let of_task = me.clone();
        // The task of a webhook has the parts, which must not have themselves.
        let start: StartTask = Box::new(move |hook| {
            let parts = of_task.get()?.upgrade()?;
            let HookParts { name, record, state } = hook;
            let runner = Runner { parts, name, record, state, probed: None };
            Some(AbortOnDropHandle::new(tokio::spawn(runner.run())))
        });
        let leadership = broker.leadership();
        let (parts, loaded) = WebhooksParts::open(broker, consumers, config, start).await?;
        let parts = Arc::new(parts);
        let _first = me.set(Arc::downgrade(&parts));
        parts.begin(loaded.records);
        let follow = || nodes::follow(Arc::downgrade(&parts), loaded.reader, leadership);
        let follow = (!broker.is_alone()).then(follow);
        let _follower = follow.map(|follow| AbortOnDropHandle::new(tokio::spawn(follow)));
        let cleaning = clean_while_leading(Arc::downgrade(&parts), broker.leadership());
        let _cleaner = AbortOnDropHandle::new(tokio::spawn(cleaning));
        Ok(Self(Arc::new(LiveWebhooks { parts, _follower, _cleaner })))
    }

    pub(super) fn parts(&self) -> &Arc<WebhooksParts> {
        &self.0.parts
    }

    /// Makes a webhook, or gives the one of that name other settings. Durable when it returns.
    /// A key that is made is told here, and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`]: a setting is wrong, or cannot be changed.
    /// [`Error::Full`]. As [`Broker::publish`]. Nothing has changed then, except where the outcome
    /// is unknown.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the change is made all the same.
    pub async fn put(&self, name: &WebhookName, wanted: PutWebhook) -> Result<MadeWebhook> {
        let (parts, name) = (self.parts().clone(), name.clone());
        detached(async move { decided!(parts, parts.put(&name, wanted.clone())) }).await
    }

    /// Changes the named settings of a webhook; null unsets one. Source: RFC 7396.
    ///
    /// # Errors
    ///
    /// As [`Self::put`]; [`Error::UnknownWebhook`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn update(
        &self,
        name: &WebhookName,
        change: Map<String, Value>,
    ) -> Result<WebhookInfo> {
        let (parts, name) = (self.parts().clone(), name.clone());
        detached(async move { decided!(parts, parts.update(&name, change.clone())) }).await
    }

    /// Returns a webhook, with how far it is behind.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`].
    ///
    /// # Cancel safety
    ///
    /// As [`Consumers::counts`].
    pub async fn get(&self, name: &WebhookName) -> Result<WebhookInfo> {
        // Where events cannot be counted, everything else is told all the same.
        let lag = self.parts().lag(name).await.ok();
        Ok(WebhookInfo { lag, ..self.parts().info(name)? })
    }

    /// Returns whether there is a webhook of this name.
    pub fn has(&self, name: &WebhookName) -> bool {
        self.parts().hooks().contains_key(name)
    }

    /// Returns up to `limit` webhooks in the order of their names, after the name `after`.
    pub fn list(&self, after: Option<&WebhookName>, limit: usize) -> Vec<WebhookInfo> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names: Vec<WebhookName> = {
            let hooks = self.parts().hooks();
            let range = hooks.range::<WebhookName, _>((after, Bound::Unbounded));
            range.take(limit).map(|(name, _)| name.clone()).collect()
        };
        names.iter().filter_map(|name| self.parts().info(name).ok()).collect()
    }

    /// Deletes a webhook with its place in the topic. Requests that are under way are dropped.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`]; as [`Broker::publish`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn delete(&self, name: &WebhookName) -> Result<()> {
        let (parts, name) = (self.parts().clone(), name.clone());
        detached(async move { decided!(parts, parts.delete(&name)) }).await
    }

    /// Pauses a webhook: no request begins any more. One that is paused stays as it is.
    ///
    /// # Errors
    ///
    /// As [`Self::delete`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn pause(&self, name: &WebhookName) -> Result<WebhookInfo> {
        let (parts, name) = (self.parts().clone(), name.clone());
        let paused = async move {
            decided!(parts, parts.pause(&name, PauseReason::Asked, String::new()))?;
            parts.info(&name)
        };
        detached(paused).await
    }

    /// Ends the pause of a webhook, and the pause after a failure: the events that failed are sent
    /// again at once.
    ///
    /// # Errors
    ///
    /// As [`Self::delete`]; [`Error::Full`]: too many shared consumers are in use. The pause is
    /// over then, and the events that failed wait as long as before.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn resume(&self, name: &WebhookName) -> Result<WebhookInfo> {
        let (parts, name) = (self.parts().clone(), name.clone());
        let resumed = async move {
            decided!(parts, parts.resume(&name, false))?;
            parts.hasten(&name).await?;
            parts.info(&name)
        };
        detached(resumed).await
    }

    /// Gives a webhook another key. The present key signs beside it for a time. The new key is told
    /// here, and nowhere else.
    ///
    /// # Errors
    ///
    /// As [`Self::delete`]; [`Error::Invalid`].
    ///
    /// # Cancel safety
    ///
    /// As [`Self::put`].
    pub async fn rotate(&self, name: &WebhookName, wanted: RotateWebhook) -> Result<MadeWebhook> {
        let (parts, name) = (self.parts().clone(), name.clone());
        detached(async move { decided!(parts, parts.rotate(&name, wanted.clone())) }).await
    }

    /// Begins no further request, and waits until those that are under way are answered and what
    /// became of them is stored. A host calls it before [`Broker::drain`]; otherwise the events of
    /// these requests are sent again after the next start.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the requests that are left are given up, and nothing is lost.
    pub async fn finish(&self) {
        self.parts().finish().await;
    }

    /// Returns the metrics of all webhooks in Prometheus' format.
    pub(crate) fn metrics(&self) -> String {
        let all: Vec<(WebhookName, bool, WebhookCounts)> = {
            let hooks = self.parts().hooks();
            let one = |(name, hook): (&WebhookName, &Hook)| {
                let is_paused = hook.record.borrow().paused.is_some();
                (name.clone(), is_paused, hook.state.counts())
            };
            hooks.iter().map(one).collect()
        };
        type Count = fn(bool, &WebhookCounts) -> u64;
        let metrics: [(&str, &str, Count); 5] = [
            ("delivered_total", "Events that receivers have taken, since the start.", |_, it| {
                it.delivered
            }),
            ("failed_total", "Requests that failed, since the start.", |_, it| it.failed),
            ("in_flight", "Requests that are under way.", |_, it| it.in_flight),
            ("failures_in_a_row", "Failures since the last success.", |_, it| {
                it.failures_in_a_row.into()
            }),
            ("paused", "Whether the webhook is paused.", |is_paused, _| is_paused.into()),
        ];
        let mut text = String::new();
        for (name, help, count) in metrics {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let name = format!("leftoff_webhook_{name}");
            text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (webhook, is_paused, counts) in &all {
                let value = count(*is_paused, counts);
                text.push_str(&format!("{name}{{webhook=\"{webhook}\"}} {value}\n"));
            }
        }
        text
    }

    /// Sends a signed request without an event, and returns what became of it. It counts neither as
    /// a success nor as a failure.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownWebhook`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the receiver may have the request.
    pub async fn test(&self, name: &WebhookName) -> Result<WebhookAttempt> {
        let (record, state) = self.parts().hook(name)?;
        let parts = self.parts();
        let id = format!("ping_{:032x}", rand::random::<u128>());
        let (time, started) = (Timestamp::now(), Instant::now());
        let answer = match parts.client.url(&record.settings.url) {
            Err(problem) => Err(format!("the URL {problem}")),
            Ok(url) => {
                let host = parts.hosts.of(&url, parts.config.max_in_flight_per_host);
                let _room = host.acquire().await;
                parts.client.send(&signed(&record, url, &id, ping(name.as_str()))).await
            }
        };
        let attempt = WebhookAttempt { events: 0, ..attempt_of(answer, id, time, started) };
        state.keep(attempt.clone());
        Ok(attempt)
    }
}

impl ShownWebhooks for Webhooks {
    fn metrics(&self) -> String {
        Self::metrics(self)
    }

    fn paused(&self) -> Vec<PausedWebhook> {
        let hooks = self.parts().hooks();
        let one = |(name, hook): (&WebhookName, &Hook)| {
            let pause = hook.record.borrow().paused.clone()?;
            let (name, since, problem) = (name.to_string(), pause.since, pause.problem);
            Some(PausedWebhook { name, since, problem })
        };
        hooks.iter().filter_map(one).collect()
    }
}

/// Does something in a task of its own, so that it is done also if the caller goes away.
async fn detached<T: Send + 'static>(
    act: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(act).await.unwrap_or_else(|broken| match broken.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_cancelled) => Err(Error::ShuttingDown),
    })
}
