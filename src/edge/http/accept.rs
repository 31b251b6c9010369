//! The form that a client accepts. Source: RFC 9110, 12.4.2 on weights and 12.5.1 on `Accept`.
//!
//! ```text
//! Accept: text/event-stream;q=0.5, application/*      a page: it has the greater weight
//! Accept: text/*                                      a stream: a page would not be accepted
//! Accept: */*                                         a page: with equal weights, the stream only
//!                                                     if it is named more closely, or in full
//! ```

use http::header::GetAll;
use http::{HeaderMap, HeaderValue, header};

/// The two forms of an answer with events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::edge) enum Accepted {
    Stream,
    Page,
}

/// The media types of the two forms, each in two parts.
const STREAM: [&str; 2] = ["text", "event-stream"];
const PAGE: [&str; 2] = ["application", "json"];

/// The preference for one form: its weight in thousandths, and how closely the matching range names
/// the form, from 0 for no range to 3 for the full name.
type Wish = (u16, u8);

/// The closeness of a range that is the full name.
const IN_FULL: u8 = 3;

/// Returns the form of the answer; `None` if the client accepts neither. A client without `Accept`,
/// or with an empty one, accepts anything, and gets a page.
pub(in crate::edge) fn accepted(headers: &HeaderMap) -> Option<Accepted> {
    let ranges = weighted(headers.get_all(header::ACCEPT));
    if ranges.is_empty() {
        return Some(Accepted::Page);
    }
    let (stream, page) = (wish(&ranges, STREAM), wish(&ranges, PAGE));
    let is_named = stream.1 == IN_FULL || stream.1 > page.1;
    match (stream.0, page.0) {
        (0, 0) => None,
        (stream, page) if stream > page || (stream == page && is_named) => Some(Accepted::Stream),
        _ => Some(Accepted::Page),
    }
}

/// Returns the preference for a media type. The range that names it most closely counts.
fn wish(ranges: &[(String, u16)], [kind, subtype]: [&str; 2]) -> Wish {
    let closeness = |range: &str| match range.split_once('/') {
        Some((k, s)) if k == kind && s == subtype => IN_FULL,
        Some((k, "*")) if k == kind => 2,
        Some(("*", "*")) => 1,
        None if range == "*" => 1, // Sent by Java's URLConnection: `*; q=.2`.
        _ => 0,
    };
    let wishes = ranges.iter().map(|(range, weight)| (*weight, closeness(range)));
    let named = wishes.filter(|(_, closeness)| *closeness > 0);
    named.max_by_key(|(weight, closeness)| (*closeness, *weight)).unwrap_or_default()
}

/// Returns the members of a header that is a list, in lower case and without their parameters, each
/// with its weight in thousandths.
pub(in crate::edge) fn weighted(values: GetAll<'_, HeaderValue>) -> Vec<(String, u16)> {
    let texts = values.into_iter().filter_map(|value| value.to_str().ok());
    let members = texts.flat_map(|text| split(text, ','));
    let weighted = members.filter_map(|member| {
        let mut parts = split(member, ';').into_iter().map(str::trim);
        let name = parts.next().filter(|name| !name.is_empty())?.to_ascii_lowercase();
        let weight = parts.find_map(|part| {
            let (name, weight) = part.split_once('=')?;
            name.trim_end().eq_ignore_ascii_case("q").then(|| thousandths(weight.trim()))
        });
        Some((name, weight.unwrap_or(1_000)))
    });
    weighted.collect()
}

/// Returns a weight, from 0 to 1, in thousandths. An invalid weight counts as 1, like a missing
/// one.
fn thousandths(weight: &str) -> u16 {
    let weight = weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight));
    weight.map_or(1_000, |weight| (weight * 1_000.0).ceil() as u16)
}

/// Splits a text at the separators outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut begin, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if letter == separator && !quoted => {
                parts.push(&text[begin..at]);
                begin = at + letter.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Accepted> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::try_from(*value).unwrap());
        }
        accepted(&headers)
    }

    #[test]
    fn the_form_with_the_greater_weight_is_the_answer() {
        let (stream, page) = (Some(Accepted::Stream), Some(Accepted::Page));
        assert_eq!(of(&[]), page);
        let cases = [
            ("", page),
            (" , ", page),
            ("*/*", page),
            ("application/json", page),
            ("application/*;q=0.001", page),
            ("Text/Event-Stream", stream),
            ("text/event-stream; charset=utf-8", stream),
            ("text/*", stream),
            ("text/event-stream, application/json", stream),
            ("application/json, text/event-stream", stream),
            ("text/event-stream, */*", stream),
            ("text/event-stream;q=0.1, application/json", page),
            ("text/event-stream;q=0.9,application/json;q=0.91", page),
            ("text/event-stream, application/json;q=0.9", stream),
            ("text/event-stream;q=0, */*", page),
            ("text/event-stream;q=0.0,*/*;q=0.1", page),
            ("application/json;q=0, */*", stream),
            ("text/*;q=0.9, */*;q=0.1", stream),
            ("text/*, text/event-stream;q=0.1, application/json;q=0.5", page),
            ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", page),
            ("application/json, text/plain, */*", page),
            ("text/event-stream;note=\"a,b;q=0\", application/json;q=0.5", stream),
            ("text/event-stream ; Q=0.2 , application/json ; q = 0.3", page),
            ("*; q=.2", page),
            ("text/html", None),
            ("text/event-stream;q=0", None),
            ("*/*;q=0", None),
            ("application/json;q=0.000, text/event-stream;q=0.000", None),
        ];
        for (accept, expected) in cases {
            assert_eq!(of(&[accept]), expected, "{accept:?}");
        }
        assert_eq!(of(&["text/html", "text/event-stream"]), stream, "lines are one list");
    }
}
