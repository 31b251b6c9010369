//! The lines that `leftoff publish` reads, and the batches that they become.

use leftoff::client::PublishBatch;
use leftoff::edge::ndjson::{self, Line};
use leftoff::{NewEvent, TopicName};
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
    /// The topics that each get the lines that name none.
    pub(super) default: Vec<TopicName>,
}

/// Lines that were read together: one batch for each run of neighbours of the same topic, so that
/// all lines are stored in their order.
#[derive(Default)]
pub(super) struct InputChunk {
    pub(super) batches: Vec<Lined>,
    /// The number of lines, and their bytes, each counted for each of its topics.
    pub(super) lines: usize,
    pub(super) size_bytes: usize,
    /// The bytes of the input.
    pub(super) read_bytes: usize,
    /// The lines whose events had headers that only the broker sets.
    pub(super) with_own_headers: u64,
}

/// A batch, and the numbers of the lines of its events.
#[derive(Clone)]
pub(super) struct Lined {
    pub(super) batch: PublishBatch,
    /// The number of the line of each event, from 1.
    pub(super) lines: Vec<u64>,
}

impl InputChunk {
    /// Adds a line of `size_bytes`, which counts for each of its topics.
    fn push(&mut self, line: u64, to: Vec<TopicName>, event: NewEvent, size_bytes: usize) {
        self.lines += to.len();
        self.size_bytes += size_bytes.saturating_mul(to.len());
        match self.batches.last_mut() {
            Some(last) if last.batch.topics == to => {
                last.batch.events.push(event);
                last.lines.push(line);
            }
            _ => {
                let batch = PublishBatch::to_topics(to, vec![event]);
                self.batches.push(Lined { batch, lines: vec![line] });
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
                let (to, event, own_headers) = self.event(text).map_err(|error| {
                    let message = ndjson::at_line(self.number, &error);
                    at_lines(CliError::new(ExitReason::Refused, message))
                })?;
                chunk.with_own_headers += u64::from(own_headers > 0);
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

    /// Returns the topics and the event of a line, and the number of its headers that were taken
    /// out, because only the broker sets them.
    fn event(&self, text: &[u8]) -> leftoff::Result<(Vec<TopicName>, NewEvent, usize)> {
        let mut line = Line::parse(text)?;
        let own_headers = line.take_own_headers();
        let Line { topic, mut event } = line;
        let to = topic.map_or_else(|| self.default.clone(), |topic| vec![topic]);
        if to.is_empty() {
            let problem = "the line names none, and neither does the command";
            return Err(leftoff::Error::invalid("topic", problem));
        }
        if event.id.is_empty() {
            event.id = line_id(self.number, text);
        }
        Ok((to, event, own_headers))
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
