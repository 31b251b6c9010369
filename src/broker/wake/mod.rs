//! Waking: followers of a topic, and feeds of many, are told that there is something new.
//!
//! `waker.rs` is the thread that signals them, `interest.rs` the patterns of all feeds, and
//! `journal.rs` the topics that had something new of late. The signal of one topic is in
//! `topic/signal.rs`.

pub(super) mod interest;
pub(super) mod journal;
pub(super) mod waker;
