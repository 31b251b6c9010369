//! The meaning of content types for payloads and bodies.

/// Returns a media type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a content type is a list that a proxy joined: it has a comma outside of quotes. Source:
/// RFC 9110, 5.3 and 8.3.
pub(super) fn is_joined(content_type: &str) -> bool {
    let (mut is_quoted, mut is_escaped) = (false, false);
    content_type.bytes().any(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ => {}
        }
        byte == b',' && !is_quoted
    })
}

/// The separation of JSON texts in one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each text is a line.
    Lines,
    /// A record separator, U+001E, is before each text. A text may have line ends. Source: RFC
    /// 7464.
    Records,
}

impl Framing {
    /// Returns the separator of texts.
    pub(super) fn separator(self) -> u8 {
        match self {
            Self::Lines => b'\n',
            Self::Records => 0x1e,
        }
    }

    /// Returns a text without the separator at its end.
    pub(super) fn trimmed(self, text: &[u8]) -> &[u8] {
        text.strip_suffix(&[self.separator()]).unwrap_or(text)
    }
}

/// The number and format of texts in a body of some media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texts {
    /// One text, or none.
    One,
    /// Events in this broker's format. Their media type has many names: with `x-` and without,
    /// below `application` and `text`, with dashes or none.
    Ours(Framing),
    /// Many texts of another format, such as `application/geo+json-seq`, or without separators.
    Foreign,
}

impl Texts {
    /// Returns the texts of a body with this content type.
    pub(super) fn of(content_type: &str) -> Self {
        let essence = essence(content_type);
        let Some((kind, subtype)) = essence.split_once('/') else { return Self::One };
        let name = ["x-", "x."].iter().find_map(|prefix| subtype.strip_prefix(prefix));
        let name = name.unwrap_or(subtype).replace(['-', '_'], "");
        let suffix = name.rsplit_once('+').map(|(_, suffix)| suffix);
        match name.as_str() {
            _ if !matches!(kind, "application" | "text") => Self::One,
            "ndjson"
            | "jsonl"
            | "jsonline"
            | "jsonlines"
            | "ldjson"
            | "jsonstream"
            | "stream+json"
            | "json+lines"
            | "newlinedelimitedjson"
            | "linedelimitedjson" => Self::Ours(Framing::Lines),
            "jsonseq" => Self::Ours(Framing::Records),
            "concatenatedjson" => Self::Foreign,
            _ => match suffix {
                Some("ndjson" | "jsonl" | "jsonline" | "jsonlines" | "ldjson" | "jsonseq") => {
                    Self::Foreign
                }
                _ => Self::One,
            },
        }
    }
}

/// Whether payloads of this type are JSON: `*/json` and `*/*+json`. Source: the WHATWG's "MIME
/// Sniffing", 4.6, "JSON MIME type", and CloudEvents, JSON format, 3.1, which allows more types.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    let subtype = essence.split_once('/').map(|(_, subtype)| subtype);
    subtype.is_some_and(|subtype| subtype == "json" || subtype.ends_with("+json"))
}

/// The kind of payload that a media type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Text,
    Bytes,
}

impl Media {
    /// Returns the kind for a content type. A payload without a content type counts as text, and
    /// callers fall back to bytes.
    pub(super) fn of(content_type: &str) -> Self {
        match essence(content_type).as_str() {
            "" | "application/javascript" | "application/x-www-form-urlencoded" => Self::Text,
            other if is_json(other) => Self::Json,
            other if other.starts_with("text/") || other.ends_with("xml") => Self::Text,
            _ => Self::Bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_lines_is_known_and_no_other() {
        for lines in [
            "application/x-ndjson",
            "application/ndjson; charset=utf-8",
            "Application/JSONL",
            "application/x-jsonl",
            "application/jsonlines",
            "application/x-jsonlines",
            "application/json-lines",
            "application/x-json-lines",
            "application/x-ldjson",
            "application/x-json-stream",
            "application/stream+json",
            "application/json+lines",
            "application/newline-delimited-json",
            "application/x.ndjson",
            "text/x-ndjson",
            "text/jsonl",
        ] {
            assert_eq!(Texts::of(lines), Texts::Ours(Framing::Lines), "{lines}");
        }
        for records in ["application/json-seq", "application/x-json-seq; a=b"] {
            assert_eq!(Texts::of(records), Texts::Ours(Framing::Records), "{records}");
        }
        for foreign in [
            "application/geo+json-seq",
            "application/cloudevents+ndjson",
            "application/vnd.x+jsonl",
            "application/concatenated-json",
        ] {
            assert_eq!(Texts::of(foreign), Texts::Foreign, "{foreign}");
        }
        for other in ["", "application/json", "application/x+json", "text/plain", "image/jsonl"] {
            assert_eq!(Texts::of(other), Texts::One, "{other}");
        }
    }

    #[test]
    fn types_that_were_joined_are_told_from_one_with_a_comma_in_quotes() {
        for joined in ["a/b, c/d", "text/plain,", r#"a/b; x="1", c/d"#, r#"a/b; x="\"", c/d"#] {
            assert!(is_joined(joined), "{joined}");
        }
        for one in ["", "a/b", r#"a/b; x="1,2""#, r#"a/b; x="\",""#, "a/b; x=1; y=2"] {
            assert!(!is_joined(one), "{one}");
        }
    }

    #[test]
    fn every_type_of_json_is_json() {
        for json in ["application/json", "Text/JSON; a=b", "image/x+json", "application/a+json"] {
            assert_eq!(Media::of(json), Media::Json, "{json}");
        }
        for other in ["", "json", "+json", "application/jsonp", "text/plain"] {
            assert_ne!(Media::of(other), Media::Json, "{other}");
        }
    }
}
