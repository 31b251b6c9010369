//! Grants that are revoked before their end: all that they proved ends at once, and loses nothing.

use std::time::{Duration, SystemTime};

use leftoff::edge::hooks::{Grant, Revoker};
use leftoff::edge::proto::subscribe_response::Message;
use leftoff::edge::proto::{BackupRequest, PublishStreamRequest, ReadRequest, SubscribeRequest};
use leftoff::permission::Permission;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_types::StatusExt;

use super::expiry::{Readers, error_of};
use super::{CALLER, Host, by, call, everything};
use crate::common::{Sse, grpc, send, soon};

/// Grants everything to `guest`, until the returned revoker says otherwise.
fn granted(host: &Host, is_final: bool) -> Revoker {
    let revoker = Revoker::default();
    let grant = Grant::new("guest", Permission::all()).revoked_by(revoker.clone());
    host.decisions.grant(if is_final { grant.without_renewal() } else { grant });
    revoker
}

/// The page that waits in these tests.
const WAITING: &str = "/v1/events?topic=quiet&topic=quiet.%3E&wait=60s";

/// Returns a page that waits, and whose head has come.
async fn begun(host: &Host) -> TcpStream {
    let mut socket = TcpStream::connect(host.address).await.unwrap();
    let head = format!(
        "GET {WAITING} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{CALLER}: guest\r\n\
         accept: application/json\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(soon(socket.read_u8()).await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    socket
}

/// Goal: whatever lives on ends at once with a revocation, on every protocol, and says why. Final
/// grants end without a question.
#[tokio::test]
async fn all_that_a_revoked_grant_proved_ends_at_once() {
    for is_final in [true, false] {
        let host = Host::start().await;
        let revoker = granted(&host, is_final);
        let mut begun = begun(&host).await;
        let Readers { mut sse, mut socket, grpc: mut followed } = Readers::open(&host).await;
        let mut client = grpc(host.address).await;
        let requests = futures_util::stream::pending::<PublishStreamRequest>();
        let answers = client.publish_stream(call("guest", requests)).await.unwrap();
        let mut reading = client.clone();
        let reading = tokio::spawn(async move {
            let (topic, wait_ms) = ("quiet".to_owned(), 60_000);
            let request = ReadRequest { topic, wait_ms, ..ReadRequest::default() };
            reading.read(call("guest", request)).await.map(|_| ()).unwrap_err().code()
        });
        let mut upload = TcpStream::connect(host.address).await.unwrap();
        let head = format!(
            "POST /v1/topics/t/events HTTP/1.1\r\nhost: localhost\r\n{CALLER}: guest\r\n\
             content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        upload.write_all(head.as_bytes()).await.unwrap();
        upload.write_all(b"b\r\n{\"data\":1}\n\r\n").await.unwrap();
        sse.find(|frame| frame.is_event()).await;
        let held_back = by("guest", &host, "GET", WAITING).header("accept", "application/json");
        let held_back = tokio::spawn(send(held_back, ""));

        host.decisions.refuse("guest");
        revoker.revoke();
        host.publish("t", "after the revocation").await;
        let mut told = Vec::new();
        while let Some(frame) = soon(sse.next()).await {
            told.push(frame);
        }
        let expired = told.last().unwrap();
        assert!(expired.is_control("leftoff.expired") && expired.retry.is_some(), "{told:?}");
        assert_eq!(expired.json()["status"], 401, "{expired:?}");
        assert!(expired.id.is_some(), "the client can resume");
        let is_later = |text: &Option<String>| {
            text.as_ref().is_some_and(|data| data.contains("after the revocation"))
        };
        assert!(!told.iter().any(|frame| is_later(&frame.data)), "{told:?}");
        assert_eq!(soon(socket.closed()).await.0, 4001);
        assert_eq!(error_of(&mut followed).await.code(), Code::Unauthenticated);
        assert_eq!(error_of(&mut answers.into_inner()).await.code(), Code::Unauthenticated);
        assert_eq!(soon(reading).await.unwrap(), Code::Unauthenticated);
        // Before its head is sent, a page can be refused; afterwards it is an empty one.
        let held_back = soon(held_back).await.unwrap();
        assert!([200, 401].contains(&held_back.status.as_u16()), "{held_back:?}");
        let mut page = String::new();
        soon(begun.read_to_string(&mut page)).await.unwrap();
        assert!(page.contains("\"events\":[]") && page.contains("\"caught_up\":false"), "{page}");
        let mut answer = String::new();
        while !answer.contains("stored_events") {
            let mut bytes = [0; 4096];
            let count = soon(upload.read(&mut bytes)).await.unwrap();
            assert!(count > 0, "{answer}");
            answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        let renewals = host.decisions.told().iter().filter(|it| it.starts_with("renewal")).count();
        assert_eq!(renewals > 0, !is_final, "{renewals}");
        host.stop().await;
    }
}

/// Goal: with another grant for the same request, all that a revoked one proved goes on.
#[tokio::test]
async fn what_may_be_renewed_goes_on_after_a_revocation() {
    let host = Host::start().await;
    let revoker = granted(&host, false);
    let Readers { mut sse, mut socket, mut grpc } = Readers::open(&host).await;
    host.decisions.grant(Grant::new("guest", everything(">")));
    revoker.revoke();
    host.publish("t", "after").await;
    assert_eq!(sse.find(|frame| frame.is_event()).await.json()["data"], "after");
    assert_eq!(socket.find("event").await["event"]["data"], "after");
    loop {
        let response = soon(grpc.message()).await.unwrap().unwrap().message.unwrap();
        if let Message::Events(batch) = response {
            assert_eq!(batch.events[0].payload, "after");
            break;
        }
    }
    host.stop().await;
}

/// Goal: a backup ends with the right to it.
#[tokio::test]
async fn a_backup_ends_with_the_right_to_it() {
    let host = Host::start().await;
    for _ in 0..64 {
        host.publish("t", &"x".repeat(1 << 20)).await;
    }
    let revoker = granted(&host, false);
    let mut client = grpc(host.address).await;
    let mut admin = leftoff::edge::proto::admin_service_client::AdminServiceClient::connect(
        format!("http://{}", host.address),
    )
    .await
    .unwrap();
    let mut backup =
        admin.backup(call("guest", BackupRequest::default())).await.unwrap().into_inner();
    soon(backup.message()).await.unwrap().unwrap();
    host.decisions.grant(Grant::new("guest", everything(">")));
    revoker.revoke();
    assert_eq!(error_of(&mut backup).await.code(), Code::PermissionDenied);
    let topic = leftoff::edge::proto::GetTopicRequest { topic: "t".to_owned() };
    client.get_topic(call("guest", topic)).await.unwrap();
    host.stop().await;
}

/// The number of events of a replay that is cut, and the size of each: more than fits into buffers.
const EVENTS: u64 = 600;
const EVENT_BYTES: usize = 64 << 10;

async fn published(host: &Host) {
    for number in 1..=EVENTS {
        host.publish("t", &format!("{number}:{}", "x".repeat(EVENT_BYTES))).await;
    }
}

fn number_of(payload: &str) -> u64 {
    payload.split(':').next().unwrap().parse().unwrap()
}

/// Goal: a replay over SSE that is cut in its middle is told the place to go on from. Nothing is
/// missing and nothing comes twice, also if a part of the events is not for the reader.
#[tokio::test]
async fn an_event_stream_that_is_cut_in_its_middle_loses_nothing() {
    for query in ["/v1/topics/t/events?from=earliest", "/v1/events?topic=t&topic=u.*&from=earliest"]
    {
        let host = Host::start().await;
        published(&host).await;
        let (mut heard, mut after, mut cuts) = (Vec::new(), None, 0);
        let mut revoker = granted(&host, true);
        while heard.len() < EVENTS as usize {
            let request = by("guest", &host, "GET", query);
            let request = match &after {
                Some(id) => request.header("last-event-id", id),
                None => request,
            };
            let mut stream = Sse::open(request).await.unwrap();
            let enough = heard.len() + 20;
            loop {
                let frame = soon(stream.next()).await.unwrap();
                if frame.is_control("leftoff.expired") {
                    (after, cuts) = (frame.id, cuts + 1);
                    revoker = granted(&host, true);
                    break;
                }
                if frame.is_event() {
                    let data = frame.data.unwrap();
                    let event = serde_json::from_str::<Value>(&data);
                    heard.push(match &event {
                        Ok(envelope) => number_of(envelope["data"].as_str().unwrap()),
                        Err(_the_payload_alone) => number_of(&data),
                    });
                }
                if heard.len() == EVENTS as usize {
                    break;
                }
                if heard.len() == enough && cuts < 5 {
                    revoker.revoke();
                }
            }
        }
        assert!(cuts >= 2, "{cuts}: the replay was cut in its middle");
        assert!(heard.iter().copied().eq(1..=EVENTS), "{query}: {heard:?}");
        host.stop().await;
    }
}

/// Goal: a replay over gRPC that is cut in its middle has its place in the details of the status.
#[tokio::test]
async fn a_stream_of_grpc_that_is_cut_in_its_middle_loses_nothing() {
    let host = Host::start().await;
    published(&host).await;
    let mut client = grpc(host.address).await;
    let (mut heard, mut from, mut cuts) = (Vec::new(), "earliest".to_owned(), 0);
    let mut revoker = granted(&host, true);
    'replay: while heard.len() < EVENTS as usize {
        let (topic, from_here) = ("t".to_owned(), from.clone());
        let request = SubscribeRequest { topic, from: from_here, ..Default::default() };
        let mut stream = client.subscribe(call("guest", request)).await.unwrap().into_inner();
        let enough = heard.len() + 20;
        loop {
            match soon(stream.message()).await {
                Ok(Some(response)) => {
                    if let Some(Message::Events(batch)) = response.message {
                        let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
                        let numbers = batch.events.iter().map(|it| number_of(&text(&it.payload)));
                        heard.extend(numbers);
                    }
                    if heard.len() == EVENTS as usize {
                        break 'replay;
                    }
                    if heard.len() >= enough && cuts < 5 {
                        revoker.revoke();
                    }
                }
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => {
                    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
                    let info = status.get_details_error_info().unwrap();
                    assert_eq!(info.reason, "UNAUTHENTICATED");
                    from = info.metadata["cursor"].clone();
                    cuts += 1;
                    revoker = granted(&host, true);
                    break;
                }
            }
        }
    }
    assert!(cuts >= 2, "{cuts}: the replay was cut in its middle");
    assert!(heard.iter().copied().eq(1..=EVENTS), "{heard:?}");
    host.stop().await;
}

/// Goal: a stream that has an end and a revoker ends with whichever comes first, and neither takes
/// the other away.
#[tokio::test]
async fn the_end_and_the_revocation_of_a_grant_are_both_watched() {
    let host = Host::start().await;
    for is_revoked in [true, false] {
        let (revoker, now) = (Revoker::default(), SystemTime::now());
        let end = now + Duration::from_millis(if is_revoked { 3_600_000 } else { 700 });
        let grant = Grant::new("guest", everything(">")).until(end).without_renewal();
        host.decisions.grant(grant.revoked_by(revoker.clone()));
        let mut sse = Sse::open(by("guest", &host, "GET", "/v1/topics/t/events")).await.unwrap();
        sse.find(|frame| frame.is_control("leftoff.caught-up")).await;
        if is_revoked {
            revoker.revoke();
        }
        soon(sse.find(|frame| frame.is_control("leftoff.expired"))).await;
        assert_eq!(SystemTime::now() >= end, !is_revoked);
        let waited = soon(async { revoker.revoked().await });
        if is_revoked {
            waited.await;
        }
    }
    host.stop().await;
}
