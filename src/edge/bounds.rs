//! The largest request that is taken, on each way in.

use crate::broker::LimitsConfig;

/// What a message may take besides its events' bytes: names, lengths, the topic.
const MESSAGE_SLACK_BYTES: u64 = 1 << 20;

/// What a line may take besides its payload: base64, names, headers.
const LINE_SLACK_BYTES: u64 = 64 << 10;

/// The largest message of gRPC, in bytes.
pub(super) fn max_message_bytes(limits: &LimitsConfig) -> u64 {
    limits.max_batch_bytes + MESSAGE_SLACK_BYTES
}

/// The longest line of a body of lines, in bytes.
pub(super) fn max_line_bytes(limits: &LimitsConfig) -> u64 {
    2 * limits.max_payload_bytes + LINE_SLACK_BYTES
}

/// The most bytes that a request may take before any of it can be handed in.
pub(crate) fn max_request_bytes(limits: &LimitsConfig) -> u64 {
    max_message_bytes(limits).max(max_line_bytes(limits))
}
