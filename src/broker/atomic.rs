//! The atomics of the standard library. A test that tries every order of memory accesses puts
//! others in their place.

pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
