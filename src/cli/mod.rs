//! The command line: one file per command.

mod access;
mod access_explain;
mod access_revoke;
mod asking;
mod backup;
mod bench;
mod check;
mod client;
mod cluster;
mod cluster_check;
mod cluster_status;
mod compact;
mod comparing;
mod consumer;
mod credential;
mod diagnostics;
mod export;
mod failure;
mod fleet;
mod key;
mod progress;
mod publish;
mod publish_lines;
mod repeats;
mod serve;
mod settings;
mod tail;
mod terminal;
mod token;
mod topic;
mod topics;
mod usage;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use self::diagnostics::{DiagnosticQueue, say};
use self::failure::{CliError, CliResult, ExitReason};
use self::repeats::Repeats;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed; or a node of a fleet ended `serve`, so that its next start repairs it
  2  wrong use of the command line
  3  a check found damage, a difference or what is unsafe, or `serve` refused a damaged log
  4  the server cannot be reached
  5  the server, or a rule, refused the input
  130, 143  ended by SIGINT, by SIGTERM
  141  the reader of the output went away

Environment:
  LEFTOFF_SERVER      the server of the client commands
  LEFTOFF_TOKEN       a token or a key of the client commands, if no file is named
  LEFTOFF_LOG_FILTER  what `serve` logs, like `info` or `leftoff=debug`";

/// An event-log broker with replay: publish over gRPC or HTTP, follow over SSE, WebSocket,
/// long-polling or gRPC, and resume exactly where you left off.
#[derive(Debug, Parser)]
#[command(name = "leftoff", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    Serve(serve::Serve),
    Publish(publish::PublishCommand),
    Tail(tail::TailCommand),
    Topics(topics::TopicsCommand),
    Topic(topic::TopicCommand),
    Consumer(consumer::ConsumerCommand),
    Access(access::AccessCommand),
    Cluster(cluster::ClusterCommand),
    Key(key::KeyCommand),
    Token(token::TokenCommand),
    Compact(compact::Compact),
    Backup(backup::BackupCommand),
    Restore(backup::Restore),
    Export(export::Export),
    Check(check::CheckCommand),
    Bench(bench::Bench),
}

/// Whether a log line is none of those that the crate for WebSockets writes of each frame, with all
/// that is in it: tokens and payloads. They are never shown, whatever the filter says.
fn holds_no_message(line: &tracing::Metadata<'_>) -> bool {
    let is_of_frames = ["tungstenite", "tokio_tungstenite"].iter().any(|it| {
        line.target().strip_prefix(it).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    });
    !is_of_frames || *line.level() < tracing::Level::TRACE
}

/// Parses the command line and runs the command.
pub(crate) fn main() -> ExitCode {
    let cli =
        Cli::try_parse().unwrap_or_else(|error| usage::in_words(error, Cli::command()).exit());
    let filter = std::env::var("LEFTOFF_LOG_FILTER").unwrap_or_else(|_| "info".to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|error| {
        say(format_args!("leftoff: LEFTOFF_LOG_FILTER is ignored: {error}"));
        EnvFilter::new("info")
    });
    let is_terminal = std::io::stderr().is_terminal();
    let diagnostics = DiagnosticQueue::of_process();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(is_terminal)
        .with_writer(move || diagnostics.clone())
        .with_filter(Repeats::default());
    let harmless = tracing_subscriber::filter::filter_fn(holds_no_message);
    tracing_subscriber::registry().with(filter).with(harmless).with(lines).init();
    // Fails only if there is a provider already.
    let _first = leftoff::rustls::crypto::ring::default_provider().install_default();
    let outcome = match cli.command {
        // These commands block, and need no runtime.
        CliCommand::Check(check) if !check.compares() => check.run(),
        CliCommand::Restore(restore) => restore.run(),
        CliCommand::Key(key) => key.run(),
        CliCommand::Token(token) => token.run(),
        other => run_async(other),
    };
    let code = match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError { failure, message, .. }) => {
            if failure != ExitReason::OutputClosed {
                say(format_args!("leftoff: {message}"));
            }
            ExitCode::from(failure as u8)
        }
    };
    diagnostics::flush();
    code
}

/// The number of tasks that a worker polls before it looks for new input. A worker with work for
/// many clients may poll each task for a millisecond; by default it looks after 61 tasks.
const POLLS_PER_LOOK: u32 = 8;

fn run_async(command: CliCommand) -> CliResult {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .event_interval(POLLS_PER_LOOK)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        match command {
            CliCommand::Serve(serve) => serve.run().await,
            CliCommand::Publish(publish) => publish.run().await,
            CliCommand::Tail(tail) => tail.run().await,
            CliCommand::Topics(topics) => topics.run().await,
            CliCommand::Topic(topic) => topic.run().await,
            CliCommand::Consumer(consumer) => consumer.run().await,
            CliCommand::Access(access) => access.run().await,
            CliCommand::Cluster(cluster) => cluster.run().await,
            CliCommand::Compact(compact) => compact.run().await,
            CliCommand::Bench(bench) => bench.run().await,
            CliCommand::Backup(backup) => backup.run().await,
            CliCommand::Export(export) => export.run().await,
            CliCommand::Check(check) => check.compare().await,
            CliCommand::Restore(restore) => restore.run(),
            CliCommand::Key(key) => key.run(),
            CliCommand::Token(token) => token.run(),
        }
    });
    runtime.shutdown_background(); // A blocked read from a terminal would delay the end for ever.
    outcome
}
