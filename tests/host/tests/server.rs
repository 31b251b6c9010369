//! A server of the crate with parts of the host: routes and layers, a gRPC service, listeners of
//! every kind, TLS; and a stop within its time, whatever the clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::routing::get as on_get;
use leftoff::server::{Listener, Protocols, Server, ServerConfig, Shutdown};
use leftoff::{Broker, NewEvent, OpenConfig, Parts, Publish};
use leftoff_host::{ask, get, read_through, soon};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

const SSE: (&str, &str) = ("accept", "text/event-stream");

fn free() -> Listener {
    Listener::bind(([127, 0, 0, 1], 0).into()).expect("a free port")
}

fn in_memory() -> Broker {
    Broker::in_memory(&OpenConfig::default()).expect("a broker")
}

async fn publish(broker: &Broker, topic: &str, payload: impl Into<leftoff::bytes::Bytes>) {
    let publish = Publish::one(topic.parse().expect("a name"), NewEvent::new(payload));
    soon(broker.publish(publish)).await.expect("an acknowledgement");
}

fn run(server: Server) -> (Shutdown, JoinHandle<()>) {
    let shutdown = Shutdown::default();
    (shutdown.clone(), tokio::spawn(server.run(shutdown)))
}

/// Goal: routes with the host's state, and layers, are served beside the broker's, and a path that
/// both have is the host's.
#[tokio::test]
async fn own_routes_and_layers_are_beside_the_brokers() {
    let asked = Arc::new(AtomicUsize::new(0));
    let own = Router::new()
        .route("/own", on_get(async |State(name): State<&'static str>| name))
        .route("/healthz", on_get(async || "the host is well\n"))
        .with_state("the host's");
    let counted = asked.clone();
    let counting = from_fn(move |request: Request, next: Next| {
        counted.fetch_add(1, Ordering::Relaxed);
        next.run(request)
    });
    let server = Server::builder(in_memory()).routes(own).layer(counting).listen(free());
    let server = soon(server.bind()).await.expect("a server");
    let address = server.address(Protocols::Http).expect("an address");
    let (shutdown, serving) = run(server);
    let get =
        async |path| get(TcpStream::connect(address).await.expect("a connection"), path, &[]).await;
    assert!(get("/own").await.ends_with("the host's"));
    assert!(get("/healthz").await.ends_with("the host is well\n"));
    assert!(get("/readyz").await.ends_with("ready\n"), "of the broker");
    assert!(get("/v1/topics").await.contains("{\"topics\":[]}"));
    assert!(get("/nothing").await.starts_with("HTTP/1.1 404"));
    assert_eq!(asked.load(Ordering::Relaxed), 5, "the layer is around all of them");
    shutdown.start();
    soon(serving).await.expect("the server stops");
}

/// Goal: a host may serve some parts on one listener and all on another.
#[tokio::test]
async fn a_listener_serves_the_parts_that_it_is_given() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("admin.sock");
    let broker = in_memory();
    publish(&broker, "orders", "one").await;
    let server = Server::builder(broker)
        .listen(free().protocols(Protocols::Http).parts(Parts::EVENTS))
        .listen(Listener::bind_unix(&path).await.expect("a socket"));
    let server = soon(server.bind()).await.expect("a server");
    let address = server.address(Protocols::Http).expect("an address");
    let (shutdown, serving) = run(server);
    let over_tcp =
        async |path| get(TcpStream::connect(address).await.expect("a connection"), path, &[]).await;
    let over_unix = async |asked| {
        get(UnixStream::connect(&path).await.expect("a connection"), asked, &[]).await
    };
    assert!(over_tcp("/v1/topics/orders/events").await.contains("\"one\""));
    assert!(over_tcp("/metrics").await.starts_with("HTTP/1.1 404"));
    assert!(over_unix("/metrics").await.contains("leftoff_tasks"));
    assert!(over_unix("/v1/topics/orders/events").await.contains("\"one\""));
    shutdown.start();
    soon(serving).await.expect("the server stops");
    assert!(!path.exists(), "the file of the socket is removed");
}

/// Goal: a socket that the host was given is served; a Unix socket that somebody listens on is not
/// taken away, and one that was left behind is.
#[tokio::test]
async fn listeners_may_be_inherited_and_are_not_stolen() {
    let inherited = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = inherited.local_addr().expect("an address");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket")); // Its file stays.
    let unix = Listener::bind_unix(&path).await.expect("a file that nobody listens on is replaced");
    let taken = Listener::bind_unix(&path).await.expect_err("somebody listens").to_string();
    assert!(taken.contains(&*path.to_string_lossy()), "{taken}");
    let server = Server::builder(in_memory())
        .listen(Listener::from_tcp(inherited).expect("an inherited socket"))
        .listen(unix);
    let (shutdown, serving) = run(soon(server.bind()).await.expect("a server"));
    let tcp = TcpStream::connect(address).await.expect("a connection");
    assert!(get(tcp, "/healthz", &[]).await.ends_with("ok\n"));
    let unix = UnixStream::connect(&path).await.expect("a connection");
    assert!(get(unix, "/healthz", &[]).await.ends_with("ok\n"));
    shutdown.start();
    soon(serving).await.expect("the server stops");
}

/// Goal: TLS carries pages, event streams and HTTP/2 alike, and a client that speaks none of it is
/// ended in time.
#[tokio::test]
async fn a_listener_with_tls_serves_all_of_it() {
    let signed =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(ring.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key)
        .expect("a key");
    let broker = in_memory();
    publish(&broker, "orders", "one").await;
    let mut config = ServerConfig::default();
    config.header_read_ms = 300;
    let server = Server::builder(broker.clone()).config(config).listen(free().tls(Arc::new(tls)));
    let server = soon(server.bind()).await.expect("a server");
    let address = server.address(Protocols::All).expect("an address");
    let (shutdown, serving) = run(server);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(signed.cert.der().clone()).expect("a root");
    let mut client = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connect = async |client: &rustls::ClientConfig| {
        let tcp = TcpStream::connect(address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(client.clone())).connect(name, tcp).await.expect("TLS")
    };
    let page = get(connect(&client).await, "/v1/topics/orders/events", &[]).await;
    assert!(page.contains("\"one\""), "{page}");
    let mut stream = connect(&client).await;
    ask(&mut stream, "/v1/topics/orders/events?from=earliest", &[SSE]).await;
    read_through(&mut stream, "data: one").await;
    publish(&broker, "orders", "two").await;
    read_through(&mut stream, "data: two").await;
    client.alpn_protocols = vec![b"h2".to_vec()];
    let chosen = connect(&client).await;
    assert_eq!(chosen.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "offered without being asked");
    // A client that speaks no TLS, and one that says nothing.
    let mut plain = TcpStream::connect(address).await.expect("a connection");
    ask(&mut plain, "/healthz", &[]).await;
    let mut silent = TcpStream::connect(address).await.expect("a connection");
    for socket in [&mut plain, &mut silent] {
        let mut rest = Vec::new();
        let _reset = soon(tokio::io::AsyncReadExt::read_to_end(socket, &mut rest)).await;
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP"), "{rest:?}");
    }
    shutdown.start();
    soon(serving).await.expect("the server stops");
}

/// Goal: a client that takes nothing is cut after `write_timeout_ms`, and a stop ends within
/// `shutdown_ms` though such clients are there.
#[tokio::test]
async fn stalled_readers_are_cut_and_delay_no_stop() {
    let broker = in_memory();
    for _ in 0..40 {
        publish(&broker, "large", vec![b'x'; 512 << 10]).await;
    }
    let mut config = ServerConfig::default();
    (config.write_timeout_ms, config.shutdown_ms) = (1_000, 2_000);
    let server = Server::builder(broker.clone()).config(config).listen(free());
    let server = soon(server.bind()).await.expect("a server");
    let address = server.address(Protocols::Http).expect("an address");
    let (shutdown, serving) = run(server);
    let stall = async || {
        let mut socket = TcpStream::connect(address).await.expect("a connection");
        let path = "/v1/topics/large/events?from=earliest&member=stalled";
        ask(&mut socket, path, &[SSE]).await;
        read_through(&mut socket, "HTTP/1.1 200").await;
        socket
    };
    let large = "large".parse().expect("a name");
    let _stalled = stall().await;
    soon(async {
        while broker.presence(&large, "", 9).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while !broker.presence(&large, "", 9).is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let _stalled = [stall().await, stall().await];
    let started = Instant::now();
    shutdown.start();
    soon(serving).await.expect("the server stops");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}
