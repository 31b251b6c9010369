//! A certificate that is renewed while the broker runs: no stream is lost, new connections get the
//! new one, and one that is wrong is not used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::{Authority, arguments, connect, follow, grpc, one, read_through, shown};
use crate::common::{PATIENCE, Process, soon};

/// Waits until new connections are shown `wanted`.
async fn until_shown(
    process: &Process,
    authority: &Authority,
    wanted: &super::certified::Certified,
) {
    soon(async {
        while shown(process.address, authority).await != wanted.der {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Goal: while events are published, and streams of HTTP/1.1 are open, the certificate is renewed
/// three times, with files that do not fit each other in between. Each stream has every event
/// once, and each new connection is shown a certificate whose key the server has.
#[tokio::test]
async fn a_certificate_is_renewed_under_load_without_a_lost_stream() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let mut given = arguments(&authority).to_vec();
    given.extend(["--set".to_owned(), "server.tls_reload_ms=20".to_owned()]);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let process = Process::serve(directory.path(), &given);
    let client = authority.client(&["http/1.1"], None);
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(follow(process.address, &client, "orders").await);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let (over, mut publisher) = (is_over.clone(), grpc(process.address, &authority).await);
    let publishing = tokio::spawn(async move {
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            count += 1;
            publisher.publish(one("orders", &format!("event {count}."))).await.unwrap();
        }
        publisher.publish(one("orders", "the end")).await.unwrap();
        count
    });
    for _ in 0..3 {
        let before = shown(process.address, &authority).await;
        // The certificate alone is new, as in the middle of a renewal.
        let half = authority.of_server();
        std::fs::write(authority.path("cert.pem"), &half.cert_pem).unwrap();
        for _ in 0..10 {
            assert_eq!(shown(process.address, &authority).await, before, "the old pair is in use");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        std::fs::write(authority.path("key.pem"), &half.key_pem).unwrap();
        until_shown(&process, &authority, &half).await;
        // A stream that begins now goes on through the next renewals.
        streams.push(follow(process.address, &client, "orders").await);
    }
    is_over.store(true, Ordering::Relaxed);
    let count: usize = tokio::time::timeout(PATIENCE, publishing).await.unwrap().unwrap();
    assert!(count > 10, "{count} events are no load");
    for mut stream in streams {
        let read = read_through(&mut stream, "data: the end").await;
        let events = read.split("data: event ").skip(1);
        let numbers: Vec<usize> =
            events.map(|rest| rest.split('.').next().unwrap().parse().unwrap()).collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "each event once, in order");
    }
}

/// Goal: SIGHUP reads the files at once, and does not end the program; files that are wrong, and
/// files that are gone, leave the old certificate in use.
#[tokio::test]
async fn a_hang_up_reads_the_files_at_once() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let mut given = arguments(&authority).to_vec();
    given.extend(["--set".to_owned(), "server.tls_reload_ms=86400000".to_owned()]);
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let process = Process::serve(directory.path(), &given);
    let first = shown(process.address, &authority).await;
    let kept = connect(process.address, &authority.client(&[], None)).await;
    let second = authority.renew();
    assert_eq!(shown(process.address, &authority).await, first, "nobody has asked");
    process.signal(Signal::HUP);
    until_shown(&process, &authority, &second).await;
    std::fs::write(authority.path("key.pem"), "no key").unwrap();
    process.signal(Signal::HUP);
    std::fs::remove_file(authority.path("cert.pem")).unwrap();
    process.signal(Signal::HUP);
    for _ in 0..20 {
        assert_eq!(shown(process.address, &authority).await, second.der);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let third = authority.renew();
    process.signal(Signal::HUP);
    until_shown(&process, &authority, &third).await;
    let of_the_first = kept.get_ref().1.peer_certificates().unwrap();
    assert_eq!(of_the_first[0], first);
    let mut kept = kept;
    super::ask(&mut kept, "/healthz", "").await;
    read_through(&mut kept, "ok\n").await;
}
