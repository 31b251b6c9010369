//! What a webhook is, as whoever makes one says it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{MAX_REDIRECTS, WebhookClient};
use super::config::WebhooksConfig;
use super::format::WebhookFormat;
use super::signing::SignatureKind;
use crate::broker::Filter;
use crate::cursor::StartPoint;
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::topic::{TopicName, TopicPattern};

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// The name of a webhook: 1 to 64 letters and digits of ASCII, `-` and `_`, so that it is one token
/// of a topic, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebhookName(Box<str>);

impl WebhookName {
    /// Returns the name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebhookName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_NAME_BYTES {
            return Err(Error::over("webhook name bytes", text.len(), MAX_NAME_BYTES));
        }
        let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if text.is_empty() || !text.bytes().all(is_sign) {
            let problem = format!("{text:?} is not 1 to 64 of the signs A-Z a-z 0-9 - _");
            return Err(Error::invalid("webhook", problem));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for WebhookName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<WebhookName> for String {
    fn from(name: WebhookName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The settings of one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebhookSettings {
    /// The topic, or a pattern of topics, whose events are sent. It cannot be changed.
    pub topic: TopicPattern,
    /// Which of the events are sent; by default all.
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    /// The URL to which they are sent.
    pub url: String,
    /// The form in which they are sent.
    #[serde(default)]
    pub format: WebhookFormat,
    /// The most events in one request; with more than 1 a request has an array. Default: 1.
    #[serde(default = "one")]
    pub max_batch_events: u32,
    /// The most requests at the same time. Events of one key are never sent at the same time.
    /// Default: 4.
    #[serde(default = "four")]
    pub max_in_flight: u32,
    /// The most requests with one event, before it goes to the dead letters; 0 for no end. Default:
    /// `webhooks.max_tries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tries: Option<u32>,
    /// The topic of the events that were sent in vain `max_tries` times. Default:
    /// `webhooks.NAME.dead`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<TopicName>,
    /// The most redirects that are followed, up to 5. Default: 0.
    #[serde(default)]
    pub max_redirects: u8,
}

fn one() -> u32 {
    1
}

fn four() -> u32 {
    4
}

/// A webhook that is to be made, or given other settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PutWebhook {
    /// The settings.
    pub settings: WebhookSettings,
    /// The place from which events are sent; it counts only when the webhook is made. Default:
    /// after the newest event.
    pub from: Option<StartPoint>,
    /// The kind of its signatures, when it is made. Default: HMAC.
    pub signature: Option<SignatureKind>,
    /// A key of the host's own, when it is made. Default: a random one.
    pub secret: Option<Secret>,
}

/// A new key for a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RotateWebhook {
    /// The kind of the new key's signatures. Default: that of the present key.
    pub signature: Option<SignatureKind>,
    /// A key of the host's own. Default: a random one.
    pub secret: Option<Secret>,
    /// How long the present key signs beside it; 30 days at the most. Default: 24 hours.
    pub keep_old: Option<Duration>,
}

impl WebhookSettings {
    /// Returns the settings of a webhook that sends the events of `topic` to `url`.
    pub fn new(topic: TopicPattern, url: impl Into<String>) -> Self {
        Self {
            topic,
            filter: Filter::default(),
            url: url.into(),
            format: WebhookFormat::default(),
            max_batch_events: one(),
            max_in_flight: four(),
            max_tries: None,
            dead_letter: None,
            max_redirects: 0,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`], with the setting, its value and its bounds.
    pub(super) fn check(&self, config: &WebhooksConfig, client: &WebhookClient) -> Result<()> {
        self.filter.validate()?;
        if TopicName::new(self.topic.as_str()).is_ok_and(|topic| topic.is_secret()) {
            return Err(Error::invalid("topic", "has the secrets of webhooks, and is never sent"));
        }
        client.url(&self.url).map_err(|problem| Error::invalid("url", problem))?;
        let bounds = [
            ("max_batch_events", self.max_batch_events, 1, config.max_batch_events),
            ("max_in_flight", self.max_in_flight, 1, config.max_in_flight),
            ("max_tries", self.max_tries.unwrap_or(1), 0, config.max_tries),
            ("max_redirects", self.max_redirects.into(), 0, MAX_REDIRECTS.into()),
        ];
        for (name, value, least, most) in bounds {
            if value < least || u64::from(value) > most {
                let problem = format!("{value} is not from {least} to {most}");
                return Err(Error::invalid(name, problem));
            }
        }
        if self.max_batch_events > 1 && !self.format.can_batch() {
            let problem = format!(
                "{} is more than 1, and the format {:?} has one event in a request",
                self.max_batch_events,
                self.format.as_str()
            );
            return Err(Error::invalid("max_batch_events", problem));
        }
        Ok(())
    }
}

impl PutWebhook {
    /// Returns the wish for a webhook with these settings, and the defaults otherwise.
    pub fn new(settings: WebhookSettings) -> Self {
        Self { settings, from: None, signature: None, secret: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_token_that_is_easy_to_write() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for good in ["a", "Billing-2_x", &longest] {
            assert_eq!(good.parse::<WebhookName>().unwrap().as_str(), good);
        }
        for wrong in ["", "a.b", "a/b", "a b", "é", "$a", &format!("{longest}x")] {
            wrong.parse::<WebhookName>().unwrap_err();
        }
    }

    #[test]
    fn settings_have_bounds_and_a_refusal_names_them() {
        let config = WebhooksConfig::default();
        let client = WebhookClient::new(&config).unwrap();
        let with = |change: &dyn Fn(&mut WebhookSettings)| {
            let url = "https://a.example/hook";
            let mut settings = WebhookSettings::new("orders.>".parse().unwrap(), url);
            change(&mut settings);
            settings.check(&config, &client).map_err(|error| error.to_string())
        };
        with(&|it| (it.max_batch_events, it.max_in_flight) = (1_000, 32)).unwrap();
        with(&|it| (it.max_tries, it.max_redirects) = (Some(50), MAX_REDIRECTS)).unwrap();
        with(&|it| it.max_tries = Some(0)).unwrap();
        type Change = dyn Fn(&mut WebhookSettings);
        let refused: [(&Change, &str); 9] = [
            (&|it| it.url = "http://a.example".into(), "url: is not https"),
            (&|it| it.max_batch_events = 0, "max_batch_events: 0 is not from 1 to 1000"),
            (&|it| it.max_batch_events = 1_001, "max_batch_events: 1001 is not"),
            (&|it| it.max_in_flight = 0, "max_in_flight: 0 is not from 1 to 32"),
            (&|it| it.max_in_flight = 33, "max_in_flight: 33 is not"),
            (&|it| it.max_tries = Some(51), "max_tries: 51 is not from 0 to 50"),
            (&|it| it.max_redirects = 6, "max_redirects: 6 is not from 0 to 5"),
            (&|it| it.topic = "$webhooks".parse().unwrap(), "topic: has the secrets"),
            (
                &|it| (it.max_batch_events, it.format) = (2, WebhookFormat::Payload),
                "max_batch_events: 2 is more than 1, and the format \"payload\"",
            ),
        ];
        for (change, words) in refused {
            let told = with(change).unwrap_err();
            assert!(told.starts_with(words), "{told}");
        }
    }
}
