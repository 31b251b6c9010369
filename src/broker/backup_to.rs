//! A backup that the broker writes to a file itself. The file's own rules are in
//! `log/backup_file.rs`.

use std::io::Write as _;
use std::path::Path;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use crate::broker::Broker;
use crate::broker::backup::BackupDone;
use crate::cursor::Cursor;
use crate::error::{Error, Result};
use crate::log::{BackupFile, sync_and_verify};

/// A backup file that a call holds. Dropped before the file is complete, it has the file removed by
/// a thread that may block.
struct UnfinishedBackup(Option<BackupFile>);

impl Drop for UnfinishedBackup {
    fn drop(&mut self) {
        let Some(file) = self.0.take() else { return };
        match Handle::try_current() {
            // A runtime that is stopping drops the file without running this; that removes it, too.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(file))),
            Err(_) => drop(file),
        }
    }
}

/// Runs `work` on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(_the_runtime_is_stopping) => Err(Error::ShuttingDown),
    }
}

impl Broker {
    /// Writes a backup of everything to the file `path`, which must not exist. With `from`, the
    /// cursor of an earlier backup, writes a backup of what was added after it. Publishing goes on.
    ///
    /// Until the backup is complete, its file is called `path` with `.part` at the end. The backup
    /// is synced, read again and verified before it gets its name. [`crate::log::restore`] makes a
    /// data directory from it. `progress` is called with the bytes that are written, and with about
    /// how many the backup will have; a backup with `from` has fewer.
    ///
    /// ```
    /// use leftoff::{Broker, NewEvent, OpenConfig, Publish};
    ///
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = |name: &str| directory.path().join(name);
    /// let broker = Broker::in_memory(&OpenConfig::default())?;
    /// broker.publish(Publish::one("orders".parse()?, NewEvent::new("one"))).await?;
    /// let full = broker.backup_to(path("full"), None, |_, _| {}).await?;
    ///
    /// broker.publish(Publish::one("orders".parse()?, NewEvent::new("two"))).await?;
    /// broker.backup_to(path("more"), Some(full.cursor), |_, _| {}).await?;
    /// let files = [path("full"), path("more")];
    /// let report = leftoff::log::restore(&path("restored"), &files, |_| {})?;
    /// assert_eq!(report.events, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// - [`Error::Invalid`]: `from` is not a position, or not a position of this log.
    /// - [`Error::Backup`]: the file exists already, or cannot be written.
    /// - As [`Backup::next`](crate::broker::Backup::next).
    ///
    /// No file is left behind, except where an [`Error::Backup`] says so.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, the incomplete file is removed some moments later. Dropped while
    /// the file gets its name, the backup may be complete.
    pub async fn backup_to(
        &self,
        path: impl AsRef<Path>,
        from: Option<Cursor>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<BackupDone> {
        let path = path.as_ref().to_owned();
        let mut backup = self.backup(from).await?;
        let (file, mut output) = blocking(move || BackupFile::create(&path)).await?;
        let part = file.part().to_owned();
        let mut held = UnfinishedBackup(Some(file));
        let mut written_bytes = 0;
        while let Some(bytes) = backup.next().await? {
            written_bytes += bytes.len() as u64;
            let path = part.clone();
            output = blocking(move || match output.write_all(&bytes) {
                Ok(()) => Ok(output),
                Err(error) => Err(Error::Backup { path, problem: error.to_string() }),
            })
            .await?;
            progress(written_bytes, backup.expected_bytes());
        }
        let header = blocking(move || sync_and_verify(&output, &part)).await?;
        if let Some(file) = held.0.take() {
            blocking(move || file.complete()).await?;
        }
        Ok(BackupDone { cursor: header.cursor(), size_bytes: written_bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures_util::poll;

    use super::*;
    use crate::broker::{OpenConfig, Publish};
    use crate::event::NewEvent;

    fn names(directory: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<PathBuf> =
            entries.map(|entry| entry.unwrap().file_name().into()).collect();
        names.sort();
        names
    }

    async fn filled() -> Broker {
        let mut config = OpenConfig::default();
        (config.broker.max_read_bytes, config.broker.max_block_bytes) = (1_024, 1_024);
        let broker = Broker::in_memory(&config).unwrap();
        for _ in 0..20 {
            let event = NewEvent::new("x".repeat(400));
            broker.publish(Publish::one("a".parse().unwrap(), event)).await.unwrap();
        }
        broker
    }

    async fn until_empty(directory: &Path) {
        let wait = async {
            while !names(directory).is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let wait = tokio::time::timeout(std::time::Duration::from_secs(30), wait).await;
        wait.unwrap_or_else(|_| panic!("left behind: {:?}", names(directory)));
    }

    /// Goal: a backup and the one after it restore all events; the progress rises to their sizes.
    #[tokio::test]
    async fn backups_that_the_broker_writes_are_restored() {
        let broker = filled().await;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut steps = Vec::new();
        let progress = |written, expected| steps.push((written, expected));
        let full = broker.backup_to(path("full"), None, progress).await.unwrap();
        assert_eq!(full.cursor.to_string(), format!("@20-{}", broker.epoch()));
        assert!(steps.len() > 2 && steps.is_sorted(), "{steps:?}");
        let size_bytes = path("full").metadata().unwrap().len();
        assert_eq!((steps.last().unwrap().0, full.size_bytes), (size_bytes, size_bytes));
        let event = NewEvent::new("21");
        broker.publish(Publish::one("a".parse().unwrap(), event)).await.unwrap();
        let more = broker.backup_to(path("more"), Some(full.cursor), |_, _| {}).await.unwrap();
        assert_eq!(more.cursor.after.number(), 21);
        assert_eq!(names(directory.path()), ["full", "more"].map(PathBuf::from));
        let files = [path("full"), path("more")];
        let report = crate::log::restore(&path("restored"), &files, |_| {}).unwrap();
        assert_eq!((report.topics, report.events), (1, 21));
    }

    /// Goal: a backup that is refused, fails or is given up leaves no file, and never touches one
    /// that was there.
    #[tokio::test]
    async fn a_backup_that_does_not_succeed_leaves_nothing_behind() {
        let broker = filled().await;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("there"), "mine").unwrap();
        let error = broker.backup_to(path("there"), None, |_, _| {}).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: the file exists already", path("there").display())
        );
        assert_eq!(std::fs::read_to_string(path("there")).unwrap(), "mine");
        std::fs::remove_file(path("there")).unwrap();
        let ahead = Some("@21".parse().unwrap());
        let error = broker.backup_to(path("new"), ahead, |_, _| {}).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        let error = broker.backup_to(path("no/where"), None, |_, _| {}).await.unwrap_err();
        assert!(matches!(error, Error::Backup { .. }), "{error}");
        assert!(names(directory.path()).is_empty());
        // Given up after each number of steps that does not complete it.
        for steps in 0..6 {
            let (told, mut seen) = tokio::sync::watch::channel(0);
            let progress = |_, _| told.send_modify(|steps| *steps += 1);
            {
                let mut backup = Box::pin(broker.backup_to(path("new"), None, progress));
                tokio::select! {
                    biased;
                    _ = seen.wait_for(|seen| *seen >= steps), if steps > 0 => {}
                    done = &mut backup => panic!("after {steps} steps: {done:?}"),
                    () = std::future::ready(()), if steps == 0 => {
                        assert!(poll!(&mut backup).is_pending());
                    }
                }
            }
            until_empty(directory.path()).await;
        }
    }
}
