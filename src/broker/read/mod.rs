//! Readers: a place over tail and log, of one topic or of many.
//!
//! ```text
//! reader.rs   the one loop: look, deliver, tell a gap, wait
//!    │ the place is in
//!    ├──▶ subscription.rs  one topic, by sequences     ─┐
//!    └──▶ feed/            many topics, by positions   ─┴──▶ gaps.rs   what is gone, and why
//!                                                          drops.rs  what is no loss to a reader
//! common.rs: what both have, and the steps they take; delivery.rs: what is handed out, patience
//! page.rs, state/: pages of history, and of the latest event of each key
//! replay/: blocks that were read from the log, shared by readers; filter.rs, searching.rs: filters
//! ```
//!
//! # Why
//!
//! One topic and many topics are looked up in two ways: the first looks for the next sequence in
//! one topic and seeks nothing, the second merges thousands of topics by position. All else is the
//! reader's, once: waiting, patience, filters, gaps, catching up, stopping.

pub(super) mod behind;
mod common;
pub(super) mod delivery;
pub(super) mod drops;
pub(super) mod feed;
pub(super) mod filter;
pub(super) mod gaps;
pub(super) mod page;
pub(super) mod reader;
pub(super) mod replay;
pub(super) mod searching;
pub(super) mod state;
mod subscription;
