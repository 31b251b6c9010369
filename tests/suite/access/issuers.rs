//! The keys of an issuer, fetched from a server of HTTPS: they rotate, and the server fails in all
//! ways.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use leftoff::access::IssuerConfig;
use leftoff::rustls::crypto::ring::default_provider;
use leftoff::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rcgen::{CertifiedKey, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::credentials::{Sent, all_of, claims, key_of, with};
use super::{OWNER_KEY, SECRET, config};
use crate::common::{Answer, Server, send, soon};

/// A key of an issuer, with its name.
struct SigningKey {
    kid: String,
    pair: KeyPair,
}

impl SigningKey {
    fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), pair: KeyPair::generate().unwrap() }
    }

    /// Returns the public key, as issuers publish it.
    fn jwk(&self) -> Value {
        let point = self.pair.public_key_raw();
        assert_eq!(point.len(), 65, "an uncompressed point");
        let text = |bytes| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": text(&point[1..33]), "y": text(&point[33..]),
        })
    }

    /// Returns a token of the issuer.
    fn token(&self, issuer: &str) -> Sent {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        let claims = with(claims("owner", all_of("secret.>")), json!({"iss": issuer}));
        let key = EncodingKey::from_ec_pem(self.pair.serialize_pem().as_bytes()).unwrap();
        Sent::Bearer(jsonwebtoken::encode(&header, &claims, &key).unwrap())
    }
}

fn set_of(keys: &[&SigningKey]) -> Given {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    Given::Text(json!({"keys": keys}).to_string())
}

/// What the server answers at a path.
#[derive(Clone)]
enum Given {
    Text(String),
    Status(u16),
    /// A set of keys without end.
    Endless,
    /// A head, and then nothing for a long time.
    Silent,
    /// A redirection to another path.
    Elsewhere(String),
}

#[derive(Default)]
struct State {
    given: Mutex<HashMap<String, Given>>,
    asked: Mutex<Vec<String>>,
}

/// A server of HTTPS that publishes keys.
struct KeyServer {
    address: SocketAddr,
    state: Arc<State>,
    certificate: PathBuf,
    acceptor: TlsAcceptor,
    serving: Option<JoinSet<()>>,
    _directory: TempDir,
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(state: Arc<State>, path: String) -> Result<http::Response<Body>, Infallible> {
    state.asked.lock().unwrap().push(path.clone());
    let given = state.given.lock().unwrap().get(&path).cloned();
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    let chunks = |chunk: Bytes| {
        let frames = futures_util::stream::iter(std::iter::repeat_with(move || {
            Ok(Frame::data(chunk.clone()))
        }));
        StreamBody::new(frames).boxed()
    };
    let answer = http::Response::builder().header("content-type", "application/json");
    let answer = match given {
        Some(Given::Text(text)) => answer.body(full(text)),
        Some(Given::Status(status)) => answer.status(status).body(full("{}".to_owned())),
        Some(Given::Elsewhere(to)) => {
            answer.status(302).header("location", to).body(full("{}".to_owned()))
        }
        Some(Given::Endless) => answer.body(chunks(Bytes::from(vec![b' '; 64 << 10]))),
        Some(Given::Silent) => {
            let frames = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            answer.body(StreamBody::new(frames).boxed())
        }
        None => answer.status(404).body(full("{}".to_owned())),
    };
    Ok(answer.unwrap())
}

impl KeyServer {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = directory.path().join("ca.pem");
        std::fs::write(&certificate, cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let tls = leftoff::rustls::ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut server = Self {
            address: ([127, 0, 0, 1], 0).into(),
            state: Arc::default(),
            certificate,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            serving: None,
            _directory: directory,
        };
        server.open().await;
        server
    }

    /// Listens, at the same address as before.
    async fn open(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (state, acceptor) = (self.state.clone(), self.acceptor.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, acceptor) = (state.clone(), acceptor.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: http::Request<_>| {
                        let _of_any_body: &hyper::body::Incoming = request.body();
                        answer(state.clone(), request.uri().path().to_owned())
                    });
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    let _the_client_may_have_gone = served.await;
                });
            }
        });
        self.serving = Some(serving);
    }

    /// Ends all connections, and listens no more.
    async fn close(&mut self) {
        self.serving.take().unwrap().shutdown().await;
    }

    fn give(&self, path: &str, given: Given) {
        self.state.given.lock().unwrap().insert(path.to_owned(), given);
    }

    /// Returns how often a path was asked for.
    fn asked(&self, path: &str) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|it| *it == path).count()
    }

    /// Returns the issuer whose keys are at a path.
    fn issuer(&self, path: &str) -> IssuerConfig {
        let mut issuer = IssuerConfig::default();
        issuer.issuer = Some(path.to_owned());
        issuer.audience = vec![super::credentials::AUDIENCE.to_owned()];
        issuer.algorithms = vec!["ES256".to_owned()];
        issuer.jwks_url = Some(format!("https://localhost:{}{path}", self.address.port()));
        issuer.jwks_ca = Some(self.certificate.clone());
        issuer
    }
}

