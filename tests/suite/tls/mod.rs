//! TLS: every protocol over it on both ports, certificates that are renewed while streams are open,
//! certificates of clients, and clients that are slow or speak something else.

mod certified;
mod commands;
mod renewal;
mod slow;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use leftoff::edge::hooks::{Connecting, Grant, HookAnswer, Hooks, Refusal};
use leftoff::edge::proto::{NewEvent, PublishRequest};
use leftoff::permission::{Action, Permission};
use leftoff::rustls::RootCertStore;
use leftoff::rustls::crypto::ring::default_provider;
use leftoff::rustls::pki_types::pem::PemObject as _;
use leftoff::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use leftoff::rustls::server::WebPkiClientVerifier;
use leftoff::rustls::version::TLS12;
use leftoff::server::{Listener, Protocols, Server, ServerConfig, Shutdown};
use leftoff::{Broker, OpenConfig};
use rcgen::SanType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use self::certified::{
    Authority, arguments, ask, connect, follow, get, read_through, shown, try_connect,
};
use crate::common::{Grpc, Process, lasting_address, output_of, soon, text};

/// Returns the settings of a server with the certificate of `authority`, on a free port.
fn settings(authority: &Authority) -> ServerConfig {
    ServerConfig::default().with(|it| {
        it.listen = ([127, 0, 0, 1], 0).into();
        it.tls_cert = Some(authority.path("cert.pem"));
        it.tls_key = Some(authority.path("key.pem"));
    })
}

/// A server in this process, for tests that need its broker or its hooks.
struct Running {
    broker: Broker,
    address: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl Running {
    async fn start(config: ServerConfig, hooks: Option<Noting>) -> Self {
        let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
        let mut server = Server::builder(broker.clone()).config(config);
        if let Some(hooks) = hooks {
            server = server.hooks(hooks);
        }
        let server = server.bind().await.unwrap();
        let address = server.address(Protocols::All).unwrap();
        let shutdown = Shutdown::default();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        Self { broker, address, shutdown, serving }
    }

    async fn stop(self) {
        self.shutdown.start();
        soon(self.serving).await.unwrap();
    }
}

/// Hooks that permit everything to whoever shows a certificate or the right token, and note the
/// certificates.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<Option<Vec<u8>>>>>);

impl Hooks for Noting {
    fn connect<'a>(&'a self, request: &'a Connecting<'a>) -> HookAnswer<'a, Grant> {
        let certificate = request.certificate().map(<[u8]>::to_vec);
        let token = request.headers().get("authorization");
        let is_known = certificate.is_some() || token.is_some_and(|it| it == "Bearer lok_right");
        self.0.lock().unwrap().push(certificate);
        Box::pin(async move {
            if !is_known {
                return Err(Refusal::unauthenticated("show a certificate or a token"));
            }
            let permission = Permission::default()
                .with(Action::Publish, [">"])
                .and_then(|it| it.with(Action::Subscribe, [">"]))
                .map_err(|error| Refusal::denied(error.to_string()))?;
            Ok(Grant::new("someone", permission))
        })
    }
}

async fn grpc(address: SocketAddr, authority: &Authority) -> Grpc {
    let pem = std::fs::read(authority.path("ca.pem")).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    Grpc::new(soon(endpoint.tls_config(tls).unwrap().connect()).await.unwrap())
}

fn one(topic: &str, payload: &str) -> PublishRequest {
    let event = NewEvent { payload: payload.to_owned().into(), ..NewEvent::default() };
    PublishRequest { topic: topic.to_owned(), events: vec![event], ..PublishRequest::default() }
}

