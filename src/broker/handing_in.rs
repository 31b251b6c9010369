//! Handing in: the way of publishes from their publisher into the committer's queue.

use tokio::sync::oneshot;

use crate::broker::batch::{BatchSizes, Events};
use crate::broker::command::Append;
use crate::broker::limits::{LimitsConfig, locate_publish};
use crate::broker::publish::{Answer, Publish, PublishTurn};
use crate::broker::queue::{AskedBy, COMMAND_BYTES, Queued, QueuedPublish};
use crate::broker::shared::Shared;
use crate::error::Result;
use crate::polls;
use crate::topic::TopicName;

/// Puts publishes into the queue as one, to be stored all or none. Waits for room without a bound.
///
/// # Errors
///
/// [`Invalid`](crate::Error::Invalid), [`OverLimit`](crate::Error::OverLimit),
/// [`AfterFailure`](crate::Error::AfterFailure), [`ShuttingDown`](crate::Error::ShuttingDown),
/// [`ReadOnly`](crate::Error::ReadOnly): nothing was written.
///
/// # Cancel safety
///
/// Dropped before it returns, nothing is in the queue.
pub(super) async fn hand_in<E: Events>(
    shared: &Shared,
    publishes: Vec<Publish<E>>,
    limits: &LimitsConfig,
    turn: PublishTurn,
) -> Result<Answer> {
    hand_in_as(shared, publishes, limits, turn, AskedBy::Caller).await
}

/// As [`hand_in`], for `asked_by`.
pub(super) async fn hand_in_as<E: Events>(
    shared: &Shared,
    publishes: Vec<Publish<E>>,
    limits: &LimitsConfig,
    turn: PublishTurn,
    asked_by: AskedBy,
) -> Result<Answer> {
    shared.admit()?;
    turn.check()?;
    let mut sizes = BatchSizes::default();
    let named = encode(publishes, limits, &mut sizes).await?;
    hand_in_records(shared, named, sizes.memory_bytes, turn, asked_by).await
}

/// Puts a publish into the queue whose events are checked and encoded, and take `memory_bytes`. As
/// [`hand_in`].
pub(super) async fn hand_in_records(
    shared: &Shared,
    named: Vec<(TopicName, Append)>,
    memory_bytes: usize,
    turn: PublishTurn,
    asked_by: AskedBy,
) -> Result<Answer> {
    let count = named.len();
    let mut appends = Vec::with_capacity(count);
    for (index, (name, append)) in named.into_iter().enumerate() {
        let topic = shared.topics.open(&name).map_err(|e| locate_publish(e, index, count))?;
        if !append.records.ids().is_empty() {
            shared.recall(&topic).await?;
        }
        appends.push((topic, append));
        polls::rest().await;
    }
    let _space = shared.space(count * COMMAND_BYTES + memory_bytes).await?;
    let (reply, answer) = oneshot::channel();
    let publish =
        QueuedPublish { appends, asked_by, may_be_stored: false, left: None, turn, reply, _space };
    shared.send(Queued::Publish(publish)).await?;
    Ok(Answer(answer))
}

/// Checks and encodes the events of all publishes.
async fn encode<E: Events>(
    publishes: Vec<Publish<E>>,
    limits: &LimitsConfig,
    sizes: &mut BatchSizes,
) -> Result<Vec<(TopicName, Append)>> {
    let count = publishes.len();
    limits.check_topics(count)?;
    let mut named = Vec::with_capacity(count);
    for (index, publish) in publishes.into_iter().enumerate() {
        let Publish { topic, events, expected_sequence } = publish;
        let batch = events.into_batch(limits).map_err(|e| locate_publish(e, index, count))?;
        let records = sizes.add(batch, limits)?;
        named.push((topic, Append { records, expected_sequence }));
        polls::rest().await;
    }
    Ok(named)
}
