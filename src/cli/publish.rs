//! `leftoff publish`: NDJSON from a file or standard input, over one publisher of the client.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use leftoff::client::{BatchAck, Client, ClientError, ClientPublisher, PendingAck, PublishBatch};
use leftoff::{Ack, TopicName};
use serde_json::json;
use tokio::io::BufReader;
use tokio::sync::mpsc;

use super::client::ServerArgs;
use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};
use super::progress::bytes_bar;
use super::publish_lines::{Input, InputChunk, InputLines, Lined, at_lines};
use super::terminal;

/// The bytes that are read from the input at a time.
const READ_BYTES: usize = 256 << 10;

/// The chunks that are read ahead.
const MAX_READ_AHEAD: usize = 2;

/// The number of batches without an answer at which no more lines are taken.
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
/// Headers that only the broker sets are left out, and their events are counted:
/// `leftoff-publisher`, and those of dead letters, which begin with `leftoff-dead-`.
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
        // Refuses a wrong address before any input is read.
        let client = self.server.client().await?;
        let (input, size_bytes) = self.input().await?;
        let input = BufReader::with_capacity(READ_BYTES, input);
        let (chunks, read) = mpsc::channel(MAX_READ_AHEAD);
        let default = match self.topic {
            Some(topic) => vec![topic],
            None => self.topics,
        };
        tokio::spawn(InputLines { input, number: 0, default }.run(chunks));
        let mut publisher = Publisher {
            chunks: read,
            next_line: 1,
            end: None,
            in_flight: VecDeque::new(),
            receipts: self.receipts,
            stored: 0,
            duplicates: 0,
            with_own_headers: 0,
            progress: bytes_bar(size_bytes),
        };
        let outcome = publisher.publish_all(&self.server, &client).await;
        publisher.progress.finish_and_clear();
        let Publisher { stored, duplicates, .. } = &publisher;
        say(format_args!("{stored} events stored, {duplicates} were stored before"));
        if publisher.with_own_headers > 0 {
            say(format_args!(
                "{} events had headers that only the broker sets (leftoff-publisher, or \
                 leftoff-dead-…), and are published without them",
                publisher.with_own_headers
            ));
        }
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

/// The state of publishing.
struct Publisher {
    chunks: mpsc::Receiver<CliResult<InputChunk>>,
    /// The number of the line after the lines that were taken.
    next_line: u64,
    /// The outcome of reading, once no more lines are read.
    end: Option<CliResult>,
    /// Batches without an answer, oldest first.
    in_flight: VecDeque<(Lined, PendingAck)>,
    receipts: bool,
    stored: u64,
    duplicates: u64,
    /// The events whose own headers of the broker were left out.
    with_own_headers: u64,
    progress: ProgressBar,
}

impl Publisher {
    async fn publish_all(&mut self, server: &ServerArgs, client: &Client) -> CliResult {
        let reached = client.ready().await;
        reached.map_err(|error| at_line(self.next_line, server.in_words(error)))?;
        let mut publisher = client.publisher();
        loop {
            if self.in_flight.is_empty()
                && let Some(end) = self.end.take()
            {
                return end.map_err(|error| at_line(self.next_line, error));
            }
            let takes_more = self.end.is_none() && self.in_flight.len() < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                answer = oldest(&mut self.in_flight), if !self.in_flight.is_empty() => {
                    let Some((lined, _)) = self.in_flight.pop_front() else { continue };
                    match answer {
                        Ok(acknowledged) => self.stored(&lined, &acknowledged)?,
                        Err(error) => {
                            let before = self.refused(lined, error, server)?;
                            publisher = client.publisher();
                            self.send(before, &publisher).await?;
                        }
                    }
                }
                chunk = self.chunks.recv(), if takes_more => self.take(chunk, &publisher).await?,
            }
        }
    }

    /// Hands the batches of a chunk to the publisher.
    async fn take(
        &mut self,
        chunk: Option<CliResult<InputChunk>>,
        publisher: &ClientPublisher,
    ) -> CliResult {
        match chunk {
            Some(Ok(chunk)) => {
                self.progress.inc(chunk.read_bytes as u64);
                self.with_own_headers += chunk.with_own_headers;
                for lined in chunk.batches {
                    self.send(lined, publisher).await?;
                }
            }
            Some(Err(error)) => self.end = Some(Err(error)),
            None => self.end = Some(Ok(())),
        }
        Ok(())
    }

    async fn send(&mut self, lined: Lined, publisher: &ClientPublisher) -> CliResult {
        let next_line = lined.lines.last().map_or(self.next_line, |last| last + 1);
        match publisher.send(lined.batch.clone()).await {
            Ok(pending) => self.in_flight.push_back((lined, pending)),
            // The publisher has ended: the answers in flight say why.
            Err(_) if !self.in_flight.is_empty() => {}
            Err(error) => {
                let error = CliError::new(ExitReason::Other, error.to_string());
                return Err(at_line(self.next_line, error));
            }
        }
        self.next_line = next_line;
        Ok(())
    }

    /// Counts the events of a batch that is stored.
    fn stored(&mut self, lined: &Lined, acknowledged: &BatchAck) -> CliResult {
        for (topic, ack) in &acknowledged.acks {
            let duplicates = ack.duplicates.len() as u64;
            self.duplicates += duplicates;
            self.stored += ack.count as u64 - duplicates;
            if self.receipts {
                print_receipts(&lined.batch, topic, ack)?;
            }
        }
        self.progress.set_message(format!("{} stored", self.stored));
        Ok(())
    }

    /// Decides what to do when the oldest batch is not stored, and so no batch after it. Returns
    /// the lines of the batch before the refused line, which are still published.
    fn refused(
        &mut self,
        mut lined: Lined,
        error: ClientError,
        server: &ServerArgs,
    ) -> CliResult<Lined> {
        let is_refusal = matches!(error, ClientError::Status(_)) && !error.is_transient();
        let (message, index) = lined.refused(&error.to_string());
        let in_words = server.in_words(error);
        let error = match is_refusal {
            true => at_lines(CliError { message, ..in_words }),
            false => at_line(lined.lines.first().copied().unwrap_or(self.next_line), in_words),
        };
        let Some(before) = index.filter(|index| *index > 0 && is_refusal) else {
            return Err(error);
        };
        lined.batch.events.truncate(before);
        lined.lines.truncate(before);
        self.in_flight.clear();
        self.chunks.close();
        self.end = Some(Err(error));
        Ok(lined)
    }
}

/// Waits for the answer of the oldest batch.
async fn oldest(in_flight: &mut VecDeque<(Lined, PendingAck)>) -> Result<BatchAck, ClientError> {
    match in_flight.front_mut() {
        Some((_, pending)) => pending.await,
        None => std::future::pending().await,
    }
}

/// Returns the error with a line: the first that is not known to be stored.
fn at_line(line: u64, error: CliError) -> CliError {
    if error.names_lines {
        return error;
    }
    at_lines(CliError { message: format!("line {line}: {}", error.message), ..error })
}

fn print_receipts(batch: &PublishBatch, topic: &TopicName, ack: &Ack) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    let mut duplicates = ack.duplicates.iter().peekable();
    for (index, event) in batch.events.iter().enumerate() {
        let duplicate = duplicates.next_if(|duplicate| duplicate.index == index);
        let line = json!({
            "topic": topic,
            "id": event.id,
            "sequence": ack.receipt(index).sequence,
            "duplicate": duplicate.is_some(),
        });
        writeln!(output, "{}", terminal::line(&line.to_string()))?;
    }
    Ok(())
}
