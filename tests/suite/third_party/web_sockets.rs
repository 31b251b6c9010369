//! WebSocket clients from npm and PyPI.

use super::client::Installed;
use super::story::{Story, TOPIC};

/// Goal: each client gets every acknowledged event once and in order, and is told of the gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn web_sockets_show_what_was_acknowledged_through_kills() {
    let Some(installed) = Installed::find() else { return };
    let story = Story::begin().await;
    let url = format!("ws://{}/v1/ws", story.address);
    let node = |name| installed.node(name, "web_socket.cjs", &[name, &url, TOPIC]).rewritten();
    let clients = [
        node("ws"),
        node("reconnecting-websocket"),
        installed.python("websockets", "web_socket.py", &[&url, TOPIC]).rewritten(),
    ];
    story.tell(&clients).await;
}
