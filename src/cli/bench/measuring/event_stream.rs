//! A parser of an SSE answer that comes in pieces of any size. It keeps almost nothing, and does
//! not allocate: a bench has thousands of parsers on one thread, and reads a million events per
//! second.
//!
//! ```text
//!  HTTP/1.1 200 OK          status    must be 200
//!  transfer-encoding: ...   headers   must be chunked; an empty line ends them
//!  5f                       size      of the chunk, in hex; 0 ends the stream
//!  id: 42-9f3c2a1b          chunk     lines of frames; any line may go on in the next chunk
//! ```
//!
//! Knows no sockets and no clocks.

use std::io::BufRead;

/// The most bytes that are kept of an incomplete line: enough for an id, or for the numbers at the
/// beginning of a payload.
const MAX_KEPT_BYTES: usize = 64;

/// An event that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::bench) struct BenchEvent {
    /// The sequence in its id; 0 without an id.
    pub(in crate::cli::bench) sequence: u64,
    /// The number at the beginning of its payload: the time of its publish, in nanoseconds since
    /// 1970.
    pub(in crate::cli::bench) published_ns: Option<u64>,
}

/// The part of the answer to which the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Status,
    Headers { is_chunked: bool },
    Size { bytes: usize, is_over: bool },
    Chunk { left: usize },
    ChunkEnd,
    Ended,
}

/// The beginning of an incomplete line.
#[derive(Debug, Clone, Copy)]
struct KeptLine {
    bytes: [u8; MAX_KEPT_BYTES],
    len: usize,
}

impl KeptLine {
    const NOTHING: Self = Self { bytes: [0; MAX_KEPT_BYTES], len: 0 };

    /// Adds as many bytes as there is room for.
    fn push(&mut self, more: &[u8]) {
        let len = more.len().min(MAX_KEPT_BYTES - self.len);
        self.bytes[self.len..self.len + len].copy_from_slice(&more[..len]);
        self.len += len;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The received part of a frame.
#[derive(Debug, Clone, Copy, Default)]
struct SseFrame {
    sequence: Option<u64>,
    published_ns: Option<u64>,
    has_data: bool,
    /// Whether its type is one of the broker's own.
    is_control: bool,
}

/// The state of one answer.
#[derive(Debug)]
pub(in crate::cli::bench) struct SseAnswer {
    part: Part,
    kept: KeptLine,
    frame: SseFrame,
    start: Option<u64>,
}

impl SseAnswer {
    pub(in crate::cli::bench) fn new() -> Self {
        Self {
            part: Part::Status,
            kept: KeptLine::NOTHING,
            frame: SseFrame::default(),
            start: None,
        }
    }

    /// Returns the sequence after which the stream begins, once the broker has sent it: the
    /// subscription is open then.
    pub(in crate::cli::bench) fn start(&self) -> Option<u64> {
        self.start
    }

    /// Takes the next bytes, and calls `deliver` with the start and each event that ends in them.
    ///
    /// # Errors
    ///
    /// The problem with the answer, or the end of the answer. No more bytes can be taken then.
    pub(in crate::cli::bench) fn take(
        &mut self,
        mut bytes: &[u8],
        mut deliver: impl FnMut(Option<u64>, BenchEvent),
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Status | Part::Headers { .. } => self.head(bytes)?,
                Part::Size { .. } => self.size(bytes)?,
                Part::Chunk { left } => {
                    let (chunk, rest) = bytes.split_at(left.min(bytes.len()));
                    self.lines(chunk, &mut deliver);
                    let left = left - chunk.len();
                    self.part = if left == 0 { Part::ChunkEnd } else { Part::Chunk { left } };
                    rest
                }
                Part::ChunkEnd => match split_line(bytes) {
                    Some((_empty, rest)) => {
                        self.part = Part::Size { bytes: 0, is_over: false };
                        rest
                    }
                    None => &[],
                },
                Part::Ended => return Err("the server ended the stream".to_owned()),
            };
        }
        if self.part == Part::Ended {
            Err("the server ended the stream".to_owned())
        } else {
            Ok(())
        }
    }

