//! The atomics of the standard library, by a name of the broker's own: a test that tries every
//! order of memory accesses replaces them.

pub(super) use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
