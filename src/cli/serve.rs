//! `leftoff serve`: runs the broker until it is told to stop.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use leftoff::Broker;
use leftoff::access::AccessMode;
use leftoff::cluster::FleetNode;
use leftoff::config::Config;
use leftoff::server::{CertificateReload, Protocols, Server, ServerBuilder, Shutdown};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::failure::{CliError, CliResult, ExitReason};
use super::fleet::open_node;
use super::settings::load;

/// Runs the broker
///
/// By default the log is in `./leftoff-data`, and the broker listens on 127.0.0.1:4280 for gRPC,
/// HTTP/1.1, WebSocket, and HTTP/2, without TLS. To listen beyond this machine it needs access
/// control (--access required), or --insecure.
///
/// Settings come from the options, then from LEFTOFF_* variables of the environment
/// (LEFTOFF_DATA_DIR, LEFTOFF_SERVER__LISTEN, LEFTOFF_BROKER__MAX_QUEUE_BYTES), then from the file.
///
/// SIGTERM or SIGINT stops the broker within ten seconds: accepted requests are answered, and
/// streams end. A second signal ends it at once. With TLS, SIGHUP reads the certificate's files
/// again.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Address for gRPC and HTTP; port 0 picks a free one [default: 127.0.0.1:4280]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// A separate address for gRPC; `--listen` then serves HTTP alone, and client commands need
    /// this one as `--server`
    #[arg(long, value_name = "ADDRESS")]
    grpc_listen: Option<String>,
    /// Whether callers must prove who they are: `open` or `required` [default: open]
    #[arg(long, value_name = "MODE")]
    access: Option<String>,
    /// Listen beyond this machine without access control
    #[arg(long)]
    insecure: bool,
    /// A file with the certificate of the server, and after it those of its issuers, in PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// A file with the key of the certificate, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// A file with certificates in PEM by which those of clients are trusted
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<PathBuf>,
    /// The directory of the log [default: ./leftoff-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The servers of NATS of the fleet that the broker is a node of, like
    /// `nats://a:4222,nats://b:4222`; needs the three next options [default: none, and the broker
    /// is alone]
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    fleet: Vec<String>,
    /// The name of the fleet
    #[arg(long, value_name = "NAME")]
    fleet_name: Option<String>,
    /// The name of this node in its fleet
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The URL at which the other nodes reach this one, like `https://n1:4280`
    #[arg(long, value_name = "URL")]
    advertise: Option<String>,
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
        let named = [
            ("server.listen", &self.listen),
            ("server.grpc_listen", &self.grpc_listen),
            ("access.mode", &self.access),
            ("fleet.name", &self.fleet_name),
            ("fleet.node", &self.node),
            ("fleet.advertise", &self.advertise),
        ];
        for (key, value) in named {
            flags.extend(value.as_deref().map(|value| (key.to_owned(), quoted(value))));
        }
        let files = [
            ("data_dir", &self.data_dir),
            ("server.tls_cert", &self.tls_cert),
            ("server.tls_key", &self.tls_key),
            ("server.tls_client_ca", &self.tls_client_ca),
        ];
        for (key, file) in files {
            let text = file.as_deref().map(|file| quoted(&file.to_string_lossy()));
            flags.extend(text.map(|text| (key.to_owned(), text)));
        }
        if !self.fleet.is_empty() {
            flags.push(("fleet.servers".to_owned(), format!("{:?}", self.fleet)));
        }
        if self.insecure {
            flags.push(("access.insecure".to_owned(), "true".to_owned()));
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
        check_exposure(&config)?;
        let shutdown = Shutdown::default();
        stop_on_signals(shutdown.clone())?;
        if config.fleet.is_alone() {
            let (directory, open_config) = (config.data_dir.clone(), config.open_config());
            let opened = tokio::task::spawn_blocking(move || Broker::open(directory, &open_config));
            let broker = opened.await.map_err(std::io::Error::other)??;
            return serve(config.server_of(broker), &config, shutdown).await;
        }
        let (broker, node) = tokio::select! {
            opened = open_node(&config) => opened?,
            () = shutdown.started() => return Ok(()), // It may wait for the engine for long.
        };
        let watching = tokio::spawn(stop_if_needed(&node, shutdown.clone()));
        let server = config.server_of(broker).fleet(&node);
        let served = serve(server, &config, shutdown.clone()).await;
        shutdown.start(); // If it could not serve at all, nobody has said so.
        let why = watching.await.ok().flatten();
        node.close().await;
        served?;
        why.map_or(Ok(()), |why| Err(CliError::new(ExitReason::Other, why)))
    }
}

/// Stops the server when the node cannot go on as it is, and another node can help it: the next
/// start repairs it. Returns why; `None` if the server is stopped for another reason.
fn stop_if_needed(
    node: &FleetNode,
    shutdown: Shutdown,
) -> impl Future<Output = Option<String>> + Send + 'static {
    let repairable = node.repairable();
    async move {
        let why = tokio::select! {
            biased;
            () = shutdown.started() => None,
            why = repairable => Some(why),
        };
        if let Some(why) = &why {
            tracing::error!(why, "this node stops, so that its next start repairs it");
        }
        shutdown.start();
        why
    }
}

