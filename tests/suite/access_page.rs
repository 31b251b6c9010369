//! The page on access says the refusals in the words in which they are told, and the bounds as they
//! are in the code.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use leftoff::Config;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{Server, get, send, text, to};
use crate::documents::document;

const SECRET: &str = "a secret of the tests, long enough for HS256";
const HOUR_S: u64 = 3_600;

/// Returns a key whose hash is in the settings that [`server`] has.
fn key() -> String {
    format!("lok_{}", "k".repeat(43))
}

/// Starts a server with one key, which may publish to `orders.>`, and one issuer.
async fn server() -> Server {
    server_with("").await
}

/// Starts the same server with more settings of access.
async fn server_with(more: &str) -> Server {
    let hash: String = Sha256::digest(key()).iter().map(|byte| format!("{byte:02x}")).collect();
    let settings = format!(
        r#"
        [access]
        mode = "required"
        {more}

        [[access.keys]]
        name = "orders-svc"
        hash = "sha256:{hash}"
        publish = ["orders.>"]

        [[access.issuers]]
        issuer = "https://id.example"
        audience = ["leftoff"]
        algorithms = ["HS256"]
        secret = "{SECRET}"
        "#
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), settings).unwrap();
    Server::with(Config::load(Some(file.path()), &[]).unwrap()).await
}

/// Returns the seconds since 1970.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// Returns a token with these claims in place of those that are right.
fn token(algorithm: Algorithm, other: Value) -> String {
    let mut claims = json!({
        "iss": "https://id.example", "aud": "leftoff", "sub": "u", "exp": now_s() + HOUR_S,
    });
    claims.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).unwrap()
}

/// Goal: each sentence that refuses a request is on the page, word for word, with its status.
#[tokio::test]
async fn the_sentences_of_refusals_are_on_the_page() {
    let server = server().await;
    let page = document("src/docs/access.md");
    let table = page.split("## Refusals").nth(1).unwrap().split("\n## ").next().unwrap();
    let table = table.replace('`', "");
    let bearer = |text: String| Some(format!("Bearer {text}"));
    let with = |other: Value| bearer(token(Algorithm::HS256, other));
    let (orders, other) = ("/v1/topics/orders.new/events", "/v1/topics/other/events");
    let maintenance = "/v1/maintenance";
    let mut told = Vec::new();
    for (path, authorization, status) in [
        (orders, None, 401),
        (&*format!("{orders}?ticket=lot_x"), bearer(key()), 401),
        (&*format!("{orders}?access_token=x"), None, 401),
        (orders, bearer(key().replace('k', "x").replacen("lox_", "lok_", 1)), 401),
        (orders, with(json!({"iss": "https://other.example"})), 401),
        (orders, bearer(token(Algorithm::HS512, json!({}))), 401),
        (orders, with(json!({"exp": now_s() - HOUR_S})), 401),
        (orders, with(json!({"nbf": now_s() + HOUR_S})), 401),
        (orders, with(json!({"aud": "others"})), 401),
        (&*format!("{orders}?ticket=lot_x"), None, 401),
        (other, bearer(key()), 403),
        (maintenance, bearer(key()), 403),
    ] {
        let mut request = to(server.address, "POST", path);
        if let Some(authorization) = &authorization {
            request = request.header("authorization", authorization);
        }
        let answer = send(request, "x").await;
        assert_eq!(answer.status, status, "{path}: {}", text(&answer.body));
        let detail = answer.json()["detail"].as_str().unwrap().replace('`', "");
        assert!(table.contains(&format!("| {status} | \"{detail}\" |")), "{path}: {detail}");
        assert!(!detail.contains("kkk") && !detail.contains("lot_"), "{detail}");
        told.push(detail);
    }
    told.sort_unstable();
    told.dedup();
    // A revoked credential is told elsewhere: its sentence needs an administrator.
    assert_eq!(told.len() + 1, table.matches("\n| ").count() - 1, "{told:?}");
    server.stop().await;
}

/// Goal: what the page says of requests without a credential is true, with and without the settings
/// for `/readyz` and `/metrics`.
#[tokio::test]
async fn what_needs_no_credential_is_as_the_page_says() {
    let opposite = "guarded_readyz = true\nopen_metrics = true";
    for (more, of_readyz, of_metrics) in [("", 200, 401), (opposite, 401, 200)] {
        let server = server_with(more).await;
        for (path, status) in [
            ("/healthz", 200),
            ("/openapi.json", 200),
            ("/readyz", of_readyz),
            ("/metrics", of_metrics),
            ("/v1/topics", 401),
            ("/v1/connections", 401),
        ] {
            let answer = get(server.address, path).await;
            assert_eq!(answer.status, status, "{path} with {more:?}: {}", text(&answer.body));
        }
        server.stop().await;
    }
}

/// Goal: the bounds on the page are those of the code.
#[test]
fn the_bounds_on_the_page_are_those_of_the_code() {
    let page = document("src/docs/access.md");
    let table = page.split("## Bounds").nth(1).unwrap();
    for (file, bound, code, said) in [
        ("keys", "MAX_KEYS", "10_000", "| 10,000, 32, 1,000 |"),
        ("issuers", "MAX_ISSUERS", "32", "| 10,000, 32, 1,000 |"),
        ("roles", "MAX_ROLES", "1_000", "| 10,000, 32, 1,000 |"),
        ("rights", "MAX_PATTERNS", "1_024", "| 1,024 |"),
        ("credentials", "MAX_CREDENTIAL_BYTES", "16 << 10", "| 16 KiB |"),
        ("revocations", "MAX_REVOKED", "100_000", "| 100,000 |"),
        ("ticket_table", "MAX_BYTES", "64 << 20", "and 64 MiB |"),
    ] {
        let source = document(&format!("src/access/{file}.rs"));
        assert!(source.contains(&format!("const {bound}: usize = {code};")), "{file}: {bound}");
        assert!(table.contains(said), "{said} is not on the page");
    }
}
