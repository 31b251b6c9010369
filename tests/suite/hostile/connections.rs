//! Connections that are opened and hardly used.

use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Open, processor_time};
use crate::common::{Process, get, post};

const EVENTS: &str = "/v1/topics/a/events";

/// A bound far above the processor time that these connections take at rest, and far below half a
/// core, which they once took.
const AT_REST: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_secs(2);

/// The time in which a connection without a client is closed: less than the time limit of a head.
const SOON: Duration = Duration::from_secs(20);

/// Goal: a client that leaves after the first byte of what could be HTTP/2 leaves nothing behind.
#[tokio::test]
async fn a_client_that_goes_before_it_said_what_it_speaks_is_let_go_of() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    assert_eq!(post(process.address, EVENTS, "x").await.status, StatusCode::CREATED);
    let before = Open::now(&process).await;
    let started = Instant::now();
    for _ in 0..500 {
        let mut client = TcpStream::connect(process.address).await.unwrap();
        client.write_all(b"P").await.unwrap();
        drop(client);
    }
    before.assert_restored(&process).await;
    assert!(started.elapsed() < SOON, "the connections were held for {:?}", started.elapsed());
    assert_eq!(get(process.address, EVENTS).await.status, StatusCode::OK);
}

/// Goal: a client that sends a part of the HTTP/2 preface, and stays, costs no processor time.
#[tokio::test]
async fn a_client_that_does_not_say_what_it_speaks_is_waited_for_without_work() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let mut clients = Vec::new();
    for _ in 0..500 {
        let mut client = TcpStream::connect(process.address).await.unwrap();
        client.write_all(b"PRI").await.unwrap();
        clients.push(client);
    }
    let mut used = Duration::MAX;
    for _ in 0..5 {
        let before = processor_time(process.id());
        tokio::time::sleep(LOOK).await; // The measurement covers this time.
        used = processor_time(process.id()) - before;
        if used < AT_REST {
            break;
        }
    }
    assert!(used < AT_REST, "{used:?} in {LOOK:?}");
    assert_eq!(clients.len(), 500);
}
