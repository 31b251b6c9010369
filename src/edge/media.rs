//! What content types say of payloads.

/// A media type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// How texts of JSON that are one body are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each is a line.
    Lines,
    /// Before each is a record separator, U+001E; a text may have line ends in it.
    /// Source: RFC 7464.
    Records,
}

impl Framing {
    /// The byte between two texts.
    pub(super) fn separator(self) -> u8 {
        match self {
            Self::Lines => b'\n',
            Self::Records => 0x1e,
        }
    }

    /// A text without the separator that ends it: the end of a line is white space of JSON.
    pub(super) fn trimmed(self, text: &[u8]) -> &[u8] {
        text.strip_suffix(&[self.separator()]).unwrap_or(text)
    }

    /// Of a body of many texts of JSON, in any of the names that such a body goes by: with `x-` and
    /// without, below `application` and `text`, with dashes or none.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let essence = essence(content_type);
        let (kind, subtype) = essence.split_once('/')?;
        if !matches!(kind, "application" | "text") {
            return None;
        }
        if subtype.ends_with("+json-seq") {
            return Some(Self::Records);
        }
        let name = subtype.strip_prefix("x-").unwrap_or(subtype).replace(['-', '_'], "");
        match name.as_str() {
            "ndjson" | "jsonl" | "jsonline" | "jsonlines" | "ldjson" | "jsonstream"
            | "stream+json" => Some(Self::Lines),
            "jsonseq" => Some(Self::Records),
            _ => None,
        }
    }
}

/// What a media type says of its payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Text,
    Bytes,
}

impl Media {
    /// A payload without a content type is taken for text, and falls back to bytes.
    pub(super) fn of(content_type: &str) -> Self {
        match essence(content_type).as_str() {
            "" | "application/javascript" | "application/x-www-form-urlencoded" => Self::Text,
            "application/json" => Self::Json,
            other if other.ends_with("+json") => Self::Json,
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
            "text/x-ndjson",
            "text/jsonl",
        ] {
            assert_eq!(Framing::of(lines), Some(Framing::Lines), "{lines}");
        }
        for records in ["application/json-seq", "application/geo+json-seq"] {
            assert_eq!(Framing::of(records), Some(Framing::Records), "{records}");
        }
        for other in ["", "application/json", "application/x+json", "text/plain", "image/jsonl"] {
            assert_eq!(Framing::of(other), None, "{other}");
        }
    }
}
