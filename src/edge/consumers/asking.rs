//! The consumer that a client names, and whether the client may use it: the one place where every
//! edge asks.
//!
//! | whose consumer | to read as it | to change it |
//! |---|---|---|
//! | the caller's own | may subscribe to the whole selection | the same |
//! | another's, by `owner` | the same, and administers | administers |
//! | common to all, of shared work | may subscribe to the whole selection | may manage all of it |
//!
//! # Why
//!
//! A consumer keeps numbers about all of its selection, so a part of it is not enough: a count
//! would tell of topics that the caller may not read. A caller has no name for the consumers of
//! others, and an owner that it may not name is refused whether there is one or not.

use std::sync::Arc;

use crate::consumers::{
    Checkpoint, CheckpointAck, ConsumerId, ConsumerName, ConsumerScope, Consumers, MarkAck,
    MarkRequest, OF_WEBHOOKS,
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
    /// Events, or what tells of them: streams, inboxes, counts, marks.
    Read,
    /// The consumer itself: its settings and its checkpoint.
    Keep,
}

/// A consumer that the caller may use.
#[derive(Debug, Clone)]
pub(in crate::edge) struct Found {
    pub(in crate::edge) consumers: Consumers,
    counters: Arc<Counters>,
    pub(in crate::edge) id: ConsumerId,
    /// Whether the caller uses it as an administrator.
    pub(in crate::edge) is_of_another: bool,
    /// The caller who marks; empty without hooks.
    pub(in crate::edge) caller: String,
}

impl Found {
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

    /// Returns the consumer of `selection`, if the caller may use it so.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`]: the broker keeps no consumers. As [`Permit::check_whole`] and
    /// [`Permit::check_administers`].
    pub(in crate::edge) async fn find(
        self,
        selection: TopicPattern,
        how: ConsumerUse,
        permit: &Permit,
        kept: Option<&EdgeConsumers>,
    ) -> Result<Found> {
        let kept = some(kept)?;
        let is_kept = how == ConsumerUse::Keep || self.is_shared;
        if is_kept && self.name.as_str().starts_with(OF_WEBHOOKS) {
            let problem = format!("{:?} is of a webhook; change the webhook", self.name);
            return Err(Error::invalid("consumer", problem));
        }
        let scope = kept.consumers.config().scope;
        let own = permit.caller().filter(|_| scope == ConsumerScope::Caller);
        let own = own.as_deref().unwrap_or_default();
        let Self { name, owner, is_shared } = self;
        let owner = match owner {
            _ if is_shared => String::new(),
            Some(owner) if owner != own => {
                permit.check_administers().await?;
                if how == ConsumerUse::Read {
                    permit.check_whole(Action::Subscribe, &selection).await?;
                }
                return Ok(found(kept, ConsumerId::new(selection, name), owner, permit, true));
            }
            _ => own.to_owned(),
        };
        let action = match (is_shared, how) {
            (true, ConsumerUse::Keep) => Action::Manage,
            _ => Action::Subscribe,
        };
        permit.check_whole(action, &selection).await?;
        Ok(found(kept, ConsumerId::new(selection, name), owner, permit, false))
    }
}

fn found(
    kept: &EdgeConsumers,
    id: ConsumerId,
    owner: String,
    permit: &Permit,
    is_of_another: bool,
) -> Found {
    let caller = permit.caller().map(|caller| caller.to_string()).unwrap_or_default();
    let EdgeConsumers { consumers, counters } = kept.clone();
    Found { consumers, counters, id: id.of_owner(owner), is_of_another, caller }
}

/// Returns the consumers of the broker.
///
/// # Errors
///
/// [`Error::Invalid`]: the host keeps none.
pub(in crate::edge) fn some(kept: Option<&EdgeConsumers>) -> Result<&EdgeConsumers> {
    kept.ok_or_else(|| Error::invalid("consumer", "this broker keeps no consumers"))
}

/// Returns the owner whose consumers a list shows to the caller: the one that it names, or else the
/// caller.
///
/// # Errors
///
/// As [`Permit::check_administers`], for another owner than the caller.
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
