//! An event stream over HTTP/1.1, written to its socket.
//!
//! ```text
//! HTTP/1.1 200 OK            1f4            each chunk has the bytes that are ready,
//! content-type: …            id: 42-…       and is one write
//! transfer-encoding: chunked …
//! ```
//!
//! Source: RFC 9112, 7.1, the chunked coding.

use std::fmt::Write as _;
use std::io;
use std::time::SystemTime;

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf, Bytes};
use http::{HeaderName, header};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::edge::budget::Share;
use crate::server::socket::Socket;

/// Sends `response` and ends the connection.
///
/// # Errors
///
/// The client is gone, or does not read.
pub(crate) async fn send(mut socket: Socket, response: Response) -> io::Result<()> {
    let (head, mut body) = response.into_parts();
    socket.write_all(head_of(&head).as_bytes()).await?;
    socket.flush().await?;
    let share = socket.share();
    let mut is_heard = true;
    loop {
        let next = tokio::select! {
            biased;
            next = next(&share, &mut body) => next,
            ended = ended(&mut socket), if is_heard => {
                ended?; // The client may still wait for events: src/server/half_closed.rs.
                is_heard = false;
                continue;
            }
        };
        let Some(frame) = next else { break };
        let frame = frame.map_err(io::Error::other)?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            send_chunk(&mut socket, data).await?;
        }
    }
    socket.write_all(b"0\r\n\r\n").await?;
    socket.shutdown().await
}

/// Returns the next frame, once there is room for it.
async fn next(share: &Share, body: &mut Body) -> Option<Result<Frame<Bytes>, axum::Error>> {
    share.room().await;
    body.frame().await
}

/// Sends a complete answer, as the last of its connection.
///
/// # Errors
///
/// The client is gone, or does not read.
pub(crate) async fn answer(socket: &mut Socket, response: Response) -> io::Result<()> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let framing = format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let head = fields_of(&head) + &framing;
    let mut all = Buf::chain(head.as_bytes(), body);
    socket.write_all_buf(&mut all).await?;
    socket.flush().await
}

/// Returns the head of an answer of unknown length.
fn head_of(head: &http::response::Parts) -> String {
    fields_of(head) + "connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
}

/// Returns the head of an answer, without the headers of its length.
fn fields_of(head: &http::response::Parts) -> String {
    let mut text = String::with_capacity(512);
    let _never_fails = write!(text, "HTTP/1.1 {}\r\n", head.status);
    let is_framing =
        |name: &HeaderName| [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
    for (name, value) in head.headers.iter().filter(|(name, _)| !is_framing(name)) {
        // The broker sets only ASCII values; others are left out.
        if let Ok(value) = value.to_str() {
            let _never_fails = write!(text, "{name}: {value}\r\n");
        }
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    let _never_fails = write!(text, "date: {date}\r\n");
    text
}

async fn send_chunk(socket: &mut Socket, data: Bytes) -> io::Result<()> {
    let size = format!("{:x}\r\n", data.len());
    let mut chunk = Buf::chain(size.as_bytes(), data).chain(&b"\r\n"[..]);
    let size_bytes = chunk.remaining();
    let share = socket.share();
    let send = async {
        socket.write_all_buf(&mut chunk).await?;
        socket.flush().await // TLS keeps the last record otherwise, if it does not fit at once.
    };
    share.waiting_with(size_bytes, send).await
}

/// Waits until the client ends its input. Further bytes are not read as a request, because the
/// answer said that the connection closes after it.
async fn ended(socket: &mut Socket) -> io::Result<()> {
    let mut scratch = [0; 64];
    while socket.read(&mut scratch).await? > 0 {}
    Ok(())
}
