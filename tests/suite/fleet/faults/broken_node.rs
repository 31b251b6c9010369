//! A node of a broken fleet: its process while it runs, and what is left of it.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};

use super::clients::call;
use super::clock::{ClockLibrary, ShiftedClock};
use crate::common::{Process, lasting_address, leftoff, to};
use crate::disk::{Disk, free_bytes};

/// The size of the disk of a node.
const DISK_MIB: u64 = 160;

/// How long a node may take to say how it is.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// A node.
pub(super) struct BrokenNode {
    process: Option<Process>,
    directory: TempDir,
    /// Where file systems can be mounted, the one that the directory is on.
    disk: Option<Disk>,
    clock: Option<ShiftedClock>,
    pub(super) address: SocketAddr,
    /// Whether the disk has been full to the last byte. A node that cannot write stops.
    was_filled: bool,
}

impl BrokenNode {
    /// Returns a node that does not run.
    pub(super) fn new(name: &str, clocks: Option<&ClockLibrary>) -> Self {
        let disk = Disk::in_memory(DISK_MIB);
        Self {
            process: None,
            directory: directory_on(disk.as_ref()),
            disk,
            clock: clocks.map(|library| library.clock(name)),
            address: lasting_address(),
            was_filled: false,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Returns the directory of its log.
    pub(super) fn directory(&self) -> &TempDir {
        &self.directory
    }

    /// Starts the node with more arguments than those for its address and directory.
    pub(super) fn start(&mut self, arguments: &[&str], log: File) {
        let mut command: Command = leftoff();
        command.args(["serve", "--listen", &self.address.to_string(), "--data-dir"]);
        command.arg(self.directory.path()).args(arguments);
        if let Some(clock) = &self.clock {
            clock.prepare(&mut command);
        }
        command.env("LEFTOFF_LOG_FILTER", "info").stdout(std::process::Stdio::null()).stderr(log);
        self.process = Some(Process::adopt(command.spawn().unwrap(), self.address));
    }

    /// Returns what the node says of itself, if it answers.
    pub(super) async fn told(&self) -> Option<Value> {
        self.process.as_ref()?;
        let request = to(self.address, "GET", "/v1/cluster");
        let (status, body) = call(request, "", TELL_TIMEOUT).await.ok()?;
        (status == 200).then(|| serde_json::from_slice(&body).unwrap())
    }

    pub(super) async fn is_ready(&self) -> bool {
        let asked = call(to(self.address, "GET", "/readyz"), "", TELL_TIMEOUT).await;
        asked.is_ok_and(|(status, _)| status == 200)
    }

    /// Ends the node as a crash would.
    pub(super) fn crash(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.crash();
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Asks the node to end, and returns the process that does.
    pub(super) fn close(&self) -> Option<u32> {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // What stands still cannot end.
        self.process.as_ref().map(Process::id)
    }

    /// Waits until a process that was asked to end has ended, if it is still the node's own: a
    /// second fault may have killed it, and its mending may have started the node again.
    pub(super) async fn until_ended(&mut self, closing: Option<u32>) {
        if let Some(mut process) = self.process.take_if(|process| Some(process.id()) == closing) {
            let code = process.exit_code().await;
            assert!(code == Some(0) || self.was_filled, "a node that is closed: {code:?}");
        }
    }

    /// Crashes the node, and takes its log away.
    pub(super) fn wipe(&mut self) {
        self.crash();
        self.directory = directory_on(self.disk.as_ref());
    }

    pub(super) fn shift_clock(&self, hours: i64) {
        if let Some(clock) = &self.clock {
            clock.shift(hours * 3_600);
        }
    }

    /// Fills the disk until so many bytes are left. Returns the file that does.
    pub(super) fn fill_disk(&mut self, left_bytes: u64) -> Option<NamedTempFile> {
        let disk = self.disk.as_ref()?;
        let mut ballast = NamedTempFile::new_in(disk.path()).unwrap();
        let fill = || {
            while free_bytes(disk.path()) > left_bytes && ballast.write_all(&[0; 4096]).is_ok() {}
        };
        tokio::task::block_in_place(fill);
        self.was_filled |= left_bytes == 0;
        Some(ballast)
    }

    /// Ends a node that has stopped because its disk was full: its log could not be written to, and
    /// it asks to be started again, or has ended for that. Returns whether it had stopped.
    ///
    /// # Panics
    ///
    /// If a node has ended that had no reason to.
    pub(super) async fn end_if_stopped(&mut self) -> bool {
        let Some(process) = &mut self.process else { return false };
        let has_ended = process.has_ended();
        assert!(!has_ended || self.was_filled, "the node at {} has ended", self.address);
        let has_stopped = self.was_filled
            && (has_ended || self.told().await.is_some_and(|told| told["role"] == "stopped"));
        if has_stopped {
            self.crash();
        }
        has_stopped
    }
}

/// Returns a new directory for a node, on its disk if it has one of its own.
fn directory_on(disk: Option<&Disk>) -> TempDir {
    match disk {
        Some(disk) => tempfile::tempdir_in(disk.path()).unwrap(),
        None => tempfile::tempdir().unwrap(),
    }
}
