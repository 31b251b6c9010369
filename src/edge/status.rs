//! The one map from [`Error`] to the codes of gRPC and of HTTP, and the answers of HTTP. The
//! statuses of gRPC are in `grpc/status.rs`.
//!
//! There is one exception. A client that asks for an event stream gets a temporary refusal (429 or
//! 503) with the status 200, as a stream of one block: a browser's `EventSource` that gets any
//! other status never comes back. The block is `leftoff.error`, with the error's own status in its
//! problem details, or `leftoff.stopping`. `sse.rs` builds this answer, and takes times and details
//! from here. `refused.rs` says which requests get it before they are routed, `http/events.rs`
//! afterwards.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::gaps;
use crate::error::{Error, RateLimit, with_causes};

/// The answer must not be kept by a cache.
pub(super) const NOT_KEPT: HeaderValue = HeaderValue::from_static("no-store");

/// A code of gRPC, by its number on the wire. Source: gRPC, `doc/statuscodes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GrpcCode {
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// The codes of an error on every protocol.
pub(super) struct Codes {
    pub(super) grpc: GrpcCode,
    pub(super) http: StatusCode,
    /// The kind of error, for programs.
    pub(super) reason: &'static str,
    /// The time after which a retry may help.
    pub(super) retry_after: Option<Duration>,
}

