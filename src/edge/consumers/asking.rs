//! The consumer that a client names, and whether the client may use it: the one place where every
//! edge asks.
//!
//! | whose consumer | to read as it, to mark | to change it |
//! |---|---|---|
//! | the caller's own | may subscribe to the whole selection | the same |
//! | another's, by `owner` | the same, and administers | administers |
//! | common to all, of shared work | may subscribe to the whole selection | may manage all of it |
//!
//! A consumer is one of shared work by what it is, or is made by the change, however it is named:
//! with `consumers.scope = "common"` it can be named with and without `shared`. What is named as
//! shared, and is not there, is made by the first mark: that needs the permission to manage, too.
//!
//! # Why
//!
//! A consumer keeps numbers about all of its selection, so a part of it is not enough: a count
//! would tell of topics that the caller may not read. A caller has no name for the consumers of
//! others, and an owner that it may not name is refused whether there is one or not.

use std::sync::Arc;

use crate::consumers::{
    Checkpoint, CheckpointAck, ConsumerId, ConsumerName, ConsumerScope, Consumers, MarkAck,
    MarkRequest, OF_WEBHOOKS, WorkSettings, check_owner,
};
use crate::cursor::Cursor;
use crate::edge::counters::Counters;
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::topic::TopicPattern;

/// A consumer, as a client names it beside its selection.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Named {
    name: ConsumerName,
    /// Another owner than the caller, for administrators.
    owner: Option<String>,
    /// Whether it is one that is common to all callers.
    is_shared: bool,
}

/// The use that is made of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum ConsumerUse {
    /// Events, or what tells of them: streams, inboxes, counts, a look at marks.
    Read,
    /// The marks of its events, which are changed.
    Mark,
    /// The consumer itself: its settings and its checkpoint.
    Keep,
}

/// A consumer that the caller may use.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Found {
    /// The consumers, of which those of shared work can be changed only if the caller may do that.
    pub(in crate::edge) consumers: Consumers,
    counters: Arc<Counters>,
    pub(in crate::edge) id: ConsumerId,
    /// Whether the caller uses it as an administrator.
    pub(in crate::edge) is_of_another: bool,
    /// The caller who marks; empty without hooks.
    pub(in crate::edge) caller: String,
}

impl Found {
    /// Returns a consumer that a test uses.
    #[cfg(test)]
    pub(super) fn for_tests(consumers: Consumers, id: ConsumerId) -> Self {
        let counters = Arc::default();
        Self { consumers, counters, id, is_of_another: false, caller: String::new() }
    }

    /// Returns this consumer for a change that has it share its events by these settings.
    ///
    /// Dead letters are events of the selection that are published elsewhere. So another topic for
    /// them than the broker's choice is for callers who may read the ones and publish to the other;
    /// whoever administers has all events in a backup.
    ///
    /// # Errors
    ///
    /// As [`Permit::check_whole`], for a caller who may not manage all of the selection, and as
    /// [`Permit::check`], for the topic of the dead letters.
    pub(in crate::edge) async fn for_sharing(
        self,
        settings: &WorkSettings,
        permit: &Permit,
    ) -> Result<Self> {
        let selection = &self.id.selection;
        permit.check_whole(Action::Manage, selection).await?;
        let named = settings.dead_letter.as_ref();
        if let Some(topic) = named.filter(|topic| !WorkSettings::is_default(topic, selection))
            && !permit.administers()
        {
            permit.check_whole(Action::Subscribe, selection).await?;
            permit.check(Action::Publish, topic).await?;
        }
        Ok(Self { consumers: self.consumers.with_shared(), ..self })
    }

    /// Sets the checkpoint.
    ///
    /// # Errors
    ///
    /// As [`Consumers::checkpoint`].
    pub(in crate::edge) async fn checkpoint(&self, to: Checkpoint) -> Result<CheckpointAck> {
        let ack = self.consumers.checkpoint(&self.id, to).await?;
        self.counters.checkpoints.add(1);
        Ok(ack)
    }

    /// Changes marks.
    ///
    /// # Errors
    ///
    /// As [`Consumers::mark`].
    pub(in crate::edge) async fn mark(&self, request: MarkRequest) -> Result<MarkAck> {
        let ack = self.consumers.mark(&self.id, request, &self.caller).await?;
        self.counters.marks.add(1);
        Ok(ack)
    }
}

/// The consumer as which a reader reads.
#[derive(Debug)]
pub(in crate::edge) struct ReadAs {
    pub(in crate::edge) named: Named,
    /// Whether the reader is told counts.
    pub(in crate::edge) counts: bool,
    /// The revision of the marks that the client has already.
    pub(in crate::edge) marks_after: Option<Cursor>,
}

impl Named {
    /// Returns the consumer with this name, of `owner` or else of the caller.
    ///
    /// # Errors
    ///
    /// As [`ConsumerName::new`].
    pub(in crate::edge) fn of_own(name: &str, owner: Option<String>) -> Result<Self> {
        Ok(Self { name: ConsumerName::new(name)?, owner, is_shared: false })
    }

