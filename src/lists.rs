//! Lists that a client sends: how long they may be.
//!
//! # Why
//!
//! A name takes two bytes in a message, and many times as much in memory, before anything else is
//! done with it. So the length of a list is checked while it is read, in whatever form it comes,
//! and what it takes is bounded by the limit and not by the size of the message.

use crate::error::{Error, Result};

/// Most entries in one list of topics, or of the values of a filter. Source: limits on the wire.
pub(crate) const MAX_ENTRIES: usize = 1_024;

/// Refuses one more entry, where there are `count` in the list already.
///
/// # Errors
///
/// [`Error::OverLimit`].
pub(crate) fn check_room(name: &str, count: usize) -> Result<()> {
    if count >= MAX_ENTRIES {
        return Err(Error::over(name, count + 1, MAX_ENTRIES));
    }
    Ok(())
}
