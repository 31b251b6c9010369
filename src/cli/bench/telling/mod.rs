//! The telling part of a bench: figures beside their targets.

pub(super) mod faults;
pub(super) mod report;
