//! The size of the largest request, on each way in.

use http::{HeaderMap, Uri};

use crate::broker::LimitsConfig;

/// The memory of one field of a head besides its name and its value, in bytes.
const FIELD_BYTES: usize = 64;

/// The bytes of a message beyond those of its events: names, lengths, the topic.
const MESSAGE_SLACK_BYTES: u64 = 1 << 20;

/// The bytes of a line beyond those of its payload: base64, names, headers.
const LINE_SLACK_BYTES: u64 = 64 << 10;

/// Returns the memory of the head of a request, in bytes.
pub(crate) fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let field = |name: &str, value_bytes| FIELD_BYTES + name.len() + value_bytes;
    let fields = headers.iter().map(|(name, value)| field(name.as_str(), value.len()));
    uri.path().len() + uri.query().map_or(0, str::len) + fields.sum::<usize>()
}

/// Returns the size of the largest gRPC message, in bytes.
pub(super) fn max_message_bytes(limits: &LimitsConfig) -> u64 {
    limits.max_batch_bytes + MESSAGE_SLACK_BYTES
}

/// Returns the length of the longest line in a body of lines, in bytes.
pub(super) fn max_line_bytes(limits: &LimitsConfig) -> u64 {
    2 * limits.max_payload_bytes + LINE_SLACK_BYTES
}

/// Returns the largest number of bytes that a request may take before any part can be published.
pub(crate) fn max_request_bytes(limits: &LimitsConfig) -> u64 {
    max_message_bytes(limits).max(max_line_bytes(limits))
}

/// The length at which a piece is complete, in bytes. A piece may be longer by one block or event.
/// Writing it takes less than a millisecond.
pub(in crate::edge) const PIECE_BYTES: usize = 64 << 10;
