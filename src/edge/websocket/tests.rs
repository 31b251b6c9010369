//! Promises of the edge for connections whose publishes wait for a slow log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::broker::{Broker, Fault, FaultyLog, OpenConfig};
use crate::edge::Edge;
use crate::edge::config::FollowConfig;
use crate::edge::http;

/// Goal: while the publish of a client waits for the log, the client's pongs are not read. The
/// client is not taken for dead.
#[tokio::test]
async fn a_client_that_is_not_read_as_its_publish_waits_is_not_taken_for_dead() {
    let log = Arc::new(FaultyLog::default());
    log.fail(1, Fault::Waits);
    let held = log.hold();
    let broker = Broker::with_log(log.clone(), &OpenConfig::default()).unwrap();
    let config = FollowConfig { heartbeat_ms: 50, max_in_flight: 1, ..FollowConfig::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let edge = Edge::new(broker).follow(config).unwrap();
    let routes: axum::Router = http::router(&edge);
    let serving = tokio::spawn(axum::serve(listener, routes).into_future());

    let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
    let spoken = ::http::HeaderValue::from_static("leftoff.v1.json");
    request.headers_mut().insert("sec-websocket-protocol", spoken);
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let publish = json!({"type": "publish", "topic": "a", "event": {"data": 1}, "ref": 7});
    socket.send(Message::text(publish.to_string())).await.unwrap();
    let mut next = async || {
        let message = tokio::time::timeout(Duration::from_secs(30), socket.next());
        message.await.expect("a message in time").expect("an open connection").unwrap()
    };
    // A silence of three intervals would end the connection.
    for _ in 0..5 {
        let message = next().await;
        assert!(matches!(message, Message::Ping(_)), "{message:?}");
    }
    drop(held);
    let answer = loop {
        match next().await {
            Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
            message => assert!(matches!(message, Message::Ping(_)), "{message:?}"),
        }
    };
    assert_eq!((&answer["type"], &answer["ref"]), (&json!("ack"), &json!(7)), "{answer}");
    serving.abort();
}
