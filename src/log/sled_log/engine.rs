//! The storage engine, sled, as this log uses it: the one way to open it, its errors, and how far
//! it has written.
//!
//! # Why
//!
//! - All events must be in the file `db`. sled writes a page larger than a quarter of a segment to
//!   a separate file under `blobs/`, which it never syncs (src/pagecache/blob_io.rs of 0.34.7). So
//!   segments are 8 MiB, and the values of the tree at most 8 KiB.
//! - How far sled has written, and which segments are in use, is in public fields that sled does
//!   not document. So Cargo.toml asks for exactly this version of sled.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use super::directory::patiently;
use crate::error::{Error, OpenReason, PUT_BACK};

/// sled's unit of space, in bytes.
pub(super) const SEGMENT_BYTES: usize = 8 << 20;

/// The most characters of a panic of sled that an error quotes.
const MAX_PANIC_CHARS: usize = 200;

/// Opens sled with the settings of this log.
pub(super) fn open(path: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new()
        .path(path)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    // sled locks its file as well. Only the text of its error says so.
    let is_locked = |error: &sled::Error| error.to_string().contains("could not acquire lock");
    patiently(|| contained(|| config.open()), is_locked)
}

/// Calls `open`, and turns a panic into an error: sled trusts its files, and panics if they
/// contradict each other.
fn contained<T>(open: impl FnOnce() -> sled::Result<T>) -> sled::Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        let short: String = text.chars().take(MAX_PANIC_CHARS).collect();
        Err(sled::Error::ReportableBug(format!("its files contradict each other: {short}")))
    })
}

/// Turns an error that sled has returned while it opens its files into ours.
pub(super) fn cannot_open(error: sled::Error, directory: &Path) -> Error {
    match error {
        sled::Error::Corruption { .. } => unreadable(error),
        sled::Error::ReportableBug(problem) => {
            Error::DamagedLog { problem: format!("{problem}; {PUT_BACK}") }
        }
        other => Error::open(directory, other),
    }
}

impl From<sled::Error> for OpenReason {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(error) => Self::Io { what: "IO error".to_owned(), cause: error.into() },
            other => Self::Engine(other.into()),
        }
    }
}

/// Returns the last place in sled's log that is written to its file.
pub(super) fn written_lsn(database: &sled::Db) -> sled::Lsn {
    // Public, but not documented: Cargo.toml asks for exactly this version of sled.
    database.context.pagecache.log.stable_offset()
}

/// Returns the number of bytes that sled has written to its file since it was created, with
/// padding.
pub(super) fn written_bytes(database: &sled::Db) -> u64 {
    written_lsn(database).try_into().unwrap_or(0)
}

/// Returns the segments that may hold valid data, each by its offset in sled's file, in bytes.
pub(super) fn used_segments(database: &sled::Db) -> impl Iterator<Item = u64> {
    // Public, but not documented. Nothing is read: the iterator begins with a list of the segments
    // in use.
    database.context.pagecache.log.iter_from(0).segments.into_values()
}

/// Turns an error of sled into ours.
pub(super) fn unreadable(error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { .. } => Error::DamagedLog {
            problem: format!(
                "sled cannot read the structure of its files; {PUT_BACK}, or go on with what \
                 `leftoff check --repair` brings back"
            ),
        },
        sled::Error::ReportableBug(problem) => {
            Error::DamagedLog { problem: format!("{problem}; {PUT_BACK}") }
        }
        sled::Error::Io(error) => Error::ReadFailed(error.into()),
        other => Error::ReadFailed(other.into()),
    }
}

/// Returns a database with a few segments of entries, and its file for reading and writing.
#[cfg(test)]
pub(super) fn filled(directory: &Path) -> (sled::Db, std::fs::File) {
    let database = open(directory, 4 << 20).unwrap();
    for key in 0..4_000_u32 {
        database.insert(key.to_be_bytes(), vec![1; 4_096]).unwrap();
    }
    database.flush().unwrap();
    let options = std::fs::File::options().read(true).write(true).clone();
    (database, options.open(directory.join("db")).unwrap())
}
