//! Certificates of the tests, and connections of TLS that use none of the broker's code.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use leftoff::rustls::crypto::ring::default_provider;
use leftoff::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use leftoff::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::common::soon;

/// An issuer of certificates, with a directory for them.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    directory: TempDir,
}

/// A certificate, with its key.
pub(super) struct Certified {
    pub(super) der: CertificateDer<'static>,
    pub(super) cert_pem: String,
    pub(super) key_pem: String,
    key: KeyPair,
}

/// The arguments of `serve` for the server's certificate.
pub(super) fn arguments(authority: &Authority) -> [String; 4] {
    let path = |name| authority.path(name).to_str().unwrap().to_owned();
    ["--tls-cert".to_owned(), path("cert.pem"), "--tls-key".to_owned(), path("key.pem")]
}

impl Authority {
    /// Makes an issuer. Its directory has `ca.pem`, and a certificate of the server in `cert.pem`
    /// and `key.pem`.
    pub(super) fn new() -> Self {
        // The servers of this process need it; the first test installs it.
        let _installed_once = default_provider().install_default();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), root.pem()).unwrap();
        let root = root.der().clone();
        let authority = Self { issuer: Issuer::new(params, key), root, directory };
        authority.renew();
        authority
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a certificate for these names.
    pub(super) fn sign(&self, names: Vec<SanType>) -> Certified {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_pem, key_pem) = (signed.pem(), key.serialize_pem());
        Certified { der: signed.der().clone(), cert_pem, key_pem, key }
    }

    /// Signs a certificate for the server.
    pub(super) fn of_server(&self) -> Certified {
        let loopback = SanType::IpAddress([127, 0, 0, 1].into());
        self.sign(vec![SanType::DnsName("localhost".try_into().unwrap()), loopback])
    }

    /// Writes a new certificate of the server, and its key, and returns it.
    pub(super) fn renew(&self) -> Certified {
        let certified = self.of_server();
        std::fs::write(self.path("cert.pem"), &certified.cert_pem).unwrap();
        std::fs::write(self.path("key.pem"), &certified.key_pem).unwrap();
        certified
    }

    /// Returns a client that trusts this issuer, speaks `protocols`, and shows `own`.
    pub(super) fn client(&self, protocols: &[&str], own: Option<&Certified>) -> ClientConfig {
        use leftoff::rustls::version::{TLS12, TLS13};
        self.client_of(&[&TLS13, &TLS12], protocols, own)
    }

    /// Does the same as [`Self::client`], with some versions of TLS.
    pub(super) fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&str],
        own: Option<&Certified>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![own.der.clone()], key).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
        config
    }
}

/// Connects with TLS, or returns why not.
pub(super) async fn try_connect(
    address: SocketAddr,
    client: &ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    secure(TcpStream::connect(address).await?, client).await
}

/// Does the handshake of TLS, or returns why it failed.
pub(super) async fn secure(
    socket: TcpStream,
    client: &ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    soon(TlsConnector::from(Arc::new(client.clone())).connect(name, socket)).await
}

pub(super) async fn connect(address: SocketAddr, client: &ClientConfig) -> TlsStream<TcpStream> {
    try_connect(address, client).await.unwrap()
}

/// Returns the certificate that the server shows to a new connection.
pub(super) async fn shown(address: SocketAddr, authority: &Authority) -> CertificateDer<'static> {
    let stream = connect(address, &authority.client(&[], None)).await;
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// Sends the head of a request over HTTP/1.1.
pub(super) async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, headers: &str) {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
}

/// Sends a request over HTTP/1.1 on a connection of its own, and returns the whole answer. Fails
/// unless the server ends the stream of TLS in order.
pub(super) async fn get(address: SocketAddr, client: &ClientConfig, path: &str) -> String {
    let mut stream = connect(address, client).await;
    ask(&mut stream, path, "connection: close\r\n").await;
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// Follows a topic over SSE from its first event.
pub(super) async fn follow(
    address: SocketAddr,
    client: &ClientConfig,
    topic: &str,
) -> TlsStream<TcpStream> {
    let mut stream = connect(address, client).await;
    let path = format!("/v1/topics/{topic}/events?from=earliest");
    ask(&mut stream, &path, "accept: text/event-stream\r\n").await;
    stream
}

/// Reads until `wanted` has come, and returns all that came.
pub(super) async fn read_through(stream: &mut TlsStream<TcpStream>, wanted: &str) -> String {
    let mut read = Vec::new();
    let mut from = 0;
    while !read[from..].windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
        from = read.len().saturating_sub(wanted.len());
        let count = soon(stream.read_buf(&mut read)).await.unwrap();
        assert!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&read));
    }
    String::from_utf8(read).unwrap()
}
