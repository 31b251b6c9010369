//! Waking: tells the followers of a topic, and the feeds of many topics, that there is something
//! new.
//!
//! `waker.rs` is the thread that signals them, `interest.rs` has the patterns of all feeds, and
//! `journal.rs` has the topics that lately got something new. The signal of one topic is in
//! `topic/signal.rs`.

pub(super) mod interest;
pub(super) mod journal;
pub(super) mod waker;
