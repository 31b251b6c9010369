//! The engine in NATS against real servers, of one and of three, whole and broken on purpose.

#[allow(dead_code, reason = "the suite uses the rest")]
#[path = "../../../tests/suite/fleet/nats_servers.rs"]
pub(in crate::cluster) mod nats_servers;

mod faults;

use std::collections::BTreeMap;
use std::time::Instant;

use nats_servers::{NatsOptions, NatsProgram, NatsServers, quoted};

use super::appends::MAX_APPENDS_IN_FLIGHT;
use super::*;
use crate::cluster::messages::tests::{heard_at_last, messages_pass};
use crate::cluster::messages::{FleetMessages, MessageKind};
use crate::cluster::stream::MAX_RECORD_BYTES;
use crate::cluster::stream::contract_tests::keeps_the_contract;

const STREAM: &str = "LEFTOFF_test";

fn crypto() {
    let _first = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
}

fn config(servers: &NatsServers) -> NatsConfig {
    crypto();
    NatsConfig::new(servers.urls())
}

async fn open(servers: &NatsServers) -> NatsStream {
    open_fleet(servers, "test").await
}

pub(in crate::cluster) async fn open_fleet(servers: &NatsServers, fleet: &str) -> NatsStream {
    let began = Instant::now();
    loop {
        match NatsStream::open(&config(servers), fleet).await {
            Ok(stream) => return stream,
            Err(NatsOpenError::Away(_)) if began.elapsed() < Duration::from_secs(30) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn seq(number: u64) -> StreamSequence {
    StreamSequence::new(number)
}

fn each(sizes: &[usize], test: impl Fn(&NatsProgram, usize)) {
    for program in NatsProgram::all() {
        for size in sizes {
            eprintln!("-- NATS {}, {size} servers", program.version);
            test(&program, *size);
        }
    }
}

pub(in crate::cluster) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(test)
}

/// Appends until it is known to be stored, as a fleet's leader does: again with the same fence, and
/// what is there is looked at when the fence refuses. Returns None if another record is there.
async fn append_surely(stream: &NatsStream, after: u64, record: &Bytes) -> Option<u64> {
    let began = Instant::now();
    let mut said = BTreeMap::<String, u32>::new();
    let outcome = loop {
        assert!(began.elapsed() < Duration::from_secs(60), "no outcome: {said:?}");
        let error = match stream.append(seq(after), record.clone()).await {
            Ok(at) => break Some(at.get()),
            Err(AppendError::Fenced) => match stream.get(seq(after + 1)).await {
                Ok(Some(there)) => break (there == *record).then_some(after + 1),
                Ok(None) => "fenced, and nothing is there".to_owned(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        *said.entry(error).or_default() += 1;
        if said.values().sum::<u32>().is_multiple_of(500) {
            let tail = stream.tail().await;
            eprintln!("after {after}, tail {tail:?}: {said:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    if began.elapsed() > Duration::from_secs(2) {
        eprintln!("no outcome for {:.1?}: {said:?}", began.elapsed());
    }
    outcome
}

fn record(text: impl std::fmt::Display) -> Bytes {
    Bytes::from(text.to_string())
}

#[test]
fn the_engine_keeps_the_contract_of_a_stream() {
    each(&[1, 3], |program, size| {
        let servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let mut number = 0;
            keeps_the_contract(async || {
                number += 1;
                let fleet = format!("contract-{number}");
                let stream: Arc<dyn Stream> = Arc::new(open_fleet(&servers, &fleet).await);
                stream
            })
            .await;
        });
    });
}

#[test]
fn messages_pass_between_the_nodes_of_one_fleet() {
    for program in NatsProgram::all() {
        let servers = NatsServers::start(&program, 1, &NatsOptions::default());
        run(async {
            let (one, other) =
                (open_fleet(&servers, "one").await, open_fleet(&servers, "one").await);
            let elsewhere = open_fleet(&servers, "other").await;
            let servers = std::cell::RefCell::new(servers);
            let mut far = elsewhere.listen(MessageKind::Peers).await.unwrap();
            let away = async || servers.borrow_mut().kill(0);
            let back = async || servers.borrow_mut().restart(0);
            messages_pass([&one, &other], away, back).await;
            assert_eq!(heard_at_last(&elsewhere, &mut far, b"of another fleet").await, 0);
        });
    }
}

#[test]
fn the_fence_lets_one_record_follow_another() {
    each(&[1, 3], |program, size| {
        let servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let stream = open(&servers).await;
            assert_eq!(stream.tail().await, Ok(seq(0)));
            assert_eq!(stream.first().await, Ok(seq(1)));
            let found = stream.check().await.unwrap();
            let has_few = found.iter().any(|finding| finding.kind == FindingKind::Replicas);
            assert_eq!(has_few, size == 1, "{found:?}");
            for after in 0..5 {
                assert_eq!(append_surely(&stream, after, &record(after)).await, Some(after + 1));
            }
            for wrong in [0, 1, 4, 6, 100] {
                let outcome = stream.append(seq(wrong), record("x")).await;
                assert_eq!(outcome, Err(AppendError::Fenced), "after {wrong}");
            }
            assert_eq!(stream.tail().await, Ok(seq(5)));
            assert_eq!(stream.get(seq(5)).await, Ok(Some(record(4))));
            assert_eq!(stream.get(seq(6)).await, Ok(None));
            assert_eq!(stream.get(seq(0)).await, Ok(None));
            stream.trim(seq(3)).await.unwrap();
            stream.trim(seq(2)).await.unwrap();
            assert_eq!(stream.first().await, Ok(seq(3)));
            let trimmed = stream.read(seq(2)).await.err();
            assert_eq!(trimmed, Some(StreamError::Trimmed { first: seq(3) }));
            // Trimming everything, and more, moves no tail.
            stream.trim(seq(100)).await.unwrap();
            assert_eq!(stream.first().await, Ok(seq(6)));
            assert_eq!(stream.tail().await, Ok(seq(5)));
            assert_eq!(stream.append(seq(5), record("last")).await, Ok(seq(6)));
            let mut reader = stream.read(seq(6)).await.unwrap();
            assert_eq!(reader.next().await, Ok((seq(6), record("last"))));
            // The largest record, through each way of reading.
            let large = Bytes::from(vec![7; MAX_RECORD_BYTES]);
            assert_eq!(stream.append(seq(6), large.clone()).await, Ok(seq(7)));
            assert_eq!(stream.get(seq(7)).await, Ok(Some(large.clone())));
            assert_eq!(reader.next().await, Ok((seq(7), large)));
        });
    });
}

#[test]
fn several_in_flight_are_stored_in_the_order_of_the_calls_and_fail_together() {
    each(&[1, 3], |program, size| {
        let servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let stream = open(&servers).await;
            // A new stream may have no leader for a moment.
            assert_eq!(append_surely(&stream, 0, &record(0)).await, Some(1));
            for round in 0..20 {
                let base = round * 16 + 1;
                let appends: Vec<_> =
                    (0..16).map(|at| stream.append(seq(base + at), record(base + at))).collect();
                // Polled from the last to the first.
                let mut got = Vec::new();
                for append in appends.into_iter().rev() {
                    got.push(append.await.unwrap().get());
                }
                got.reverse();
                assert_eq!(got, (base + 1..=base + 16).collect::<Vec<_>>());
            }
            // More than may be in flight are refused at once.
            let full: Vec<_> = (0..=MAX_APPENDS_IN_FLIGHT as u64)
                .map(|at| stream.append(seq(321 + at), record(321 + at)))
                .collect();
            let mut outcomes = Vec::new();
            for append in full {
                outcomes.push(append.await);
            }
            assert!(matches!(outcomes.pop(), Some(Err(AppendError::Refused(_)))));
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            // One that is refused makes those behind it be refused.
            let wrong: Vec<_> = (362..372).map(|at| stream.append(seq(at), record(at))).collect();
            for append in wrong {
                assert_eq!(append.await, Err(AppendError::Fenced));
            }
            assert_eq!(stream.tail().await, Ok(seq(353)));
        });
    });
}

#[test]
fn of_writers_at_once_each_place_has_one() {
    each(&[1, 3], |program, size| {
        let servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let mut writers = Vec::new();
            for writer in 0..4 {
                let stream = open(&servers).await;
                writers.push(tokio::spawn(async move {
                    let mut own = BTreeMap::new();
                    let mut after = 0;
                    while after < 300 {
                        let mine = record(format!("{writer}-{after}"));
                        if let Some(at) = append_surely(&stream, after, &mine).await {
                            own.insert(at, mine);
                        }
                        after += 1;
                    }
                    own
                }));
            }
            let mut all = BTreeMap::new();
            for writer in writers {
                for (at, mine) in writer.await.unwrap() {
                    assert_eq!(all.insert(at, mine), None, "{at} was acknowledged to two");
                }
            }
            let stream = open(&servers).await;
            let mut reader = stream.read(seq(1)).await.unwrap();
            for (at, mine) in all {
                assert_eq!(reader.next().await, Ok((seq(at), mine)));
            }
        });
    });
}

