//! The command line: one file per command.

mod backup;
mod bench;
mod check;
mod client;
mod compact;
mod diagnostics;
mod export;
mod publish;
mod repeats;
mod serve;
mod tail;
mod terminal;
mod topic;
mod topics;
mod usage;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use leftoff::config::Config;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::diagnostics::{Queue, say};
use self::repeats::Repeats;

/// Why a command failed, as scripts can tell: see `leftoff --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Anything else.
    Other = 1,
    /// The check found damage.
    Damage = 3,
    /// The server cannot be reached, or went away.
    Unreachable = 4,
    /// The server or a rule refused the input.
    Refused = 5,
    /// Whoever read the output went away, as `head` does; nobody is left to tell. A shell's number
    /// for SIGPIPE.
    OutputClosed = 141,
    /// SIGINT ended it, or SIGTERM: as a shell has it for a process that a signal ended.
    Interrupted = 130,
    Terminated = 143,
}

/// A failed command: what it ends with, and what it says.
#[derive(Debug)]
struct CliError {
    failure: Failure,
    message: String,
    /// Whether the message names the lines of the input that it is about.
    names_lines: bool,
}

impl CliError {
    fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), names_lines: false }
    }
}

impl From<leftoff::Error> for CliError {
    fn from(error: leftoff::Error) -> Self {
        let failure = match &error {
            leftoff::Error::Damaged { .. } | leftoff::Error::DamagedLog { .. } => Failure::Damage,
            leftoff::Error::Invalid { .. } | leftoff::Error::OverLimit { .. } => Failure::Refused,
            _ => Failure::Other,
        };
        Self::new(failure, leftoff::error::with_causes(&error))
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        let failure = match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => Failure::Other,
        };
        Self::new(failure, error.to_string())
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(Failure::Other, error.to_string())
    }
}

type CliResult<T = ()> = Result<T, CliError>;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  wrong use of the command line
  3  `check` found damage, or `serve` refused a damaged log
  4  the server cannot be reached
  5  the server, or a rule, refused the input
  130, 143  ended by SIGINT, by SIGTERM
  141  the reader of the output went away

Environment:
  LEFTOFF_SERVER      the server of the client commands
  LEFTOFF_LOG_FILTER  what `serve` logs, like `info` or `leftoff=debug`";

/// An event-log broker with replay: publish over gRPC or HTTP, follow over SSE, WebSocket,
/// long-polling or gRPC, and resume exactly where you left off.
#[derive(Debug, Parser)]
#[command(name = "leftoff", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    Publish(publish::Publish),
    Tail(tail::Tail),
    Topics(topics::Topics),
    Topic(topic::Topic),
    Compact(compact::Compact),
    Backup(backup::Backup),
    Restore(backup::Restore),
    Export(export::Export),
    Check(check::Check),
    Bench(bench::Bench),
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| usage::in_words(error).exit());
    let filter = std::env::var("LEFTOFF_LOG_FILTER").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|error| {
        say(format_args!("leftoff: LEFTOFF_LOG_FILTER is ignored: {error}"));
        EnvFilter::new("info")
    });
    let is_terminal = std::io::stderr().is_terminal();
    let diagnostics = Queue::of_process();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(is_terminal)
        .with_writer(move || diagnostics.clone())
        .with_filter(Repeats::default());
    tracing_subscriber::registry().with(filter).with(lines).init();
    let outcome = match cli.command {
        // These block, and need no runtime.
        Command::Check(check) => check.run(),
        Command::Restore(restore) => restore.run(),
        other => run_async(other),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError { failure, message, .. }) => {
            if failure != Failure::OutputClosed {
                say(format_args!("leftoff: {message}"));
            }
            ExitCode::from(failure as u8)
        }
    };
    diagnostics::flush();
    code
}

/// The settings of the broker, from a file, the environment and `flags`.
fn load(file: Option<&Path>, flags: &[(String, String)]) -> CliResult<Config> {
    Config::load(file, flags)
        .map_err(|problem| CliError::new(Failure::Refused, format!("configuration: {problem}")))
}

/// A bar of bytes on a terminal, of this many or of nobody knows how many.
fn bytes_bar(size_bytes: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match size_bytes {
        Some(size_bytes) => (
            ProgressBar::new(size_bytes),
            "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {bytes_per_sec} {msg}"),
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
    bar
}

/// How many tasks a worker polls before it looks for what has come in: one that has something to do
/// for many clients of a kind may poll each for a millisecond, and by default it looks after 61.
const POLLS_PER_LOOK: u32 = 8;

fn run_async(command: Command) -> CliResult {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .event_interval(POLLS_PER_LOOK)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Serve(serve) => serve.run().await,
            Command::Publish(publish) => publish.run().await,
            Command::Tail(tail) => tail.run().await,
            Command::Topics(topics) => topics.run().await,
            Command::Topic(topic) => topic.run().await,
            Command::Compact(compact) => compact.run().await,
            Command::Bench(bench) => bench.run().await,
            Command::Backup(backup) => backup.run().await,
            Command::Export(export) => export.run().await,
            Command::Check(check) => check.run(),
            Command::Restore(restore) => restore.run(),
        }
    });
    runtime.shutdown_background(); // A read from a terminal would hold it up for ever.
    outcome
}
