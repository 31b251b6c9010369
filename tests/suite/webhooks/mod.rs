//! Webhooks: events that the broker sends to receivers, which fail in every way that receivers do.

mod addresses;
mod administration;
mod delivery;
mod failures;
mod kills;
pub(crate) mod receiver;

use std::net::SocketAddr;
use std::time::Duration;

use leftoff::config::Config;
use serde_json::{Value, json};

use self::receiver::Receiver;
use crate::common::{Answer, Server, get, send, soon, to};

/// Returns settings with which receivers on this machine are reached, and failures take no time.
fn settings() -> Config {
    let _installed_once = leftoff::rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::default();
    config.webhooks.allow_http = true;
    config.webhooks.allowed_networks = vec!["127.0.0.0/8".to_owned()];
    config.webhooks.retry_min_ms = 2;
    config.webhooks.retry_max_ms = 20;
    config
}

/// Sends a request of an administrator with JSON.
async fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> Answer {
    let request = to(address, method, path).header("content-type", "application/json");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(request, body).await
}

/// Makes a webhook of the topic `orders`, with more settings, and returns the answer.
async fn make(server: &Server, name: &str, receiver: &Receiver, more: Value) -> Value {
    let mut wanted = json!({ "topic": "orders", "url": receiver.url("/hook") });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = ask(server.address, "PUT", &format!("/v1/webhooks/{name}"), &wanted).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()
}

/// Publishes an event with a key to the topic `orders`.
async fn order(server: &Server, key: &str, data: &Value) {
    let path = format!("/v1/topics/orders/events?key={key}&type=order.paid");
    let published = ask(server.address, "POST", &path, data).await;
    assert_eq!(published.status, 201, "{published:?}");
}

async fn shown(address: SocketAddr, name: &str) -> Value {
    let shown = get(address, &format!("/v1/webhooks/{name}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    shown.json()
}

/// Waits until a webhook is as wanted, and returns it.
async fn until(address: SocketAddr, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let shown = shown(address, name).await;
            if wanted(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Returns all events of a topic, as they are now.
async fn events_of(address: SocketAddr, topic: &str) -> Vec<Value> {
    let page = get(address, &format!("/v1/topics/{topic}/events?from=earliest&limit=1000")).await;
    match page.status.as_u16() {
        404 => Vec::new(),
        _ => page.json()["events"].as_array().unwrap().clone(),
    }
}
