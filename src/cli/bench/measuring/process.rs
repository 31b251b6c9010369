//! The broker that is measured, which the bench starts unless it runs already, and the resources
//! that its process uses, if the system tells them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use clap::Args;
use leftoff::edge::proto::DeleteTopicRequest;
use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

use crate::cli::client::{ServerArgs, ServerClient};
use crate::cli::credential::{CredentialArgs, head_lines};
use crate::cli::diagnostics::say;
use crate::cli::failure::{CliError, CliResult, ExitReason};

/// The longest time until a broker that the bench started listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// The most files that a process has open besides its clients' connections.
const OTHER_FILES: u64 = 64;

/// The options that choose the broker to measure.
#[derive(Debug, Clone, Args)]
pub(in crate::cli::bench) struct TargetArgs {
    /// Measure this running broker [default: start one on a free port, which ends with the bench]
    #[arg(long, value_name = "URL", env = "LEFTOFF_SERVER")]
    server: Option<String>,
    #[command(flatten)]
    credential: CredentialArgs,
    /// The process of that broker, for its CPU and memory
    #[arg(long, requires = "server")]
    pid: Option<u32>,
    /// The directory in which a broker that the bench starts keeps its log
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
}

/// The broker that is measured. If the bench started it, it ends when this is dropped.
pub(in crate::cli::bench) struct MeasuredBroker {
    served: Option<OwnBroker>,
    server: ServerArgs,
    /// The address of the broker, and the `Host` of requests.
    pub(in crate::cli::bench) address: SocketAddr,
    pub(in crate::cli::bench) host: String,
    /// The lines of a request's head with the credential; empty without one.
    pub(in crate::cli::bench) credential_lines: String,
    pid: Option<u32>,
}

impl MeasuredBroker {
    /// Finds the broker, or starts one.
    pub(in crate::cli::bench) async fn start(args: &TargetArgs) -> CliResult<Self> {
        let Some(url) = &args.server else {
            let (served, address) = OwnBroker::start(&args.data_dir).await?;
            let server = ServerArgs::at(format!("http://{address}"), &args.credential);
            let pid = Some(served.child.id());
            let (host, credential_lines) = (address.to_string(), String::new());
            return Ok(Self { served: Some(served), server, address, host, credential_lines, pid });
        };
        let (address, host) = resolve(url).await?;
        let server = ServerArgs::at(url.clone(), &args.credential);
        let credential_lines = head_lines(&args.credential.read().await?);
        Ok(Self { served: None, server, address, host, credential_lines, pid: args.pid })
    }

    pub(in crate::cli::bench) async fn connect(&self) -> CliResult<ServerClient> {
        self.server.connect().await
    }

    /// Deletes a topic of the bench from a broker that runs on.
    pub(in crate::cli::bench) async fn forget(&self, client: &mut ServerClient, topic: &str) {
        if self.served.is_none() {
            let deleted =
                client.admin.delete_topic(DeleteTopicRequest { topic: topic.to_owned() }).await;
            if let Err(status) = deleted {
                say(format_args!("the topic {topic} could not be deleted: {}", status.message()));
            }
        }
    }

    /// Returns the resources that the broker's process has used so far, or the reason for which
    /// they are unknown.
    pub(in crate::cli::bench) fn usage(&self) -> Result<Usage, &'static str> {
        Usage::of(&self.pid.ok_or("give --pid")?.to_string())
    }
}

