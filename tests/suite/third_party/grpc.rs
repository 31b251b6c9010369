//! gRPC clients from npm and PyPI.

use std::path::Path;

use super::client::Installed;
use super::story::{Story, TOPIC};

/// Goal: a client with the proto file, and a client that knows only what reflection says, get every
/// acknowledged event once and in order, and are told of the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_clients_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::begin().await;
    let address = story.address.to_string();
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let clients = [
        installed.node("grpc-js", "grpc.cjs", &[&address, TOPIC, protos.to_str().unwrap()]),
        installed.python("grpcio", "grpc_reflected.py", &[&address, TOPIC]),
    ];
    story.tell(&clients).await;
}
