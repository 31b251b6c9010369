//! Webhooks received with the libraries of the Standard Webhooks specification from npm and PyPI,
//! which check the signatures.

use leftoff::config::Config;
use serde_json::{Value, json};

use super::client::Installed;
use super::story::Seen;
use crate::common::{Server, lasting_address, send, soon, to};

const EVENTS: u64 = 20;

async fn ask(server: &Server, method: &str, path: &str, body: &Value) {
    let request = to(server.address, method, path).header("content-type", "application/json");
    let answer = send(request, body.to_string()).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

/// Goal: the official libraries find each signature right, with one key, with two while keys are
/// changed, and for bodies with characters of all kinds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_libraries_of_npm_and_pypi_find_every_signature_right() {
    let Some(installed) = Installed::find() else { return };
    let _installed_once = leftoff::rustls::crypto::ring::default_provider().install_default();
    let mut config = Config::default();
    config.webhooks.allow_http = true;
    config.webhooks.allowed_networks = vec!["127.0.0.1".to_owned()];
    config.webhooks.retry_max_ms = 1_000;
    let server = Server::with(config).await;
    let secret = format!("whsec_{}", "Zm9v".repeat(8));
    let ports = [lasting_address().port(), lasting_address().port()].map(|port| port.to_string());
    let clients = [
        installed.node("standardwebhooks of npm", "webhooks.cjs", &[&ports[0], &secret]),
        installed.python("standardwebhooks of PyPI", "webhooks.py", &[&ports[1], &secret]),
    ]
    .map(|client| client.rewritten());
    for (name, port) in ["npm", "pypi"].into_iter().zip(&ports) {
        let url = format!("http://127.0.0.1:{port}/");
        let wanted = json!({ "topic": "orders", "url": url, "secret": secret });
        ask(&server, "PUT", &format!("/v1/webhooks/{name}"), &wanted).await;
        // The receivers may not listen yet.
        soon(async {
            while tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let mut expected = Vec::new();
    for number in 1..=EVENTS {
        if number == EVENTS / 2 {
            // The receivers still have the former key, and others may be signed with Ed25519.
            for (name, signature) in [("npm", "hmac"), ("pypi", "ed25519")] {
                let path = format!("/v1/webhooks/{name}/rotate");
                ask(&server, "POST", &path, &json!({ "signature": signature })).await;
            }
        }
        let data = json!({ "n": number, "text": "ä\u{2028}\"\\ 𝄞 <&>\n" });
        let path = "/v1/topics/orders/events?key=k&type=order.paid";
        ask(&server, "POST", path, &data).await;
        expected.push(Seen::event(number, "order.paid", &data.to_string()));
    }
    for client in &clients {
        client.saw(EVENTS).await;
        client.saw_all(&expected);
        println!("{}: {EVENTS} signatures", client.name);
    }
    server.stop().await;
}
