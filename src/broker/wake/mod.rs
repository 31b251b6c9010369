//! Wakers.

pub(super) mod interest;
pub(super) mod journal;
pub(super) mod waker;