async fn read(server: &Server, sent: &Sent) -> Answer {
    let path = format!("/v1/topics/{SECRET}/events");
    let request = sent.to(server.address, "GET", &path);
    send(request.header("accept", "application/json"), "").await
}

/// Waits until a credential is answered with a status.
async fn until_answered(server: &Server, sent: &Sent, status: u16) {
    soon(async {
        while read(server, sent).await.status != status {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The time after which keys that are not known are asked for again, with room for a busy machine.
const A_MINUTE: Duration = Duration::from_secs(90);

/// The ways in which a server of keys fails, by their paths.
fn failures() -> Vec<(&'static str, Given)> {
    vec![
        ("/endless", Given::Endless),
        ("/silent", Given::Silent),
        ("/failing", Given::Status(500)),
        ("/garbage", Given::Text("<html>{".to_owned())),
        ("/elsewhere", Given::Elsewhere("/other".to_owned())),
    ]
}

/// Goal: new keys of an issuer are taken without a restart; a key that is gone proves nothing more,
/// also by a token that was accepted before; tokens of unknown keys do not make the broker ask
/// again and again; whatever the server of the keys answers, the last good set holds, and nobody
/// else waits; an issuer that is not there at the start is found later.
/// Method: one test, because unknown keys are asked for once a minute, and each waits for it.
#[tokio::test]
async fn keys_rotate_without_a_restart_and_the_last_good_ones_survive_an_outage() {
    // The program installs it; a host does, too.
    let _installed_by_another_test = default_provider().install_default();
    let mut keys = KeyServer::start().await;
    let (mut late, stranger) = (KeyServer::start().await, KeyServer::start().await);
    let [first, second, other] = ["first", "second", "other"].map(SigningKey::new);
    let paths: Vec<&str> =
        failures().iter().map(|(path, _)| *path).chain(["/a", "/gone"]).collect();
    paths.iter().for_each(|path| keys.give(path, set_of(&[&first])));
    late.give("/late", set_of(&[&first]));
    stranger.give("/untrusted", set_of(&[&first]));
    let mut untrusted = stranger.issuer("/untrusted");
    untrusted.jwks_ca = Some(keys.certificate.clone());
    let mut config = config();
    config.access.issuers = paths.iter().map(|path| keys.issuer(path)).collect();
    config.access.issuers.extend([late.issuer("/late"), untrusted]);
    late.close().await;
    let server = Server::with(config).await;
    server.publish(SECRET, "one").await;
    for path in &paths {
        until_answered(&server, &first.token(path), 200).await;
        assert_eq!(keys.asked(path), 1, "{path}");
    }
    for path in ["/late", "/untrusted"] {
        assert_eq!(read(&server, &first.token(path)).await.status, 401, "{path}");
    }
    late.open().await;
    let before = first.token("/a");
    rotate(&server, &keys, &before, &second).await;
    until_answered(&server, &first.token("/late"), 200).await;
    for (path, given) in failures() {
        keys.give(path, given);
    }
    keys.give("/other", set_of(&[&other]));
    fail(&server, &other).await;
    keys.close().await;
    assert_eq!(read(&server, &other.token("/gone")).await.status, 401);
    for path in paths.iter().filter(|path| **path != "/a") {
        assert_eq!(read(&server, &first.token(path)).await.status, 200, "{path}");
    }
    assert_eq!(keys.asked("/other"), 0, "a redirection is not followed");
    assert_eq!(read(&server, &first.token("/untrusted")).await.status, 401);
    assert_eq!(stranger.asked("/untrusted"), 0, "nothing is asked of a server without trust");
    server.stop().await;
}

/// Puts another key in the place of the one that verified `before`.
async fn rotate(server: &Server, keys: &KeyServer, before: &Sent, second: &SigningKey) {
    keys.give("/a", set_of(&[second]));
    let after = second.token("/a");
    let taken = async {
        while read(server, &after).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(A_MINUTE, taken).await.expect("the new key is taken after a minute");
    assert_eq!(keys.asked("/a"), 2, "asked for once, however many tokens came");
    assert_eq!(read(server, before).await.status, 401, "its key is gone");
    for number in 0..40 {
        let unknown = SigningKey::new(&format!("unknown {number}")).token("/a");
        assert_eq!(read(server, &unknown).await.status, 401);
    }
    let of_the_same_name = SigningKey::new("second").token("/a");
    assert_eq!(read(server, &of_the_same_name).await.status, 401, "it is another key");
    assert_eq!(read(server, &after).await.status, 200);
    assert_eq!(keys.asked("/a"), 2, "asked at most once a minute");
}

/// Makes the broker ask for a key while the server of the keys fails.
async fn fail(server: &Server, other: &SigningKey) {
    let asking = failures().into_iter().map(|(path, _)| {
        let token = other.token(path);
        async move { (path, read(server, &token).await.status) }
    });
    let asking = futures_util::future::join_all(asking);
    let others = async {
        let begun = Instant::now();
        for _ in 0..20 {
            assert_eq!(read(server, &Sent::Bearer(key_of(OWNER_KEY))).await.status, 200);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody else waits");
    };
    let (asked, ()) = soon(async { tokio::join!(asking, others) }).await;
    for (path, status) in asked {
        assert_eq!(status, 401, "{path}");
    }
}
