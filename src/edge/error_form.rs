//! An error in the form of the protocol on which its request came, for files that serve all
//! protocols. Without the feature `grpc` there is no call, and every form is HTTP's.

#[cfg(not(feature = "grpc"))]
use axum::response::IntoResponse as _;
use axum::response::Response;
use http::{HeaderMap, Uri, header};

use crate::error::{Cause, Error};

/// Whether a request is a gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let media = headers.get(header::CONTENT_TYPE);
    media.is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

/// Returns the answer to a refused call of gRPC.
#[cfg(feature = "grpc")]
pub(super) fn of_call(error: Error) -> Response {
    tonic::Status::from(error).into_http()
}

#[cfg(not(feature = "grpc"))]
pub(super) fn of_call(error: Error) -> Response {
    error.into_response()
}

/// Returns the answer to a request if it is a call of gRPC that no service has: a status of 200
/// with gRPC's own status in the head. Source: the gRPC protocol over HTTP/2.
#[cfg(feature = "grpc")]
pub(super) fn of_unknown_call(uri: &Uri, headers: &HeaderMap) -> Option<Response> {
    let call = uri.path().trim_start_matches('/');
    let refuse = || tonic::Status::unimplemented(format!("{call:?} is not a call of this server"));
    is_grpc(headers).then(|| refuse().into_http())
}

#[cfg(not(feature = "grpc"))]
pub(super) fn of_unknown_call(_uri: &Uri, _headers: &HeaderMap) -> Option<Response> {
    None
}

/// Returns the cause that makes tonic answer a call with the status of `error`, if it is in the
/// chain of causes of a body's error.
#[cfg(feature = "grpc")]
pub(super) fn cause(error: Error) -> Option<Cause> {
    Some(Cause::from(tonic::Status::from(error)))
}

#[cfg(not(feature = "grpc"))]
pub(super) fn cause(_error: Error) -> Option<Cause> {
    None
}
