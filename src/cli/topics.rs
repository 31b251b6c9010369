//! `leftoff topics`: lists the topics.

use std::io::Write;

use clap::Args;
use indicatif::HumanBytes;
use leftoff::edge::proto::ListTopicsRequest;
use leftoff::event::Timestamp;
use serde_json::json;

use super::client::{ServerArgs, failed};
use super::failure::CliResult;

/// Lists the topics
///
/// The list is in the order of the names, and shows the number of events, the first and the last
/// sequence that can be read, the space on disk, and the time of the newest event.
#[derive(Debug, Args)]
pub(super) struct TopicsCommand {
    /// Print a line of JSON for each topic
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl TopicsCommand {
    pub(super) async fn run(self) -> CliResult {
        let mut client = self.server.connect().await?;
        let mut page_token = String::new();
        loop {
            let request = ListTopicsRequest { page_size: 0, page_token };
            let page =
                client.subscriber.list_topics(request).await.map_err(|s| failed(&s))?.into_inner();
            let mut output = std::io::stdout().lock();
            for topic in page.topics {
                let time = Timestamp::from_ms(topic.last_time_ms);
                if self.json {
                    let line = json!({
                        "name": topic.name,
                        "earliest": topic.earliest,
                        "tail": topic.tail,
                        "events": topic.events,
                        "last_position": topic.last_position,
                        "last_time": time.to_string(),
                        "size_bytes": topic.size_bytes,
                    });
                    writeln!(output, "{line}")?;
                } else {
                    let last = topic.tail.saturating_sub(1);
                    let count = topic.events;
                    let range = format!("{}..{last}", topic.earliest);
                    let (name, size) = (&topic.name, HumanBytes(topic.size_bytes));
                    writeln!(output, "{name:<32} {count:>10} {range:>20} {size:>12}  {time}")?;
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }
}
