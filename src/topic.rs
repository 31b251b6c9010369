//! Topics: the rules for their names, the patterns that match names, and the short ids that the log
//! stores instead of names.
//!
//! The file is longer than others, because names and patterns have their rules in common.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unicode_normalization::is_nfc;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

use crate::error::{Error, Result};

pub use crate::topic_name::TopicName;

/// The longest topic name, in bytes of UTF-8.
pub const MAX_TOPIC_NAME_BYTES: usize = 255;

/// The prefix of the names that are reserved for the broker: of topics and of event types.
pub const RESERVED_PREFIX: &str = "leftoff.";

/// The prefix of the names of the broker's own topics, such as `$audit`. Clients may read such a
/// topic if they are permitted to, and cannot publish to it or change it. A wildcard as the first
/// token of a pattern matches none of them, so that nobody reads them by asking for everything; a
/// pattern that begins with such a name does. MQTT has the same rule (version 5.0, 4.7.2).
pub const OWN_PREFIX: char = '$';

/// The topic of the broker's own with the keys of webhooks.
const SECRET: &str = "$webhooks";

impl TopicName {
    /// Checks `name` and returns it as a topic's name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`] with field `topic`: `name` breaks a rule of
    /// [`TopicName`].
    pub fn new(name: &str) -> Result<Self> {
        check_text("topic", name)?;
        if let Some(bad) = name.chars().find(|c| matches!(c, '*' | '>')) {
            let problem = format!("{name:?} holds {bad:?}, which is for patterns");
            return Err(Error::invalid("topic", problem));
        }
        check_tokens("topic", name)?;
        Ok(Self::checked(name.into()))
    }

    /// Whether the topic is one of the broker's own: see [`OWN_PREFIX`].
    pub fn is_own(&self) -> bool {
        self.as_str().starts_with(OWN_PREFIX)
    }

    /// Whether nobody but the broker reads the topic, because it holds secrets. No edge gives its
    /// events to anybody, and no pattern with wildcards matches it.
    pub fn is_secret(&self) -> bool {
        self.as_str() == SECRET
    }

    /// Checks that clients may publish to the topic, and change it.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `topic`, for a topic of the broker's own.
    pub(crate) fn check_of_clients(&self) -> Result<()> {
        if self.is_own() {
            let problem = format!("{self:?} begins with {OWN_PREFIX:?}: only the broker writes it");
            return Err(Error::invalid("topic", problem));
        }
        Ok(())
    }

    /// Checks that a new topic may have the name: two names that look the same must be the same
    /// name. Topics from before this rule keep their names.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `topic`, for a character that is invisible, for private use or
    /// not assigned by Unicode, and for a name that is not in Unicode's normal form C.
    pub fn check_new(&self) -> Result<()> {
        check_seen("topic", self.as_str())
    }
}

