//! Large values, which are built and freed on threads that may block.
//!
//! # Why
//!
//! There may be a million consumers. To build or free what holds all of them takes up to a second:
//! a worker of the runtime would serve nobody meanwhile, and under a lock, nobody could read.

use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, RwLock};

use tokio::runtime::Handle;

use crate::polls;

/// A large value. Dropped, it is freed by a thread that may block.
#[derive(Debug, Default)]
pub(super) struct Aside<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Aside<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Returns what `build` makes of the value, on a thread that may block.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the value is lost.
    pub(super) async fn built<U: Send + 'static>(
        mut self,
        build: impl FnOnce(T) -> U + Send + 'static,
    ) -> U {
        let value = self.0.take().expect("it is there until it is taken");
        polls::joined(tokio::task::spawn_blocking(move || build(value))).await
    }
}

impl<T: Send + 'static> Deref for Aside<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is taken")
    }
}

impl<T: Send + 'static> DerefMut for Aside<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("it is there until it is taken")
    }
}

impl<T: Send + 'static> Drop for Aside<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        match Handle::try_current() {
            // A runtime that is stopping drops the value without running this.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_outside) => drop(value),
        }
    }
}

/// Puts a value in the place of another one, which is freed without the lock.
pub(super) fn replace<T: Send + 'static>(place: &RwLock<T>, value: T) {
    let before = {
        let mut place = place.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, value)
    };
    drop(Aside::new(before));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Weak};
    use std::thread::{self, ThreadId};

    use tokio::sync::oneshot;

    use super::*;

    /// A value that tells, when it is freed, on which thread that is, and whether its former place
    /// could be read.
    struct Looking {
        place: Weak<RwLock<Option<Self>>>,
        freed: Option<oneshot::Sender<(ThreadId, bool)>>,
    }

    impl Drop for Looking {
        fn drop(&mut self) {
            let is_free = self.place.upgrade().is_none_or(|place| place.try_read().is_ok());
            let _nobody_asks =
                self.freed.take().map(|freed| freed.send((thread::current().id(), is_free)));
        }
    }

    /// Goal: nobody who reads waits until the former value is freed, and no worker frees it.
    #[tokio::test]
    async fn a_value_that_is_replaced_is_freed_without_the_lock_on_another_thread() {
        let place = Arc::new(RwLock::new(None));
        let (freed, told) = oneshot::channel();
        let first = Looking { place: Arc::downgrade(&place), freed: Some(freed) };
        replace(&place, Some(first));
        replace(&place, None);
        let (freed_by, is_free) = told.await.unwrap();
        assert!(is_free, "the lock was held");
        assert_ne!(freed_by, thread::current().id());
    }

    /// Goal: what is built of a value is built on another thread; one of which nothing is built is
    /// freed there.
    #[tokio::test]
    async fn a_value_is_built_and_freed_on_another_thread() {
        let here = thread::current().id();
        let built_by = Aside::new(1).built(|_value| thread::current().id()).await;
        assert_ne!(built_by, here);
        let (freed, told) = oneshot::channel();
        drop(Aside::new(Looking { place: Weak::new(), freed: Some(freed) }));
        assert_ne!(told.await.unwrap().0, here);
    }
}
