//! The encoding of types and payloads in blocks of server-sent events.
//!
//! A browser uses the types `error`, `open` and `message` itself. They are sent as `type:error` and
//! so on; otherwise `onerror` would be called with a publisher's event.
//!
//! # The encoding of a payload
//!
//! The format carries UTF-8 in lines, and turns all line ends into line feeds. A payload that it
//! cannot carry is never changed in silence:
//!
//! | payload | `format=data` | `format=envelope` | `format=cloudevents` |
//! |---|---|---|---|
//! | UTF-8 without carriage returns | unchanged | as `json.rs` says | as `write.rs` says |
//! | JSON with carriage returns | that JSON, with line feeds | with `data_base64` | that JSON |
//! | other text with carriage returns | a `data:` URL | a string | a string |
//! | anything else | a `data:` URL | `data_base64` | `data_base64` |
//!
//! A `data:` URL has the content type and base64. A text that begins with `data:` is sent as such a
//! URL, too, so that it is not mistaken for one. In the content type, the characters that would end
//! a media type are percent-encoded: a comma, a hash, a blank. Source: WHATWG HTML, server-sent
//! events, 9.2.5 and 9.2.6; RFC 2397; RFC 8259, 2, on line ends in JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::value::RawValue;

use super::super::media::Media;

/// The beginning of each line of a payload.
const DATA: &[u8] = b"data: ";

/// The characters that are not allowed in the media type of a `data:` URL. Source: RFC 2397, 3; RFC
/// 3986, 2.2.
const IN_A_MEDIA_TYPE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@')
    .remove(b'_')
    .remove(b'~');

/// The beginning of every encoded payload, and of no other payload.
const ENCODED: &str = "data:";

/// Types that an `EventSource` uses for its own events: it has opened, it has failed, or an event
/// has no type.
const OF_BROWSERS: [&str; 3] = ["error", "message", "open"];

/// The prefix before a type of [`OF_BROWSERS`].
const RENAMED: &str = "type:";

/// Whether a type is sent with [`RENAMED`] before it: a type in [`OF_BROWSERS`], or one that has
/// the prefix already, so that no two types get the same name.
fn is_renamed(mut event_type: &str) -> bool {
    while let Some(rest) = event_type.strip_prefix(RENAMED) {
        event_type = rest;
    }
    OF_BROWSERS.contains(&event_type)
}

/// Appends the type and the payload of an event: lines of a block, without its end.
pub(super) fn encode_content(
    event_type: &str,
    payload: &[u8],
    content_type: &str,
    bytes: &mut Vec<u8>,
) {
    if !event_type.is_empty() {
        bytes.extend_from_slice(b"event: ");
        if is_renamed(event_type) {
            bytes.extend_from_slice(RENAMED.as_bytes());
        }
        bytes.extend_from_slice(event_type.as_bytes());
        bytes.push(b'\n');
    }
    if is_plain(payload) || is_json(payload, content_type) {
        write_data(payload, bytes);
    } else {
        let media = match content_type {
            "" => "application/octet-stream".into(),
            media => Cow::from(utf8_percent_encode(media, IN_A_MEDIA_TYPE)),
        };
        let data = BASE64.encode(payload);
        bytes.extend_from_slice(format!("data: {ENCODED}{media};base64,{data}\n").as_bytes());
    }
}

/// Appends a whole event as JSON: lines of a block, without its end. The block has no SSE type, so
/// a reader of many topics needs one listener for all of them.
pub(in crate::edge) fn encode_json(bytes: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend_from_slice(DATA);
    let start = bytes.len();
    write(bytes);
    if bytes[start..].iter().any(|byte| is_line_end(*byte)) {
        // A payload that is JSON is written unchanged, with the line ends between its tokens.
        let json = bytes.split_off(start);
        bytes.truncate(start - DATA.len());
        write_data(&json, bytes);
    } else {
        bytes.push(b'\n');
    }
}

