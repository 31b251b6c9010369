//! Topics: the names publishers and readers use, and the short ids the log stores instead.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest topic name, in bytes of UTF-8.
pub const MAX_TOPIC_NAME_BYTES: usize = 255;

/// What begins every name the broker keeps for itself: topics and event types alike.
pub const RESERVED_PREFIX: &str = "leftoff.";

/// The name of a topic: 1 to 255 bytes of UTF-8, tokens parted by `.`, cheap to clone.
///
/// Refused are empty tokens, control characters, white space, the pattern characters `*` and `>`,
/// and names that begin with `leftoff.`, which are the broker's own.
///
/// ```
/// let name: leftoff::TopicName = "quakes.us".parse()?;
/// assert_eq!(name.as_str(), "quakes.us");
/// assert!("quakes..us".parse::<leftoff::TopicName>().is_err());
/// # Ok::<(), leftoff::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Checks `name` and takes it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`] with field `topic`: the rules of the type.
    pub fn new(name: &str) -> Result<Self> {
        let invalid = |problem: String| Error::invalid("topic", problem);
        if name.len() > MAX_TOPIC_NAME_BYTES {
            return Err(Error::over("topic name bytes", name.len(), MAX_TOPIC_NAME_BYTES));
        }
        if let Some(bad) = name.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(invalid(format!("holds {bad:?}; white space and controls are refused")));
        }
        if let Some(bad) = name.chars().find(|c| matches!(c, '*' | '>')) {
            return Err(invalid(format!("{name:?} holds {bad:?}, which is for patterns")));
        }
        if name.split('.').any(str::is_empty) {
            return Err(invalid(format!("{name:?} has an empty token; write tokens like a.b.c")));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(invalid(format!("{name:?} begins with the reserved {RESERVED_PREFIX:?}")));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for TopicName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for TopicName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().to_owned()
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A topic in the log's keys: from 1, given in order of creation, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(u32);

impl TopicId {
    /// The id of the first topic ever created.
    pub const FIRST: TopicId = TopicId(1);

    /// Takes a stored id; `None` for 0, which names no topic.
    pub fn from_stored(id: u32) -> Option<Self> {
        (id > 0).then_some(Self(id))
    }

    /// The number in the key.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The id after this one; `None` when all 2^32 - 1 are used.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tokens_are_taken_and_everything_else_is_refused_with_the_reason() {
        for good in ["a", "quakes.us", "users.42.inbox", "été.雪", &"x".repeat(255)] {
            assert_eq!(TopicName::new(good).unwrap().as_str(), good);
        }
        let refusals = [
            ("", "empty token"),
            (".a", "empty token"),
            ("a.", "empty token"),
            ("a..b", "empty token"),
            ("a b", "white space"),
            ("a\0b", "\\0"),
            ("a\nb", "\\n"),
            ("a.*", "patterns"),
            ("a.>", "patterns"),
            ("leftoff.audit", "reserved"),
            (&"x".repeat(256), "limit of 255"),
        ];
        for (bad, reason) in refusals {
            let message = TopicName::new(bad).unwrap_err().to_string();
            assert!(message.contains(reason), "{bad:?}: {message}");
        }
    }
}
