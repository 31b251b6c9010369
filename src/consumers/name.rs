//! The name of a consumer, and the rules for it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::topic::check_seen;

/// The prefix of the names of webhooks' consumers, which nobody but the broker changes or works
/// for.
pub(crate) const OF_WEBHOOKS: &str = "webhook:";

/// The longest name of a consumer, in bytes of UTF-8.
pub const MAX_CONSUMER_NAME_BYTES: usize = 128;

/// The name of a consumer: 1 to 128 bytes of UTF-8, cheap to clone.
///
/// Refused are control characters, white space, `/`, which parts the path of a URL, characters that
/// are invisible, for private use or not assigned by Unicode, and a spelling that is not in
/// Unicode's normal form C: two names that look the same are the same name. A name that begins with
/// `webhook:` is that of a webhook's consumer, which nobody else makes or changes.
///
/// ```
/// let name: leftoff::consumers::ConsumerName = "inbox".parse()?;
/// assert_eq!(name.as_str(), "inbox");
/// assert!("in/box".parse::<leftoff::consumers::ConsumerName>().is_err());
/// # Ok::<(), leftoff::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConsumerName(Arc<str>);

impl ConsumerName {
    /// Checks `name` and returns it as a consumer's name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`] with field `consumer`: `name` breaks a rule of
    /// [`ConsumerName`].
    pub fn new(name: &str) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::invalid("consumer", "is empty; a name has 1 to 128 bytes"));
        }
        if name.len() > MAX_CONSUMER_NAME_BYTES {
            return Err(Error::over("consumer bytes", name.len(), MAX_CONSUMER_NAME_BYTES));
        }
        let is_bad = |c: &char| c.is_control() || c.is_whitespace() || *c == '/';
        if let Some(bad) = name.chars().find(is_bad) {
            let problem = format!(
                "{name:?} holds {bad:?}; control characters, white space and '/' are refused"
            );
            return Err(Error::invalid("consumer", problem));
        }
        check_seen("consumer", name)?;
        Ok(Self(name.into()))
    }

    /// Checks that the name is none of a webhook's consumer.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `consumer`.
    pub(super) fn check_of_no_webhook(&self) -> Result<()> {
        if !self.0.starts_with(OF_WEBHOOKS) {
            return Ok(());
        }
        let problem = format!(
            "{:?} is of a webhook; names that begin with {OF_WEBHOOKS:?} are for webhooks alone",
            self.as_str()
        );
        Err(Error::invalid("consumer", problem))
    }

    /// Returns the name as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ConsumerName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for ConsumerName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

impl From<ConsumerName> for String {
    fn from(name: ConsumerName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_spelling_and_nothing_that_is_not_seen() {
        let longest = "x".repeat(MAX_CONSUMER_NAME_BYTES);
        for good in ["inbox", "a b".trim_end_matches(" b"), "été", "雪", "a.b*>:~", &longest] {
            assert_eq!(ConsumerName::new(good).unwrap().to_string(), good);
        }
        let too_long = format!("{longest}x");
        let refused = [
            ("", "consumer: is empty"),
            (too_long.as_str(), "consumer bytes: 129 is over the limit of 128"),
            ("a/b", "holds '/'"),
            ("a b", "holds ' '"),
            ("a\nb", "holds '\\n'"),
            ("a\u{200b}b", "holds U+200B"),
            ("e\u{301}te", "normal form C"),
        ];
        for (name, words) in refused {
            let error = ConsumerName::new(name).unwrap_err().to_string();
            assert!(error.contains(words), "{name:?}: {error}");
        }
    }
}
