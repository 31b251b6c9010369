//! Parts of a request that many resources read: the topic in the path, and the whole body.

use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use crate::edge::checked_body::refusal;
use crate::edge::pace::Pace;
use crate::edge::permit::Permit;
use crate::error::{Error, Result};
use crate::permission::Action;
use crate::topic::TopicName;

/// The topic's name in a path, as axum extracts it.
pub(in crate::edge) type PathResult = Result<Path<String>, PathRejection>;

/// Returns the topic in the path.
pub(in crate::edge) fn topic(path: PathResult) -> Result<TopicName> {
    let Path(name) = path.map_err(|rejection| Error::invalid("topic", rejection.body_text()))?;
    TopicName::new(&name)
}

/// Returns the topic in the path, if the caller may do `action` with it.
///
/// # Errors
///
/// As [`topic`] and [`Permit::check`].
pub(in crate::edge) async fn permitted(
    path: PathResult,
    permit: &Permit,
    action: Action,
) -> Result<TopicName> {
    let topic = topic(path)?;
    permit.check(action, &topic).await?;
    Ok(topic)
}

/// Returns the reason for which a body was refused or broke off.
pub(in crate::edge) fn body_error(error: axum::Error) -> Error {
    refusal(&error).unwrap_or_else(|| Error::invalid("body", error.to_string()))
}

/// Reads the whole body, if it is no larger than `limit` and not too slow. A body that is announced
/// as too large is not read at all. So a client that sent `Expect: 100-continue` need not send it.
pub(crate) async fn whole(body: Body, limit: u64, mut pace: Pace) -> Result<Bytes> {
    let told_bytes = body.size_hint().lower();
    if told_bytes > limit {
        return Err(Error::over("payload bytes", told_bytes as usize, limit as usize));
    }
    let mut bytes = BytesMut::new();
    let mut chunks = body.into_data_stream();
    loop {
        let Some(chunk) = pace.next(&mut chunks).await? else { return Ok(bytes.freeze()) };
        let chunk = chunk.map_err(body_error)?;
        let size_bytes = bytes.len() + chunk.len();
        if size_bytes as u64 > limit {
            return Err(Error::over("payload bytes (at least)", size_bytes, limit as usize));
        }
        bytes.extend_from_slice(&chunk);
    }
}
