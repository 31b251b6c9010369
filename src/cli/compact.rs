//! `leftoff compact`: maintenance by hand.

use std::io::Write;

use clap::Args;
use leftoff::TopicName;
use leftoff::edge::proto::{Dropped, MaintainRequest, MaintainResponse};

use super::client::{ServerArgs, failed};
use super::failure::CliResult;

/// Does maintenance now, including work that would not be worth it yet
///
/// Drops events that are over a limit, expired or superseded, merges small blocks, and prints what
/// was done.
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
        let response = client.admin.maintain(MaintainRequest { topic }).await;
        let done = response.map_err(|status| failed(&status))?.into_inner();
        let MaintainResponse { topics, merged_blocks, reclaimed_bytes, .. } = done;
        let dropped = [
            (done.retention, "by their limits"),
            (done.expired, "expired"),
            (done.compacted, "superseded"),
            (done.purged, "purged"),
        ];
        let dropped = dropped.map(|(dropped, why)| {
            let Dropped { events, bytes } = dropped.unwrap_or_default();
            format!("{events} events {why} ({bytes} bytes)")
        });
        writeln!(
            std::io::stdout().lock(),
            "{topics} topics: dropped {}; merged {merged_blocks} blocks; {reclaimed_bytes} bytes \
             less",
            dropped.join(", ")
        )?;
        Ok(())
    }
}
