//! Attributes of CloudEvents, each checked by the rules, and the event that they describe.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::event::{NewEvent, Timestamp};

/// The version of the specification that is supported.
pub(super) const VERSION: &str = "1.0";

/// The prefix of an attribute's name in a header, of HTTP or of an event.
pub(super) const PREFIX: &str = "ce-";

/// The header that lists the attributes that are not text, without its prefix.
pub(super) const TYPES: &str = "types";

/// Attributes that the specification defines: texts that are not empty.
pub(super) const CORE: [&str; 8] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"];

/// The longest id that is kept unchanged, in bytes: the default of `limits.max_id_bytes`.
pub(super) const MAX_ID_BYTES: usize = 255;

/// The most characters of a refused text that an error shows.
pub(super) const MAX_SHOWN_CHARS: usize = 64;

/// The value of an attribute. The specification's other types are texts: times, URIs, bytes in
/// base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Value<'a> {
    Boolean(bool),
    Integer(i32),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Returns the value in a header, of the type in [`TYPES`].
    pub(super) fn read(text: &'a str, kind: Option<&str>) -> Self {
        let value = match kind {
            Some("boolean") => text.parse().ok().map(Self::Boolean),
            Some("integer") => text.parse().ok().map(Self::Integer),
            _ => None,
        };
        value.unwrap_or(Self::Text(Cow::Borrowed(text)))
    }

    /// Returns the word for the value's type in [`TYPES`]; `None` for a text.
    pub(super) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Boolean(_) => Some("boolean"),
            Self::Integer(_) => Some("integer"),
            Self::Text(_) => None,
        }
    }

    /// Returns the canonical text.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Text(text) => text.as_ref().to_owned(),
        }
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

/// The attributes of a published event, each checked by the rules.
#[derive(Debug, Default)]
pub(super) struct Attributes(BTreeMap<String, Value<'static>>);

impl Attributes {
    /// Adds an attribute.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the attribute: its name or its value breaks a rule, or it is given
    /// twice.
    pub(super) fn put(&mut self, name: &str, value: impl Into<Value<'static>>) -> Result<()> {
        let value = value.into();
        check_name(name)?;
        check_value(name, &value)?;
        match self.0.insert(name.to_owned(), value) {
            Some(_) => Err(Error::invalid(name, "is given twice")),
            None => Ok(()),
        }
    }

    /// Returns the value of an attribute that is text; `None` for others.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn required(&self, name: &str) -> Result<&str> {
        self.text(name).ok_or_else(|| Error::invalid(name, "is missing"))
    }

    /// Returns the event with these attributes and this payload.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the attribute that is missing or breaks a rule.
    pub(super) fn into_event(self, payload: Bytes) -> Result<NewEvent> {
        let version = self.required("specversion")?;
        if version != VERSION {
            let problem = format!("{:?} is not supported; write {VERSION:?}", shown(version));
            return Err(Error::invalid("specversion", problem));
        }
        let own = |name| self.text(name).unwrap_or_default().to_owned();
        Ok(NewEvent {
            id: event_id(self.required("source")?, self.required("id")?)?,
            event_type: self.required("type")?.to_owned(),
            key: own("subject"),
            headers: self.headers(),
            content_type: own("datacontenttype"),
            payload,
            publisher_time: self.text("time").map(read_time).transpose()?,
            ttl_ms: None,
        })
    }

    fn headers(&self) -> BTreeMap<String, String> {
        let kept =
            self.0.iter().filter(|(name, _)| !["type", "datacontenttype"].contains(&&***name));
        let mut headers = BTreeMap::new();
        let mut types = Vec::new();
        for (name, value) in kept {
            headers.insert(format!("{PREFIX}{name}"), value.to_text());
            types.extend(value.kind().map(|kind| format!("{name}:{kind}")));
        }
        if !types.is_empty() {
            headers.insert(format!("{PREFIX}{TYPES}"), types.join(" "));
        }
        headers
    }
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if !is_name(name) {
        let problem = format!("{:?} is not a valid name; use a-z and 0-9", shown(name));
        return Err(Error::invalid("attributes", problem));
    }
    match name {
        "data" => Err(Error::invalid(name, "is the payload, not an attribute")),
        TYPES => Err(Error::invalid(name, "is an attribute that the broker keeps for itself")),
        _ => Ok(()),
    }
}

pub(super) fn check_value(name: &str, value: &Value<'_>) -> Result<()> {
    let is_core = CORE.contains(&name);
    match value {
        Value::Text(text) if is_core && text.is_empty() => Err(Error::invalid(name, "is empty")),
        Value::Text(text) => match text.chars().find(|c| c.is_control()) {
            Some(bad) => Err(Error::invalid(name, format!("holds the control character {bad:?}"))),
            None => Ok(()),
        },
        _ if is_core => Err(Error::invalid(name, "must be a string")),
        _ => Ok(()),
    }
}

/// Whether an attribute may have this name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Joins a source and an id to one id. The source has no space, so the first space separates them.
pub(super) fn event_id(source: &str, id: &str) -> Result<String> {
    if let Some(bad) = source.chars().find(|c| c.is_whitespace()) {
        return Err(Error::invalid("source", format!("holds {bad:?}; a URI has no white space")));
    }
    let whole = format!("{source} {id}");
    if whole.len() <= MAX_ID_BYTES {
        return Ok(whole);
    }
    let digest = Sha256::digest(whole.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

/// Reads a time of RFC 3339 with any offset, from 1970 on. Refuses other forms that `Timestamp`
/// accepts.
pub(super) fn read_time(text: &str) -> Result<Timestamp> {
    let time = split_offset(text).and_then(|(local, offset_ms)| {
        let local: Timestamp = format!("{local}Z").parse().ok()?;
        local.as_ms().checked_add_signed(-offset_ms).map(Timestamp::from_ms)
    });
    time.filter(|time| *time <= Timestamp::MAX).ok_or_else(|| {
        let problem = format!("{:?} is not RFC 3339, in the years 1970 to 9999", shown(text));
        Error::invalid("time", problem)
    })
}

/// Returns date and time of day, and how far they are ahead of UTC, in milliseconds.
pub(super) fn split_offset(text: &str) -> Option<(String, i64)> {
    let text = text.to_ascii_uppercase();
    let (local, offset_ms) = match text.strip_suffix('Z') {
        Some(local) => (local, 0),
        None => {
            let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
            (local, read_offset(offset.as_bytes())?)
        }
    };
    // `Timestamp` would accept a second offset, a blank, and a point without digits after it.
    let is_plain = !local.contains(['+', 'Z', ' ']) && !local.ends_with('.');
    is_plain.then(|| (local.to_owned(), offset_ms))
}

/// Reads an offset like `+01:30`, in milliseconds.
pub(super) fn read_offset(offset: &[u8]) -> Option<i64> {
    let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = offset else { return None };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    let (hours, minutes) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    let ms = (hours * 60 + minutes) * 60_000;
    (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -ms } else { ms })
}

/// Names the event of a batch that an error is about, from 0.
pub(super) fn locate(error: Error, index: usize) -> Error {
    match error {
        Error::Invalid { field, problem } => {
            Error::Invalid { field: format!("events[{index}].{field}"), problem }
        }
        other => other,
    }
}

/// Returns the beginning of a text, for an error.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}
