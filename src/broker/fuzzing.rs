//! What the checks of [`crate::fuzzing`] need of the broker's own.

use crate::broker::topic::matching::PatternSet;
use crate::topic::{TopicName, TopicPattern};

/// Returns whether `name` fits any of the patterns, as a feed finds it.
pub(crate) fn fits_any(patterns: &[TopicPattern], name: &TopicName) -> bool {
    patterns.iter().collect::<PatternSet>().matches(name)
}
