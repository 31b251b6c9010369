//! The bytes of incomplete requests, taken from the memory for clients.
//!
//! # Why
//!
//! The queue of the broker is bounded, but a request enters it only once it is complete. A client
//! that opens many streams and sends each request without its end would take any amount of memory.
//! If there is no room, a request is refused at once and does not wait: incomplete requests could
//! wait for one another.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;

use super::budget::Held;
use super::checked_body::checked;
use super::clients::Peer;
use super::effort::Effort;
use super::permit::Permit;
use super::stamp::Stamp;
use crate::broker::{Ack, Batch, Broker, Events, InOrder, Publish};
use crate::error::Result;
use crate::event::NewEvent;
use crate::permission::Action;
use crate::topic::TopicName;

/// The memory of one request's received bytes that are not submitted yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Received(Arc<Mutex<Held>>);

/// Counts the bytes of a request's body as they arrive.
pub(crate) fn count(mut request: Request) -> Request {
    let Some(peer) = request.extensions().get::<Peer>() else { return request };
    let received = Received(Arc::new(Mutex::new(peer.share().nothing())));
    request.extensions_mut().insert(received.clone());
    request.map(|body| checked(body, move |size_bytes| received.add(size_bytes)))
}

impl Received {
    /// Gives back all but `size_bytes`: the rest is submitted, and counted elsewhere.
    pub(super) fn keep(&self, size_bytes: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(size_bytes);
    }

    /// Counts `size_bytes` more.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`](crate::Error::NoRoom).
    pub(super) fn add(&self, size_bytes: usize) -> Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).grow(size_bytes)
    }
}

/// Does work with received bytes. They are counted until the work ends, even if its caller is
/// dropped.
pub(super) async fn work_with<T: Send + 'static>(
    received: Option<Received>,
    effort: Effort,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let work = move || {
        let done = work();
        drop(received);
        done
    };
    effort.spend(work).await
}

/// Publishes a complete request. Its bytes are counted until it has its place in the queue.
///
/// # Errors
///
/// As [`Broker::publish`] and [`Permit::check`].
pub(super) async fn handed_in<E: Events>(
    broker: &Broker,
    publish: Publish<E>,
    permit: &Permit,
    received: Option<Received>,
) -> Result<Ack> {
    let topic = publish.topic.clone();
    // The body may have taken longer than its sender's grant.
    permit.check(Action::Publish, &topic).await?;
    let pending = broker.submit_in_order(publish, &InOrder::default()).await?;
    drop(received);
    let ack = pending.ack().await?;
    permit.acknowledged(&topic, &ack);
    Ok(ack)
}

/// Returns events that the hooks have let through, with their publisher's stamp, checked against
/// the limits. The caller may publish to `topic`, which was checked before.
///
/// # Errors
///
/// The first error of `events`; as [`Permit::intercept`] and [`Batch::of`].
pub(super) fn batch(
    permit: &Permit,
    topic: &TopicName,
    events: impl IntoIterator<Item = Result<NewEvent>, IntoIter: ExactSizeIterator>,
    broker: &Broker,
) -> Result<Batch> {
    Batch::of(intercepted(permit, topic, events, broker), broker.limits())
}

/// Delivers events that the hooks have let through, and stores none. All are checked before the
/// first is delivered. Returns the number of subscriptions to the topic; `None` if the caller may
/// not know it.
///
/// # Errors
///
/// As [`batch`]; as [`Broker::publish_ephemeral`].
pub(super) fn deliver_ephemeral<I>(
    permit: &Permit,
    topic: &TopicName,
    events: impl Fn() -> I,
    broker: &Broker,
) -> Result<Option<usize>>
where
    I: ExactSizeIterator<Item = Result<NewEvent>>,
{
    if !permit.has_hooks() {
        Batch::of(intercepted(permit, topic, events(), broker), broker.limits())?;
        return broker.publish_each_ephemeral(topic, events()).map(Some);
    }
    // The hooks are asked about each event once, so the events are kept; the limits hold for them.
    let mut let_through = Vec::new();
    let kept = intercepted(permit, topic, events(), broker).map(|event| {
        let event = event?;
        let_through.push(event.clone());
        Ok(event)
    });
    Batch::of(kept, broker.limits())?;
    let receivers = broker.publish_each_ephemeral(topic, let_through.into_iter().map(Ok))?;
    Ok(permit.counts_readers(topic).then_some(receivers))
}

fn intercepted<I>(
    permit: &Permit,
    topic: &TopicName,
    events: I,
    broker: &Broker,
) -> impl ExactSizeIterator<Item = Result<NewEvent>>
where
    I: IntoIterator<Item = Result<NewEvent>, IntoIter: ExactSizeIterator>,
{
    let stamp = Stamp::of(broker, permit, topic);
    events.into_iter().map(move |event| permit.intercept(topic, event?).map(|it| stamp.on(it)))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tonic::Status;

    use super::super::budget::Budget;
    use super::super::checked_body::refusal;
    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn what_is_over_the_bound_is_refused_and_what_was_handed_in_makes_room() {
        let budget = Budget::new(400 << 10);
        let share = budget.address().connection();
        let counted = |size_kib: usize| {
            let received = Received(Arc::new(Mutex::new(share.nothing())));
            let body = Body::from(vec![0; size_kib << 10]);
            let counting = received.clone();
            (received, checked(body, move |size_bytes| counting.add(size_bytes)))
        };
        let (first, body) = counted(80);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 80 << 10);
        let error = counted(50).1.collect().await.unwrap_err();
        let refused = refusal(&error);
        assert!(matches!(refused, Some(Error::NoRoom { needed_bytes: 51_200, .. })), "{error}");
        assert_eq!(Status::from_error(error.into()).code(), tonic::Code::ResourceExhausted);
        first.keep(30 << 10);
        let error = counted(95).1.collect().await.unwrap_err();
        assert!(refusal(&error).is_some(), "30 KiB are held: {error}");
        first.keep(0);
        let (second, body) = counted(100);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 100 << 10);
        drop(second);
        assert_eq!(budget.used_bytes(), 0, "the memory is given back with the request");
    }
}
