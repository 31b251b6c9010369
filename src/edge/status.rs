//! The one map from [`Error`] to a gRPC status and an HTTP answer.
//!
//! There is one exception. A client that asks for an event stream gets a temporary refusal (429 or
//! 503) with the status 200, as a stream of one block: a browser's `EventSource` that gets any
//! other status never comes back. The block is `leftoff.error`, with the error's own status in its
//! problem details, or `leftoff.stopping`. `sse.rs` builds this answer, and takes times and details
//! from here. `refused.rs` says which requests get it before they are routed, `http/events.rs`
//! afterwards.

use std::collections::HashMap;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::gaps;
use crate::error::{Error, RateLimit, with_causes};

/// The domain in gRPC's ErrorInfo.
const DOMAIN: &str = "leftoff";

/// The codes of an error on every protocol.
struct Codes {
    grpc: Code,
    http: StatusCode,
    /// The kind of error, for programs.
    reason: &'static str,
    /// The time after which a retry may help.
    retry_after: Option<Duration>,
}

fn codes(error: &Error) -> Codes {
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
fn numbers(error: &Error) -> Map<String, Value> {
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

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let codes = codes(&error);
        let mut details = ErrorDetails::new();
        match &error {
            Error::Invalid { field, problem } => {
                details.add_bad_request_violation(field, problem);
            }
            Error::OverLimit { name, value, limit } => {
                let problem = format!("{value} is over the limit of {limit}");
                details.add_bad_request_violation(name, problem);
            }
            Error::UnknownTopic(topic) | Error::TopicExists(topic) | Error::TopicDeleted(topic) => {
                details.set_resource_info("topic", topic.as_str(), "", error.to_string());
            }
            _ => {}
        }
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let metadata: HashMap<String, String> =
            numbers(&error).into_iter().map(|(name, value)| (name, text(value))).collect();
        details.set_error_info(codes.reason, DOMAIN, metadata);
        if codes.retry_after.is_some() {
            details.set_retry_info(codes.retry_after);
        }
        Status::with_error_details(codes.grpc, with_causes(&error), details)
    }
}

/// Whether a request is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the answer to a refused request, in the form that its client reads.
pub(super) fn refused(is_grpc: bool, error: Error) -> Response {
    match is_grpc {
        true => Status::from(error).into_http(),
        false => error.into_response(),
    }
}

/// Returns the `google.rpc` details of an error.
pub(super) fn grpc_details(status: &Status) -> Vec<prost_types::Any> {
    let decoded = <tonic_types::Status as prost::Message>::decode(status.details());
    decoded.map(|status| status.details).unwrap_or_default()
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
    response.headers_mut().insert(header::CACHE_CONTROL, crate::edge::http::tag::NOT_KEPT);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;
    use crate::topic::TopicName;

    #[test]
    fn an_error_means_the_same_on_both_protocols_and_says_when_to_come_back() {
        let topic = TopicName::new("a").expect("a name");
        let cause = Cause::from(std::io::Error::other("the cause"));
        let limit = RateLimit {
            rate: "bytes",
            per_second: 10,
            burst: 30,
            remaining: 4,
            retry_after_ms: 3_000,
        };
        let cases = [
            (Error::invalid("id", "is odd"), Code::InvalidArgument, 400, None),
            (Error::over("id bytes", 256, 255), Code::InvalidArgument, 413, None),
            (Error::UnknownTopic(topic), Code::NotFound, 404, None),
            (Error::Busy { waited_ms: 5 }, Code::ResourceExhausted, 429, Some(1)),
            (Error::RateLimited(limit), Code::ResourceExhausted, 429, Some(3)),
            (Error::ShuttingDown, Code::Unavailable, 503, Some(2)),
            (Error::NoRuntime, Code::Internal, 500, None),
            (Error::NotWritten(cause.clone()), Code::Unavailable, 503, Some(2)),
            (Error::OutcomeUnknown(cause.clone()), Code::Unknown, 500, None),
            (Error::ReadOnly(cause), Code::Unavailable, 503, Some(30)),
            (
                Error::DiskFull { free_bytes: 1, needed_bytes: 2 },
                Code::ResourceExhausted,
                507,
                Some(30),
            ),
        ];
        for (error, code, http, retry_seconds) in cases {
            let status = Status::from(error.clone());
            assert_eq!(status.code(), code, "{error}");
            let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
            assert_eq!(retry.map(|delay| delay.as_secs()), retry_seconds, "{error}");
            let info = status.get_details_error_info().expect("an ErrorInfo");
            assert_eq!(info.domain, DOMAIN);
            let response = error.clone().into_response();
            assert_eq!(response.status().as_u16(), http, "{error}");
            let header = response.headers().get(header::RETRY_AFTER);
            let header = header.map(|value| value.to_str().expect("a number").to_owned());
            assert_eq!(header, retry_seconds.map(|seconds| seconds.to_string()), "{error}");
            let detail = problem_json(&error)["detail"].clone();
            assert_eq!(detail, status.message(), "the same message on both");
        }
    }
}