/// Returns the codes of an error.
pub(super) fn codes(error: &Error) -> Codes {
    use GrpcCode as Code;

    let codes = |grpc, http, reason| Codes { grpc, http, reason, retry_after: None };
    let retry = |grpc, http, reason, seconds| Codes {
        grpc,
        http,
        reason,
        retry_after: Some(Duration::from_secs(seconds)),
    };
    match error {
        Error::Invalid { .. } => codes(Code::InvalidArgument, StatusCode::BAD_REQUEST, "INVALID"),
        Error::OverLimit { .. } => {
            codes(Code::InvalidArgument, StatusCode::PAYLOAD_TOO_LARGE, "OVER_LIMIT")
        }
        Error::UnknownTopic(_) => codes(Code::NotFound, StatusCode::NOT_FOUND, "UNKNOWN_TOPIC"),
        Error::TopicExists(_) => codes(Code::AlreadyExists, StatusCode::CONFLICT, "TOPIC_EXISTS"),
        Error::TopicDeleted(_) => codes(Code::NotFound, StatusCode::GONE, "TOPIC_DELETED"),
        Error::UnexpectedSequence { .. } => {
            codes(Code::FailedPrecondition, StatusCode::PRECONDITION_FAILED, "UNEXPECTED_SEQUENCE")
        }
        Error::UnknownConsumer(_) => {
            codes(Code::NotFound, StatusCode::NOT_FOUND, "UNKNOWN_CONSUMER")
        }
        Error::UnknownWebhook(_) => codes(Code::NotFound, StatusCode::NOT_FOUND, "UNKNOWN_WEBHOOK"),
        Error::UnexpectedCheckpoint { .. } => {
            codes(Code::FailedPrecondition, StatusCode::CONFLICT, "UNEXPECTED_CHECKPOINT")
        }
        Error::Gap(_) | Error::Gaps(_) => codes(Code::OutOfRange, StatusCode::GONE, "GAP"),
        Error::Busy { .. } => {
            retry(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "BUSY", 1)
        }
        Error::RateLimited(limit) => Codes {
            grpc: Code::ResourceExhausted,
            http: StatusCode::TOO_MANY_REQUESTS,
            reason: "RATE_LIMITED",
            retry_after: Some(Duration::from_millis(limit.retry_after_ms)),
        },
        Error::Crowded { .. } => {
            retry(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "CROWDED", 1)
        }
        Error::Full { .. } => {
            retry(Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "FULL", 5)
        }
        Error::NoRoom { .. } => {
            retry(Code::ResourceExhausted, StatusCode::SERVICE_UNAVAILABLE, "NO_ROOM", 1)
        }
        Error::Unauthenticated { .. } => {
            codes(Code::Unauthenticated, StatusCode::UNAUTHORIZED, "UNAUTHENTICATED")
        }
        Error::Denied { .. } => codes(Code::PermissionDenied, StatusCode::FORBIDDEN, "DENIED"),
        Error::AfterFailure => codes(Code::Aborted, StatusCode::CONFLICT, "AFTER_FAILURE"),
        Error::ShuttingDown => {
            retry(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "SHUTTING_DOWN", 2)
        }
        Error::NoRuntime => codes(Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "NO_RUNTIME"),
        Error::DeadlineExceeded { .. } => {
            codes(Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED")
        }
        Error::TooSlow { .. } => {
            codes(Code::DeadlineExceeded, StatusCode::REQUEST_TIMEOUT, "TOO_SLOW")
        }
        Error::DiskFull { .. } => {
            retry(Code::ResourceExhausted, StatusCode::INSUFFICIENT_STORAGE, "DISK_FULL", 30)
        }
        Error::NotLeading | Error::NoLeader(_) => {
            retry(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "NOT_LEADING", 1)
        }
        Error::NotCaughtUp { .. } => {
            retry(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "NOT_CAUGHT_UP", 1)
        }
        Error::LeaderLost(_) => codes(Code::Unknown, StatusCode::GATEWAY_TIMEOUT, "LEADER_LOST"),
        Error::NotWritten(_) => {
            retry(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "NOT_WRITTEN", 2)
        }
        Error::OutcomeUnknown(_) => {
            codes(Code::Unknown, StatusCode::INTERNAL_SERVER_ERROR, "OUTCOME_UNKNOWN")
        }
        Error::ReadOnly(_) => {
            retry(Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "READ_ONLY", 30)
        }
        Error::ReadFailed(_) => {
            codes(Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "READ_FAILED")
        }
        Error::Damaged { .. } | Error::DamagedLog { .. } => {
            codes(Code::DataLoss, StatusCode::INTERNAL_SERVER_ERROR, "DAMAGED")
        }
        Error::DamagedEnd(_) => {
            codes(Code::FailedPrecondition, StatusCode::CONFLICT, "DAMAGED_END")
        }
        Error::Open { .. } | Error::Backup { .. } | Error::Listen { .. } => {
            codes(Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "NOT_OPEN")
        }
    }
}

/// Returns the values of an error besides its message, by name.
pub(super) fn numbers(error: &Error) -> Map<String, Value> {
    let value = match error {
        Error::Invalid { field, .. } => json!({"field": field}),
        Error::OverLimit { name, value, limit } => {
            json!({"field": name, "value": value, "limit": limit})
        }
        Error::UnknownTopic(topic)
        | Error::TopicExists(topic)
        | Error::TopicDeleted(topic)
        | Error::DamagedEnd(topic) => {
            json!({"topic": topic})
        }
        Error::UnexpectedSequence { topic, expected, actual } => {
            json!({"topic": topic, "expected_sequence": expected, "actual_sequence": actual})
        }
        Error::UnexpectedCheckpoint { expected, actual, .. } => {
            json!({"expected_checkpoint": expected, "actual_checkpoint": actual})
        }
        Error::Gap(gap) => gaps::json(gap),
        Error::Gaps(gaps) => {
            let mut numbers = gaps.first().map(gaps::json).unwrap_or_default();
            numbers["topics"] = gaps.len().into();
            numbers
        }
        Error::RateLimited(limit) => json!({
            "rate": limit.rate,
            "limit_per_second": limit.per_second,
            "burst": limit.burst,
            "remaining": limit.remaining,
            "retry_after_ms": limit.retry_after_ms,
        }),
        Error::DiskFull { free_bytes, needed_bytes } => {
            json!({"free_bytes": free_bytes, "needed_bytes": needed_bytes})
        }
        Error::NoRoom { needed_bytes, limit_bytes } => {
            json!({"needed_bytes": needed_bytes, "limit_bytes": limit_bytes})
        }
        Error::Damaged { topic, first, last, .. } => {
            json!({"topic": topic, "first_sequence": first, "last_sequence": last})
        }
        _ => json!({}),
    };
    match value {
        Value::Object(numbers) => numbers,
        _ => Map::new(),
    }
}

/// The headers with the rate that refused a request, and with the rest of its allowance.
/// Source: draft-ietf-httpapi-ratelimit-headers-10, 3 and 4.
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Returns a time in whole seconds, rounded up, for a header.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Sets the rate headers of an answer: `RateLimit-Policy: "publishes";q=200000;w=10;qu="events"` is
/// the quota in a window of seconds, and `RateLimit: "publishes";r=12;t=3` is the rest of it and
/// the seconds to `Retry-After`.
pub(super) fn tell_rate(response: &mut Response, limit: &RateLimit) {
    let RateLimit { rate, per_second, burst, remaining, retry_after_ms } = *limit;
    let unit = match rate {
        "publishes" => "events",
        "bytes" => "content-bytes",
        other => other,
    };
    let window = burst.div_ceil(per_second.max(1));
    let retry_after = seconds(Duration::from_millis(retry_after_ms));
    let policy = format!("\"{rate}\";q={burst};w={window};qu=\"{unit}\"");
    let left = format!("\"{rate}\";r={remaining};t={retry_after}");
    for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)] {
        let value = HeaderValue::try_from(value).expect("words and numbers make a header");
        response.headers_mut().insert(name, value);
    }
}

