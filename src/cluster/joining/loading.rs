//! The backup of a peer comes into a file.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::super::links::{LinkConfig, channel, with_proof};
use super::super::proto::joining_client::JoiningClient;
use super::super::proto::{LoadBackupRequest, LoadBackupResponse};
use crate::error::with_causes;

/// The longest wait for a connection, and for the next bytes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// What has come of a backup.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadedBytes {
    pub(super) done_bytes: u64,
    pub(super) expected_bytes: u64,
    /// The record of the stream whose place the backup has.
    pub(super) applied: u64,
}

/// Writes the backup of the peer at `address` to a new file. Returns the record of the stream up to
/// which the peer had applied it at the end.
///
/// # Errors
///
/// What went wrong. A part of the backup may be in the file.
///
/// # Cancel safety
///
/// As with an error.
pub(super) async fn load_backup(
    address: &str,
    config: &LinkConfig,
    node: &str,
    file: &Path,
    mut progress: impl FnMut(LoadedBytes),
) -> Result<u64, String> {
    let told = |status: tonic::Status| format!("{address}: {}", with_causes(&status));
    let silent = |_| format!("{address} says nothing for {PATIENCE:?}");
    let disk = |error: std::io::Error| format!("{}: {error}", file.display());
    let mut client = JoiningClient::new(channel(address, config, CONNECT_TIMEOUT)?);
    let request = with_proof(LoadBackupRequest { node: node.to_owned() }, address, config);
    let asked = tokio::time::timeout(PATIENCE, client.load_backup(request));
    let mut responses = asked.await.map_err(silent)?.map_err(told)?.into_inner();
    let mut output = File::create(file).await.map_err(disk)?;
    let mut done_bytes = 0;
    loop {
        let next = tokio::time::timeout(PATIENCE, responses.message());
        let Some(response) = next.await.map_err(silent)?.map_err(told)? else {
            return Err(format!("{address} ended before the backup did"));
        };
        let LoadBackupResponse { content, expected_bytes, applied, reached, offset_bytes } =
            response;
        let content = match offset_bytes {
            Some(offset_bytes) => new_bytes(content, offset_bytes, done_bytes)
                .map_err(|problem| format!("{address}: {problem}"))?,
            None => content,
        };
        output.write_all(&content).await.map_err(disk)?;
        if let Some(reached) = reached {
            output.flush().await.map_err(disk)?;
            return Ok(reached);
        }
        done_bytes += content.len() as u64;
        progress(LoadedBytes { done_bytes, expected_bytes, applied });
    }
}

/// Returns what of `content`, which begins at an offset, comes after the bytes that are there.
///
/// # Errors
///
/// Bytes are missing before it.
fn new_bytes(mut content: Bytes, offset_bytes: u64, done_bytes: u64) -> Result<Bytes, String> {
    let Some(known) = done_bytes.checked_sub(offset_bytes) else {
        return Err(format!("bytes {done_bytes} to {offset_bytes} of the backup are missing"));
    };
    let known = usize::try_from(known).unwrap_or(usize::MAX).min(content.len());
    Ok(content.split_off(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_come_twice_are_taken_once_and_a_hole_is_refused() {
        let taken = |offset_bytes, done_bytes| {
            new_bytes(Bytes::from_static(b"abcd"), offset_bytes, done_bytes)
        };
        assert_eq!(taken(8, 8).unwrap(), "abcd");
        assert_eq!(taken(6, 8).unwrap(), "cd");
        assert_eq!(taken(4, 8).unwrap(), "");
        assert_eq!(taken(0, 8).unwrap(), "");
        assert_eq!(taken(9, 8).unwrap_err(), "bytes 8 to 9 of the backup are missing");
    }
}
