//! The broker's part of the checks of [`crate::fuzzing`].

use crate::broker::topic::matching::PatternSet;
use crate::topic::{TopicName, TopicPattern};

/// Whether `name` fits any of the patterns, by the search that feeds use.
pub(crate) fn fits_any(patterns: &[TopicPattern], name: &TopicName) -> bool {
    patterns.iter().collect::<PatternSet>().matches(name)
}
