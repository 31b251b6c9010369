//! `leftoff check`: reads and verifies everything, and changes nothing.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use leftoff::log::{Checking, check, repair};

use super::failure::{CliError, CliResult, ExitReason};
use super::settings::load;

/// Reads and verifies everything in a data directory, without changing it
///
/// No broker may have the directory open. The check reads a copy, which takes as much space as the
/// log and is removed afterwards. The exit code is 3 if anything is damaged and no `--repair` is
/// given.
#[derive(Debug, Args)]
pub(super) struct CheckCommand {
    /// The data directory [default: the one in the settings, as for `serve`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The TOML file with the broker's settings
    #[arg(long, value_name = "FILE", env = "LEFTOFF_CONFIG")]
    config: Option<PathBuf>,
    /// Write everything that verifies into this new directory, as a log with an epoch of its own.
    /// Damaged events are missing there, and are listed here. The damaged log stays as it is
    #[arg(long, value_name = "DIR")]
    repair: Option<PathBuf>,
    /// The directory for the copy [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    scratch_dir: Option<PathBuf>,
}

impl CheckCommand {
    pub(super) fn run(self) -> CliResult {
        let data_dir = match self.data_dir {
            Some(named) => named,
            None => load(self.config.as_deref(), &[])?.data_dir,
        };
        let parent = self.scratch_dir.unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new().prefix("leftoff-check-").tempdir_in(parent)?;
        let bar = progress_bar();
        let progress = |checking| {
            let (message, done, total) = match checking {
                Checking::Copied(done, total) => ("copying bytes", done, total),
                Checking::Read(done, total) => ("reading bytes", done, total),
            };
            bar.set_message(message);
            bar.set_length(total);
            bar.set_position(done);
        };
        let report = match &self.repair {
            None => check(&data_dir, scratch.path(), progress)?,
            Some(repaired) => repair(&data_dir, scratch.path(), repaired, progress)?,
        };
        bar.finish_and_clear();
        let mut output = std::io::stdout().lock();
        writeln!(
            output,
            "{} topics, {} blocks, {} events, {} bytes of events, last position {}",
            report.topics, report.blocks, report.events, report.event_bytes, report.last_position
        )?;
        if let Some(applied) = report.applied {
            writeln!(
                output,
                "the fleet's stream is applied up to its sequence {}, of term {}",
                applied.stream, applied.term
            )?;
        }
        if report.damage.is_empty() {
            writeln!(output, "everything fits its checksum")?;
            return Ok(());
        }
        for damage in &report.damage {
            writeln!(output, "damage: {damage}")?;
        }
        if let Some(repaired) = &self.repair {
            writeln!(
                output,
                "everything that verifies is in {}; the damaged events are missing there",
                repaired.display()
            )?;
            return Ok(());
        }
        let message = format!("{} damaged places", report.damage.len());
        Err(CliError::new(ExitReason::Damage, message))
    }
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}");
    ProgressBar::new(1).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