/// Returns an error as problem details. Source: RFC 9457.
pub(super) fn problem_json(error: &Error) -> Value {
    let codes = codes(error);
    let mut problem = numbers(error);
    let kind = codes.reason.to_ascii_lowercase().replace('_', "-");
    problem.insert("type".into(), format!("urn:leftoff:problem:{kind}").into());
    problem.insert("title".into(), codes.http.canonical_reason().into());
    problem.insert("status".into(), codes.http.as_u16().into());
    problem.insert("detail".into(), with_causes(error).into());
    if let Error::Gaps(gaps) = error {
        problem.insert("gaps".into(), gaps.iter().map(gaps::json).collect());
    }
    Value::Object(problem)
}

/// Returns an answer with problem details, and `extra` members.
pub(super) fn problem(
    error: &Error,
    extra: impl IntoIterator<Item = (&'static str, Value)>,
) -> Response {
    let codes = codes(error);
    let mut body = problem_json(error);
    for (name, value) in extra {
        body[name] = value;
    }
    let mut response = refusal(codes.http, body, codes.retry_after);
    let gaps = match error {
        Error::Gap(gap) => std::slice::from_ref(&**gap),
        Error::Gaps(gaps) => gaps,
        _ => &[],
    };
    gaps::tell(&mut response, gaps);
    if let Error::RateLimited(limit) = error {
        tell_rate(&mut response, limit);
    }
    if codes.http == StatusCode::UNAUTHORIZED {
        // An answer with 401 must name a scheme. Source: RFC 9110, 15.5.2.
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

/// Returns the time after which a retry may help, if it may.
pub(super) fn retry_after(error: &Error) -> Option<Duration> {
    codes(error).retry_after
}

/// Sets `Retry-After` and the rate headers of an answer.
pub(super) fn tell_retry(response: &mut Response, error: &Error) {
    if let Some(after) = retry_after(error) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    if let Error::RateLimited(limit) = error {
        tell_rate(response, limit);
    }
}

fn refusal(status: StatusCode, body: Value, retry_after: Option<Duration>) -> Response {
    let content_type = HeaderValue::from_static("application/problem+json");
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response.headers_mut().insert(header::CACHE_CONTROL, NOT_KEPT);
    if let Some(after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    response
}

/// Returns an answer with problem details for a request that no [`Error`] fits: a wrong path,
/// method or media type.
pub(crate) fn plain_problem(status: StatusCode, detail: &str) -> Response {
    refusal(status, plain_problem_json(status, detail), None)
}

/// Returns the problem details of [`plain_problem`], as JSON.
pub(super) fn plain_problem_json(status: StatusCode, detail: &str) -> Value {
    let title = status.canonical_reason();
    json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail})
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        problem(&self, [])
    }
}
