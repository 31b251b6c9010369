//! `leftoff compact`: maintenance by hand.

use std::io::Write;

use clap::Args;
use leftoff::TopicName;
use leftoff::edge::proto::{MaintainRequest, MaintainResponse};

use super::CliResult;
use super::client::{ServerArgs, failed};

/// Does now what maintenance does by and by, also what would not be worth it yet
///
/// Drops what limits no longer keep, what has expired and what is superseded, rolls small blocks
/// up, and says what it did.
#[derive(Debug, Args)]
pub(super) struct Compact {
    /// The topic [default: all]
    topic: Option<TopicName>,
    #[command(flatten)]
    server: ServerArgs,
}

impl Compact {
    pub(super) async fn run(self) -> CliResult {
        let mut client = self.server.connect().await?;
        let topic = self.topic.map(|topic| topic.to_string()).unwrap_or_default();
        let response = client.maintain(MaintainRequest { topic }).await;
        let MaintainResponse {
            topics,
            retention_events,
            expired_events,
            compacted_events,
            merged_blocks,
            reclaimed_bytes,
        } = response.map_err(|status| failed(&status))?.into_inner();
        writeln!(
            std::io::stdout().lock(),
            "{topics} topics: dropped {retention_events} events by their limits, \
             {expired_events} expired, {compacted_events} superseded; merged {merged_blocks} \
             blocks; {reclaimed_bytes} bytes less"
        )?;
        Ok(())
    }
}
