//! `leftoff check`: reads and verifies everything, and changes nothing; or compares two logs.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use leftoff::cursor::Position;
use leftoff::log::{CheckReport, Checking, check, digest, repair};
use tempfile::TempDir;

use super::client::ServerArgs;
use super::comparing::{ComparedLog, compare};
use super::credential::CredentialArgs;
use super::failure::{CliError, CliResult, ExitReason};
use super::settings::load;

/// Reads and verifies everything in a data directory, without changing it
///
/// No broker may have the directory open. The check reads a copy, which takes as much space as the
/// log and is removed afterwards. The exit code is 3 if anything is damaged and no `--repair` is
/// given, or if `--against` finds a difference.
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
    /// Compare the events and settings of each topic with those of a running broker, such as
    /// another node of the fleet, up to the last position that both have. With several URLs these
    /// brokers are compared with the first one, and no directory is read. Whoever asks must be
    /// permitted to administer
    #[arg(long, value_name = "URL", num_args = 1.., conflicts_with = "repair")]
    against: Vec<String>,
    /// A file with the certificates in PEM that https:// brokers are trusted by
    #[arg(long, value_name = "FILE", requires = "against")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    credential: CredentialArgs,
}

impl CheckCommand {
    /// Whether brokers are asked.
    pub(super) fn compares(&self) -> bool {
        !self.against.is_empty()
    }

    /// Returns the data directory, and a new one for the copy.
    fn directories(&self) -> CliResult<(PathBuf, TempDir)> {
        let data_dir = match &self.data_dir {
            Some(named) => named.clone(),
            None => load(self.config.as_deref(), &[])?.data_dir,
        };
        let parent = self.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
        let scratch = tempfile::Builder::new().prefix("leftoff-check-").tempdir_in(parent)?;
        Ok((data_dir, scratch))
    }

    /// Compares with running brokers.
    pub(super) async fn compare(self) -> CliResult {
        let mut brokers = Vec::new();
        for url in &self.against {
            let server = ServerArgs::at(url.clone(), &self.credential).trusting(self.ca.clone());
            let channel = server.channel().await?;
            let last = ComparedLog::last_position(&channel).await?;
            brokers.push((ComparedLog::Broker { url: url.clone(), channel }, last));
        }
        let all = brokers.iter().map(|(_, last)| *last).min().unwrap_or(0);
        let (one, through) = match brokers.len() {
            1 => {
                let (directory, scratch) = self.directories()?;
                let bar = progress_bar();
                let shown = bar.clone();
                let digested = tokio::task::spawn_blocking(move || {
                    let through = Position::new(all);
                    digest(&directory, scratch.path(), through, |it| show(&shown, it))
                });
                let (report, topics) = digested.await.map_err(std::io::Error::other)??;
                bar.finish_and_clear();
                refuse_damage(&report)?;
                (ComparedLog::of_topics(topics), all.min(report.last_position))
            }
            _ => (brokers.remove(0).0, all),
        };
        let mut differing = 0;
        for (other, _) in &brokers {
            let (text, count) = compare(&one, other, through).await?;
            differing += count;
            let lines = format!("up to position {through}, against {}:\n{text}", other.name());
            std::io::stdout().write_all(lines.as_bytes())?;
        }
        match differing {
            0 => Ok(()),
            count => Err(CliError::new(ExitReason::Damage, format!("{count} topics differ"))),
        }
    }

    pub(super) fn run(self) -> CliResult {
        let (data_dir, scratch) = self.directories()?;
        let bar = progress_bar();
        let progress = |checking| show(&bar, checking);
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

fn show(bar: &ProgressBar, checking: Checking) {
    let (message, done, total) = match checking {
        Checking::Copied(done, total) => ("copying bytes", done, total),
        Checking::Read(done, total) => ("reading bytes", done, total),
    };
    bar.set_message(message);
    bar.set_length(total);
    bar.set_position(done);
}

/// Refuses to compare a log that is damaged.
fn refuse_damage(report: &CheckReport) -> CliResult {
    let Some(damage) = report.damage.first() else { return Ok(()) };
    let message = format!("{} damaged places, the first one: {damage}", report.damage.len());
    Err(CliError::new(ExitReason::Damage, message))
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} {eta}");
    ProgressBar::new(1).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}
