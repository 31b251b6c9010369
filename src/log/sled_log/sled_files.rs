//! sled's small files. A damaged one is replaced, because the log can do without it.
//!
//! ```text
//! conf        | settings, in words | crc32: 4 |     they are always the same ones
//! snap.L      where sled keeps its pages (snapshot.rs); without it, it reads its whole file
//! ```
//!
//! # Why
//!
//! Neither file holds an event, but sled does not open if one of them is damaged: three changed
//! bytes in a file of 64 refused the whole log. The settings are always those with which this log
//! opens sled. A snapshot only saves time: without one, sled finds its pages as it does after a
//! crash before the first snapshot. If sled then leaves out entries, the mark beside the log shows
//! it (mark.rs). A damaged snapshot is kept under another name, for a search for the cause.

use std::fs;
use std::io;
use std::path::Path;

use tracing::warn;

use super::engine::SEGMENT_BYTES;
use super::snapshot;

/// The name that a damaged snapshot gets.
const SET_ASIDE: &str = "damaged-snapshot";

const CRC_BYTES: usize = 4;

/// Returns the settings with which sled is opened, as sled stores them.
fn settings() -> Vec<u8> {
    let text = format!("segment_size: {SEGMENT_BYTES}\nuse_compression: false\nversion: 0.34\n");
    let mut bytes = text.into_bytes();
    let crc32 = crc32fast::hash(&bytes);
    bytes.extend(crc32.to_le_bytes());
    bytes
}

/// Replaces damaged files without events in `directory` that would keep sled from opening.
///
/// # Errors
///
/// A file cannot be read or written.
pub(super) fn mend(directory: &Path) -> io::Result<()> {
    let path = directory.join("conf");
    match fs::read(&path) {
        // Undamaged settings with other values are left to sled, which refuses them with a message.
        Ok(found) if !is_sealed(&found) => {
            warn!(path = %path.display(), "sled's settings are damaged: they are written anew");
            fs::write(&path, settings())?;
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(path) = snapshot::newest_damaged(directory)? {
        warn!(
            path = %path.display(),
            "a snapshot of where sled keeps its pages is damaged: the whole log is read for it"
        );
        fs::rename(path, directory.join(SET_ASIDE))?;
    }
    Ok(())
}

fn is_sealed(bytes: &[u8]) -> bool {
    let end = bytes.len().checked_sub(CRC_BYTES).map(|at| bytes.split_at(at));
    end.is_some_and(|(text, crc32)| crc32fast::hash(text).to_le_bytes() == *crc32)
}

#[cfg(test)]
mod tests {
    use super::super::engine;
    use super::*;

    const KEYS: u32 = 300;

    fn open(directory: &Path) -> sled::Result<sled::Tree> {
        engine::open(directory, 1 << 20)?.open_tree("events")
    }

    /// Goal: a damaged byte of sled's settings or of its snapshot does not keep the log from
    /// opening, and all entries are there.
    #[test]
    fn a_log_opens_whole_whatever_byte_of_sleds_settings_or_snapshot_is_damaged() {
        let original = tempfile::tempdir().unwrap();
        for round in 0..2_u32 {
            let tree = open(original.path()).unwrap();
            for key in 0..KEYS {
                tree.insert(key.to_be_bytes(), vec![round as u8; 2_000]).unwrap();
            }
            tree.flush().unwrap();
        }
        drop(open(original.path()).unwrap());
        assert_eq!(fs::read(original.path().join("conf")).unwrap(), settings());
        let names: Vec<_> = fs::read_dir(original.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name == "conf" || name.starts_with("snap."))
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        for name in names {
            let bytes = fs::read(original.path().join(&name)).unwrap();
            for at in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                let copy = tempfile::tempdir().unwrap();
                for entry in fs::read_dir(original.path()).unwrap().map(Result::unwrap) {
                    if entry.file_type().unwrap().is_file() {
                        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
                    }
                }
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x41;
                fs::write(copy.path().join(&name), damaged).unwrap();
                mend(copy.path()).unwrap();
                let tree = open(copy.path()).unwrap();
                let found: Vec<_> = tree.iter().values().map(Result::unwrap).collect();
                let is_whole = found.len() == KEYS as usize && found.iter().all(|v| v[0] == 1);
                assert!(is_whole, "byte {at} of {name}: {} keys", found.len());
            }
        }
    }
}
