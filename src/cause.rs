//! The cause below an error, which is kept for `source()`.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// The cause below an error. All clones of an error share it.
///
/// `source()` of an error returns the cause itself, and not this handle of it, so that a caller can
/// ask whether the cause is an [`io::Error`](std::io::Error):
///
/// ```
/// use std::error::Error as _;
/// use std::io;
///
/// let full = io::Error::from(io::ErrorKind::StorageFull);
/// let error = leftoff::Error::NotWritten(full.into());
/// let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
/// assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
/// ```
#[derive(Clone)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl<E: StdError + Send + Sync + 'static> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(Arc::new(error))
    }
}

// A `Cause` is no error of its own: `#[source]` then takes the error that it derefs to.
impl Deref for Cause {
    type Target = dyn StdError + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&*self.0, f)
    }
}
