//! Streams over values that return one item for each call.
//!
//! # Why
//!
//! A stream is polled; a reader has an async `next`. The future of a `next` borrows the reader, so
//! it takes the reader along, and puts it back when it ends or is dropped. One box holds the
//! futures of all items, one after the other. There is no task and no channel in between: nobody
//! reads ahead of the consumer, and a stream that is not polled holds nothing but its reader.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use futures_core::stream::FusedStream;
use tokio_util::sync::ReusableBoxFuture;

use crate::error::Result;

/// A value that returns one item for each call.
pub(crate) trait Pull: std::fmt::Debug + Send + 'static {
    type Item: Send + 'static;

    /// Returns the next item; `None` at the end. Cancelling the call must lose nothing, or the
    /// value must not be taken back out of its stream.
    fn pull(&mut self) -> impl Future<Output = Result<Option<Self::Item>>> + Send;
}

/// The stream of the items of a value. It ends after the first error.
#[derive(Debug)]
pub(crate) struct Pulls<P: Pull> {
    /// The value, while no call is under way.
    home: Arc<Mutex<Option<P>>>,
    call: ReusableBoxFuture<'static, Result<Option<P::Item>>>,
    is_calling: bool,
    is_ended: bool,
}

/// A value that is away from its home for one call, and goes back when the call ends or is dropped.
#[derive(Debug)]
struct Away<P> {
    value: Option<P>,
    home: Arc<Mutex<Option<P>>>,
}

impl<P> Drop for Away<P> {
    fn drop(&mut self) {
        *lock(&self.home) = self.value.take();
    }
}

/// Locks a value that is never locked for more than a copy.
pub(super) fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn call<P: Pull>(mut away: Away<P>) -> Result<Option<P::Item>> {
    // With all items in memory a stream never waits, and other tasks would wait for its end.
    tokio::task::coop::consume_budget().await;
    match &mut away.value {
        Some(value) => value.pull().await,
        None => Ok(None),
    }
}

impl<P: Pull> Pulls<P> {
    pub(crate) fn new(value: P) -> Self {
        Self {
            home: Arc::new(Mutex::new(Some(value))),
            call: ReusableBoxFuture::new(std::future::ready(Ok(None))),
            is_calling: false,
            is_ended: false,
        }
    }

    /// Returns what `look` sees in the value; `None` while a call is under way.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&P) -> T) -> Option<T> {
        lock(&self.home).as_ref().map(look)
    }

    /// Returns the value. A call that is under way is cancelled.
    pub(crate) fn into_value(self) -> P {
        let Self { home, call, .. } = self;
        drop(call);
        lock(&home).take().expect("a value is at home when no call is under way")
    }
}

impl<P: Pull> Stream for Pulls<P> {
    type Item = Result<P::Item>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_ended {
            return Poll::Ready(None);
        }
        if !self.is_calling {
            let value = lock(&self.home).take();
            let away = Away { value, home: self.home.clone() };
            self.call.set(call(away));
            self.is_calling = true;
        }
        let outcome = ready!(self.call.poll(context));
        self.is_calling = false;
        self.is_ended = !matches!(outcome, Ok(Some(_)));
        Poll::Ready(outcome.transpose())
    }
}

impl<P: Pull> FusedStream for Pulls<P> {
    fn is_terminated(&self) -> bool {
        self.is_ended
    }
}

/// Makes a type a stream: that of its field `pulls`.
macro_rules! stream_of_pulls {
    ($name:ident, $item:ty) => {
        impl futures_core::Stream for $name {
            type Item = $crate::error::Result<$item>;

            fn poll_next(
                self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Self::Item>> {
                std::pin::Pin::new(&mut self.get_mut().pulls).poll_next(context)
            }
        }

        impl futures_core::stream::FusedStream for $name {
            fn is_terminated(&self) -> bool {
                self.pulls.is_terminated()
            }
        }
    };
}

pub(crate) use stream_of_pulls;
