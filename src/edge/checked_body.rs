//! Bodies of requests that may be refused while they are received.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::error_form;
use crate::error::{Cause, Error, Result};

/// The reason for which a body was refused, as an error and in the form of the request's protocol.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(super) struct RefusedBody {
    error: Error,
    #[source]
    cause: Option<Cause>,
}

impl RefusedBody {
    /// Returns the refusal of a body for the reason `error`.
    pub(super) fn new(error: Error) -> Self {
        let cause = error_form::cause(error.clone());
        Self { error, cause }
    }

    /// Returns the reason.
    pub(super) fn error(&self) -> &Error {
        &self.error
    }
}

/// Returns the reason for which a body was refused; `None` for other errors.
pub(super) fn refusal(error: &axum::Error) -> Option<Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        // An error of a socket has the reason inside.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let refused = inside.and_then(|inside| inside.downcast_ref::<RefusedBody>());
        if let Some(refused) = refused.or(error.downcast_ref()) {
            return Some(refused.error.clone());
        }
        cause = error.source();
    }
    None
}

/// Returns a body that is refused as soon as `check` refuses the size of a piece, in bytes.
pub(super) fn checked(
    body: Body,
    check: impl FnMut(usize) -> Result<()> + Send + Unpin + 'static,
) -> Body {
    Body::new(Checked { body, check })
}

struct Checked<F> {
    body: Body,
    check: F,
}

impl<F: FnMut(usize) -> Result<()> + Unpin> HttpBody for Checked<F> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)?) else {
            return Poll::Ready(None);
        };
        let size_bytes = frame.data_ref().map_or(0, Bytes::len);
        let checked = (self.check)(size_bytes).map(|()| frame);
        Poll::Ready(Some(checked.map_err(|error| axum::Error::new(RefusedBody::new(error)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
