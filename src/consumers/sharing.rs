//! Consumers that share their events among workers: their queues, and who may change them.

use std::sync::{Arc, PoisonError};

use super::Consumers;
use super::deciding::Changeable;
use super::id::ConsumerId;
use super::requests::shown;
use super::to_leader::{IdForm, LeaderRequest, to_json};
use super::work::{SharedConsumer, WorkQueue};
use crate::broker::Answering;
use crate::error::Error;

impl Consumers {
    /// Returns a handle that changes all consumers.
    pub(crate) fn with_shared(self) -> Self {
        Self(self.0, Changeable::All, self.2)
    }

    /// Returns the handle of webhooks, which alone makes and changes their consumers.
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "webhooks call it"))]
    pub(crate) fn of_webhooks(self) -> Self {
        Self(self.0, Changeable::OfWebhooks, self.2)
    }

    /// Returns a handle for a caller who may not change consumers that share their events, nor make
    /// one share them: that is [`Error::Denied`] on it. It is decided together with the change, so
    /// that it holds also if a consumer begins to share meanwhile. Their events can be marked.
    pub(crate) fn without_shared(self) -> Self {
        Self(self.0, Changeable::Unshared, self.2)
    }

    /// Whether a consumer is stored, and shares its events among workers.
    pub(crate) fn shares(&self, id: &ConsumerId) -> bool {
        self.view().get(id).is_some_and(|entry| entry.settings().shared.is_some())
    }

    /// Returns the queue of a consumer that shares its events among workers.
    pub fn work(&self, id: &ConsumerId) -> WorkQueue {
        let (view, id) = (self.0.view.clone(), id.clone());
        let (to_leader, broker, form) =
            (self.0.to_leader.clone(), self.0.broker.clone(), IdForm::from(&id));
        let ask = move |request| -> Answering {
            match to_json(&LeaderRequest::Work(form.clone(), request)) {
                Ok(request) => to_leader.ask_patiently(&broker, request),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            }
        };
        let describe = move || {
            let view = view.read().unwrap_or_else(PoisonError::into_inner);
            let entry = view.get(&id);
            let entry =
                entry.ok_or_else(|| Error::UnknownConsumer(shown(&id.selection, &id.name)))?;
            let settings = entry.settings();
            let Some(shared) = &settings.shared else {
                let problem = "does not share its events among workers; give it the setting shared";
                return Err(Error::invalid("consumer", problem));
            };
            Ok(SharedConsumer {
                number: entry.number,
                name: id.name.to_string(),
                selection: id.selection.clone(),
                filter: settings.filter.clone(),
                settings: shared.clone(),
                start: entry.checkpoint(),
            })
        };
        WorkQueue::new(self.0.work.clone(), Arc::new(describe), Arc::new(ask))
    }
}
