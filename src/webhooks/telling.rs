//! What happens to webhooks, as events of the topic [`STATUS_TOPIC`], for whoever follows it.
//!
//! ```text
//! type webhook.paused, key billing
//! {"webhook":"billing","reason":"failing","problem":"503 Service Unavailable"}
//! ```

use serde::Serialize;

use super::settings::WebhookName;
use super::stored::WebhookPause;
use crate::broker::Broker;
use crate::error::Result;
use crate::event::NewEvent;
use crate::own_topics;
use crate::topic::TopicName;
use crate::topic_config::TopicConfig;

/// The name of the topic.
pub(super) const STATUS_TOPIC: &str = own_topics::WEBHOOKS_STATUS;

/// The age and the bytes past which its events are dropped, if `[topics."$webhooks.status"]` does
/// not say otherwise: 30 days, and 64 MiB.
const MAX_AGE_MS: u64 = 30 * 24 * 3_600_000;
const MAX_BYTES: u64 = 64 << 20;

/// What happened to a webhook.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    Created,
    Updated,
    Deleted,
    Rotated,
    Paused(WebhookPause),
    /// Whether the broker did it by itself, because the receiver has taken an event.
    Resumed {
        by_itself: bool,
    },
}

#[derive(Serialize)]
struct Told<'a> {
    webhook: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_itself: Option<bool>,
}

impl Happening {
    /// Returns the event that tells it.
    ///
    /// # Errors
    ///
    /// As [`NewEvent::json`].
    pub(super) fn event(&self, name: &WebhookName) -> Result<NewEvent> {
        let webhook = name.as_str();
        let mut told = Told { webhook, reason: None, problem: None, by_itself: None };
        let word = match self {
            Self::Created => "webhook.created",
            Self::Updated => "webhook.updated",
            Self::Deleted => "webhook.deleted",
            Self::Rotated => "webhook.rotated",
            Self::Paused(pause) => {
                told.reason = Some(pause.reason.as_str());
                told.problem = Some(pause.problem.as_str()).filter(|it| !it.is_empty());
                "webhook.paused"
            }
            Self::Resumed { by_itself } => {
                told.by_itself = Some(*by_itself);
                "webhook.resumed"
            }
        };
        Ok(NewEvent::json(&told)?.with_key(webhook).with_type(word))
    }
}

/// Makes the topic, unless it is there.
///
/// # Errors
///
/// As [`Broker::set_topic`].
pub(super) async fn open(broker: &Broker) -> Result<()> {
    let name = TopicName::new(STATUS_TOPIC)?;
    let configured = broker.default_config(&name);
    let has_limit = configured.max_age_ms.or(configured.max_bytes).is_some();
    let settings = TopicConfig {
        max_age_ms: (!has_limit).then_some(MAX_AGE_MS),
        max_bytes: (!has_limit).then_some(MAX_BYTES),
        ..TopicConfig::default()
    };
    own_topics::open(broker, STATUS_TOPIC, settings).await.map(drop)
}
