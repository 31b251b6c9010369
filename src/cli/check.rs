//! `leftoff check`: reads and verifies everything, and changes nothing.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use leftoff::log::{Checking, check};

use super::{CliError, CliResult, Failure};

/// Reads and verifies everything in a data directory, without changing it
///
/// No broker may have it open. What is read is a copy, which takes as much space as the log and is
/// removed afterwards. Ends with 3 if anything is damaged.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The data directory
    #[arg(long, value_name = "DIR", env = "LEFTOFF_DATA_DIR", default_value = "leftoff-data")]
    data_dir: PathBuf,
    /// Where to put the copy [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> CliResult {
        let parent = self.scratch_dir.unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new().prefix("leftoff-check-").tempdir_in(parent)?;
        let bar = progress_bar();
        let report = check(&self.data_dir, scratch.path(), |checking| {
            let (message, done, total) = match checking {
                Checking::Copied(done, total) => ("copying bytes", done, total),
                Checking::Read(done, total) => ("reading topics", done, total),
            };
            bar.set_message(message);
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        let mut output = std::io::stdout().lock();
        writeln!(
            output,
            "{} topics, {} blocks, {} events, {} bytes of events, last position {}",
            report.topics, report.blocks, report.events, report.event_bytes, report.last_position
        )?;
        if report.damage.is_empty() {
            writeln!(output, "everything fits its checksum")?;
            return Ok(());
        }
        for damage in &report.damage {
            writeln!(output, "damage: {damage}")?;
        }
        let message = format!("{} damaged places", report.damage.len());
        Err(CliError::new(Failure::Damage, message))
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}");
    ProgressBar::new(1).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
