//! The lines that `leftoff publish` reads, and the requests that they become.

use leftoff::TopicName;
use leftoff::edge::ndjson::{self, Line};
use leftoff::edge::proto::{self, PublishStreamRequest};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;

use super::failure::{CliError, CliResult, ExitReason};

/// The most lines that are sent together, and the most bytes of them.
const MAX_CHUNK_LINES: usize = 500;
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// A source of lines.
pub(super) type Input = Box<dyn AsyncRead + Unpin + Send>;

/// The input, line by line.
pub(super) struct InputLines {
    pub(super) input: BufReader<Input>,
    /// The line that was read last, from 1.
    pub(super) number: u64,
    /// The destination of lines that name none.
    pub(super) default: Option<Destination>,
}

/// The topic of a line, or the topics that each get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    One(String),
    Each(Vec<String>),
}

impl Destination {
    /// Returns the destination of lines for these topics; `None` if there are none.
    pub(super) fn of(topics: &[TopicName]) -> Option<Self> {
        match topics {
            [] => None,
            [topic] => Some(Self::One(topic.to_string())),
            topics => Some(Self::Each(topics.iter().map(TopicName::to_string).collect())),
        }
    }

    /// Returns the number of topics.
    fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Each(topics) => topics.len(),
        }
    }

    fn is_of(&self, request: &PublishStreamRequest) -> bool {
        match self {
            Self::One(topic) => request.topics.is_empty() && request.topic == *topic,
            Self::Each(topics) => request.topics == *topics,
        }
    }

    /// Returns a request without events.
    fn request(self) -> PublishStreamRequest {
        let (topic, topics) = match self {
            Self::One(topic) => (topic, Vec::new()),
            Self::Each(topics) => (String::new(), topics),
        };
        PublishStreamRequest { topic, topics, in_order: true, ..PublishStreamRequest::default() }
    }
}

/// Lines that were read together: one request for each run of neighbours of the same topic, so that
/// all lines are stored in their order.
#[derive(Default)]
pub(super) struct InputChunk {
    pub(super) requests: Vec<Lined>,
    /// The number of lines, and their bytes, each counted for each of its topics.
    pub(super) lines: usize,
    pub(super) size_bytes: usize,
    /// The bytes of the input.
    pub(super) read_bytes: usize,
}

/// A request, and the numbers of the lines of its events.
#[derive(Clone)]
pub(super) struct Lined {
    pub(super) request: PublishStreamRequest,
    /// The number of the line of each event, from 1.
    pub(super) lines: Vec<u64>,
}

impl InputChunk {
    /// Adds a line of `size_bytes`, which counts for each of its topics.
    fn push(&mut self, line: u64, to: Destination, event: proto::NewEvent, size_bytes: usize) {
        self.lines += to.count();
        self.size_bytes += size_bytes.saturating_mul(to.count());
        match self.requests.last_mut() {
            Some(last) if to.is_of(&last.request) => {
                last.request.events.push(event);
                last.lines.push(line);
            }
            _ => {
                let request = PublishStreamRequest { events: vec![event], ..to.request() };
                self.requests.push(Lined { request, lines: vec![line] });
            }
        }
    }
}

impl Lined {
    /// Returns the server's reason for a refusal, with a line number in place of `events[3].`, and
    /// the index of the refused event if the message names one.
    pub(super) fn refused(&self, message: &str) -> (String, Option<usize>) {
        let named = message.strip_prefix("events[").and_then(|rest| {
            let (index, rest) = rest.split_once(']')?;
            let index: usize = index.parse().ok().filter(|index| *index < self.lines.len())?;
            Some((index, rest.trim_start_matches(['.', ' '])))
        });
        match (named, &self.lines[..]) {
            (Some((index, why)), _) => (format!("line {}: {why}", self.lines[index]), Some(index)),
            (None, [line]) => (format!("line {line}: {message}"), Some(0)),
            (None, [first, .., last]) => (format!("lines {first} to {last}: {message}"), None),
            (None, []) => (message.to_owned(), None),
        }
    }
}

impl InputLines {
    /// Reads to the end, or to the first wrong line. The lines before a wrong line are sent first.
    pub(super) async fn run(mut self, chunks: mpsc::Sender<CliResult<InputChunk>>) {
        loop {
            let mut chunk = InputChunk::default();
            let more = self.fill(&mut chunk).await;
            if chunk.read_bytes > 0 && chunks.send(Ok(chunk)).await.is_err() {
                return;
            }
            match more {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _nobody_listens = chunks.send(Err(error)).await;
                    return;
                }
            }
        }
    }

    /// Reads at least one line, and the lines that have arrived with it: complete lines do not wait
    /// for later ones. Returns whether the input may have more lines.
    async fn fill(&mut self, chunk: &mut InputChunk) -> CliResult<bool> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = (&mut self.input).take(MAX_LINE_BYTES + 1);
            let read = bounded.read_until(b'\n', &mut line).await;
            self.number += 1;
            let wrong = |failure, problem: &str| {
                at_lines(CliError::new(failure, format!("line {}: {problem}", self.number)))
            };
            let count = read.map_err(|error| wrong(ExitReason::Other, &error.to_string()))?;
            if count == 0 {
                return Ok(false);
            }
            if count as u64 > MAX_LINE_BYTES {
                let problem = format!("is longer than {MAX_LINE_BYTES} bytes");
                return Err(wrong(ExitReason::Refused, &problem));
            }
            let text = line.trim_ascii();
            if !text.is_empty() {
                let (to, event) = self.event(text).map_err(|error| {
                    let message = ndjson::at_line(self.number, &error);
                    at_lines(CliError::new(ExitReason::Refused, message))
                })?;
                chunk.push(self.number, to, event, count);
            }
            chunk.read_bytes += count;
            let is_full = chunk.lines >= MAX_CHUNK_LINES
                || chunk.size_bytes.max(chunk.read_bytes) >= MAX_CHUNK_BYTES;
            if is_full || !self.input.buffer().contains(&b'\n') {
                return Ok(true);
            }
        }
    }

    fn event(&self, text: &[u8]) -> leftoff::Result<(Destination, proto::NewEvent)> {
        let Line { topic, mut event } = Line::parse(text)?;
        let named = topic.map(|topic| Destination::One(topic.to_string()));
        let to = named.or_else(|| self.default.clone()).ok_or_else(|| {
            leftoff::Error::invalid("topic", "the line names none, and neither does the command")
        })?;
        if event.id.is_empty() {
            event.id = line_id(self.number, text);
        }
        Ok((to, event.into()))
    }
}

/// Returns the id for a line without one: 128 bits of a hash of its number and its content.
fn line_id(number: u64, text: &[u8]) -> String {
    let digest = Sha256::new().chain_update(number.to_be_bytes()).chain_update(text).finalize();
    digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Marks an error whose message already names its lines.
pub(super) fn at_lines(error: CliError) -> CliError {
    CliError { names_lines: true, ..error }
}