/// Goal: the program speaks TLS alone on both of its ports, with HTTP/1.1, HTTP/2, event streams
/// and gRPC, each chosen by ALPN, with TLS 1.2 and 1.3 and nothing older.
#[tokio::test]
async fn both_ports_speak_every_protocol_over_tls_and_nothing_else() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let of_grpc = lasting_address();
    let mut given = arguments(&authority).to_vec();
    given.extend(["--grpc-listen".to_owned(), of_grpc.to_string()]);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let process = Process::serve(directory.path(), &given);
    let address = process.address;

    let http1 = authority.client(&["http/1.1"], None);
    let mut stream = follow(address, &http1, "orders").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    read_through(&mut stream, "leftoff.caught-up").await;
    grpc(of_grpc, &authority).await.publish(one("orders", "over gRPC")).await.unwrap();
    read_through(&mut stream, "data: over gRPC").await;

    let old = authority.client_of(&[&TLS12], &[], None);
    assert!(get(address, &old, "/healthz").await.ends_with("ok\n"), "TLS 1.2, without ALPN");

    let both = authority.client(&["h2", "http/1.1"], None);
    let chosen = connect(address, &both).await;
    assert_eq!(chosen.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(chosen))
            .await
            .unwrap();
    let driving = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/v1/topics/orders/events");
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let answer = soon(sender.send_request(request)).await.unwrap();
    let page = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    assert!(text(&page).contains("over gRPC"), "{}", text(&page));
    driving.abort();

    let chosen = connect(of_grpc, &both).await;
    assert_eq!(chosen.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let refused = try_connect(of_grpc, &http1).await.unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");

    // A hello of TLS 1.1, and a request without TLS. Both get an alert, and then the end in order.
    let hello =
        [&[0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2][..], &[7; 32], &[0, 0, 2, 0xc0, 0x13, 1, 0]];
    for (name, sent) in [
        ("1.1", hello.concat()),
        ("plain", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
    ] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(&sent).await.unwrap();
        let mut answer = Vec::new();
        soon(socket.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() == 7 && answer.starts_with(&[0x15, 3]), "{name}: {answer:?}");
        assert_eq!(answer[5], 2, "{name}: the alert is fatal");
    }
}

