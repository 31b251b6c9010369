//! The queue of one shared consumer, as callers have it, on whichever node they are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::asked::{AskAboutWork, WorkAnswer, WorkRequest, another_answer};
use super::queues::WorkQueues;
use super::requests::{Leased, PullRequest, Settled, Settlement, WorkStatus};
use super::settings::WorkSettings;
use super::shared::SharedConsumer;
use crate::error::{Error, Result};

/// The longest wait of a pull at the leader. After it the node asks again, whoever leads then.
const MAX_ASKED_WAIT: Duration = Duration::from_secs(5);

/// Returns a shared consumer as it is.
type Describe = Arc<dyn Fn() -> Result<SharedConsumer> + Send + Sync>;

/// The queue of one shared consumer, from which workers pull events. Cheap to clone.
///
/// A consumer without pulls and leases takes no memory for its queue, whoever holds this.
///
/// In a fleet, the queue is on the node that leads, and the others ask it. When another node leads,
/// it goes on with what is stored of the queue, as after a restart.
#[derive(Clone)]
pub struct WorkQueue {
    queues: WorkQueues,
    describe: Describe,
    /// Asks the leader, if that is another node.
    ask: AskAboutWork,
}

impl std::fmt::Debug for WorkQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkQueue").field("consumer", &(self.describe)()).finish_non_exhaustive()
    }
}

impl WorkQueue {
    pub(crate) fn new(queues: WorkQueues, describe: Describe, ask: AskAboutWork) -> Self {
        Self { queues, describe, ask }
    }

    /// Leases events to a worker, in their order. Waits for a first event as long as the request
    /// says; an empty answer means that there was none.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownConsumer`]; [`Error::Invalid`], [`Error::OverLimit`]: the consumer is not
    /// shared, or the request breaks a rule. [`Error::Full`], [`Error::Crowded`]: too many
    /// consumers are in use, or too many pulls wait. As
    /// [`Broker::publish_all`](crate::Broker::publish_all) and
    /// [`Reader::next`](crate::Reader::next). Nothing is leased then, except that after
    /// [`Error::OutcomeUnknown`] leases that nobody knows of may have to run out.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, nothing stays leased: what was leased meanwhile is taken back at
    /// once, or, where the consumer has too much to do, when the lease runs out.
    pub async fn pull(&self, request: PullRequest) -> Result<Vec<Leased>> {
        let came = Instant::now();
        loop {
            let left = request.wait.saturating_sub(came.elapsed());
            if self.queues.begun().await {
                let request = request.wait(left);
                return self.queues.pull(|| (self.describe)(), request).await;
            }
            let wait = left.min(MAX_ASKED_WAIT);
            let leased = self.pull_there(request.clone().wait(wait)).await?;
            if !leased.is_empty() || left == wait {
                return Ok(leased);
            }
        }
    }

    /// Pulls at the leader.
    async fn pull_there(&self, request: PullRequest) -> Result<Vec<Leased>> {
        request.check()?;
        (self.describe)()?;
        let ask = self.ask.clone();
        let (reply, leased) = oneshot::channel();
        // A task of its own gives back what comes when nobody waits for it any more.
        tokio::spawn(async move {
            let leased = match ask(WorkRequest::Pull(request)).await.and_then(WorkAnswer::of) {
                Ok(WorkAnswer::Leased(leased)) => Ok(leased),
                Ok(_) => Err(another_answer()),
                Err(error) => Err(error),
            };
            if let Err(Ok(undelivered)) = reply.send(leased)
                && !undelivered.is_empty()
            {
                let leases = undelivered.iter().map(|leased| leased.lease);
                let release = Settlement::default().and_release(leases);
                let _they_run_out = ask(WorkRequest::Settle(release)).await;
            }
        });
        leased.await.unwrap_or(Err(Error::ShuttingDown))
    }

    /// Answers another node of the fleet.
    ///
    /// # Errors
    ///
    /// As [`Self::pull`] and [`Self::settle`]; [`Error::NotLeading`]: nothing was done.
    ///
    /// # Cancel safety
    ///
    /// As [`Self::pull`] and [`Self::settle`].
    pub(crate) async fn answer(&self, request: WorkRequest) -> Result<Bytes> {
        let describe = || (self.describe)();
        let answer = match request {
            WorkRequest::Pull(request) => {
                WorkAnswer::Leased(self.queues.pull(describe, request).await?)
            }
            WorkRequest::Settle(settlement) => {
                WorkAnswer::Settled(self.queues.settle(describe, settlement).await?)
            }
            WorkRequest::Hasten => {
                self.queues.hasten(describe).await?;
                WorkAnswer::Hastened
            }
        };
        answer.to_bytes()
    }

    /// Settles leases: finishes events, gives them back, extends leases. All that is done is
    /// durable when this returns.
    ///
    /// A lease whose time is over can still be settled, as long as the event was not leased again.
    /// To repeat a settlement does no harm.
    ///
    /// # Errors
    ///
    /// As [`Self::pull`]: nothing was changed, or, after [`Error::OutcomeUnknown`], perhaps all.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the leases may or may not be settled.
    pub async fn settle(&self, settlement: Settlement) -> Result<Settled> {
        if self.queues.begun().await {
            return self.queues.settle(|| (self.describe)(), settlement).await;
        }
        settlement.check((self.describe)()?.number)?;
        match WorkAnswer::of((self.ask)(WorkRequest::Settle(settlement)).await?)? {
            WorkAnswer::Settled(settled) => Ok(settled),
            _ => Err(another_answer()),
        }
    }

    /// Ends the delays of all events that failed, so that they can be leased now. Durable when it
    /// returns.
    ///
    /// # Errors
    ///
    /// As [`Self::settle`].
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the delays may or may not be over.
    #[cfg_attr(not(feature = "webhooks"), allow(dead_code, reason = "webhooks call it"))]
    pub(crate) async fn hasten(&self) -> Result<()> {
        if self.queues.begun().await {
            return self.queues.hasten(|| (self.describe)()).await;
        }
        match WorkAnswer::of((self.ask)(WorkRequest::Hasten).await?)? {
            WorkAnswer::Hastened => Ok(()),
            _ => Err(another_answer()),
        }
    }

    /// Returns how the consumer stands, as its last answer left it. A node that another one leads
    /// tells what is stored, and nothing of the pulls that wait.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownConsumer`]; [`Error::Invalid`]: the consumer is not shared.
    pub fn status(&self) -> Result<WorkStatus> {
        Ok(self.queues.status((self.describe)()?.number))
    }

    /// Returns the settings of the consumer's work.
    ///
    /// # Errors
    ///
    /// As [`Self::status`].
    pub fn settings(&self) -> Result<WorkSettings> {
        Ok((self.describe)()?.settings)
    }
}
