//! One setting from the command line or the environment, and its origin.

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

/// The section whose names are topic patterns, which have dots of their own.
const PATTERNS: &str = "topics";

/// A setting, and its origin.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    path: Vec<String>,
    value: Value,
    /// The origin, for people.
    origin: String,
}

impl Setting {
    /// Returns the setting with this name, like `broker.max_queue_bytes` or
    /// `topics."users.>".compact`. If `is_text`, the value is a text even if it looks like a
    /// number: a directory may be named `1`.
    pub(super) fn new(name: &str, value: &str, is_text: bool, origin: impl Into<String>) -> Self {
        let parsed: Value = value.parse().unwrap_or_else(|never| match never {});
        let value = if is_text && parsed.as_str().is_none() { Value::from(value) } else { parsed };
        Self { path: path(name), value, origin: origin.into() }
    }
}

/// Returns the names of the sections, the outermost first, and then that of the setting. The part
/// between `topics.` and the last dot is one pattern, with or without quotes.
fn path(name: &str) -> Vec<String> {
    let own = |text: &str| text.to_owned();
    let Some(rest) = name.strip_prefix(PATTERNS).and_then(|rest| rest.strip_prefix('.')) else {
        return name.split('.').map(own).collect();
    };
    // A pattern alone has all its settings in the value.
    let is_quoted = rest.ends_with(['"', '\'']) && rest.len() > 1;
    let (pattern, setting) = match rest.rsplit_once('.').filter(|_| !is_quoted) {
        Some((pattern, setting)) => (pattern, Some(setting)),
        None => (rest, None),
    };
    let unquoted = ['"', '\''].into_iter().find_map(|quote| {
        let inner = pattern.strip_prefix(quote)?;
        inner.strip_suffix(quote)
    });
    let names = [Some(PATTERNS), Some(unquoted.unwrap_or(pattern)), setting];
    names.into_iter().flatten().map(own).collect()
}

impl Provider for Setting {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.origin.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        let nest = |inner: Value, name: &String| Value::from(Dict::from([(name.clone(), inner)]));
        let nested = self.path.iter().rev().fold(self.value.clone(), nest);
        let Value::Dict(_, settings) = nested else { return Ok(Map::new()) };
        Ok(Profile::Global.collect(settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_one_name_whatever_dots_it_has() {
        for (name, expected) in [
            ("data_dir", &["data_dir"][..]),
            ("broker.max_queue_bytes", &["broker", "max_queue_bytes"]),
            ("topics.users.compact", &["topics", "users", "compact"]),
            ("topics.users.42.>.compact", &["topics", "users.42.>", "compact"]),
            ("topics.\"users.42.>\".compact", &["topics", "users.42.>", "compact"]),
            ("topics.'users.*'.compact", &["topics", "users.*", "compact"]),
            ("topics.\"users.*\"", &["topics", "users.*"]),
            ("topics.", &["topics", ""]),
            ("topics", &["topics"]),
        ] {
            assert_eq!(path(name), expected, "{name}");
        }
    }
}
