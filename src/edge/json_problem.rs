//! Messages about invalid JSON from a client, for people: the place, the value, and the expected
//! form. The parser's own messages name types of the code.

/// Returns the problem, with its place if there is one: ", at column 7", or ", at line 2, column
/// 7".
pub(crate) fn words(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let place = match (line, column) {
        (0, _) | (_, 0) => String::new(),
        (1, column) => format!(", at column {column}"),
        (line, column) => format!(", at line {line}, column {column}"),
    };
    format!("{}{place}", without_place(error))
}

/// Returns the problem alone, for callers that give the place in another way.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let own = format!(" at line {} column {}", error.line(), error.column());
    problem(text.strip_suffix(&own).unwrap_or(&text))
}

fn problem(text: &str) -> String {
    if text.starts_with("EOF while parsing") {
        return "the JSON ends before it is complete".to_owned();
    }
    // The parser reads a struct from a list, too, until an entry is missing.
    if let Some((_, wanted)) = text.strip_prefix("invalid length ").and_then(expected) {
        return format!("a list is not {}", allowed(wanted));
    }
    let mismatch = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix).and_then(expected));
    if let Some((found, wanted)) = mismatch {
        return format!("{} is not {}", shown(found), allowed(wanted));
    }
    for (prefix, what) in [("unknown field `", "name"), ("unknown variant `", "value")] {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        let Some((found, known)) = rest.rsplit_once("`, expected ") else { break };
        let known = known.trim_start_matches("one of ").replace('`', "");
        return format!("{found:?} is not a known {what}; known are {known}");
    }
    if let Some(name) = text.strip_prefix("missing field `") {
        return format!("{} is missing", name.trim_end_matches('`'));
    }
    if let Some(name) = text.strip_prefix("duplicate field `") {
        return format!("{} is given twice", name.trim_end_matches('`'));
    }
    match text {
        "expected value" => "there is no JSON value".to_owned(),
        "trailing characters" => "something follows the JSON value".to_owned(),
        text => text.to_owned(),
    }
}

/// Returns the two parts of a message: the found value, and the expected one.
fn expected(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(", expected ")
}

/// Returns a found value in words.
fn shown(found: &str) -> String {
    match found {
        "sequence" => return "a list".to_owned(),
        "map" => return "an object".to_owned(),
        _ => {}
    }
    let is_number = ["integer `", "floating point `", "boolean `"]
        .iter()
        .find_map(|prefix| found.strip_prefix(prefix)?.strip_suffix('`'));
    let text = is_number.or_else(|| found.strip_prefix("string "));
    text.unwrap_or(found).to_owned()
}

/// Returns the expected value in words, from the name of a Rust type.
fn allowed(wanted: &str) -> String {
    let named = match wanted {
        "u64" | "usize" => "a whole number from 0",
        "u32" => "a whole number from 0 to 4294967295",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "an object",
        "any valid JSON value" => "a JSON value",
        wanted if wanted.starts_with("struct ") => "an object",
        wanted if wanted.contains("enum ") => "one of the values that are known here",
        wanted => wanted,
    };
    named.to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "the fields are only parsed")]
    struct Read {
        id: Option<String>,
        ttl_ms: Option<u64>,
        is_on: Option<bool>,
        list: Option<Vec<u32>>,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
        Two,
    }

    #[test]
    fn what_is_wrong_with_json_is_said_without_the_names_of_types() {
        for (json, expected) in [
            (r#"{"id":"#, "the JSON ends before it is complete, at column 6"),
            (r#"{"id":5}"#, "5 is not a string, at column 7"),
            (r#"{"id":true}"#, "true is not a string, at column 10"),
            ("{\n\"ttl_ms\":-1}", "-1 is not a whole number from 0, at line 2, column 11"),
            (r#"{"ttl_ms":"x"}"#, "\"x\" is not a whole number from 0, at column 13"),
            (r#"{"ttl_ms":1.5}"#, "1.5 is not a whole number from 0, at column 13"),
            (r#"{"ttl_ms":{}}"#, "an object is not a whole number from 0, at column 10"),
            (r#"{"is_on":0}"#, "0 is not true or false, at column 10"),
            (r#"{"list":{}}"#, "an object is not a list, at column 8"),
            (r#"{"list":[-1]}"#, "-1 is not a whole number from 0 to 4294967295, at column 11"),
            (
                r#"{"dta":1}"#,
                "\"dta\" is not a known name; known are id, ttl_ms, is_on, list, kind, \
                 at column 6",
            ),
            (
                r#"{"kind":"six"}"#,
                "\"six\" is not a known value; known are one or two, at column 13",
            ),
            (r#"{"id":"a","id":"b"}"#, "id is given twice, at column 14"),
            (r#""x""#, "\"x\" is not an object, at column 3"),
            ("[]", "a list is not an object, at column 2"),
            ("{} x", "something follows the JSON value, at column 4"),
            ("", "the JSON ends before it is complete"),
            ("x", "there is no JSON value, at column 1"),
        ] {
            let said = words(&serde_json::from_str::<Read>(json).unwrap_err());
            assert_eq!(said, expected, "{json}");
        }
    }
}
