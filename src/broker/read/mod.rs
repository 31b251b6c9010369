//! Readers: a place over tail and log, of one topic or of many.
//!
//! ```text
//! reader.rs ──▶ subscription.rs (one topic) ──▶ delivery.rs   what is handed out, and patience
//!          └──▶ feed/ (many topics) ─────────▶ gaps.rs       whether something is gone, and why
//!                                             drops.rs      which drops are no loss to a reader
//! page.rs, state/: pages of history, and of the latest event of each key
//! replay/: blocks that were read from the log, shared by readers; filter.rs, searching.rs: filters
//! ```
//!
//! # Why
//!
//! Readers of one topic and of many have a loop each: the first looks for the next sequence in one
//! topic and seeks nothing, the second merges thousands of topics by position. Their common
//! decisions are in one place: gaps, deliveries, patience, filters, searches and the room of
//! readers that are behind. Files are imported by their own paths, so that none imports itself
//! through others.

pub(super) mod behind;
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
pub(super) mod subscription;
