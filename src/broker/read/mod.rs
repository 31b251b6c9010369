//! Readers.

pub(super) mod behind;
pub(super) mod feed;
pub(super) mod filter;
pub(super) mod page;
pub(super) mod reader;
pub(super) mod replay;
pub(super) mod searching;
pub(super) mod state;
pub(super) mod subscription;
