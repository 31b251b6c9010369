//! Compressed bodies: those of requests are decoded, and JSON answers are compressed on request.
//!
//! ```text
//! Content-Encoding: gzip      ─▶ decoded as a whole, up to the bound of a request ─▶ routes
//! Accept-Encoding: zstd, gzip ─▶ routes ─▶ JSON of 1 KiB or more, piece by piece; never a stream
//! ```
//!
//! # Why
//!
//! A kilobyte may decode to gigabytes. So a body is decoded up to the bound of a request, away from
//! the workers, and is given up at that bound. The other memory for decoding is bounded by the
//! largest window: 8 MiB for zstd, as in RFC 9659, and 16 MiB for brotli. Source: RFC 9110, 8.4.1
//! and 12.5.3.

use std::io::{self, ErrorKind, Read, Write as _};
use std::mem::take;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compression, Decompress, FlushDecompress, Status};
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
#[cfg(feature = "zstd")]
use zstd::stream::{raw::DParameter, read::Decoder as ZstdDecoder, write::Encoder as ZstdEncoder};

use crate::edge::Edge;
use crate::edge::bounds::max_request_bytes;
use crate::edge::budget::Held;
use crate::edge::checked_body::RefusedBody;
use crate::edge::clients::Peer;
use crate::edge::effort::Effort;
use crate::edge::http::offered::Coding;
use crate::edge::http::request::whole;
use crate::edge::permit::Permit;
use crate::edge::receiving::Received;
use crate::edge::status;
use crate::error::{Error, Result};

/// The codings of a request that are accepted. `zstd` is written in C, and a cargo feature.
#[cfg(feature = "zstd")]
pub(in crate::edge) const DECODED: &str = "gzip, deflate, br, zstd";
#[cfg(not(feature = "zstd"))]
pub(in crate::edge) const DECODED: &str = "gzip, deflate, br";

/// The largest window of zstd, as the binary logarithm of its bytes. Source: RFC 9659.
#[cfg(feature = "zstd")]
const ZSTD_WINDOW_LOG: u32 = 23;

/// The largest window of all codings, in bytes: that of brotli. Source: RFC 7932, 9.1.
const MAX_WINDOW_BYTES: usize = 16 << 20;

/// Bytes that are decoded before their memory is counted.
const PIECE_BYTES: u64 = 64 << 10;

/// The shortest answer for which compression saves bytes, in bytes.
pub(in crate::edge) const MIN_ENCODED_BYTES: usize = 1 << 10;

/// The memory of an encoder, in bytes.
const ENCODER_BYTES: usize = 1 << 20;

/// A size whose work is always done on another thread: the decoded size is not known beforehand.
const MUCH_BYTES: usize = 1 << 30;

/// Bytes of brotli that are decoded at a time.
const STEP_BYTES: usize = 16 << 10;

/// Decodes the request, and encodes the answer.
pub(in crate::edge) async fn serve(
    State(edge): State<Edge>,
    request: Request,
    next: Next,
) -> Response {
    let wanted = Coding::wanted(request.headers());
    let share = request.extensions().get::<Peer>().map(|peer| peer.share().clone());
    let request = match decoded(&edge, request).await {
        Ok(Ok(request)) => request,
        Ok(Err(refused)) => return refused,
        Err(error) => return error.into_response(),
    };
    let response = next.run(request).await;
    let Some(coding) = wanted.filter(|_| is_encoded(&response)) else { return response };
    // Without room for an encoder, the answer is not compressed.
    let held = share.unwrap_or_default().take(ENCODER_BYTES);
    match held.ok().zip(Encoder::new(coding).ok()) {
        Some((held, encoder)) => encoded(response, coding, encoder, held),
        None => {
            let mut response = response;
            response.headers_mut().remove(header::ETAG); // The tag is that of the coded body.
            response
        }
    }
}

