//! `leftoff tail`: follows a topic, and resumes at its place after every disconnect.

use std::io::Write;

use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use leftoff::client::ClientDelivery;
use leftoff::edge::json::EventJson;
use leftoff::{Event, StartPoint, TopicName};

use super::client::{ServerArgs, gap_line};
use super::diagnostics::say;
use super::failure::CliResult;
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

impl TailCommand {
    pub(super) async fn run(mut self) -> CliResult {
        let client = self.server.client().await?;
        let mut reader = client.subscribe(&self.topic, self.from);
        while let Some(delivery) = reader.next().await {
            match delivery.map_err(|error| self.server.in_words(error))? {
                ClientDelivery::Event(event) => {
                    self.print(&event.event)?;
                    if self.is_last() {
                        return Ok(());
                    }
                }
                ClientDelivery::Gap(gap) => say(gap_line(&gap)),
                ClientDelivery::CaughtUp if self.no_follow => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Counts a printed event. Returns whether this was the last event that was requested.
    fn is_last(&mut self) -> bool {
        let Some(left) = &mut self.count else { return false };
        *left = left.saturating_sub(1);
        *left == 0
    }

    fn print(&self, event: &Event) -> CliResult {
        let mut output = std::io::stdout().lock();
        match self.format {
            OutputFormat::Json => {
                let line =
                    serde_json::to_string(&EventJson::own(&self.topic, event).in_one_line())?;
                // In JSON, line ends occur only between tokens; in strings they are escaped.
                writeln!(output, "{}", terminal::line(&line.replace(['\n', '\r'], " ")))?;
            }
            OutputFormat::Text => {
                let Event { sequence, time, content, .. } = event;
                let payload = String::from_utf8_lossy(&content.payload);
                let (event_type, key) = (&content.event_type, &content.key);
                let line = format!("{sequence} {time} {event_type} {key} {payload}");
                writeln!(output, "{}", terminal::line(&line))?;
            }
        }
        Ok(())
    }
}