#[test]
fn a_reader_that_does_not_read_holds_a_bounded_amount() {
    each(&[3], |program, size| {
        let servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let stream = open(&servers).await;
            let other = open(&servers).await;
            let mut reader = other.read(seq(1)).await.unwrap();
            let payload = Bytes::from(vec![1; 512 << 10]);
            assert_eq!(append_surely(&stream, 0, &payload).await, Some(1));
            assert_eq!(reader.next().await.unwrap().0, seq(1));
            for after in 1..160 {
                append_surely(&stream, after, &payload).await.unwrap();
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            let sent = servers.sent_to_clients();
            eprintln!("sent {sent} of {}", 160 << 19);
            assert!((1 << 20..34 << 20).contains(&sent), "{sent} bytes were sent");
            for at in 2..=160 {
                assert_eq!(reader.next().await.unwrap().0, seq(at));
            }
        });
    });
}

#[test]
fn without_servers_callers_are_told_in_time() {
    each(&[1], |program, size| {
        let mut servers = NatsServers::start(program, size, &NatsOptions::default());
        run(async {
            let mut config = config(&servers);
            config.answer_timeout = Duration::from_millis(700);
            config.append_timeout = config.answer_timeout;
            let stream = NatsStream::open(&config, "test").await.unwrap();
            assert_eq!(append_surely(&stream, 0, &record(0)).await, Some(1));
            servers.kill(0);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let began = Instant::now();
            let refused = stream.append(seq(1), record(1)).await.unwrap_err();
            assert!(matches!(refused, AppendError::Away(_)), "surely not stored: {refused}");
            assert!(matches!(stream.tail().await, Err(StreamError::Away(_))));
            assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
            assert!(matches!(NatsStream::open(&config, "test").await, Err(NatsOpenError::Away(_))));
            servers.restart(0);
            servers.wait_until_ready();
            assert_eq!(append_surely(&stream, 1, &record(1)).await, Some(2));
        });
    });
}