/// Decodes the body of a request, if it is coded. Returns an answer if the coding is not known.
async fn decoded(edge: &Edge, request: Request) -> Result<Result<Request, Response>> {
    let values = request.headers().get_all(header::CONTENT_ENCODING).iter();
    let codings = values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase());
    let codings = codings.collect::<Vec<_>>().join(",");
    let named = codings.split(',').map(str::trim);
    let named = named.filter(|coding| !matches!(*coding, "" | "identity"));
    let coding = named.collect::<Vec<_>>().join(", ");
    // A body that is not read is not decoded.
    let is_read = !matches!(*request.method(), Method::GET | Method::HEAD | Method::DELETE);
    if coding.is_empty() || !is_read {
        return Ok(Ok(request));
    }
    if coding != "x-gzip" && DECODED.split(", ").all(|known| known != coding) {
        let shown: String = coding.chars().take(64).collect();
        let detail = format!("Content-Encoding is {shown:?}; write one of {DECODED}");
        let mut refused = status::plain_problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, &detail);
        refused.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static(DECODED));
        return Ok(Err(refused));
    }
    let (mut head, body) = request.into_parts();
    let permit = Permit::ask(edge, &head).await?; // A stranger causes no work.
    head.extensions.insert(permit);
    let limit = max_request_bytes(edge.broker.limits());
    let body = whole(body, limit, edge.pace()).await?;
    let received = head.extensions.get::<Received>().cloned().unwrap_or_default();
    let work = move || {
        let decoded = decode(&coding, &body, limit, |size_bytes| received.add(size_bytes));
        if let Ok(decoded) = &decoded {
            received.keep(decoded.len()); // The coded body and the window are freed.
        }
        decoded
    };
    let body = Effort::of_bytes(MUCH_BYTES).spend(work).await?;
    head.headers.remove(header::CONTENT_ENCODING);
    head.headers.remove(header::CONTENT_LENGTH);
    Ok(Ok(Request::from_parts(head, Body::from(body))))
}

/// Returns the decoded bytes of a body, up to `limit`. As the bytes grow, `count` is called for
/// their memory, and for the decoder's window, which holds the last of them a second time.
///
/// # Errors
///
/// The first error of `count`; [`Error::OverLimit`] as soon as there are more than `limit`;
/// [`Error::Invalid`] if the body is cut off, or not in this coding.
fn decode(
    coding: &str,
    body: &[u8],
    limit: u64,
    mut count: impl FnMut(usize) -> Result<()>,
) -> Result<Bytes> {
    let invalid = |error: io::Error| {
        let refused = error.get_ref().and_then(|inside| inside.downcast_ref::<RefusedBody>());
        let invalid = || Error::invalid("body", format!("is not valid {coding}: {error}"));
        refused.map_or_else(invalid, |refused| refused.error().clone())
    };
    let mut decoded = Vec::new();
    let mut bounded = |reader: &mut dyn Read| {
        let mut reader = reader.take(limit + 1);
        loop {
            let before = decoded.len();
            reader.by_ref().take(PIECE_BYTES).read_to_end(&mut decoded)?;
            let more = decoded.len() - before;
            if more == 0 {
                return Ok(());
            }
            let window = more.min(MAX_WINDOW_BYTES.saturating_sub(before));
            count(more + window).map_err(|error| io::Error::other(RefusedBody::new(error)))?;
        }
    };
    match coding {
        _ if body.is_empty() => Err(io::Error::new(ErrorKind::UnexpectedEof, "the body is empty")),
        "deflate" => bounded(&mut Deflate::new(body)),
        "br" => bounded(&mut Brotli::new(body)),
        #[cfg(feature = "zstd")]
        "zstd" => ZstdDecoder::with_buffer(body).and_then(|mut decoder| {
            decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG))?;
            bounded(&mut decoder)
        }),
        _ => bounded(&mut MultiGzDecoder::new(body)),
    }
    .map_err(invalid)?;
    if decoded.len() as u64 > limit {
        let name = "decoded body bytes (at least)";
        return Err(Error::over(name, decoded.len(), limit as usize));
    }
    Ok(decoded.into())
}

