//! `leftoff bench`: measures a broker from outside, over its sockets.
//!
//! ```text
//!  publish.rs    the rate at which events are acknowledged
//!  fanout.rs     deliveries to many live followers    resume.rs   many clients that return at once
//!  measuring/    loads a broker, and counts
//!  telling/      prints figures beside their targets
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
