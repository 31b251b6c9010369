//! `leftoff backup` and `leftoff restore`.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use leftoff::edge::proto::BackupRequest;
use leftoff::log::{BackupFile, backup_header, restore, sync_and_verify};
use tokio::signal::unix::{SignalKind, signal};

use super::client::{ServerArgs, failed};
use super::diagnostics::say;
use super::failure::{CliError, CliResult, ExitReason};
use super::progress::bytes_bar;

/// Writes a backup of a running broker
///
/// The backup is consistent at one position, and publishing goes on. The file is complete when it
/// has its name. Until then it is called FILE.part, which is removed if the backup fails or is
/// ended by SIGINT or SIGTERM.
#[derive(Debug, Args)]
pub(super) struct BackupCommand {
    /// The file to write; must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Back up only the events added since this backup; `restore` needs it as well, before this one
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
}

fn at(path: &Path, problem: impl std::fmt::Display) -> CliError {
    CliError::new(ExitReason::Other, format!("{}: {problem}", path.display()))
}

/// Waits for a signal that ends the process.
async fn interrupted() -> CliResult {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (name, failure) = tokio::select! {
        _ = terminate.recv() => ("SIGTERM", ExitReason::Terminated),
        _ = interrupt.recv() => ("SIGINT", ExitReason::Interrupted),
    };
    Err(CliError::new(failure, format!("{name}: no backup was written")))
}

impl BackupCommand {
    pub(super) async fn run(self) -> CliResult {
        // A write that is dropped here removes its file. Signals are looked at first, so that they
        // are heard before there is a file.
        tokio::select! {
            biased;
            interrupted = interrupted() => interrupted,
            done = self.write() => done,
        }
    }

    async fn write(self) -> CliResult {
        let from = match &self.after {
            Some(file) => backup_header(file)?.cursor().to_string(),
            None => String::new(),
        };
        let (file, output) = BackupFile::create(&self.file)?;
        let (part, partial) = (file.part().to_owned(), Partial(Some(file)));
        let mut client = self.server.connect().await?;
        let response = client.admin.backup(BackupRequest { from }).await;
        let mut parts = response.map_err(|status| failed(&status))?.into_inner();
        let mut output = BufWriter::new(output);
        let bar = bytes_bar(Some(0));
        let mut cursor = String::new();
        while let Some(bytes) = parts.message().await.map_err(|status| failed(&status))? {
            output.write_all(&bytes.content).map_err(|e| at(&part, e))?;
            bar.set_length(bytes.expected_bytes);
            bar.inc(bytes.content.len() as u64);
            cursor = bytes.cursor;
        }
        bar.finish_and_clear();
        let output = output.into_inner().map_err(|e| at(&part, e.error()))?;
        // On another thread, so that signals are still handled here.
        let verify = move || sync_and_verify(&output, &part);
        let verified = tokio::task::spawn_blocking(verify).await;
        verified.map_err(|error| at(&self.file, error))??;
        partial.complete()?;
        writeln!(std::io::stdout().lock(), "{}: true at {cursor}", self.file.display())?;
        Ok(())
    }
}

/// A backup file that is not complete yet. Dropping it removes the file, which gives a full disk
/// its space back.
struct Partial(Option<BackupFile>);

impl Partial {
    /// Gives the file its name.
    fn complete(mut self) -> CliResult {
        self.0.take().map_or(Ok(()), BackupFile::complete).map_err(CliError::from)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(BackupFile::discard) {
            say(format_args!("{error}"));
        }
    }
}

/// Makes a new data directory from a backup, and from the backups made after it
///
/// The backups are verified before anything is written. The new log has an epoch of its own:
/// readers with cursors from before are told so, with a gap.
#[derive(Debug, Args)]
pub(super) struct Restore {
    /// A full backup, then the backups that were made `--after` it, in their order
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The new data directory; must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

impl Restore {
    pub(super) fn run(self) -> CliResult {
        let bar: ProgressBar = bytes_bar(Some(0));
        let report = restore(&self.data_dir, &self.files, |restoring| {
            bar.set_length(restoring.total_bytes);
            bar.set_position(restoring.done_bytes);
        })?;
        bar.finish_and_clear();
        writeln!(
            std::io::stdout().lock(),
            "{} topics, {} events, last position {}",
            report.topics,
            report.events,
            report.last_position
        )?;
        Ok(())
    }
}
