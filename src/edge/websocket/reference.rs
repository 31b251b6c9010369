//! The names that a client of a WebSocket gives to its requests.

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use crate::edge::json_problem;
use crate::edge::subscriptions::asked::name;
use crate::error::{Error, Result};

/// The client's own name for a request, repeated in the answer: a text, or a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Reference {
    Text(String),
    Number(Number),
}

impl Reference {
    /// Reads a reference.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::OverLimit`].
    pub(super) fn read(json: &RawValue) -> Result<Self> {
        let text = json.get();
        let invalid = |problem: &str| Err(Error::invalid("ref", problem));
        if text.starts_with('"') {
            let text = serde_json::from_str(text);
            let text = text.map_err(|error| Error::invalid("ref", json_problem::words(&error)))?;
            return name("ref", text).map(Self::Text);
        }
        match serde_json::from_str::<Number>(text) {
            // As a floating-point number, the answer would have another value.
            Ok(number) if number.is_f64() && !text.contains(['.', 'e', 'E']) && text != "-0" => {
                invalid("is a number of more than 64 bits; write it as a text")
            }
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                invalid("is a number out of the range of 64 bits; write it as a text")
            }
            Err(_) => invalid("is neither a text nor a number"),
        }
    }
}
