//! `leftoff serve`: runs the broker until it is told to stop.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use leftoff::Broker;
use leftoff::config::Config;
use leftoff::server::{Protocols, Server, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::failure::{CliError, CliResult, ExitReason};
use super::settings::load;

/// Runs the broker
///
/// By default the log is in `./leftoff-data`, and the broker listens on 127.0.0.1:4280 for gRPC,
/// HTTP/1.1, WebSocket, and HTTP/2 without TLS.
///
/// Settings come from the options, then from LEFTOFF_* variables of the environment
/// (LEFTOFF_DATA_DIR, LEFTOFF_SERVER__LISTEN, LEFTOFF_BROKER__MAX_QUEUE_BYTES), then from the file.
///
/// SIGTERM or SIGINT stops the broker within ten seconds: accepted requests are answered, and
/// streams end. A second signal ends it at once.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address for gRPC and HTTP; port 0 picks a free one [default: 127.0.0.1:4280]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// A separate address for gRPC
    #[arg(long, value_name = "ADDRESS")]
    grpc_listen: Option<String>,
    /// The directory of the log [default: ./leftoff-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE", env = "LEFTOFF_CONFIG")]
    config: Option<PathBuf>,
    /// Any other setting, like `broker.max_queue_bytes=67108864` or `topics.users.>.compact=true`;
    /// can be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    settings: Vec<(String, String)>,
    /// Print the settings as TOML, and exit
    #[arg(long)]
    print_config: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    // A topic pattern in quotes may contain `=`.
    let mut is_quoted = false;
    let at = text.find(|character| {
        is_quoted ^= character == '"';
        character == '=' && !is_quoted
    });
    let (key, value) = text.split_at(at.ok_or("the value has no `=`; write KEY=VALUE")?);
    Ok((key.to_owned(), value[1..].to_owned()))
}

impl Serve {
    fn load(&self) -> CliResult<Config> {
        let mut flags = self.settings.clone();
        let quoted = |value: &str| format!("{value:?}");
        let named = [("server.listen", &self.listen), ("server.grpc_listen", &self.grpc_listen)];
        for (key, value) in named {
            flags.extend(value.as_deref().map(|value| (key.to_owned(), quoted(value))));
        }
        if let Some(directory) = &self.data_dir {
            flags.push(("data_dir".to_owned(), quoted(&directory.to_string_lossy())));
        }
        load(self.config.as_deref(), &flags)
    }

    pub(super) async fn run(self) -> CliResult {
        let config = self.load()?;
        if self.print_config {
            let text = toml::to_string(&config)
                .map_err(|error| CliError::new(ExitReason::Other, error.to_string()))?;
            std::io::stdout().write_all(text.as_bytes())?;
            return Ok(());
        }
        let shutdown = Shutdown::default();
        stop_on_signals(shutdown.clone())?;
        let (directory, open_config) = (config.data_dir.clone(), config.open_config());
        let opened = tokio::task::spawn_blocking(move || Broker::open(directory, &open_config));
        let broker = opened.await.map_err(std::io::Error::other)??;
        let server = config.server_of(broker).bind().await?;
        if let Err(error) = greeting(&server, &config).and_then(print) {
            warn!(%error, "cannot print the greeting"); // The broker serves all the same.
        }
        server.run(shutdown).await;
        Ok(())
    }
}

/// Returns the greeting: the addresses of the server, and commands to try next.
fn greeting(server: &Server, config: &Config) -> io::Result<String> {
    let address = |protocol| server.address(protocol).ok_or(io::ErrorKind::AddrNotAvailable);
    let (http, grpc) = (address(Protocols::Http)?, address(Protocols::Grpc)?);
    let events = format!("http://{http}/v1/topics/hello/events");
    let (version, directory) = (env!("CARGO_PKG_VERSION"), config.data_dir.display());
    Ok(format!(
        "leftoff {version} keeps {directory}
listening on http://{http} (HTTP/1.1 and HTTP/2)
listening on http://{grpc} (gRPC)

try, in another terminal: publish three events, follow from the first (Ctrl-C ends it), and resume
after the second
  for n in 1 2 3; do curl -d \"event $n\" {events}; done
  curl -N -H 'Accept: text/event-stream' '{events}?from=earliest'
  curl -N -H 'Accept: text/event-stream' -H 'Last-Event-ID: 2' {events}
"
    ))
}

/// Prints `text` in a separate thread: if nobody reads standard output, the thread waits, and not
/// the broker. The thread has its own handle, because the process flushes the usual one at its end.
fn print(text: String) -> io::Result<()> {
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let print = move || {
        if let Err(error) = output.write_all(text.as_bytes()) {
            warn!(%error, "cannot print the greeting");
        }
    };
    std::thread::Builder::new().name("greeting".to_owned()).spawn(print).map(drop)
}

/// Starts the shutdown at the first signal; ends the process at the second.
fn stop_on_signals(shutdown: Shutdown) -> CliResult {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut count = 0;
        loop {
            let (name, number) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 15),
                _ = interrupt.recv() => ("SIGINT", 2),
            };
            count += 1;
            if count > 1 {
                // The exit code that a shell gives to a process that a signal ended.
                std::process::exit(128 + number);
            }
            info!(signal = name, "stopping; a second signal ends at once");
            shutdown.start();
        }
    });
    Ok(())
}
