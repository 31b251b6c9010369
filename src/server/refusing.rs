//! Connections that are refused: each is told the reason, and when to come back.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::response::Response;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Collected};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::io::AsyncWriteExt;
use tracing::debug;

use super::security::Security;
use super::socket::{Protocol, Socket};
use super::stream;
use super::transport::SystemSocket;
use crate::edge::budget::Share;
use crate::edge::clients::Denied;
use crate::edge::refused::RefusalForm;
use crate::error::Error;

/// The time after which a refused client may come back, in seconds: a random time within this
/// range, so that not all come back at once.
const REFUSED_SECONDS: RangeInclusive<u64> = 5..=10;

/// The longest reason in the last frame of a refused HTTP/2 connection, in bytes.
const MAX_REASON_BYTES: usize = 1_024;

/// The longest wait for a refused client: for its first bytes, for its request, and for taking the
/// answer.
const REFUSED_WAIT: Duration = Duration::from_secs(1);

/// The longest head of a request that is read from a refused client, in bytes.
const MAX_REFUSED_HEAD_BYTES: usize = 16 << 10;

/// Tells a client why its connection is not served, and when to come back.
pub(super) async fn refuse(socket: SystemSocket, security: Security, refused: Denied) {
    let share = Share::default(); // Few are refused at the same time.
    let securing = security.secure(socket, REFUSED_WAIT, &share);
    let secured = tokio::time::timeout(REFUSED_WAIT, securing).await;
    let Ok(Ok(transport)) = secured else { return };
    let mut socket = Socket::new(transport, REFUSED_WAIT, None);
    // An answer before the request would look like a fault.
    let spoken = tokio::time::timeout(REFUSED_WAIT, socket.protocol()).await;
    let said = match spoken {
        Ok(Ok(Protocol::Http2)) => {
            let (_, body) = refusal(refused, RefusalForm::Problem).into_parts();
            let reason = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let said = socket.write_all(&calm_down(&reason)).await;
            said.and(socket.shutdown().await)
        }
        Ok(Ok(Protocol::Http1)) => refuse_request(socket, refused).await,
        Err(_elapsed) => refuse_anything(socket, refused).await,
        Ok(Err(gone)) => Err(gone),
    };
    if let Err(error) = said {
        debug!(%error, "a refused client could not be told the reason");
    }
}

/// Answers the first request of a refused client, in the form that the client reads.
async fn refuse_request(socket: Socket, refused: Denied) -> io::Result<()> {
    let answer = service_fn(move |request: Request<Incoming>| {
        ready(Ok::<_, Infallible>(refusal(refused, RefusalForm::of(&request))))
    });
    let mut builder = http1::Builder::new();
    // The request as a whole has a time limit, so its head needs none.
    builder.keep_alive(false).max_buf_size(MAX_REFUSED_HEAD_BYTES).header_read_timeout(None);
    let mut connection = builder.serve_connection(TokioIo::new(socket), answer);
    match tokio::time::timeout(REFUSED_WAIT, &mut connection).await {
        Ok(served) => served.map_err(io::Error::other),
        Err(_elapsed) => refuse_anything(connection.into_parts().io.into_inner(), refused).await,
    }
}

/// Answers a refused client, whatever it asks.
async fn refuse_anything(mut socket: Socket, refused: Denied) -> io::Result<()> {
    let answered = stream::answer(&mut socket, refusal(refused, RefusalForm::Problem)).await;
    answered.and(socket.shutdown().await)
}

/// Returns the answer to any request of a refused client.
fn refusal(refused: Denied, form: RefusalForm) -> Response {
    let (status, detail) = match refused {
        Denied::Full { limit } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("there are {limit} connections already"))
        }
        Denied::AddressFull { limit } => (
            StatusCode::TOO_MANY_REQUESTS,
            format!("there are {limit} connections from this address already"),
        ),
        Denied::TooOften(limit) => return form.answer(Error::RateLimited(limit)),
    };
    let after = Duration::from_secs(rand::rng().random_range(REFUSED_SECONDS));
    form.answer_for(after, status, &detail)
}

/// Returns the frames that end an HTTP/2 connection before any request: a SETTINGS frame without
/// settings, and a GOAWAY frame with the code `ENHANCE_YOUR_CALM` and the reason. Source: RFC 9113,
/// 3.4 and 6.8.
fn calm_down(reason: &[u8]) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 11;
    let reason = &reason[..reason.len().min(MAX_REASON_BYTES)];
    let size_bytes = 8 + reason.len() as u32;
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&size_bytes.to_be_bytes()[1..]);
    frames.extend_from_slice(&[GOAWAY, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&[0; 4]); // No stream was served.
    frames.extend_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frames.extend_from_slice(reason);
    frames
}
