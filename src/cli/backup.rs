//! `leftoff backup` and `leftoff restore`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use leftoff::cursor::{Cursor, Place};
use leftoff::edge::proto::BackupRequest;
use leftoff::log::{BackupReader, restore};
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
        // A write that is dropped here removes its file.
        tokio::select! {
            done = self.write() => done,
            interrupted = interrupted() => interrupted,
        }
    }

    async fn write(self) -> CliResult {
        if self.file.exists() {
            return Err(at(&self.file, "the file exists already"));
        }
        let from = self.after.as_deref().map(position_of).transpose()?.unwrap_or_default();
        let mut client = self.server.connect().await?;
        let response = client.admin.backup(BackupRequest { from }).await;
        let mut parts = response.map_err(|status| failed(&status))?.into_inner();
        let (partial, output) = Partial::create(&self.file)?;
        let mut output = BufWriter::new(output);
        let bar = bytes_bar(Some(0));
        let mut cursor = String::new();
        while let Some(part) = parts.message().await.map_err(|status| failed(&status))? {
            output.write_all(&part.content).map_err(|e| at(partial.path(), e))?;
            bar.set_length(part.expected_bytes);
            bar.inc(part.content.len() as u64);
            cursor = part.cursor;
        }
        bar.finish_and_clear();
        let file = output.into_inner().map_err(|e| at(partial.path(), e.error()))?;
        file.sync_all().map_err(|e| at(partial.path(), e))?;
        // The file is read again, because a backup that cannot be restored is useless. This is done
        // on another thread, so that signals are still handled here.
        let path = partial.path().to_owned();
        let verified = tokio::task::spawn_blocking(move || verify(&path)).await;
        verified.map_err(|error| at(partial.path(), error))??;
        partial.rename(&self.file)?;
        writeln!(std::io::stdout().lock(), "{}: true at {cursor}", self.file.display())?;
        Ok(())
    }
}

/// A file that is not complete yet. Dropping it removes the file, which gives a full disk its space
/// back.
struct Partial(Option<PathBuf>);

impl Partial {
    /// Creates the file that is to have the name `file` when it is complete.
    fn create(file: &Path) -> CliResult<(Self, File)> {
        let mut path = file.to_owned().into_os_string();
        path.push(".part");
        let path = PathBuf::from(path);
        let output = File::create(&path).map_err(|error| at(&path, error))?;
        Ok((Self(Some(path)), output))
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// Gives the file its name.
    fn rename(mut self, file: &Path) -> CliResult {
        std::fs::rename(self.path(), file).map_err(|error| at(file, error))?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            say(format_args!("{}: the incomplete file cannot be removed: {error}", path.display()));
        }
    }
}

fn open(path: &Path) -> CliResult<BackupReader<BufReader<File>>> {
    let file = File::open(path).map_err(|error| at(path, error))?;
    BackupReader::new(BufReader::with_capacity(1 << 20, file)).map_err(|error| at(path, error))
}

fn verify(path: &Path) -> CliResult {
    let mut reader = open(path)?;
    while reader.next_frame().map_err(|error| at(path, error))?.is_some() {}
    Ok(())
}

/// Returns the position at which a backup is true, as a cursor.
fn position_of(path: &Path) -> CliResult<String> {
    let header = *open(path)?.header();
    let after = Place::Position(header.position);
    Ok(Cursor { after, since: None, epoch: Some(header.epoch) }.to_string())
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
