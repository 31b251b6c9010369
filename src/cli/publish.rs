//! `leftoff publish`: NDJSON from a file or standard input, over one `PublishStream`.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use leftoff::TopicName;
use leftoff::edge::ndjson::{self, Line};
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{self, PublishStreamRequest, PublishStreamResponse, TopicAck};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::client::{Backoff, ServerArgs, failed, is_transient};
use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};
use super::progress::bytes_bar;
use super::terminal;

/// The most lines that are sent together, and the most bytes of them.
const MAX_CHUNK_LINES: usize = 500;
const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The bytes that are read from the input at a time.
const READ_BYTES: usize = 256 << 10;

/// The chunks that are read ahead.
const MAX_READ_AHEAD: usize = 2;

/// The number of requests without an answer at which no more lines are taken.
const MAX_IN_FLIGHT: usize = 64;

/// Longest line, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Publishes lines of JSON from a file or from standard input
///
/// A line is an event:
/// {"topic","id","type","key","headers","content_type","publisher_time_ms","ttl_ms","data"};
/// all fields are optional.
///
/// A line without an id gets one, made of its number and its content. So the same file can be
/// published again after an interruption: events that are stored already are not stored again, as
/// long as their ids are in the topic's window (by default the last 100,000 events and 10 minutes).
///
/// With `--topic` given several times, each of these topics gets each line that names none: all of
/// them store the line, or none does.
///
/// Lines are stored in their order, over all topics. If a line is refused, the lines before it are
/// stored, the lines after it are not, and the message names the refused line.
#[derive(Debug, Args)]
pub(super) struct PublishCommand {
    /// The topic of lines that name none
    #[arg(conflicts_with = "topics")]
    topic: Option<TopicName>,
    /// A topic that gets each line that names none; may be given several times
    #[arg(long = "topic", short, value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// Read from this file; without it, or with `-`, from standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print a line of JSON for each event, with its sequence
    #[arg(long)]
    receipts: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl PublishCommand {
    pub(super) async fn run(self) -> CliResult {
        self.server.endpoint()?; // Refuses a wrong address before any input is read.
        let (input, size_bytes) = self.input().await?;
        let input = BufReader::with_capacity(READ_BYTES, input);
        let (chunks, read) = mpsc::channel(MAX_READ_AHEAD);
        let default = match self.topic {
            Some(topic) => vec![topic],
            None => self.topics,
        };
        let default = Destination::of(&default);
        tokio::spawn(InputLines { input, number: 0, default }.run(chunks));
        let mut publisher = Publisher {
            chunks: read,
            next_line: 1,
            end: None,
            in_flight: VecDeque::new(),
            receipts: self.receipts,
            stored: 0,
            duplicates: 0,
            progress: bytes_bar(size_bytes),
        };
        let outcome = publisher.publish_all(&self.server).await;
        publisher.progress.finish_and_clear();
        let Publisher { stored, duplicates, .. } = &publisher;
        say(format_args!("{stored} events stored, {duplicates} were stored before"));
        outcome
    }

    /// Returns the source of the lines, and the number of its bytes if it is known.
    async fn input(&self) -> CliResult<(Input, Option<u64>)> {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let in_words = |error| {
                    CliError::new(ExitReason::Other, format!("{}: {error}", path.display()))
                };
                let file = tokio::fs::File::open(path).await.map_err(in_words)?;
                let size_bytes = file.metadata().await.map_err(in_words)?.len();
                return Ok((Box::new(file), Some(size_bytes)));
            }
            Some(_) => {}
            None => self.refuse_a_file_as_topic()?,
        }
        if std::io::stdin().is_terminal() {
            let topics: Vec<&str> =
                self.topic.iter().chain(&self.topics).map(TopicName::as_str).collect();
            let topic = match topics.is_empty() {
                true => String::new(),
                false => format!(" to {}", topics.join(", ")),
            };
            say(format_args!("publishing lines of JSON from the terminal{topic}; Ctrl-D ends it"));
        }
        Ok((Box::new(tokio::io::stdin()), None))
    }

    /// Refuses a topic that has the name of an existing file: most likely the file's lines are
    /// meant.
    fn refuse_a_file_as_topic(&self) -> CliResult {
        let Some(topic) = self.topic.as_ref().filter(|topic| Path::new(topic.as_str()).is_file())
        else {
            return Ok(());
        };
        let message = format!(
            "{topic} is a file, and is given as the topic; write `--file {topic}` to publish its \
             lines, or `{topic} --file -` to publish standard input to a topic of this name"
        );
        Err(CliError::new(ExitReason::Refused, message))
    }
}

