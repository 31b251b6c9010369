//! `leftoff publish`: NDJSON from a file or standard input, over one `PublishStream`.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use leftoff::TopicName;
use leftoff::edge::proto::publish_stream_response::Outcome;
use leftoff::edge::proto::{self, PublishStreamRequest, PublishStreamResponse, TopicAck};
use serde_json::json;
use tokio::io::BufReader;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::client::{Backoff, ServerArgs, failed, is_transient};
use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};
use super::progress::bytes_bar;
use super::publish_lines::{Destination, Input, InputChunk, InputLines, Lined, at_lines};
use super::terminal;

/// The bytes that are read from the input at a time.
const READ_BYTES: usize = 256 << 10;

/// The chunks that are read ahead.
const MAX_READ_AHEAD: usize = 2;

/// The number of requests without an answer at which no more lines are taken.
const MAX_IN_FLIGHT: usize = 64;

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
