//! `leftoff tail`: follows a topic, and resumes at its place after every disconnect.

use std::io::Write;

use clap::{Args, ValueEnum};
use leftoff::TopicName;
use leftoff::cursor::StartPoint;
use leftoff::edge::json::EventJson;
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{self, SubscribeRequest};
use leftoff::event::Timestamp;

use super::client::{Backoff, ServerArgs, failed, gap_line, is_transient};
use super::diagnostics::say;
use super::failure::{CliResult, ExitReason};
use super::terminal;

/// Follows a topic and prints its events
///
/// The command reconnects by itself and goes on with the next event. Gaps are reported on standard
/// error. Ephemeral events are not printed. On a terminal, control characters are shown as JSON
/// writes them; a file or a pipe gets them as they are.
#[derive(Debug, Args)]
pub(super) struct TailCommand {
    /// The topic
    topic: TopicName,
    /// The place to begin at: `earliest`, `latest`, `last:100`, `time:2026-01-31T00:00:00Z`, or
    /// after a cursor: `42` or `42-9f3c2a1b`
    #[arg(long, default_value_t = StartPoint::Latest)]
    from: StartPoint,
    /// Exit after this many events
    #[arg(long, short = 'n', value_name = "EVENTS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Exit when all stored events are printed
    #[arg(long)]
    no_follow: bool,
    /// The format in which an event is printed
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    format: OutputFormat,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    /// Sequence, time, type, key and payload
    Text,
    /// One object of JSON a line, as in a page of history
    Json,
}

/// The end of a connection.
enum TailEnd {
    /// All requested events are printed.
    Done,
    /// The connection broke. The next one begins after the cursor.
    Broken(tonic::Status),
}

impl TailCommand {
    pub(super) async fn run(mut self) -> CliResult {
        let mut backoff = Backoff::new(&self.server);
        let mut from = self.from.to_string();
        loop {
            let connected = self.server.connect().await;
            let error = match connected {
                Err(error) if error.failure == ExitReason::Unreachable => error,
                Err(error) => return Err(error),
                Ok(mut client) => {
                    let request = SubscribeRequest {
                        topic: self.topic.to_string(),
                        from: from.clone(),
                        on_gap: proto::OnGap::Resume.into(),
                        ..SubscribeRequest::default()
                    };
                    let end = match client.subscriber.subscribe(request).await {
                        Ok(responses) => {
                            self.follow(responses.into_inner(), &mut from, &mut backoff).await?
                        }
                        Err(status) => TailEnd::Broken(status),
                    };
                    match end {
                        TailEnd::Done => return Ok(()),
                        TailEnd::Broken(status) if is_transient(status.code()) => failed(&status),
                        TailEnd::Broken(status) => return Err(failed(&status)),
                    }
                }
            };
            backoff.wait(error).await?;
        }
    }

    /// Prints the events, and keeps `from` at the reader's place.
    async fn follow(
        &mut self,
        mut responses: tonic::Streaming<proto::SubscribeResponse>,
        from: &mut String,
        backoff: &mut Backoff,
    ) -> CliResult<TailEnd> {
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => {
                    return Ok(TailEnd::Broken(tonic::Status::unavailable("the stream ended")));
                }
                Err(status) => return Ok(TailEnd::Broken(status)),
            };
            backoff.reset();
            match response.message {
                Some(Message::Events(batch)) => {
                    for event in &batch.events {
                        self.print(event)?;
                        if self.is_last() {
                            return Ok(TailEnd::Done);
                        }
                    }
                    *from = batch.cursor;
                }
                Some(Message::Gap(gap)) => {
                    say(gap_line(&gap));
                    *from = gap.cursor;
                }
                Some(Message::CaughtUp(_)) if self.no_follow => return Ok(TailEnd::Done),
                Some(Message::Started(proto::Started { cursor, .. }))
                | Some(Message::CaughtUp(proto::CaughtUp { cursor }))
                | Some(Message::Heartbeat(proto::Heartbeat { cursor })) => *from = cursor,
                // One topic is followed, and it is read or refused as a whole, as no consumer.
                Some(
                    Message::Ephemeral(_)
                    | Message::Denied(_)
                    | Message::Marked(_)
                    | Message::Counts(_),
                ) => {}
                None => {} // A newer server's message, which this client does not know.
            }
        }
    }

    /// Counts a printed event. Returns whether this was the last event that was requested.
    fn is_last(&mut self) -> bool {
        let Some(left) = &mut self.count else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn print(&self, event: &proto::Event) -> CliResult {
        let mut output = std::io::stdout().lock();
        match self.format {
            OutputFormat::Json => {
                let line = serde_json::to_string(
                    &EventJson::received(self.topic.as_str(), event).in_one_line(),
                )?;
                // In JSON, line ends occur only between tokens; in strings they are escaped.
                writeln!(output, "{}", terminal::line(&line.replace(['\n', '\r'], " ")))?;
            }
            OutputFormat::Text => {
                let payload = String::from_utf8_lossy(&event.payload);
                let time = Timestamp::from_ms(event.time_ms);
                let (event_type, key) = (&event.r#type, &event.key);
                let line = format!("{} {time} {event_type} {key} {payload}", event.sequence);
                writeln!(output, "{}", terminal::line(&line))?;
            }
        }
        Ok(())
    }
}
