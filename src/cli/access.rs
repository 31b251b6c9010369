//! `leftoff access`: who may do what.

use clap::{Args, Subcommand};

use super::access_explain::ExplainCommand;
use super::access_revoke::RevokeCommand;
use super::failure::CliResult;

/// Says who may do what, and ends what a caller may do
#[derive(Debug, Args)]
pub(super) struct AccessCommand {
    #[command(subcommand)]
    action: AccessAction,
}

#[derive(Debug, Subcommand)]
enum AccessAction {
    Explain(ExplainCommand),
    Revoke(RevokeCommand),
}

impl AccessCommand {
    pub(super) async fn run(self) -> CliResult {
        match self.action {
            AccessAction::Explain(explain) => explain.run().await,
            AccessAction::Revoke(revoke) => revoke.run().await,
        }
    }
}