/// A source of lines.
type Input = Box<dyn AsyncRead + Unpin + Send>;

/// The input, line by line.
struct InputLines {
    input: BufReader<Input>,
    /// The line that was read last, from 1.
    number: u64,
    /// The destination of lines that name none.
    default: Option<Destination>,
}

/// The topic of a line, or the topics that each get it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Destination {
    One(String),
    Each(Vec<String>),
}

impl Destination {
    /// Returns the destination of lines for these topics; `None` if there are none.
    fn of(topics: &[TopicName]) -> Option<Self> {
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
struct InputChunk {
    requests: Vec<Lined>,
    /// The number of lines, and their bytes, each counted for each of its topics.
    lines: usize,
    size_bytes: usize,
    /// The bytes of the input.
    read_bytes: usize,
}

/// A request, and the numbers of the lines of its events.
#[derive(Clone)]
struct Lined {
    request: PublishStreamRequest,
    /// The number of the line of each event, from 1.
    lines: Vec<u64>,
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
    fn refused(&self, message: &str) -> (String, Option<usize>) {
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
    async fn run(mut self, chunks: mpsc::Sender<CliResult<InputChunk>>) {
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

/// The state of publishing, over all connections.
struct Publisher {
    chunks: mpsc::Receiver<CliResult<InputChunk>>,
    /// The number of the line after the lines that were taken.
    next_line: u64,
    /// The outcome of reading, once no more lines are read.
    end: Option<CliResult>,
    /// Requests without an answer, oldest first. They are sent again on a new connection, which is
    /// safe because their events have ids.
    in_flight: VecDeque<Lined>,
    receipts: bool,
    stored: u64,
    duplicates: u64,
    progress: ProgressBar,
}

/// The reason for which a connection is given up.
enum Broken {
    /// The connection failed; another one may succeed.
    Retry(CliError),
    /// A line was refused; the lines before it are sent on another connection.
    Again,
    /// No connection can succeed.
    Fatal(CliError),
}

impl From<CliError> for Broken {
    fn from(error: CliError) -> Self {
        Self::Fatal(error)
    }
}

impl Publisher {
    async fn publish_all(&mut self, server: &ServerArgs) -> CliResult {
        let mut backoff = Backoff::new(server);
        loop {
            let answered = self.stored + self.duplicates;
            let outcome = self.publish_on_one_connection(server).await;
            if self.stored + self.duplicates > answered {
                backoff.reset();
            }
            match outcome {
                Ok(()) => return Ok(()),
                Err(Broken::Fatal(error)) => return Err(self.with_line(error)),
                Err(Broken::Again) => {}
                Err(Broken::Retry(error)) => backoff.wait(self.with_line(error)).await?,
            }
        }
    }

    /// Returns the error with a line: the first that is not known to be stored.
    fn with_line(&self, error: CliError) -> CliError {
        if error.names_lines {
            return error;
        }
        let oldest = self.in_flight.front().and_then(|oldest| oldest.lines.first());
        let line = oldest.copied().unwrap_or(self.next_line);
        at_lines(CliError { message: format!("line {line}: {}", error.message), ..error })
    }

    async fn publish_on_one_connection(&mut self, server: &ServerArgs) -> Result<(), Broken> {
        let connected = server.connect().await;
        let mut client = connected.map_err(|error| match error.failure {
            ExitReason::Unreachable => Broken::Retry(error),
            _ => Broken::Fatal(error),
        })?;
        let (requests, sent) = mpsc::channel(MAX_IN_FLIGHT);
        let responses = client.publisher.publish_stream(ReceiverStream::new(sent)).await;
        let mut responses = responses.map_err(|status| broken(&status))?.into_inner();
        let mut sent = 0; // The requests in flight that were sent on this connection.
        let mut is_closed = false;
        loop {
            if self.in_flight.is_empty()
                && let Some(end) = self.end.take()
            {
                return end.map_err(Broken::Fatal);
            }
            let is_all_sent = sent == self.in_flight.len();
            let takes_more = self.end.is_none() && is_all_sent && sent < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                response = responses.message(), if sent > 0 || is_closed => {
                    match response {
                        Ok(response) => self.settle(response)?,
                        // A stream answers all requests that it has read before it ends.
                        Err(status) => return Err(self.refused(&status)),
                    }
                    sent -= 1;
                }
                room = requests.reserve(), if !is_all_sent && !is_closed => match room {
                    Ok(room) => {
                        room.send(self.in_flight[sent].request.clone());
                        sent += 1;
                    }
                    Err(_the_answers_say_why) => is_closed = true,
                },
                chunk = self.chunks.recv(), if takes_more => self.take(chunk),
            }
        }
    }

    /// Adds the requests of a chunk to those in flight.
    fn take(&mut self, chunk: Option<CliResult<InputChunk>>) {
        match chunk {
            Some(Ok(chunk)) => {
                self.progress.inc(chunk.read_bytes as u64);
                let last = chunk.requests.last().and_then(|last| last.lines.last());
                self.next_line = last.map_or(self.next_line, |last| last + 1);
                self.in_flight.extend(chunk.requests);
            }
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
    }

    fn settle(&mut self, response: Option<PublishStreamResponse>) -> Result<(), Broken> {
        let outcome = response.and_then(|response| response.outcome);
        match outcome.ok_or_else(|| Broken::Retry(gone()))? {
            Outcome::Error(error) => {
                Err(self.refused(&Status::new(Code::from(error.code), error.message)))
            }
            Outcome::Ack(ack) => {
                let oldest = self.in_flight.pop_front().ok_or_else(|| Broken::Retry(gone()))?;
                self.stored(&oldest.request, &oldest.request.topic, &ack)
            }
            Outcome::Acks(acks) => {
                let oldest = self.in_flight.pop_front().ok_or_else(|| Broken::Retry(gone()))?;
                for TopicAck { topic, ack } in acks.acks {
                    self.stored(&oldest.request, &topic, &ack.unwrap_or_default())?;
                }
                Ok(())
            }
        }
    }

    /// Counts the events of a request that a topic has stored.
    fn stored(
        &mut self,
        request: &PublishStreamRequest,
        topic: &str,
        ack: &proto::Ack,
    ) -> Result<(), Broken> {
        let duplicates = ack.duplicates.len() as u64;
        self.duplicates += duplicates;
        self.stored += u64::from(ack.count) - duplicates;
        self.progress.set_message(format!("{} stored", self.stored));
        if self.receipts {
            print_receipts(request, topic, ack).map_err(CliError::from)?;
        }
        Ok(())
    }

    /// Decides what to do when the server refuses the oldest request in flight, and so all requests
    /// after it. The lines of the request before the refused line are still published.
    fn refused(&mut self, status: &Status) -> Broken {
        let Some(oldest) = self.in_flight.front_mut() else { return broken(status) };
        let (message, index) = oldest.refused(status.message());
        let error = at_lines(CliError { message, ..failed(status) });
        if is_transient(status.code()) {
            return Broken::Retry(error);
        }
        let Some(before) = index.filter(|index| *index > 0) else { return Broken::Fatal(error) };
        oldest.request.events.truncate(before);
        oldest.lines.truncate(before);
        self.in_flight.truncate(1);
        self.chunks.close();
        self.end = Some(Err(error));
        Broken::Again
    }
}

/// Marks an error whose message already names its lines.
fn at_lines(error: CliError) -> CliError {
    CliError { names_lines: true, ..error }
}

fn gone() -> CliError {
    CliError::new(ExitReason::Unreachable, "the server ended the stream")
}

fn broken(status: &Status) -> Broken {
    let error = failed(status);
    if is_transient(status.code()) { Broken::Retry(error) } else { Broken::Fatal(error) }
}

fn print_receipts(
    request: &PublishStreamRequest,
    topic: &str,
    ack: &proto::Ack,
) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    let mut duplicates = ack.duplicates.iter().peekable();
    let mut next = ack.first_appended.map(|receipt| receipt.sequence);
    for (index, event) in request.events.iter().enumerate() {
        let duplicate = duplicates.next_if(|duplicate| duplicate.index as usize == index);
        let sequence = match duplicate {
            Some(duplicate) => duplicate.receipt.map(|receipt| receipt.sequence),
            None => next.inspect(|sequence| next = Some(sequence + 1)),
        };
        let line = json!({
            "topic": topic,
            "id": event.id,
            "sequence": sequence,
            "duplicate": duplicate.is_some(),
        });
        writeln!(output, "{}", terminal::line(&line.to_string()))?;
    }
    Ok(())
}
