//! The direction in which events are listed.

/// The direction in which events are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EventOrder {
    /// From the newest event to the oldest.
    #[default]
    Newest,
    /// From the oldest event to the newest.
    Oldest,
}
