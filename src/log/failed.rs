//! The failure that ends all writing to a log, and the function that reports it.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::error::{Cause, Error, Result};

/// The function that is called with the cause of a failure.
pub type TellFailure = Box<dyn Fn(&Cause) + Send + Sync>;

/// The failure that ended all writing. The thread that meets it first sets it.
#[derive(Default)]
pub(super) struct WriteFailure {
    cause: Mutex<Option<Cause>>,
    tell: Mutex<Option<TellFailure>>,
}

impl WriteFailure {
    /// Calls `write`, unless writing failed before. A failure ends all writing.
    pub(super) fn or_fail<T>(&self, write: impl FnOnce() -> std::io::Result<T>) -> Result<T> {
        let mut failed = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = &*failed {
            return Err(Error::ReadOnly(cause.clone()));
        }
        write().map_err(|error| {
            let cause = Cause::from(error);
            *failed = Some(cause.clone());
            Error::OutcomeUnknown(cause)
        })
    }

    /// Refuses if writing failed before.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    pub(super) fn check(&self) -> Result<()> {
        let failed = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |cause| Err(Error::ReadOnly(cause.clone())))
    }

    /// Notes a failure that happened outside of a write, and reports it.
    pub(super) fn set(&self, cause: Cause) {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause.clone());
        if let Some(tell) = &*self.tell.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(&cause);
        }
    }

    /// Registers `tell` for a failure outside of a write. An earlier failure is reported at once.
    pub(super) fn tell(&self, tell: TellFailure) {
        let mut told = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = &*self.cause.lock().unwrap_or_else(PoisonError::into_inner) {
            tell(cause);
        }
        *told = Some(tell);
    }

    /// Whether there was a failure.
    pub(super) fn is_set(&self) -> bool {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl fmt::Debug for WriteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("cause", &self.cause).finish_non_exhaustive()
    }
}
