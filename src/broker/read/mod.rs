//! Readers: a place over tail and log, of one topic or of many.
//!
//! ```text
//! reader.rs   the one loop: look, deliver, tell a gap, wait
//!    │ its place is in
//!    ├──▶ subscription.rs  one topic, by sequences     ─┐
//!    └──▶ feed/            many topics, by positions   ─┴──▶ gaps.rs   what is gone, and why
//!                                                          drops.rs  what is no loss to a reader
//! common.rs: the parts and the steps of both; delivery.rs: deliveries, and the patience of callers
//! deliveries.rs: readers, pages and backups as streams; pulls.rs: a stream of calls
//! page.rs, state/: pages of history, and of the latest event of each key
//! walk/: the events of a selection in either direction, and counts of them, without a live reader
//! replay/: blocks that were read from the log, shared by readers; behind.rs: who holds such blocks
//! filter.rs: the events that a reader wants; searching.rs: turns at looking for them
//! arriving.rs: the wait for a place that another node of the fleet has given
//! ```
//!
//! # Why
//!
//! The next event is found in two ways. In one topic it has the next sequence. Many topics, up to
//! hundreds of thousands, are merged by position. All else exists once, for both: waiting,
//! patience, filters, gaps, catching up, stopping.

mod arriving;
pub(super) mod behind;
mod common;
pub(super) mod deliveries;
pub(super) mod delivery;
pub(super) mod drops;
pub(super) mod feed;
pub(super) mod gaps;
pub(super) mod page;
pub(super) mod pulls;
pub(super) mod reader;
pub(super) mod replay;
pub(super) mod searching;
pub(super) mod state;
mod subscription;
pub(super) mod walk;
