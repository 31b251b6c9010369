//! How much memory does an idle reader take? Thousands of readers over SSE, with TLS and without,
//! and over WebSocket, each with a subscription, on the real binary and on a host program with the
//! broker inside; and on the binary with access control, whose readers have tokens: a stream
//! ends with its token, or when its caller is revoked.
//! `cargo bench --bench idle` measures, and `cargo test --benches` runs it tiny.

mod controlled;
mod hosted;
mod served;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use controlled::Controlled;
use jsonwebtoken::{EncodingKey, Header};
use leftoff::rustls::crypto::ring::default_provider;
use leftoff::rustls::pki_types::ServerName;
use leftoff::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;
use served::Served;

/// The number of files that the bench needs in addition to its sockets.
const OTHER_FILES: u64 = 100;

/// The time between the last connection and the measurement of memory.
const REST: Duration = Duration::from_secs(1);

/// The binary's default.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// A program that is measured, and how it is started on a directory.
type Program = (&'static str, fn(&Path) -> Served);

const PROGRAM: Program = ("leftoff", Served::start);
const HOST: Program = ("a host", |directory| hosted::start(directory, WRITE_TIMEOUT));
const OF_ONE: Program = ("leftoff, authorised, of one caller", start_for_one);
const OF_EACH: Program = ("leftoff, authorised, each of another caller", start_for_each);
const WITH_TLS: Program = ("leftoff", start_with_tls);

/// A way to follow, and the most KiB that a reader may take.
type Way = (&'static str, fn(SocketAddr) -> TcpStream, u32);

const SSE: Way = ("SSE", sse, 10);
const WEBSOCKET: Way = ("WebSocket", websocket, 14);
const SSE_OVER_TLS: Way = ("SSE with TLS", sse_over_tls, 14);

const MEASURED: [(Program, Way); 8] = [
    (PROGRAM, SSE), // The first three are compared.
    (OF_ONE, SSE),
    (OF_EACH, SSE),
    (PROGRAM, WEBSOCKET),
    (OF_EACH, WEBSOCKET),
    (HOST, SSE),
    (HOST, WEBSOCKET),
    (WITH_TLS, SSE_OVER_TLS),
];

/// The most KiB that an authorised reader over SSE may take in addition.
const AUTHORISED_KIB: f64 = 0.3;

/// The tokens of the readers, while they have any.
enum Tokens {
    /// One caller has opened all streams.
    OfOne(String),
    /// Each stream has a caller of its own, whose token is signed by this secret.
    OfEach(EncodingKey),
}

static TOKENS: Mutex<Option<Tokens>> = Mutex::new(None);

/// The number of readers that had a token of their own.
static READERS: AtomicU32 = AtomicU32::new(0);

/// The client's side of TLS, which trusts the program that was started last.
static CLIENT: OnceLock<Arc<ClientConfig>> = OnceLock::new();

fn main() {
    hosted::serve_if_asked();
    let measuring = std::env::args().any(|arg| arg == "--bench"); // Passed by `cargo bench` only.
    let (wanted, rest) = if measuring { (10_000, REST) } else { (20, Duration::ZERO) };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.current.unwrap_or(u64::MAX).saturating_sub(OTHER_FILES);
    let clients = wanted.min(files);
    let mut of_sse = Vec::new();
    for ((program, start), (protocol, follow, target_kib)) in MEASURED {
        let directory =
            tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on this disk");
        let served = start(directory.path());
        drop(follow(served.address)); // Leaves out what only the first one needs.
        std::thread::sleep(rest);
        let before = served.memory_mb();
        let sockets: Vec<TcpStream> = (0..clients).map(|_| follow(served.address)).collect();
        std::thread::sleep(rest);
        let kib = (served.memory_mb() - before) * 1e6 / 1024.0 / clients as f64;
        println!(
            "idle {clients} over {protocol}, {program}: {kib:.2} KiB each (target {target_kib})"
        );
        if protocol == "SSE" {
            of_sse.push(kib);
        }
        drop(sockets);
        *tokens() = None;
    }
    if let [open, of_one, of_each, ..] = of_sse[..] {
        println!(
            "an authorised stream takes {:.2} KiB more (target {AUTHORISED_KIB}), and its caller \
             {:.2} KiB",
            of_one - open,
            of_each - of_one,
        );
    }
}

fn tokens() -> MutexGuard<'static, Option<Tokens>> {
    TOKENS.lock().expect("no reader panics")
}

/// Returns the line of a head with the token of the next reader.
fn credential() -> String {
    let token = match &*tokens() {
        None => return String::new(),
        Some(Tokens::OfOne(token)) => token.trim().to_owned(),
        Some(Tokens::OfEach(secret)) => token_of(READERS.fetch_add(1, Ordering::Relaxed), secret),
    };
    format!("authorization: Bearer {token}\r\n")
}

fn token_of(reader: u32, secret: &EncodingKey) -> String {
    let end = SystemTime::now() + Duration::from_secs(86_400);
    let end = end.duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let rights = json!({"subscribe": [format!("users.{reader}.>"), "a"]});
    let claims = json!({"sub": format!("reader-{reader}"), "exp": end, "leftoff": rights});
    jsonwebtoken::encode(&Header::default(), &claims, secret).expect("a token")
}

fn start_for_one(directory: &Path) -> Served {
    let Controlled { served, token_file, .. } = Controlled::start(directory);
    let token = std::fs::read_to_string(token_file).expect("a token");
    *tokens() = Some(Tokens::OfOne(token));
    served
}

fn start_for_each(directory: &Path) -> Served {
    let Controlled { served, secret, .. } = Controlled::start(directory);
    let secret = std::fs::read(secret).expect("a secret");
    *tokens() = Some(Tokens::OfEach(EncodingKey::from_secret(&secret)));
    served
}

/// Starts the binary with a certificate.
fn start_with_tls(directory: &Path) -> Served {
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
    let signed = signed.expect("a certificate");
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.join(name));
    std::fs::write(&cert, signed.cert.pem()).expect("a file");
    std::fs::write(&key, signed.signing_key.serialize_pem()).expect("a file");
    let mut roots = RootCertStore::empty();
    roots.add(signed.cert.der().clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    CLIENT.set(Arc::new(config)).expect("one program with TLS is measured");
    let files = [cert, key].map(|path| path.to_str().expect("a path in UTF-8").to_owned());
    let arguments = ["--tls-cert", &files[0], "--tls-key", &files[1]];
    Served::start_with(&directory.join("data"), &arguments)
}

fn sse(address: SocketAddr) -> TcpStream {
    connect(address, follow_request().as_bytes(), "leftoff.caught-up")
}

fn follow_request() -> String {
    format!(
        "GET /v1/topics/a/events HTTP/1.1\r\nhost: localhost\r\n{}\
         accept: text/event-stream\r\n\r\n",
        credential()
    )
}

/// Follows over TLS, and forgets the client's state of it: the memory of the broker is measured,
/// and the broker says nothing meanwhile.
fn sse_over_tls(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the broker listens");
    let config = CLIENT.get().expect("the program was started").clone();
    let name = ServerName::try_from("localhost").expect("a name");
    let client = ClientConnection::new(config, name).expect("a client");
    let mut stream = StreamOwned::new(client, socket);
    stream.write_all(follow_request().as_bytes()).expect("the broker takes a request");
    read_through(&mut stream, "leftoff.caught-up");
    stream.sock
}

/// Opens a WebSocket and subscribes. Source: RFC 6455, 4.1 and 5.2, with a mask of zeros.
fn websocket(address: SocketAddr) -> TcpStream {
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\n{}\
         connection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        credential()
    );
    let mut socket = connect(address, head.as_bytes(), "\r\n\r\n");
    let subscribe = br#"{"type":"subscribe","subscription":"s","topic":"a"}"#;
    let mut frame = vec![0x81, 0x80 | subscribe.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(subscribe);
    socket.write_all(&frame).expect("the broker takes a message");
    read_through(&mut socket, "caught_up");
    socket
}

fn connect(address: SocketAddr, request: &[u8], answer: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("the broker listens");
    socket.write_all(request).expect("the broker takes a request");
    read_through(&mut socket, answer);
    socket
}

fn read_through(socket: &mut impl Read, wanted: &str) {
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&read).contains(wanted) {
        let count = socket.read(&mut buffer).expect("the broker answers");
        assert!(count > 0, "the connection ended");
        read.extend_from_slice(&buffer[..count]);
    }
}
