//! Messages about a wrong setting, for people: its name, its value, the expected value, and its
//! origin.

use figment::error::{Actual, Kind};
use figment::{Error, Figment};

const ADDRESS: &str = "an address with a port, like 127.0.0.1:4280";

/// Returns all problems of a configuration, in one sentence.
pub(super) fn all(error: Error, figment: &Figment) -> String {
    let all: Vec<String> = error.into_iter().map(|error| one(&error, figment)).collect();
    all.join("; ")
}

fn one(error: &Error, figment: &Figment) -> String {
    let problem = match &error.kind {
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("{} is not {}", shown(actual), allowed(expected))
        }
        Kind::UnknownField(_, known) => {
            format!("is not known here; known are {}", known.join(", "))
        }
        Kind::UnknownVariant(value, known) => {
            format!("{value:?} is not one of {}", known.join(", "))
        }
        // The standard library says no more about an address.
        Kind::Message(text) if text == "invalid socket address syntax" => {
            let value = figment.find_value(&error.path.join(".")).ok();
            let value = value.as_ref().and_then(|value| value.as_str()).unwrap_or("this");
            format!("{value:?} is not {ADDRESS}")
        }
        other => other.to_string(),
    };
    let names: Vec<String> = error.path.iter().map(|name| quoted(name)).collect();
    let place = [names.join("."), problem].into_iter().filter(|text| !text.is_empty());
    let said = place.collect::<Vec<_>>().join(": ");
    let origin = error.metadata.as_ref().map(|metadata| match &metadata.source {
        Some(source) => format!(" (in {source})"),
        None => format!(" ({})", metadata.name),
    });
    said + &origin.unwrap_or_default()
}

/// Returns a name as it is written in a file: in quotes, if it has dots or other signs.
fn quoted(name: &str) -> String {
    let is_bare = |character: char| character.is_ascii_alphanumeric() || "_-".contains(character);
    let is_plain = !name.is_empty() && name.chars().all(is_bare);
    if is_plain || name.starts_with('"') { name.to_owned() } else { format!("{name:?}") }
}

fn shown(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Char(value) => format!("{value:?}"),
        Actual::Str(value) => format!("{value:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        _ => "the value".to_owned(),
    }
}

/// Returns the expected value in words, from the name of a Rust type.
fn allowed(expected: &str) -> String {
    match expected {
        "u64" | "usize" | "i64" => "a whole number from 0".to_owned(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a sequence" => "a list, like [\"a\", \"b\"]".to_owned(),
        "path string" => "the name of a file or a directory, in quotes".to_owned(),
        "socket address" => ADDRESS.to_owned(),
        "a map" => "a section of settings".to_owned(),
        text if text.starts_with("struct ") => "a section of settings".to_owned(),
        text if text.contains("enum ") => "one of the texts that are known here".to_owned(),
        text => text.to_owned(),
    }
}
