//! To whom nothing is sent: addresses that are not public, names of them, servers that are not who
//! they say, and wherever a redirect leads.

use std::sync::Arc;

use leftoff::rustls::crypto::ring::default_provider;
use leftoff::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rcgen::CertifiedKey;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::receiver::{Receiver, Reply};
use super::{ask, make, order, settings, until};
use crate::common::Server;

/// Waits for the first failure without an answer, and returns what is said of it.
async fn problem(server: &Server, name: &str) -> String {
    let state = until(server.address, name, |it| it["state"]["failed"].as_u64() > Some(0)).await;
    let attempt = &state["state"]["attempts"][0];
    assert_eq!(attempt["status"], Value::Null, "{attempt}");
    attempt["answer"].as_str().unwrap().to_owned()
}

/// Goal: neither the settings of a webhook nor a name leads to an address that is not public.
#[tokio::test]
async fn nothing_is_sent_to_addresses_of_this_machine_in_whatever_way_they_are_written() {
    let mut config = settings();
    config.webhooks.allowed_networks.clear();
    let server = Server::with(config).await;
    let receiver = Receiver::start().await;
    let port = receiver.address.port();
    for host in ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1"] {
        let wanted = json!({ "topic": "orders", "url": format!("http://{host}:{port}/") });
        let refused = ask(server.address, "PUT", "/v1/webhooks/inside", &wanted).await;
        assert_eq!(refused.status, 400, "{host}: {refused:?}");
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("url: ") && detail.contains("allowed_networks"), "{detail}");
    }
    // Names, and numbers that the system takes for addresses.
    for (name, host) in [("name", "localhost"), ("number", "2130706433"), ("short", "127.1")] {
        let wanted = json!({ "topic": "orders", "url": format!("http://{host}:{port}/") });
        let made = ask(server.address, "PUT", &format!("/v1/webhooks/{name}"), &wanted).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    order(&server, "k", &json!({})).await;
    for name in ["name", "number", "short"] {
        let problem = problem(&server, name).await;
        assert!(problem.contains("is a loopback address"), "{name}: {problem}");
        let path = format!("/v1/webhooks/{name}/test");
        let test = ask(server.address, "POST", &path, &Value::Null).await.json();
        assert!(test["answer"].as_str().unwrap().contains("is a loopback address"), "{test}");
    }
    assert!(receiver.received().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn redirects_are_failures_unless_a_webhook_follows_them() {
    let server = Server::with(settings()).await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    make(&server, "strict", &receiver, json!({})).await;
    let to = |url: String| Reply::Header(307, "location", url);
    receiver.reply([to(other.url("/moved"))]);
    order(&server, "k", &json!({ "n": 1 })).await;
    let state = until(server.address, "strict", |it| it["state"]["delivered"] == 1).await;
    assert_eq!(state["state"]["attempts"][1]["status"], 307);
    assert!(other.received().is_empty(), "a redirect was followed");
    let followed = json!({ "max_redirects": 2 });
    let changed = ask(server.address, "PATCH", "/v1/webhooks/strict", &followed).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    receiver.reply([to("http://169.254.169.254/latest".to_owned()), to(other.url("/moved"))]);
    order(&server, "k", &json!({ "n": 2 })).await;
    let state = until(server.address, "strict", |it| it["state"]["delivered"] == 2).await;
    let refused = state["state"]["attempts"][1]["answer"].as_str().unwrap();
    assert!(refused.starts_with("the URL of a redirect 169.254.169.254 is an"), "{refused}");
    let moved = other.got(1).await;
    assert_eq!((moved[0].path.as_str(), &moved[0].json()["data"]["n"]), ("/moved", &json!(2)));
    server.stop().await;
}

/// Goal: a receiver proves who it is; certificates of the file are trusted, and no others.
#[tokio::test]
async fn a_certificate_must_be_of_the_receiver_and_of_a_trusted_issuer() {
    let directory = tempfile::tempdir().unwrap();
    let certify = |names: &[&str]| {
        let names = names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let tls = leftoff::rustls::ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        (cert.pem(), TlsAcceptor::from(Arc::new(tls)))
    };
    let (good, good_tls) = certify(&["127.0.0.1"]);
    let (other, other_tls) = certify(&["other.example"]);
    let (_unknown, unknown_tls) = certify(&["127.0.0.1"]);
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, format!("{good}{other}")).unwrap();
    let mut config = settings();
    config.webhooks.allow_http = false;
    config.webhooks.trusted_ca = Some(file);
    let server = Server::with(config).await;
    let trusted = Receiver::with_tls(good_tls).await;
    let misnamed = Receiver::with_tls(other_tls).await;
    let stranger = Receiver::with_tls(unknown_tls).await;
    make(&server, "trusted", &trusted, json!({})).await;
    make(&server, "misnamed", &misnamed, json!({})).await;
    make(&server, "stranger", &stranger, json!({})).await;
    order(&server, "k", &json!({})).await;
    until(server.address, "trusted", |it| it["state"]["delivered"] == 1).await;
    let told = problem(&server, "misnamed").await;
    assert!(told.contains("certificate") && told.contains("127.0.0.1"), "{told}");
    let told = problem(&server, "stranger").await;
    assert!(told.contains("certificate"), "{told}");
    assert!(misnamed.received().is_empty() && stranger.received().is_empty());
    let plain = Receiver::start().await;
    let wanted = json!({ "topic": "orders", "url": plain.url("/") });
    let refused = ask(server.address, "PUT", "/v1/webhooks/plain", &wanted).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    server.stop().await;
}