/// Goal: a pair that is wrong is refused at the start, with its setting and its file.
#[tokio::test]
async fn what_cannot_be_used_is_refused_at_the_start_by_its_name() {
    let authority = Authority::new();
    let path = |name| authority.path(name).to_str().unwrap().to_owned();
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    std::fs::write(path("other.pem"), authority.of_server().key_pem).unwrap();
    std::fs::write(path("empty.pem"), "").unwrap();
    let (other, empty, missing) = (path("other.pem"), path("empty.pem"), path("missing.pem"));
    for (files, expected) in [
        ([Some(&cert), Some(&other), None], [&other, "server.tls_key", "is not the key of"]),
        ([Some(&cert), Some(&missing), None], [&missing, "server.tls_key", "cannot be read"]),
        ([Some(&empty), Some(&key), None], [&empty, "server.tls_cert", "no certificate"]),
        ([Some(&key), Some(&key), None], [&key, "server.tls_cert", "no certificate"]),
        ([Some(&cert), Some(&ca), None], [&ca, "server.tls_key", "no private key"]),
        ([Some(&cert), Some(&key), Some(&key)], [&key, "server.tls_client_ca", "no certificate"]),
        ([Some(&cert), None, None], ["server.tls_cert", "needs server.tls_key", "configuration"]),
        ([None, None, Some(&ca)], ["server.tls_client_ca", "needs server.tls_cert", "beside"]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut command = crate::common::leftoff();
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(directory.path());
        for (flag, file) in ["--tls-cert", "--tls-key", "--tls-client-ca"].iter().zip(files) {
            command.args(file.map(|file| [*flag, file.as_str()]).into_iter().flatten());
        }
        let output = output_of(&mut command);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{told}");
        for words in expected {
            assert!(told.contains(words), "{words}: {told}");
        }
    }
}

/// Goal: `serve` listens beyond the machine only with access control, or if it is told that
/// everybody may do everything.
#[tokio::test]
async fn a_broker_beyond_the_machine_is_not_open_by_accident() {
    for flag in ["--listen", "--grpc-listen"] {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let mut command = crate::common::leftoff();
        command.args(["serve", flag, "0.0.0.0:0", "--data-dir"]).arg(&data);
        let output = output_of(&mut command);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{told}");
        for words in ["0.0.0.0:0", "access.mode", "leftoff key create", "--insecure"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        assert!(!data.exists(), "nothing is opened before");
    }
    let directory = tempfile::tempdir().unwrap();
    let beyond = SocketAddr::from(([0, 0, 0, 0], 0));
    let process = Process::serve_at(beyond, directory.path(), &["--insecure"]);
    let own = SocketAddr::from(([127, 0, 0, 1], process.address.port()));
    assert_eq!(crate::common::get(own, "/healthz").await.status, 200);
}

/// Goal: a client is asked for a certificate, need not show one, and one that it shows is verified
/// and told to the hooks: over HTTP/1.1, event streams and gRPC, and in a resumed session.
#[tokio::test]
async fn the_certificate_of_a_client_is_verified_and_told_to_the_hooks() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let uri = SanType::URI("spiffe://example.org/orders".try_into().unwrap());
    let (own, strange) = (authority.sign(vec![uri.clone()]), stranger.sign(vec![uri]));
    let hooks = Noting::default();
    let mut config = settings(&authority);
    config.tls_client_ca = Some(authority.path("ca.pem"));
    let server = Running::start(config, Some(hooks.clone())).await;
    let told = || std::mem::take(&mut *hooks.0.lock().unwrap());

    let client = authority.client(&[], Some(&own));
    for round in 0..2 {
        let answer = get(server.address, &client, "/v1/topics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{round}: {answer}");
        assert_eq!(told(), [Some(own.der.to_vec())], "{round}: the second session is resumed");
    }
    let mut stream = follow(server.address, &client, "orders").await;
    read_through(&mut stream, "leftoff.caught-up").await;
    assert_eq!(told(), [Some(own.der.to_vec())]);

    let pem = std::fs::read(authority.path("ca.pem")).unwrap();
    let identity = tonic::transport::Identity::from_pem(&own.cert_pem, &own.key_pem);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).identity(identity);
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let channel = soon(endpoint.tls_config(tls).unwrap().connect()).await.unwrap();
    Grpc::new(channel).publish(one("orders", "paid")).await.unwrap();
    assert_eq!(told(), [Some(own.der.to_vec())]);
    read_through(&mut stream, "data: paid").await;

    let nobody = authority.client(&[], None);
    let answer = get(server.address, &nobody, "/v1/topics").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(told(), [None]);

    // TLS 1.3 tells the client after its own part of the handshake is over.
    let wrong = authority.client(&[], Some(&strange));
    let mut refused = connect(server.address, &wrong).await;
    let _may_be_closed = refused.write_all(b"GET /v1/topics HTTP/1.1\r\n\r\n").await;
    let error = soon(refused.read_to_end(&mut Vec::new())).await.unwrap_err().to_string();
    assert!(error.contains("alert"), "{error}");
    assert!(told().is_empty(), "a client whose certificate is wrong reaches nothing");
    server.stop().await;
}

/// Goal: a listener of the host's own, with its own rules, tells the hooks the certificate too.
#[tokio::test]
async fn a_listener_of_the_host_tells_the_certificate_too() {
    let authority = Authority::new();
    let (of_server, own) = (
        authority.of_server(),
        authority.sign(vec![SanType::DnsName("orders.example".try_into().unwrap())]),
    );
    let provider = Arc::new(default_provider());
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(authority.path("ca.pem")).unwrap();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(of_server.key_pem.as_bytes()).unwrap();
    let rules = leftoff::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![of_server.der.clone()], key)
        .unwrap();
    let hooks = Noting::default();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap().tls(Arc::new(rules));
    let broker = Broker::in_memory(&OpenConfig::default()).unwrap();
    let server = Server::builder(broker).hooks(hooks.clone()).listen(listener);
    let server = server.bind().await.unwrap();
    assert!(server.certificate_reload().is_none(), "the host has its own");
    let address = server.address(Protocols::All).unwrap();
    let shutdown = Shutdown::default();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    let answer = get(address, &authority.client(&[], Some(&own)), "/v1/topics").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(*hooks.0.lock().unwrap(), [Some(own.der.to_vec())]);
    shutdown.start();
    soon(serving).await.unwrap();
}
