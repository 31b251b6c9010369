//! Reading the webhooks that are stored.

use std::collections::BTreeMap;

use super::settings::WebhookName;
use super::stored::{TOPIC, WebhookRecord};
use crate::broker::{Broker, Delivery, EventRef};
use crate::cursor::{OnGap, StartPoint};
use crate::error::{Error, Result};
use crate::own_topics::OwnReader;
use crate::polls;
use crate::topic::TopicName;

/// The webhooks that are stored at one moment.
pub(super) struct LoadedWebhooks {
    pub(super) records: BTreeMap<WebhookName, WebhookRecord>,
    /// Goes on after the last record that was loaded.
    pub(super) reader: OwnReader,
}

/// Returns the webhooks that are stored.
///
/// # Errors
///
/// As [`Broker::subscribe`] and [`Reader::next`](crate::broker::Reader::next);
/// [`Error::ShuttingDown`]; [`Error::Invalid`]: the last record of a webhook is none that this
/// version can read.
pub(super) async fn load(broker: &Broker, topic: &TopicName) -> Result<LoadedWebhooks> {
    let (mut records, mut unread) = (BTreeMap::new(), BTreeMap::new());
    let mut reader = broker.subscribe(topic, StartPoint::Earliest, OnGap::Resume).await?;
    loop {
        match reader.next().await? {
            Some(Delivery::CaughtUp) => {
                if let Some((_, error)) = unread.pop_first() {
                    return Err(error);
                }
                return Ok(LoadedWebhooks { records, reader: OwnReader::after(reader) });
            }
            Some(Delivery::Events(run)) => {
                for event in run.events() {
                    unread.remove(event.key);
                    match record_of(&event) {
                        Ok((name, Some(record))) => drop(records.insert(name, record)),
                        Ok((name, None)) => drop(records.remove(&name)),
                        Err(error) => drop(unread.insert(event.key.to_owned(), error)),
                    }
                    polls::rest().await;
                }
            }
            Some(_) => {}
            None => return Err(Error::ShuttingDown),
        }
    }
}

/// Returns the webhook of a record; `None` if it was deleted.
///
/// # Errors
///
/// [`Error::Invalid`]: the record is none that this version can read.
pub(super) fn record_of(event: &EventRef<'_>) -> Result<(WebhookName, Option<WebhookRecord>)> {
    let name: WebhookName = event.key.parse()?;
    if event.payload.is_empty() {
        return Ok((name, None));
    }
    let record = serde_json::from_slice(event.payload).map_err(|error| {
        let problem = format!("{name} at sequence {} cannot be read: {error}", event.sequence);
        Error::invalid(TOPIC, problem)
    })?;
    Ok((name, Some(record)))
}
