//! The name of a topic as a plain type. The rules for names are in topic.rs: checks return errors,
//! and errors name topics, so rules and type in one file would import each other in a circle.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a topic: 1 to 255 bytes of UTF-8, tokens with `.` between them, cheap to clone.
///
/// Names that begin with `$` are those of the broker's own topics:
/// [`OWN_PREFIX`](crate::topic::OWN_PREFIX).
///
/// Empty tokens, control characters, white space, the pattern characters `*` and `>`, and names
/// that begin with `leftoff.`, which are reserved for the broker, are refused. The name of a new
/// topic must also be visible as it is: see [`Self::check_new`].
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
    /// Makes a name of a text that keeps the rules.
    pub(crate) fn checked(name: Arc<str>) -> Self {
        Self(name)
    }

    /// Returns the name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.as_str().to_owned()
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for TopicName {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for TopicName {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
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
