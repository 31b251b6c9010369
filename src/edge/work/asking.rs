//! The queue of shared work that a client names, and whether the client may work for it: now, and
//! as long as it waits.

use tokio::time::Instant;

use crate::consumers::{Leased, PullRequest, Settled, Settlement, WorkQueue};
use crate::edge::consumers::asking::{ConsumerUse, Found, Named};
use crate::edge::mounting::EdgeConsumers;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::topic::TopicPattern;

/// The queue of a shared consumer, for one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::edge) struct PermittedQueue {
    queue: WorkQueue,
    selection: TopicPattern,
    permit: Permit,
}

impl PermittedQueue {
    /// Returns the queue of the shared consumer with this name, if the caller may work for it: the
    /// caller may subscribe to its whole selection.
    ///
    /// # Errors
    ///
    /// As [`Named::find`] and [`Self::check`].
    pub(in crate::edge) async fn find(
        name: &str,
        selection: TopicPattern,
        permit: &Permit,
        kept: Option<&EdgeConsumers>,
    ) -> Result<Self> {
        let named = Named::shared(name)?;
        let found = named.find(selection.clone(), ConsumerUse::Read, permit, kept).await?;
        let Found { consumers, id, .. } = found;
        let found = Self { queue: consumers.work(&id), selection, permit: permit.clone() };
        found.check().await?;
        Ok(found)
    }

    /// Checks that the caller may work, by the grant as it is now.
    ///
    /// # Errors
    ///
    /// As [`Permit::check_known`] and [`Permit::check_whole`]. [`Error::Denied`]: the caller may
    /// read a part of the events only, and a worker is given any of them.
    async fn check(&self) -> Result<()> {
        self.permit.check_known()?;
        self.permit.check_whole(Action::Subscribe, &self.selection).await?;
        if !self.permit.filter().is_empty() {
            let reason = "work is for callers who may read all events of its topics".to_owned();
            return Err(Error::Denied { reason });
        }
        Ok(())
    }

    /// Returns the queue, for what tells no event.
    pub(in crate::edge) fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    /// Pulls events. When the caller's grant ends, or another one takes its place, the caller is
    /// looked at again, and waits on if it may.
    ///
    /// # Errors
    ///
    /// As [`WorkQueue::pull`] and [`Permit::check_whole`]; [`Error::Denied`].
    ///
    /// # Cancel safety
    ///
    /// As [`WorkQueue::pull`].
    pub(in crate::edge) async fn pull(&self, request: PullRequest) -> Result<Vec<Leased>> {
        let until = Instant::now() + request.wait;
        loop {
            self.check().await?;
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                biased;
                () = self.permit.ended() => {}
                leased = self.queue.pull(request.clone().wait(left)) => return leased,
            }
        }
    }

    /// Settles leases.
    ///
    /// # Errors
    ///
    /// As [`WorkQueue::settle`] and [`Permit::check_whole`]; [`Error::Denied`].
    pub(in crate::edge) async fn settle(&self, settlement: Settlement) -> Result<Settled> {
        self.check().await?;
        self.queue.settle(settlement).await
    }
}