    /// Returns the consumer with this name that is common to all callers.
    ///
    /// # Errors
    ///
    /// As [`ConsumerName::new`].
    pub(in crate::edge) fn shared(name: &str) -> Result<Self> {
        Ok(Self { name: ConsumerName::new(name)?, owner: None, is_shared: true })
    }

    /// Returns the name, and the owner that is named.
    #[cfg(any(test, fuzzing))]
    pub(in crate::edge) fn parts(&self) -> (&str, Option<&str>) {
        (self.name.as_str(), self.owner.as_deref())
    }

    /// Returns the consumer of `selection`, if the caller may use it so. A change that makes it
    /// share its events needs [`Found::for_sharing`], too.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the broker keeps no consumers, or it is that of a webhook. As
    /// [`Permit::check_known`], [`Permit::check_whole`] and [`Permit::check_administers`].
    pub(in crate::edge) async fn find(
        self,
        selection: TopicPattern,
        how: ConsumerUse,
        permit: &Permit,
        kept: Option<&EdgeConsumers>,
    ) -> Result<Found> {
        let kept = some(kept)?;
        let is_looked_at = how == ConsumerUse::Read && !self.is_shared && permit.administers();
        if is_of_webhook(&self.name) && !is_looked_at {
            let problem = format!("{:?} is of a webhook; change the webhook", self.name);
            return Err(Error::invalid("consumer", problem));
        }
        if how != ConsumerUse::Read {
            permit.check_known()?;
        }
        let scope = kept.consumers.config().scope;
        let own = permit.caller().filter(|_| scope == ConsumerScope::Caller);
        let own = own.as_deref().unwrap_or_default();
        let Self { name, owner, is_shared } = self;
        let (owner, is_of_another) = match owner {
            _ if is_shared => (String::new(), false),
            Some(owner) if owner != own => (owner, true),
            _ => (own.to_owned(), false),
        };
        if is_of_another {
            permit.check_administers().await?;
        }
        let id = ConsumerId::new(selection, name).of_owner(owner);
        id.check()?;
        let shares = kept.consumers.shares(&id);
        let manages = match how {
            ConsumerUse::Read => false,
            ConsumerUse::Mark => is_shared && !shares,
            ConsumerUse::Keep => is_shared || shares,
        };
        match (manages, how) {
            (true, _) => permit.check_whole(Action::Manage, &id.selection).await?,
            (false, ConsumerUse::Keep) if is_of_another => {}
            (false, _) => permit.check_whole(Action::Subscribe, &id.selection).await?,
        }
        let EdgeConsumers { consumers, counters } = kept.clone();
        let consumers = match manages {
            true => consumers.with_shared(),
            false => consumers.without_shared(),
        };
        let caller = permit.caller().map(|caller| caller.to_string()).unwrap_or_default();
        Ok(Found { consumers, counters, id, is_of_another, caller })
    }
}

/// Returns the consumers of the broker.
///
/// # Errors
///
/// [`Error::Invalid`]: the host keeps none.
pub(in crate::edge) fn some(kept: Option<&EdgeConsumers>) -> Result<&EdgeConsumers> {
    kept.ok_or_else(|| Error::invalid("consumer", "this broker keeps no consumers"))
}

/// Whether the name is one of a webhook's consumer: administrators look at it, and nobody else.
fn is_of_webhook(name: &ConsumerName) -> bool {
    name.as_str().starts_with(OF_WEBHOOKS)
}

/// Returns a function that says which consumers of a list are shown to the caller; `is_of_another`
/// if they are another's.
///
/// # Errors
///
/// As [`Permit::listed_whole`].
pub(in crate::edge) async fn listed(
    permit: &Permit,
    is_of_another: bool,
) -> Result<impl Fn(&ConsumerId) -> bool + Send + Sync + use<>> {
    let is_listed = permit.listed_whole(is_of_another).await?;
    let administers = permit.administers();
    Ok(move |id: &ConsumerId| (administers || !is_of_webhook(&id.name)) && is_listed(&id.selection))
}

/// Returns the owner whose consumers a list shows to the caller: the one that it names, or else the
/// caller.
///
/// # Errors
///
/// As [`Permit::check_administers`] and [`check_owner`], for another owner than the caller.
pub(in crate::edge) async fn listed_owner(
    owner: Option<String>,
    permit: &Permit,
    consumers: &Consumers,
) -> Result<String> {
    let scope = consumers.config().scope;
    let own = permit.caller().filter(|_| scope == ConsumerScope::Caller);
    let own = own.as_deref().unwrap_or_default();
    match owner {
        Some(owner) if owner != own => {
            permit.check_administers().await?;
            check_owner(&owner)?;
            Ok(owner)
        }
        _ => Ok(own.to_owned()),
    }
}

/// Deletes a consumer. Where one that was never written reads as one with nothing finished, there
/// is nothing to delete of it, and that is no error.
///
/// # Errors
///
/// As [`Consumers::delete`].
pub(in crate::edge) async fn deleted(consumers: &Consumers, id: &ConsumerId) -> Result<()> {
    match consumers.delete(id).await {
        Err(Error::UnknownConsumer(_)) if consumers.config().auto_create => Ok(()),
        deleted => deleted,
    }
}
