//! gRPC bodies that are not messages: wrong lengths, and flags that were not agreed on.

use std::net::SocketAddr;

use http::StatusCode;
use leftoff::edge::proto::PublishRequest;
use prost::Message;

use super::bystander::Bystander;
use super::{Chance, Open};
use crate::common::{Process, get, post, send_h2c, to};

const EVENTS: &str = "/v1/topics/a/events";

// Status codes. Source: gRPC, status codes.
const OK: &str = "0";
const INVALID_ARGUMENT: &str = "3";
const INTERNAL: &str = "13";

/// Calls `Publish` with this body, and returns its status.
async fn status(address: SocketAddr, body: Vec<u8>) -> String {
    let request = to(address, "POST", "/leftoff.v1.PublisherService/Publish")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let answer = send_h2c(request, body).await;
    assert_eq!(answer.status, StatusCode::OK);
    let told = answer.trailers.get("grpc-status").or_else(|| answer.headers.get("grpc-status"));
    told.expect("every call ends with a status").to_str().unwrap().to_owned()
}

/// Returns a message with its flag and the length that it claims.
fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag], &length.to_be_bytes()[..], message].concat()
}

/// Goal: a body that is not a message fails its own call, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_message_fails_its_call_with_a_status() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    assert_eq!(post(address, EVENTS, "x").await.status, StatusCode::CREATED);
    let before = Open::now(&process).await;
    let event = leftoff::edge::proto::NewEvent::default();
    let request = PublishRequest { topic: "b".to_owned(), events: vec![event], ..<_>::default() };
    let message = request.encode_to_vec();
    let length = message.len() as u32;
    assert_eq!(status(address, framed(0, length, &message)).await, OK);
    let cases = [
        ("nothing at all", vec![], INTERNAL),
        ("half a head", vec![0, 0], INTERNAL),
        ("less than its length", framed(0, length + 1, &message), INTERNAL),
        ("more than its length", framed(0, length - 1, &message), INVALID_ARGUMENT),
        ("4 GiB", framed(0, u32::MAX, &message), INVALID_ARGUMENT),
        ("compressed, and nobody said how", framed(1, length, &message), INTERNAL),
        ("an unknown flag", framed(7, length, &message), INTERNAL),
        ("bytes that are no message", framed(0, 4, &[255; 4]), INVALID_ARGUMENT),
        ("two messages: the first is taken", framed(0, length, &message).repeat(2), OK),
    ];
    let (bystander, chance) = (Bystander::start(address).await, Chance::new());
    let all = || async {
        let mut found = Vec::new();
        let cases = chance.shuffled(&cases);
        for (name, body, _) in &cases {
            found.push((*name, status(address, body.clone()).await));
        }
        let expected = cases.iter().map(|(name, _, code)| (*name, (*code).to_owned()));
        assert_eq!(found, expected.collect::<Vec<_>>());
    };
    bystander.assert_unhurt(all).await;
    drop(bystander);
    before.assert_restored(&process).await;
    assert_eq!(get(address, "/v1/topics/b/events").await.json()["events"][0]["sequence"], 1);
}