/// Serves until `shutdown`.
async fn serve(server: ServerBuilder, config: &Config, shutdown: Shutdown) -> CliResult {
    let server = server.bind().await?;
    if let Some(reload) = server.certificate_reload() {
        reload_on_hang_up(reload)?;
    }
    if let Err(error) = greeting(&server, config).and_then(print) {
        warn!(%error, "cannot print the greeting"); // The broker serves all the same.
    }
    server.run(shutdown).await;
    Ok(())
}

/// Checks that whoever reaches the broker from beyond this machine must prove who it is, unless the
/// settings say that this is not wanted. Warns of what is permitted and dangerous.
///
/// # Errors
///
/// [`ExitReason::Refused`], with what to do.
fn check_exposure(config: &Config) -> CliResult {
    let addresses = [Some(config.server.listen), config.server.grpc_listen];
    let beyond = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
    let Some(address) = addresses.into_iter().flatten().find(beyond) else { return Ok(()) };
    let is_open = config.access.mode == AccessMode::Open;
    match (is_open, config.access.insecure) {
        (true, false) => Err(CliError::new(
            ExitReason::Refused,
            format!(
                "{address} can be reached from other machines, and whoever reaches it may do \
                 everything, because access.mode is \"open\"; set access.mode = \"required\" \
                 (--access required) and give callers keys that `leftoff key create` makes, or \
                 listen on 127.0.0.1, or permit it with --insecure (access.insecure = true)"
            ),
        )),
        (true, true) => {
            warn!(%address, "whoever reaches this address may do everything");
            Ok(())
        }
        (false, _) => {
            if config.server.tls_cert.is_none() {
                warn!(
                    %address,
                    "credentials reach this address without TLS, and can be read on the way, \
                     unless a proxy before it has TLS: set server.tls_cert and server.tls_key"
                );
            }
            Ok(())
        }
    }
}

/// Returns the greeting: the addresses of the server, and commands to try next.
fn greeting(server: &Server, config: &Config) -> io::Result<String> {
    let address = |protocol| server.address(protocol).ok_or(io::ErrorKind::AddrNotAvailable);
    let (http, grpc) = (address(Protocols::Http)?, address(Protocols::Grpc)?);
    let has_tls = config.server.tls_cert.is_some();
    let is_open = config.access.mode == AccessMode::Open;
    let scheme = if has_tls { "https" } else { "http" };
    let events = format!("{scheme}://{http}/v1/topics/hello/events");
    let (version, directory) = (env!("CARGO_PKG_VERSION"), config.data_dir.display());
    let mut curl = "curl".to_owned();
    let mut where_to_get = String::new();
    if has_tls {
        curl += " --cacert CA";
        where_to_get += "  CA is a file with the certificate that signed the server's, and the \
            server's name is written\n  for its address\n";
    }
    if !is_open {
        curl += " -H 'Authorization: Bearer KEY'";
        where_to_get += "  KEY is a key that `leftoff key create` prints\n";
    }
    let mut part = String::new();
    if !config.fleet.is_alone() {
        part = format!("\nnode {} of the fleet {}", config.fleet.node, config.fleet.name);
    }
    Ok(format!(
        "leftoff {version} keeps {directory}{part}
listening on {scheme}://{http} (HTTP/1.1 and HTTP/2)
listening on {scheme}://{grpc} (gRPC)

try, in another terminal: publish three events, follow from the first (Ctrl-C ends it), and resume
after the second
  for n in 1 2 3; do {curl} -d \"event $n\" {events}; done
  {curl} -N -H 'Accept: text/event-stream' '{events}?from=earliest'
  {curl} -N -H 'Accept: text/event-stream' -H 'Last-Event-ID: 2' {events}
{where_to_get}"
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

/// Reads the files of the certificate at each SIGHUP.
fn reload_on_hang_up(reload: CertificateReload) -> CliResult {
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            reload.start();
        }
    });
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: each address beyond the machine counts, of HTTP and of gRPC, and nothing else does.
    #[test]
    fn whoever_is_beyond_the_machine_must_prove_who_it_is_unless_told_otherwise() {
        let check = |listen: &str, grpc: Option<&str>, mode: AccessMode, insecure: bool| {
            let mut config = Config::default();
            config.server.listen = listen.parse().unwrap();
            config.server.grpc_listen = grpc.map(|address| address.parse().unwrap());
            (config.access.mode, config.access.insecure) = (mode, insecure);
            check_exposure(&config).map_err(|error| (error.failure, error.message))
        };
        let (local, beyond) = ("127.0.0.1:1", "0.0.0.0:1");
        for address in [beyond, "[::]:1", "10.0.0.1:1", "[2001:db8::1]:1"] {
            let (failure, message) = check(address, None, AccessMode::Open, false).unwrap_err();
            assert_eq!(failure, ExitReason::Refused);
            for word in [address, "--access required", "leftoff key create", "--insecure"] {
                assert!(message.contains(word), "{message}");
            }
            check(address, None, AccessMode::Required, false).unwrap();
            check(address, Some(address), AccessMode::Open, true).unwrap();
        }
        check(local, Some(beyond), AccessMode::Open, false).unwrap_err();
        check(beyond, Some(local), AccessMode::Open, false).unwrap_err();
        for address in [local, "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            check(address, Some(local), AccessMode::Open, false).unwrap();
        }
    }
}
