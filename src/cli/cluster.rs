//! `leftoff cluster`: how the nodes of a fleet are, and what of its engine is unsafe.

use clap::{Args, Subcommand};

use super::cluster_check::ClusterCheck;
use super::cluster_status::ClusterStatus;
use super::failure::CliResult;

/// Says how a node of a fleet is, and what of the fleet's engine is unsafe
#[derive(Debug, Args)]
pub(super) struct ClusterCommand {
    #[command(subcommand)]
    action: ClusterAction,
}

#[derive(Debug, Subcommand)]
enum ClusterAction {
    Status(ClusterStatus),
    Check(ClusterCheck),
}

impl ClusterCommand {
    pub(super) async fn run(self) -> CliResult {
        match self.action {
            ClusterAction::Status(status) => status.run().await,
            ClusterAction::Check(check) => check.run().await,
        }
    }
}
