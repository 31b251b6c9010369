//! `leftoff export`: topics as NDJSON that `leftoff publish` accepts.

use std::io::{BufWriter, Write};

use clap::Args;
use leftoff::TopicName;
use leftoff::edge::ndjson;
use leftoff::edge::proto::{GetTopicRequest, OnGap, ReadRequest};

use super::client::{ServerArgs, failed, page_gap_line};
use super::diagnostics::say;
use super::failure::CliResult;
use super::progress::bytes_bar;
use super::terminal;

/// The events of one page.
const PAGE_EVENTS: u32 = 1_000;

/// Prints the events of topics as lines of JSON that `publish` accepts
///
/// Prints all events that are stored when the command begins, from the first that is kept. Events
/// that are dropped meanwhile are reported on standard error.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// A topic; can be repeated
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<TopicName>,
    #[command(flatten)]
    server: ServerArgs,
}

impl Export {
    pub(super) async fn run(self) -> CliResult {
        let mut client = self.server.connect().await?;
        let mut output = BufWriter::new(std::io::stdout().lock());
        let bar = bytes_bar(Some(0));
        for topic in &self.topics {
            let request = GetTopicRequest { topic: topic.to_string() };
            let info =
                client.subscriber.get_topic(request).await.map_err(|status| failed(&status))?;
            let info = info.into_inner().topic.unwrap_or_default();
            bar.inc_length(info.size_bytes);
            let mut from = "earliest".to_owned();
            loop {
                let request = ReadRequest {
                    topic: topic.to_string(),
                    from: from.clone(),
                    before: Some(info.tail),
                    page_size: PAGE_EVENTS,
                    on_gap: OnGap::Resume.into(), // Events dropped meanwhile are reported.
                    ..ReadRequest::default()
                };
                let page =
                    client.subscriber.read(request).await.map_err(|status| failed(&status))?;
                let page = page.into_inner();
                if let Some(gap) = &page.gaps.first() {
                    bar.suspend(|| say(format_args!("{topic}: {}", page_gap_line(gap))));
                }
                for event in &page.events {
                    let line = ndjson::line(topic.as_str(), event)?;
                    bar.inc(event.payload.len() as u64);
                    writeln!(output, "{}", terminal::line(&line))?;
                }
                // A page may be empty before the end, where many events have expired.
                let is_over = page.caught_up || page.cursor == from;
                if page.events.is_empty() && is_over {
                    break;
                }
                from = page.cursor;
            }
        }
        output.flush()?;
        bar.finish_and_clear();
        Ok(())
    }
}
