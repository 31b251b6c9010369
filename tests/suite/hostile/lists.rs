//! Long lists of topics, members and connections: a client that asks for them does not slow others
//! down, and gets each entry once.

use std::net::SocketAddr;

use futures_util::future::join_all;
use leftoff::edge::proto;
use serde_json::{Value, json};

use super::bystander::Bystander;
use super::fairness::{assert_nobody_held_a_worker, publish_to_topics};
use super::patterns::MAX_CLIENT_BYTES;
use crate::common::{Answer, Process, Sse, get, grpc, send, send_h2c, to};
use crate::websocket::Client;

/// Returns a list, read over HTTP/1.1 and over HTTP/2.
async fn listed(address: SocketAddr, path: &str, name: &str) -> [Vec<Value>; 2] {
    let request = || to(address, "GET", path);
    let entries = |answer: Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/json");
        let length = answer.headers.get("content-length");
        assert_eq!(length, None, "a list is written in pieces, so it has no length");
        answer.json()[name].as_array().unwrap().clone()
    };
    [entries(send(request(), "").await), entries(send_h2c(request(), "").await)]
}

/// Goal: thousands of topics are listed in small steps, each once and in order, over each protocol.
#[tokio::test]
async fn a_list_of_thousands_of_topics_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    publish_to_topics(&process, 10_000, |topic| format!("t{topic}.b.c")).await;
    let bystander = Bystander::start(address).await;
    let mut expected: Vec<_> = (0..10_000).map(|topic| format!("t{topic}.b.c")).collect();
    expected.extend(["bystander".to_owned()]);
    expected.sort();
    let attack = async || {
        for topics in listed(address, "/v1/topics?limit=10000&after=a", "topics").await {
            let names: Vec<_> =
                topics.iter().map(|topic| topic["name"].as_str().unwrap()).collect();
            assert_eq!(names, expected[..10_000]);
        }
        let mut client = grpc(address).await;
        let request = proto::ListTopicsRequest { page_size: 10_000, ..Default::default() };
        let answer = client.list_topics(request).await.unwrap().into_inner();
        let names: Vec<_> = answer.topics.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, expected[..10_000]);
        let page_token = answer.next_page_token;
        let request = proto::ListTopicsRequest { page_size: 10_000, page_token };
        let answer = client.list_topics(request).await.unwrap().into_inner();
        assert_eq!((answer.topics.len(), answer.next_page_token.as_str()), (1, ""));
    };
    bystander.assert_unhurt(attack).await;
    let few = get(address, "/v1/topics?limit=2&after=t9999.b.c").await;
    assert_eq!(few.json(), json!({"topics": []}));
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: members with much info are listed in small steps, each once and in order.
#[tokio::test]
async fn a_list_of_thousands_of_members_holds_nobody_up() {
    const MEMBERS: usize = 2_000;
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(directory.path(), &[]);
    let address = process.address;
    let info: Value = (0..100).map(|number| (format!("n{number}"), json!("text"))).collect();
    let join = async |client: usize| {
        let mut socket = Client::connect(address).await;
        for number in client * 200..(client + 1) * 200 {
            socket
                .say(json!({
                    "type": "subscribe", "subscription": number.to_string(), "topic": "room",
                    "member": {"id": format!("m{number:04}"), "info": info},
                    "filter": {"types": ["none"]}, // No messages about other members.
                }))
                .await;
        }
        socket.until_subscribed(200).await;
        socket
    };
    let _members = join_all((0..MEMBERS / 200).map(join)).await;
    let bystander = Bystander::start(address).await;
    let attack = async || {
        let path = "/v1/topics/room/presence?limit=10000";
        for members in listed(address, path, "members").await {
            let ids: Vec<_> = members.iter().map(|member| member["id"].as_str().unwrap()).collect();
            assert_eq!(ids, Vec::from_iter((0..MEMBERS).map(|number| format!("m{number:04}"))));
            assert!(members.iter().all(|member| member["info"] == info));
        }
        let mut client = grpc(address).await;
        let request = proto::ListMembersRequest {
            topic: "room".into(),
            page_size: 10_000,
            ..proto::ListMembersRequest::default()
        };
        let answer = client.list_members(request).await.unwrap().into_inner();
        let ids = answer.members.iter().map(|present| present.member.as_ref().unwrap().id.clone());
        assert!(ids.eq((0..MEMBERS).map(|number| format!("m{number:04}"))));
    };
    bystander.assert_unhurt(attack).await;
    let few = get(address, "/v1/topics/room/presence?limit=3&after=m1996").await.json();
    let ids: Vec<_> = few["members"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["m1997", "m1998", "m1999"]);
    assert_nobody_held_a_worker(&process).await;
}

/// Goal: connections are listed in small steps, each once, also one that follows very many topics.
#[tokio::test]
async fn a_list_of_connections_that_follow_very_much_holds_nobody_up() {
    const SUBSCRIPTIONS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let process = Process::serve(
        directory.path(),
        &["--set", "follow.list_connections=true", "--set", MAX_CLIENT_BYTES],
    );
    let address = process.address;
    let mut socket = Client::connect(address).await;
    let long = |number| format!("n{number}.{}.*", "t".repeat(60));
    let topics: Vec<String> = (0..1_024).map(long).collect();
    for number in 0..SUBSCRIPTIONS {
        let subscription = number.to_string();
        let subscribe =
            json!({"type": "subscribe", "subscription": subscription, "topics": topics});
        socket.say(subscribe).await;
    }
    socket.until_subscribed(SUBSCRIPTIONS).await;
    let open = async |number: usize| Sse::follow(address, &format!("t{number}"), "").await;
    let streams = join_all((0..1_000).map(open)).await;
    assert!(streams.iter().all(|stream| stream.status == 200));
    let bystander = Bystander::start(address).await;
    let attack = async || {
        for connections in listed(address, "/v1/connections?limit=10000", "connections").await {
            let ids: Vec<_> = connections.iter().map(|one| one["id"].as_u64().unwrap()).collect();
            assert!(ids.is_sorted_by(|one, other| one < other), "listed twice: {ids:?}");
            let streams = |one: &Value| one["streams"].as_array().unwrap().clone();
            let all: Vec<Value> = connections.iter().flat_map(streams).collect();
            let of = |kind: &str| all.iter().filter(|one| one["protocol"] == kind).count();
            // The bystander follows one topic, too.
            assert_eq!((of("websocket"), of("sse")), (SUBSCRIPTIONS, 1_001));
            assert!(all.iter().any(|one| one["topics"] == topics.join(" ")));
        }
    };
    bystander.assert_unhurt(attack).await;
    let two = get(address, "/v1/connections?limit=2&after=1").await.json();
    assert_eq!(two["connections"].as_array().unwrap().len(), 2, "{two}");
    assert!(two["count"].as_u64().unwrap() > 1_000, "{two}");
    assert_nobody_held_a_worker(&process).await;
}