#[test]
fn credentials_and_certificates_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca_file = file("ca.pem", ca_certificate.pem());
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let certificate = file("cert.pem", signed.pem());
    let key = file("key.pem", key.serialize_pem());
    let configuration = format!(
        "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true }}\n\
         authorization {{ user: ann, password: secret }}",
        quoted(&certificate),
        quoted(&key),
        quoted(&ca_file)
    );
    each(&[1], |program, size| {
        let options =
            NatsOptions { configuration: configuration.clone(), ..NatsOptions::default() };
        let servers = NatsServers::start(program, size, &options);
        run(async {
            let mut config = config(&servers);
            config.answer_timeout = Duration::from_secs(2);
            let refused = NatsStream::open(&config, "test").await.err().unwrap();
            eprintln!("without: {refused}");
            config.tls.trusted = Some(ca_file.clone());
            config.tls.identity = Some((certificate.clone(), key.clone()));
            let wrong = NatsCredentials::Password { user: "ann".into(), password: "no".into() };
            config.credentials = wrong;
            let began = Instant::now();
            let refused = NatsStream::open(&config, "test").await.err().unwrap().to_string();
            assert!(refused.contains("authorization violation"), "{refused}");
            assert!(began.elapsed() < Duration::from_secs(1), "told at once");
            config.credentials = NatsCredentials::None;
            config.urls = vec![servers.url(0).replace("://", "://ann:secret@")];
            let stream = NatsStream::open(&config, "test").await.unwrap();
            assert_eq!(append_surely(&stream, 0, &record(0)).await, Some(1));
        });
    });
}

/// The key is the one of NATS's own documentation.
#[test]
fn a_token_and_a_key_are_used() {
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const KEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
    let cases = [
        ("token: secret".to_owned(), NatsCredentials::Token("secret".into())),
        (format!("users: [{{ nkey: {KEY} }}]"), NatsCredentials::Nkey(SEED.into())),
    ];
    each(&[1], |program, size| {
        for (who, credentials) in &cases {
            let configuration = format!("authorization {{ {who} }}");
            let options = NatsOptions { configuration, ..NatsOptions::default() };
            let servers = NatsServers::start(program, size, &options);
            run(async {
                let mut config = config(&servers);
                NatsStream::open(&config, "test").await.err().expect("nobody is refused");
                config.credentials = credentials.clone();
                let stream = NatsStream::open(&config, "test").await.unwrap();
                assert_eq!(append_surely(&stream, 0, &record(0)).await, Some(1));
            });
        }
    });
}
