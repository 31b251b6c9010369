//! A host program with the broker inside: routes, a layer and a gRPC service of its own beside the
//! broker's. Benches compare it with the real binary. A bench starts itself once more as the host.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::routing::get;
use leftoff::server::{Listener, Protocols, Server};
use leftoff::{Broker, OpenConfig};

use crate::served::Served;

/// The variable with the directory of the host, and that with its write timeout in milliseconds.
const DIRECTORY: &str = "LEFTOFF_BENCH_HOST";
const WRITE_TIMEOUT: &str = "LEFTOFF_BENCH_HOST_WRITE_TIMEOUT_MS";

/// The allocator of the binary: with another one the memory could not be compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starts this bench once more as a host on `directory`, and waits until it listens.
pub(crate) fn start(directory: &Path, write_timeout: Duration) -> Served {
    let mut program = Command::new(std::env::current_exe().expect("a bench knows its file"));
    program.env(DIRECTORY, directory);
    program.env(WRITE_TIMEOUT, write_timeout.as_millis().to_string());
    Served::run(program)
}

/// Serves for ever if this process was started as a host; otherwise returns at once.
pub(crate) fn serve_if_asked() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let broker = Broker::open(directory, &OpenConfig::default()).expect("a broker");
        let own = axum::Router::new()
            .route("/own", get(async |State(name): State<&'static str>| name))
            .with_state("the host");
        let layer = from_fn(async |request: Request, next: Next| next.run(request).await);
        let mut config = leftoff::server::ServerConfig::default();
        let write_timeout = std::env::var(WRITE_TIMEOUT).expect("the timeout is given");
        config.write_timeout_ms = write_timeout.parse().expect("a number");
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let server = Server::builder(broker).config(config).routes(own).layer(layer);
        let server = server.listen(listener).bind().await.expect("a server");
        let address = server.address(Protocols::Http).expect("an address");
        println!("listening on http://{address} (a host)");
        server.run(std::future::pending()).await;
    });
}
