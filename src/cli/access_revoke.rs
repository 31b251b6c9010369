//! `leftoff access revoke`: ends what a caller has open, and refuses its credentials.

use std::io::Write;

use clap::Args;
use leftoff::Timestamp;
use leftoff::edge::proto::{RevokeRequest, RevokeResponse};

use super::client::{ServerArgs, failed};
use super::failure::CliResult;

/// Ends all connections of a caller, and refuses its credentials from before
///
/// Needs a credential of an administrator. Credentials that were issued later are accepted.
#[derive(Debug, Args)]
pub(super) struct RevokeCommand {
    /// The caller: the `sub` of its tokens, the name of its key, or the name in its certificate
    #[arg(long, value_name = "ID")]
    sub: String,
    /// Refuse credentials that were issued up to this time, to the second, such as
    /// `2026-01-31T12:00:00Z` [default: now]
    #[arg(long, value_name = "TIME")]
    before: Option<Timestamp>,
    #[command(flatten)]
    server: ServerArgs,
}

impl RevokeCommand {
    pub(super) async fn run(self) -> CliResult {
        let mut client = self.server.connect().await?;
        let before_ms = self.before.map(Timestamp::as_ms);
        let response = client.access.revoke(RevokeRequest { sub: self.sub, before_ms }).await;
        let response = response.map_err(|status| failed(&status))?;
        let RevokeResponse { sub, before_ms } = response.into_inner();
        let before = Timestamp::from_ms(before_ms);
        let mut out = std::io::stdout().lock();
        writeln!(out, "{sub}: credentials that were issued up to {before} are refused")?;
        Ok(())
    }
}