/// Whether a body begins with the head of RFC 1950.
fn is_zlib(body: &[u8]) -> bool {
    matches!(body, [first, second, ..]
        if first & 0x0f == 8 && (u16::from(*first) << 8 | u16::from(*second)) % 31 == 0)
}

/// A decoder of one `deflate` stream, with its head or without: some clients omit the head.
struct Deflate<'a> {
    body: &'a [u8],
    state: Decompress,
    is_over: bool,
}

impl<'a> Deflate<'a> {
    fn new(body: &'a [u8]) -> Self {
        Self { body, state: Decompress::new(is_zlib(body)), is_over: false }
    }
}

impl Read for Deflate<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if self.is_over || output.is_empty() {
            return Ok(0);
        }
        let (read, written) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(self.body, output, FlushDecompress::None);
        let status = status.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        self.body = &self.body[(self.state.total_in() - read) as usize..];
        self.is_over = status == Status::StreamEnd;
        let written = (self.state.total_out() - written) as usize;
        match (self.is_over, written) {
            (true, _) => check_end(self.body).map(|()| written),
            (false, 0) => Err(ErrorKind::UnexpectedEof.into()),
            (false, _) => Ok(written),
        }
    }
}

/// Checks that no bytes follow the end of the stream; they would be lost.
fn check_end(rest: &[u8]) -> io::Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    let problem = format!("{} bytes follow the end", rest.len());
    Err(io::Error::new(ErrorKind::InvalidData, problem))
}

/// A decoder of brotli that allows only the windows of RFC 7932: others may have a gigabyte.
struct Brotli<'a> {
    body: &'a [u8],
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    at: usize,
    is_over: bool,
}

impl<'a> Brotli<'a> {
    fn new(body: &'a [u8]) -> Self {
        let [first, second, third] = [(); 3].map(|()| StandardAlloc::default());
        let state = Box::new(BrotliState::new_strict(first, second, third));
        Self { body, state, at: 0, is_over: false }
    }
}

impl Read for Brotli<'_> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if self.is_over || output.is_empty() {
            return Ok(0);
        }
        let room = output.len().min(STEP_BYTES);
        let (mut unread, mut unwritten, mut written, mut total) =
            (self.body.len() - self.at, room, 0, 0);
        let result = BrotliDecompressStream(
            &mut unread,
            &mut self.at,
            self.body,
            &mut unwritten,
            &mut written,
            output,
            &mut total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultSuccess => {
                self.is_over = true;
                check_end(&self.body[self.at..])?;
            }
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::NeedsMoreInput if written > 0 => {}
            BrotliResult::NeedsMoreInput => return Err(ErrorKind::UnexpectedEof.into()),
            BrotliResult::ResultFailure => return Err(ErrorKind::InvalidData.into()),
        }
        Ok(written)
    }
}

/// Whether an answer is JSON that is worth compressing. An event stream never is: events would wait
/// in the encoder.
fn is_encoded(response: &Response) -> bool {
    let headers = response.headers();
    let media = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_short =
        response.body().size_hint().exact().is_some_and(|b| b < MIN_ENCODED_BYTES as u64);
    media == Some(b"application/json")
        && !headers.contains_key(header::CONTENT_ENCODING)
        && !is_short
}

