//! The real binary, serving a directory, for benches that measure from outside.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running broker, ended when the value is dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Served {
    /// Starts `leftoff serve` on `directory` with its defaults, and waits until it listens.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, &[])
    }

    /// Does the same as [`Self::start`], with more arguments.
    pub(crate) fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_leftoff"));
        program.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory);
        program.args(arguments).env("LEFTOFF_LOG_FILTER", "error");
        Self::run(program)
    }

    /// Starts a program that says where it listens, as `leftoff serve` does.
    pub(crate) fn run(mut program: Command) -> Self {
        let mut child = program.stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stdout.take().expect("the output is piped")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            let (_, rest) = line.strip_prefix("listening on ")?.split_once("://")?;
            rest.split(' ').next()?.parse().ok()
        });
        Self { child, address: address.expect("the program says where it listens") }
    }

    /// Returns the number of the process.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the largest resident memory so far, in MB, or 0 where the system does not say.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) fn peak_memory_mb(&self) -> f64 {
        self.status_mb("VmHWM:")
    }

    /// Returns the resident memory now, in MB, or 0 where the system does not say.
    #[allow(dead_code, reason = "not every bench asks")]
    pub(crate) fn memory_mb(&self) -> f64 {
        self.status_mb("VmRSS:")
    }

    fn status_mb(&self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1024.0 / 1e6
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}
