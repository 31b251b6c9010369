//! Tails.

pub(super) mod newest;
