//! The nesting of JSON: how many lists and objects are within each other.
//!
//! # Why
//!
//! Parsers bound the nesting, each at another number, and some programs fail beyond it: a browser
//! cannot hand a value of some thousand levels to another tab. One publisher would then stop the
//! readers of a topic. So a payload that is JSON is refused above one bound, on every protocol. One
//! that is stored all the same, by the host of an embedded broker or before there was a bound, is
//! told to readers of JSON as bytes.

use crate::error::{Error, Result};

/// The most levels of a payload that is JSON. Source: `serde_json` reads 127 levels, and an answer
/// has up to 4 around the payload, as in `{"leases":[{"event":{"data":…}}]}`.
pub(crate) const MAX_JSON_LEVELS: usize = 120;

/// Refuses a text with more than `limit` levels.
///
/// # Errors
///
/// [`Error::OverLimit`] with `name`, and the number of levels.
pub(crate) fn check(name: &str, json: &[u8], limit: usize) -> Result<()> {
    match levels(json, limit) {
        found if found > limit => Err(Error::over(name, found, limit)),
        _ => Ok(()),
    }
}

/// Whether a text has more than `limit` levels.
pub(crate) fn are_more_than(limit: usize, json: &[u8]) -> bool {
    levels(json, limit) > limit
}

/// Returns the number of levels of a text; some number up to `limit` if there are not more than
/// that. In a text that is no JSON, what is open counts.
fn levels(json: &[u8], limit: usize) -> usize {
    let opened = json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if opened <= limit {
        return opened; // The count above is much quicker than what follows.
    }
    let (mut open, mut most, mut is_in_a_string) = (0_usize, 0, false);
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_in_a_string = !is_in_a_string,
            b'\\' if is_in_a_string => drop(bytes.next()),
            _ if is_in_a_string => {}
            b'[' | b'{' => {
                open += 1;
                most = most.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_objects_within_each_other_are_counted_and_no_strings() {
        let nested = |levels: usize| {
            let (begin, end) = (r#"{"a":["#.repeat(levels / 2), "]}".repeat(levels / 2));
            format!(r#"{begin}"\"[[[{{\\"{end}"#)
        };
        for limit in [2, 10, MAX_JSON_LEVELS] {
            let (within, beyond) = (nested(limit), nested(limit + 2));
            assert!(!are_more_than(limit, within.as_bytes()), "{within}");
            let error = check("levels of x", beyond.as_bytes(), limit).unwrap_err().to_string();
            let expected = format!("levels of x: {} is over the limit of {limit}", limit + 2);
            assert_eq!(error, expected);
        }
        let wide = format!("[{}]", ["[[]]", r#""]""#].repeat(1_000).join(","));
        assert!(!are_more_than(3, wide.as_bytes()));
        assert!(are_more_than(2, wide.as_bytes()));
        let deepest = "[".repeat(MAX_JSON_LEVELS) + &"]".repeat(MAX_JSON_LEVELS);
        let around = format!(r#"{{"leases":[{{"event":{{"data":{deepest}}}}}]}}"#);
        serde_json::from_str::<serde_json::Value>(&around).expect("readers in Rust read all");
    }
}