/// Checks that a new name, or a pattern of new names, has only visible characters and one spelling.
pub(crate) fn check_seen(field: &str, name: &str) -> Result<()> {
    if name.is_ascii() {
        return Ok(());
    }
    if let Some(bad) = name.chars().find(|c| is_unseen(*c)) {
        let problem = format!(
            "{name:?} holds U+{:04X}; characters that are invisible, for private use or not \
             assigned are refused",
            u32::from(bad)
        );
        return Err(Error::invalid(field, problem));
    }
    if !is_nfc(name) {
        let problem = format!("{name:?} is not in Unicode's normal form C (NFC)");
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

/// Whether a character is invisible, or has no agreed look. Source: Unicode 16, 4.5 and
/// `Default_Ignorable_Code_Point`, which RFC 8264 (PRECIS) refuses as well. The braille pattern
/// without dots is blank, too.
fn is_unseen(character: char) -> bool {
    let is_ignorable = matches!(
        character,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0100}'..='\u{e01ef}'
    );
    let category = character.general_category();
    is_ignorable
        || matches!(
            category,
            GeneralCategory::Control
                | GeneralCategory::Format
                | GeneralCategory::Surrogate
                | GeneralCategory::PrivateUse
                | GeneralCategory::Unassigned
                | GeneralCategory::SpaceSeparator
                | GeneralCategory::LineSeparator
                | GeneralCategory::ParagraphSeparator
        )
}

/// Checks the length of a name, and its characters except `*` and `>`.
fn check_text(field: &str, name: &str) -> Result<()> {
    if name.len() > MAX_TOPIC_NAME_BYTES {
        return Err(Error::over("topic name bytes", name.len(), MAX_TOPIC_NAME_BYTES));
    }
    // Most names are of such characters, and bytes are read much faster.
    if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    if let Some(bad) = name.chars().find(|c| c.is_control() || c.is_whitespace()) {
        let problem = format!("holds {bad:?}; white space and controls are refused");
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

fn has_wildcard(pattern: &str) -> bool {
    pattern.bytes().any(|byte| matches!(byte, b'*' | b'>'))
}

/// Checks that each wildcard is a whole token, and that `>` is the last one.
fn check_wildcards(pattern: &str) -> Result<()> {
    let invalid = |problem: String| Err(Error::invalid("topic pattern", problem));
    let mut tokens = pattern.split('.').peekable();
    while let Some(token) = tokens.next() {
        let is_last = tokens.peek().is_none();
        match token {
            ">" if !is_last => {
                return invalid(format!("{pattern:?}: `>` stands at the end only"));
            }
            "*" | ">" => {}
            token if has_wildcard(token) => {
                return invalid(format!("{pattern:?}: `*` and `>` are whole tokens"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Checks that no token is empty, and that the name is not reserved for the broker.
fn check_tokens(field: &str, name: &str) -> Result<()> {
    if name.split('.').any(str::is_empty) {
        let problem = format!("{name:?} has an empty token; write tokens like a.b.c");
        return Err(Error::invalid(field, problem));
    }
    if name.starts_with(RESERVED_PREFIX) {
        let problem = format!("{name:?} begins with the reserved {RESERVED_PREFIX:?}");
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

impl std::str::FromStr for TopicName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for TopicName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(&name)
    }
}

/// A pattern of topic names, token by token: `*` is any one token, `>` at the end is one or more.
///
/// ```
/// let pattern: leftoff::topic::TopicPattern = "users.*.inbox".parse()?;
/// assert!(pattern.matches(&"users.42.inbox".parse()?));
/// assert!(!pattern.matches(&"users.42.outbox".parse()?));
/// # Ok::<(), leftoff::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicPattern(Arc<str>);

impl TopicPattern {
    /// Checks `pattern` and returns it as a pattern of names.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] or [`Error::OverLimit`] with field `topic pattern`.
    pub fn new(pattern: &str) -> Result<Self> {
        if has_wildcard(pattern) {
            check_wildcards(pattern)?;
        }
        // All other rules are as for names. Each check is one pass: a reader may have a thousand
        // long patterns.
        check_text("topic pattern", pattern)?;
        check_tokens("topic pattern", pattern)?;
        Ok(Self(pattern.into()))
    }

    /// Checks that the pattern can match the name of a new topic: see [`TopicName::check_new`].
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] with field `topic pattern`.
    pub fn check_new(&self) -> Result<()> {
        check_seen("topic pattern", &self.0)
    }

    /// Whether the pattern is the name of one topic, without wildcards.
    pub fn is_name(&self) -> bool {
        !has_wildcard(&self.0)
    }

    /// Whether the pattern matches `name`.
    pub fn matches(&self, name: &TopicName) -> bool {
        if name.is_own() && self.0.starts_with(['*', '>']) {
            return false;
        }
        let mut tokens = name.as_str().split('.');
        for wanted in self.0.split('.') {
            let Some(token) = tokens.next() else { return false };
            match wanted {
                ">" => return true,
                "*" => {}
                literal if literal != token => return false,
                _ => {}
            }
        }
        tokens.next().is_none()
    }

    /// Returns the pattern that matches exactly the names that both patterns match; `None` if there
    /// is no such name.
    ///
    /// ```
    /// use leftoff::topic::TopicPattern;
    ///
    /// let (mine, asked) = (TopicPattern::new("orders.>")?, TopicPattern::new("*.new")?);
    /// assert_eq!(mine.intersection(&asked), Some(TopicPattern::new("orders.new")?));
    /// # Ok::<(), leftoff::Error>(())
    /// ```
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let begins = |first: &Self, other: &Self| {
            first.0.starts_with(['*', '>']) && other.0.starts_with(OWN_PREFIX)
        };
        if begins(self, other) || begins(other, self) {
            return None;
        }
        let (mut ours, mut theirs) = (self.tokens(), other.tokens());
        let mut both = Vec::new();
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => break,
                (None, Some(_)) | (Some(_), None) => return None,
                (Some(">"), Some(token)) => {
                    both.push(token);
                    both.extend(theirs);
                    break;
                }
                (Some(token), Some(">")) => {
                    both.push(token);
                    both.extend(ours);
                    break;
                }
                (Some("*"), Some(token)) | (Some(token), Some("*")) => both.push(token),
                (Some(our), Some(their)) if our == their => both.push(our),
                (Some(_), Some(_)) => return None,
            }
        }
        Self::new(&both.join(".")).ok() // No name is as long as a pattern that is too long.
    }

    /// Returns the tokens of the pattern, in their order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Returns the text with which every matching name begins.
    pub(crate) fn literal_prefix(&self) -> &str {
        self.0.split(['*', '>']).next().unwrap_or_default()
    }

    /// Returns how specific the pattern is, token by token. If two patterns match a name, the one
    /// with the greater value is the more specific.
    pub(crate) fn specificity(&self) -> Vec<u8> {
        let rank = |token| match token {
            ">" => 0,
            "*" => 1,
            _ => 2,
        };
        self.0.split('.').map(rank).collect()
    }

    /// Returns the pattern as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for TopicPattern {
    type Err = Error;

    fn from_str(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl TryFrom<&str> for TopicPattern {
    type Error = Error;

    fn try_from(pattern: &str) -> Result<Self> {
        Self::new(pattern)
    }
}

impl From<TopicName> for TopicPattern {
    /// Returns the pattern that matches this name alone.
    fn from(name: TopicName) -> Self {
        Self(name.as_str().into())
    }
}

impl AsRef<str> for TopicPattern {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicPattern {
    type Error = Error;

    fn try_from(pattern: String) -> Result<Self> {
        Self::new(&pattern)
    }
}

impl From<TopicPattern> for String {
    fn from(pattern: TopicPattern) -> Self {
        pattern.as_str().to_owned()
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a topic in the log's keys: from 1, given in order of creation, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(u32);

impl TopicId {
    /// The id of the first topic ever created.
    pub const FIRST: TopicId = TopicId(1);

    /// Returns the id with this stored number; `None` for 0, which names no topic.
    pub fn from_stored(id: u32) -> Option<Self> {
        (id > 0).then_some(Self(id))
    }

    /// Returns the number in the key.
    pub fn get(self) -> u32 {
        self.0
    }

    /// Returns the id after this one; `None` if all 2^32 - 1 are used.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_intersection_matches_what_both_patterns_match(
            one in "([ab*]\\.){0,3}[ab*>]",
            other in "([ab*]\\.){0,3}[ab*>]",
            name in "([abc]\\.){0,3}[abc]",
        ) {
            let one = TopicPattern::new(&one).unwrap();
            let other = TopicPattern::new(&other).unwrap();
            let name = TopicName::new(&name).unwrap();
            let both = one.intersection(&other).is_some_and(|both| both.matches(&name));
            prop_assert_eq!(both, one.matches(&name) && other.matches(&name));
        }
    }

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

    #[test]
    fn a_new_name_holds_nothing_that_is_not_seen_and_has_one_spelling() {
        let check = |name: &str| TopicName::new(name).unwrap().check_new();
        for good in ["quakes.us", "été", "雪", "日本語.東京", "Ω", "مرحبا", "नमस्ते", "a🙂b"]
        {
            check(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        let unseen = "\u{ad}\u{34f}\u{200b}\u{200d}\u{200e}\u{202e}\u{2060}\u{2066}\u{2800}\u{3164}\
                      \u{fe0f}\u{feff}\u{e000}\u{e0041}\u{e0100}\u{378}\u{10ffff}";
        for unseen in unseen.chars() {
            let refused = check(&format!("a{unseen}b")).unwrap_err().to_string();
            let code = format!("holds U+{:04X}", u32::from(unseen));
            assert!(refused.starts_with("topic: ") && refused.contains(&code), "{refused}");
        }
        for twice in ["e\u{301}te", "\u{212b}", "\u{2126}", "\u{1100}\u{1161}"] {
            let refused = check(twice).unwrap_err().to_string();
            assert!(refused.contains("normal form C"), "{twice:?}: {refused}");
        }
    }

    #[test]
    fn patterns_match_by_tokens_and_the_special_ones_come_first() {
        let cases = [
            ("a", "a", true),
            ("a", "a.b", false),
            ("*", "a", true),
            ("*", "a.b", false),
            (">", "a", true),
            (">", "$a", false),
            ("*", "$a", false),
            ("*.b", "$a.b", false),
            ("$a", "$a", true),
            ("$a.>", "$a.b", true),
            ("$a.*", "$a.$b", true),
            ("a.*", "a.$b", true),
            (">", "a.b.c", true),
            ("a.>", "a", false),
            ("a.>", "a.b.c", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.*.>", "a.b", false),
            ("a.*.>", "a.b.c.d", true),
        ];
        for (pattern, name, expected) in cases {
            let name = TopicName::new(name).unwrap();
            let pattern = TopicPattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(&name), expected, "{pattern} {name}");
        }
        for bad in ["", "a.", ">.a", "a*", "a.b>", "a b", "leftoff.x"] {
            let error = TopicPattern::new(bad).unwrap_err().to_string();
            assert!(error.starts_with("topic pattern: "), "{bad:?}: {error}");
        }
        let mut patterns = [">", "a.>", "a.*", "a.b", "*.b"].map(|p| TopicPattern::new(p).unwrap());
        patterns.sort_by_key(TopicPattern::specificity);
        let sorted: Vec<&str> = patterns.iter().map(TopicPattern::as_str).collect();
        assert_eq!(sorted, [">", "*.b", "a.>", "a.*", "a.b"]);
    }
}
