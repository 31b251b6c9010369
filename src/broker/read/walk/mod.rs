//! Walks over the events of a selection of topics, in either direction, and counts of them.
//!
//! ```text
//! event_order.rs   the two directions
//! selected.rs   the topics of a selection, as they are at one moment
//! source.rs     one topic, a block at a time, from its end or from its beginning
//! merge.rs      many topics, by their positions: the walk that callers see
//! newest.rs     a page of the newest events
//! count.rs      counts, by headers and sequences where that is enough
//! ends.rs       the last sequences of topics at a position
//! ```
//!
//! # Why
//!
//! A reader goes forwards and waits for what comes. A list of notifications begins with the newest
//! event and has an end, and a count looks at everything once. Neither needs a signal, a place that
//! outlives the call, or gaps: what is gone is left out. So a walk takes the extents of its topics
//! once, and reads what they span. Events that come meanwhile are not in it, so its pages are
//! stable; events that go meanwhile may be in it or not.
//!
//! An event is in a walk if a reader that came at its start would get it: it is not trimmed, not
//! expired, and not dropped by compaction.

pub(crate) mod count;
pub(crate) mod ends;
pub(crate) mod event_order;
pub(crate) mod merge;
pub(crate) mod newest;
pub(crate) mod selected;
pub(crate) mod source;
#[cfg(test)]
mod tests;
