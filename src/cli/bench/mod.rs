//! `leftoff bench`: measures a broker from outside, over its sockets.
//!
//! ```text
//!  publish.rs    how fast events are acknowledged
//!  fanout.rs     what many live followers get     resume.rs   what a rush of returning ones gets
//!  measuring/    loads a broker, and sees what comes
//!  telling/      says it: figures beside their targets
//! ```

mod fanout;
mod measuring;
mod publish;
mod resume;
mod telling;

use clap::{Args, Subcommand};

use super::failure::CliResult;

/// Measures a broker
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Publish(publish::BenchPublish),
    Fanout(fanout::BenchFanout),
    Resume(resume::BenchResume),
}

impl Bench {
    pub(super) async fn run(self) -> CliResult {
        match self.command {
            BenchCommand::Publish(publish) => publish.run().await,
            BenchCommand::Fanout(fanout) => fanout.run().await,
            BenchCommand::Resume(resume) => resume.run().await,
        }
    }
}