/// Returns an answer whose body is encoded, piece by piece.
fn encoded(response: Response, coding: Coding, encoder: Encoder, held: Held) -> Response {
    let mut response = response.map(|body| {
        let begun = Some((body.into_data_stream(), encoder, held));
        let pieces = stream::unfold(begun, |begun| async move {
            let (mut pieces, mut encoder, held) = begun?;
            let piece = match pieces.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some((Err(io::Error::other(error)), None)),
                None => return Some((encoder.finish().map(Bytes::from), None)),
            };
            let effort = Effort::of_encoded(piece.len());
            let work = move || {
                let encoded = encoder.encode(&piece);
                (encoded, encoder)
            };
            let (encoded, encoder) = effort.spend(work).await;
            Some((encoded.map(Bytes::from), Some((pieces, encoder, held))))
        });
        Body::from_stream(pieces)
    });
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    let vary = HeaderValue::from_static("accept-encoding");
    headers.entry(header::VARY).or_insert(vary);
    response
}

/// An encoder of pieces. Each piece is flushed, so that the client can read it when it arrives.
enum Encoder {
    #[cfg(feature = "zstd")]
    Zstd(Box<ZstdEncoder<'static, Vec<u8>>>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Encoder {
    fn new(coding: Coding) -> io::Result<Self> {
        Ok(match coding {
            #[cfg(feature = "zstd")]
            Coding::Zstd => Self::Zstd(Box::new(ZstdEncoder::new(Vec::new(), 1)?)),
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
        })
    }

    fn encode(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                Ok(take(encoder.get_mut()))
            }
            Self::Gzip(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                Ok(take(encoder.get_mut()))
            }
        }
    }

    /// Returns the end of the body.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            #[cfg(feature = "zstd")]
            Self::Zstd(encoder) => encoder.finish(),
            Self::Gzip(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(coding: &str, body: &[u8], limit: u64) -> Result<Bytes> {
        crate::edge::http::coding::decode(coding, body, limit, |_| Ok(()))
    }

    #[test]
    fn what_was_encoded_is_decoded_and_a_bomb_is_given_up_at_its_limit() {
        let text = b"{\"a\":1}".repeat(10_000);
        for coding in [Coding::Zstd, Coding::Gzip] {
            let mut encoder = Encoder::new(coding).unwrap();
            let mut body = encoder.encode(&text[..9]).unwrap();
            body.extend(encoder.encode(&text[9..]).unwrap());
            body.extend(encoder.finish().unwrap());
            assert!(body.len() < text.len() / 10);
            let size = text.len() as u64;
            assert_eq!(decode(coding.name(), &body, size).unwrap(), text);
            let refused = decode(coding.name(), &body, size - 1).unwrap_err().to_string();
            assert_eq!(refused, "decoded body bytes (at least): 70000 is over the limit of 69999");
            decode(coding.name(), &body[..body.len() - 5], size).unwrap_err();
            decode(coding.name(), b"no such thing", size).unwrap_err();
        }
        let hello = [0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03];
        assert_eq!(decode("br", &hello, 5).unwrap(), &b"hello"[..]);
        decode("br", &hello, 4).unwrap_err();
        decode("br", &hello[..6], 5).unwrap_err();
    }

    #[test]
    fn what_is_decoded_counts_as_it_grows_and_is_given_up_where_there_is_no_room() {
        let text = vec![7; 1 << 20];
        let mut encoder = Encoder::new(Coding::Zstd).unwrap();
        let mut body = encoder.encode(&text).unwrap();
        body.extend(encoder.finish().unwrap());
        let decode = |max_bytes: usize| {
            let mut counted = 0;
            let decoded = crate::edge::http::coding::decode("zstd", &body, 1 << 30, |size_bytes| {
                counted += size_bytes;
                match counted > max_bytes {
                    true => Err(Error::NoRoom { needed_bytes: size_bytes as u64, limit_bytes: 9 }),
                    false => Ok(()),
                }
            });
            (counted, decoded)
        };
        let (counted, decoded) = decode(usize::MAX);
        assert_eq!((counted, decoded.unwrap().len()), (2 << 20, 1 << 20), "with the window");
        let (counted, refused) = decode(300 << 10);
        assert!(matches!(refused, Err(Error::NoRoom { limit_bytes: 9, .. })));
        assert_eq!(counted, 384 << 10, "decoding stops at the refusal");
    }
}