/// Appends a text. Its line ends become line feeds.
fn write_data(text: &[u8], bytes: &mut Vec<u8>) {
    let mut rest = Some(text);
    while let Some(text) = rest {
        let end = text.iter().position(|byte| is_line_end(*byte));
        let (line, after) = text.split_at(end.unwrap_or(text.len()));
        bytes.extend_from_slice(DATA);
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
        rest = match after {
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => Some(after),
            [] => None,
        };
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Whether SSE carries the payload unchanged.
fn is_plain(payload: &[u8]) -> bool {
    !payload.contains(&b'\r')
        && !payload.starts_with(ENCODED.as_bytes())
        && std::str::from_utf8(payload).is_ok()
}

/// Whether the payload is JSON by its content type and its bytes. Then its line ends are white
/// space.
fn is_json(payload: &[u8], content_type: &str) -> bool {
    Media::of(content_type) == Media::Json && serde_json::from_slice::<&RawValue>(payload).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the data that a browser reads from the block of an event.
    fn data(payload: &[u8], content_type: &str) -> String {
        let mut bytes = Vec::new();
        encode_content("", payload, content_type, &mut bytes);
        let text = String::from_utf8(bytes).expect("a block is text");
        let lines = text.strip_suffix('\n').expect("a line ends");
        let data = |line: &str| line.strip_prefix("data: ").expect("data alone").to_owned();
        lines.split('\n').map(data).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn json_with_any_line_ends_is_the_same_json_and_no_other_payload_changes() {
        let windows = "{\r\n  \"a\": [1,\r\n 2]\r\n}\r\n";
        for media in ["application/json", "application/geo+json; charset=utf-8"] {
            assert_eq!(data(windows.as_bytes(), media), windows.replace("\r\n", "\n"), "{media}");
            assert_eq!(data(b"[1,\r2,\n\r3]", media), "[1,\n2,\n\n3]", "{media}");
        }
        for (payload, media) in [
            (windows, ""), // The content type does not say JSON.
            (windows, "text/plain"),
            ("{\"a\":\"\r\n\"}", "application/json"), // The payload is not JSON.
        ] {
            let url = data(payload.as_bytes(), media);
            let (head, encoded) = url.split_once(";base64,").expect("an URL");
            assert!(head.starts_with("data:"), "{url}");
            assert_eq!(BASE64.decode(encoded).expect("base64"), payload.as_bytes());
        }
    }

    /// Goal: with any content type, a URL has one comma before its data and no fragment, and the
    /// type can be read back.
    #[test]
    fn no_content_type_ends_its_url_early() {
        for media in [
            "text/plain; charset=\"a,b\"",
            "application/x#y",
            "model/gltf+json;profile=\"https://example.org/a?b#c,d\"",
            "image/png;base64,x",
            "größe/einheit; q=100%",
            "a/b;base64",
            ", ,#",
        ] {
            let url = data(b"\xff\r", media);
            let (head, encoded) = url.split_once(',').expect("a comma");
            assert_eq!(encoded, "/w0=", "{url}");
            assert!(!head.contains('#') && !head.contains(' ') && head.is_ascii(), "{url}");
            let told = head.strip_prefix("data:").and_then(|head| head.strip_suffix(";base64"));
            let told = told.expect("a media type between the two");
            let decoded = percent_encoding::percent_decode_str(told).decode_utf8();
            assert_eq!(decoded.expect("UTF-8"), media);
        }
    }

    #[test]
    fn json_keeps_the_line_feeds_between_its_tokens() {
        let mut bytes = Vec::new();
        encode_json(&mut bytes, |line| line.extend_from_slice(b"{\"data\":{\n\n\"a\":1\r\n}}"));
        let block = String::from_utf8(bytes).expect("text");
        assert_eq!(block, "data: {\"data\":{\ndata: \ndata: \"a\":1\ndata: }}\n");
        let mut bytes = b"id: 1\n".to_vec();
        encode_json(&mut bytes, |line| line.extend_from_slice(b"{}"));
        assert_eq!(bytes, b"id: 1\ndata: {}\n");
    }
}