/// Returns the address and the authority of an `http` URL.
async fn resolve(url: &str) -> CliResult<(SocketAddr, String)> {
    let refused =
        |why: &str| CliError::new(ExitReason::Refused, format!("--server {url:?}: {why}"));
    let uri: http::Uri = url.parse().map_err(|_| refused("it is not a URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(refused("it does not begin with http://"));
    }
    let authority = uri.authority().ok_or_else(|| refused("it names no host"))?;
    let port = authority.port_u16().unwrap_or(80);
    let found = tokio::net::lookup_host(format!("{}:{port}", authority.host())).await;
    let address = found.ok().and_then(|mut addresses| addresses.next());
    Ok((address.ok_or_else(|| refused("there is no such host"))?, authority.to_string()))
}

/// A process of this program that serves an empty log.
struct OwnBroker {
    child: Child,
    /// Kept open, so that the process can write to it.
    _output: Option<BufReader<ChildStdout>>,
    _directory: TempDir,
}

impl OwnBroker {
    /// Starts the process in a new directory below `parent`, and waits until it listens.
    async fn start(parent: &Path) -> CliResult<(Self, SocketAddr)> {
        let directory = tempfile::tempdir_in(parent)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
        // The environment may have settings for another broker.
        let variables = std::env::vars_os().map(|(name, _)| name);
        for name in variables.filter(|name| name.to_string_lossy().starts_with("LEFTOFF_")) {
            command.env_remove(name);
        }
        command.env("LEFTOFF_LOG_FILTER", "error").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().map(BufReader::new);
        let mut served = Self { child, _output: None, _directory: directory };
        // On a timeout `served` is dropped. That ends the process, the pipe and this read.
        let reading = tokio::task::spawn_blocking(move || listening_address(output));
        let read = tokio::time::timeout(START_TIMEOUT, reading).await;
        let Ok(Ok(Some((address, output)))) = read else {
            return Err(CliError::new(
                ExitReason::Other,
                "the broker to be measured does not start",
            ));
        };
        served._output = Some(output);
        Ok((served, address))
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _it_may_have_ended = self.child.wait();
    }
}

/// Returns the address in the greeting of `leftoff serve`.
fn listening_address<R: BufRead>(output: Option<R>) -> Option<(SocketAddr, R)> {
    let mut output = output?;
    let mut line = String::new();
    while output.read_line(&mut line).ok()? > 0 {
        let rest = line.strip_prefix("listening on http://"); // It was started without TLS.
        let address = rest.and_then(|rest| rest.split(' ').next()?.parse().ok());
        if let Some(address) = address {
            return Some((address, output));
        }
        line.clear();
    }
    None
}

/// The resources that a process has used since its start.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli::bench) struct Usage {
    /// The processor time, in user and system mode.
    pub(in crate::cli::bench) cpu_seconds: f64,
    pub(in crate::cli::bench) resident_kib: f64,
    /// The peak of the resident memory.
    pub(in crate::cli::bench) peak_kib: f64,
}

impl Usage {
    /// Reads the usage of the bench itself.
    pub(in crate::cli::bench) fn own() -> Result<Self, &'static str> {
        Self::of("self")
    }

    /// Returns the CPU time since `before` for each of `deliveries`, in microseconds.
    pub(in crate::cli::bench) fn cpu_us_each(
        self,
        before: Self,
        deliveries: u64,
    ) -> Result<f64, &'static str> {
        match deliveries {
            0 => Err("nothing was delivered"),
            count => Ok((self.cpu_seconds - before.cpu_seconds) * 1e6 / count as f64),
        }
    }

    /// Reads the usage of the process with this name in /proc.
    fn of(name: &str) -> Result<Self, &'static str> {
        let directory = Path::new("/proc").join(name);
        let read = |file| std::fs::read_to_string(directory.join(file)).ok();
        if !Path::new("/proc/self/stat").exists() {
            return Err("this system has no /proc");
        }
        let (stat, status) =
            read("stat").zip(read("status")).ok_or("no such process can be read in /proc")?;
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<f64>().ok()
        };
        let usage = cpu_ticks(&stat).zip(field("VmRSS:")).zip(field("VmHWM:"));
        let ((ticks, resident_kib), peak_kib) = usage.ok_or("/proc lacks its numbers")?;
        let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(Self { cpu_seconds, resident_kib, peak_kib })
    }
}

/// Returns the sum of utime and stime. Source: proc_pid_stat(5), fields 14 and 15. Field 2 is the
/// program's name in parentheses, and may contain any character.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// Refuses more connections than this process, and a broker that it starts, may have open.
pub(in crate::cli::bench) fn check_open_files(connections: u64) -> CliResult {
    let limit = getrlimit(Resource::Nofile);
    let needed = connections + OTHER_FILES;
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    if needed <= soft {
        return Ok(());
    }
    let what = format!("{connections} connections need {needed} open files, {soft} are allowed");
    let way = match needed <= hard {
        true => format!("run `ulimit -n {needed}` before"),
        false => format!("have root raise the hard limit, {hard}, or take fewer clients"),
    };
    Err(CliError::new(ExitReason::Refused, format!("{what}: {way}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu_ticks(stat), Some(200));
        assert_eq!(cpu_ticks("7 (a"), None);
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn connections_that_do_not_fit_are_refused_with_what_to_do() {
        check_open_files(0).unwrap();
        let error = check_open_files(1 << 40).unwrap_err().message;
        assert!(error.contains("need 1099511627840 open files"), "{error}");
    }
}