    /// Takes one line of the head. Returns the bytes after it.
    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let Some((line, rest)) = split_line(bytes) else {
            self.kept.push(bytes);
            return Ok(&[]);
        };
        let mut kept = std::mem::replace(&mut self.kept, KeptLine::NOTHING);
        kept.push(line);
        let line = String::from_utf8_lossy(kept.get()).trim_end().to_ascii_lowercase();
        self.part = match self.part {
            Part::Headers { is_chunked: true } if line.is_empty() => {
                Part::Size { bytes: 0, is_over: false }
            }
            Part::Headers { .. } if line.is_empty() => {
                return Err("the answer is not chunked".to_owned());
            }
            Part::Headers { is_chunked } => {
                let is_it = line.starts_with("transfer-encoding:") && line.ends_with("chunked");
                Part::Headers { is_chunked: is_chunked || is_it }
            }
            _status if line.starts_with("http/1.1 200") => Part::Headers { is_chunked: false },
            _status => return Err(format!("the server answered {line:?}")),
        };
        Ok(rest)
    }

    /// Takes a byte of a chunk's size. Returns the bytes after it.
    fn size<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let (Part::Size { bytes: size, is_over }, Some((byte, rest))) =
            (self.part, bytes.split_first())
        else {
            return Ok(bytes);
        };
        self.part = match ((*byte as char).to_digit(16), byte) {
            (_, b'\n') if size == 0 => Part::Ended,
            (_, b'\n') => Part::Chunk { left: size },
            (Some(digit), _) if !is_over => match size.checked_mul(16) {
                Some(more) => Part::Size { bytes: more + digit as usize, is_over },
                None => return Err("a chunk is larger than memory".to_owned()),
            },
            // An extension may follow the size, and is ignored.
            _ => Part::Size { bytes: size, is_over: true },
        };
        Ok(rest)
    }

    fn lines(&mut self, mut bytes: &[u8], deliver: &mut impl FnMut(Option<u64>, BenchEvent)) {
        while let Some((line, rest)) = split_line(bytes) {
            bytes = rest;
            if self.kept.len == 0 {
                self.line(line, deliver);
            } else {
                let mut kept = std::mem::replace(&mut self.kept, KeptLine::NOTHING);
                kept.push(line);
                self.line(kept.get(), deliver);
            }
        }
        self.kept.push(bytes);
    }

    fn line(&mut self, line: &[u8], deliver: &mut impl FnMut(Option<u64>, BenchEvent)) {
        if line.is_empty() {
            self.end_frame(deliver);
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            if !self.frame.has_data {
                self.frame.published_ns = leading_number(data);
            }
            self.frame.has_data = true;
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            self.frame.sequence = leading_number(id);
        } else if let Some(event_type) = line.strip_prefix(b"event: ") {
            self.frame.is_control = event_type.starts_with(b"leftoff.");
        }
    }

    fn end_frame(&mut self, deliver: &mut impl FnMut(Option<u64>, BenchEvent)) {
        let SseFrame { sequence, published_ns, has_data, is_control } =
            std::mem::take(&mut self.frame);
        let is_event = has_data && !is_control;
        // The first id tells the start: that sequence, or for an event the one before.
        self.start = self.start.or(sequence.map(|first| first.saturating_sub(is_event.into())));
        if is_event {
            deliver(self.start, BenchEvent { sequence: sequence.unwrap_or(0), published_ns });
        }
    }
}

/// Returns the first line in `bytes`, without its line end, and the bytes after it.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // The only way to the standard library's fast search for a byte.
    let mut rest = bytes;
    let len = rest.skip_until(b'\n').ok()?;
    Some((bytes[..len].strip_suffix(b"\n")?, rest))
}

/// Returns the number at the beginning of `text`.
fn leading_number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        let above = number.unwrap_or(0_u64).checked_mul(10)?;
        number = Some(above.checked_add(u64::from(digit - b'0'))?);
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                        Transfer-Encoding: chunked\r\n\r\n";

    fn chunk(text: &str) -> String {
        format!("{:x}\r\n{text}\r\n", text.len())
    }

    #[test]
    fn events_are_the_same_in_whatever_pieces_they_come() {
        let long = "x".repeat(300);
        let answer = [
            HEAD.to_owned(),
            chunk("retry: 2417\n"),
            chunk(&format!("event: bench\ndata: 1700000000000000001 1 {long}\nid: 42-9f3c2a1b\n")),
            chunk("\nid: 43-9f3c2a1b\ndata: 17000000000000"),
            chunk("00002 2\ndata: 7 is a second line\n\n: heartbeat\n"),
            chunk("id: 43-9f3c2a1b\nevent: leftoff.caught-up\ndata: {}\n\n"),
            chunk("id: 44-9f3c2a1b\ndata: none\n\n"),
        ];
        let answer = answer.concat();
        let delivery = |sequence, published_ns| BenchEvent { sequence, published_ns };
        let expected = [
            delivery(42, Some(1_700_000_000_000_000_001)),
            delivery(43, Some(1_700_000_000_000_000_002)),
            delivery(44, None),
        ];
        for size in (1..40).chain([100, answer.len()]) {
            let mut stream = SseAnswer::new();
            let mut seen = Vec::new();
            for piece in answer.as_bytes().chunks(size) {
                let deliver = |start, delivery| {
                    assert_eq!(start, Some(41));
                    seen.push(delivery);
                };
                stream.take(piece, deliver).unwrap();
            }
            assert_eq!(seen, expected, "pieces of {size} bytes");
            let end = stream.take(b"0\r\n\r\n", |_, _| ()).unwrap_err();
            assert_eq!(end, "the server ended the stream");
        }
    }

    #[test]
    fn an_answer_that_is_no_stream_is_refused_with_what_it_is() {
        let answers = [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "the server answered \"http/1.1 404 not found\""),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "the answer is not chunked"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
                "a chunk is larger than memory",
            ),
        ];
        for (answer, problem) in answers {
            let error = SseAnswer::new().take(answer.as_bytes(), |_, _| ()).unwrap_err();
            assert_eq!(error, problem);
        }
    }
}
