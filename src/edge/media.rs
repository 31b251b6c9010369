//! What content types say of payloads.

/// A media type without its parameters, in lower case.
pub(super) fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
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
