//! The backup of a peer comes into a file.

use std::path::Path;
use std::time::Duration;

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
        let LoadBackupResponse { content, expected_bytes, applied, reached } = response;
        output.write_all(&content).await.map_err(disk)?;
        if let Some(reached) = reached {
            output.flush().await.map_err(disk)?;
            return Ok(reached);
        }
        done_bytes += content.len() as u64;
        progress(LoadedBytes { done_bytes, expected_bytes, applied });
    }
}
