//! Who may change the consumers of shared work, on every transport.

use std::time::Duration;

use leftoff::ConsumersConfig;
use leftoff::consumers::ConsumerScope;
use leftoff::edge::hooks::{Grant, Revoker};
use leftoff::edge::proto;
use leftoff::permission::{Action, Permission};
use serde_json::{Value, json};
use tonic::Code;

use super::{Host, Way, by, call, filter_of};
use crate::common::{grpc, send, soon};
use crate::websocket::Client;

async fn ask(host: &Host, caller: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = send(by(caller, host, method, path), body).await;
    let json = if answer.body.is_empty() { Value::Null } else { answer.json() };
    (answer.status.as_u16(), json)
}

/// Lets `boss` manage and read the topic `jobs`, and `worker` read it.
fn grant(host: &Host) {
    let reads = || Permission::default().with(Action::Subscribe, ["jobs"]).unwrap();
    let manages = reads().with(Action::Manage, ["jobs"]).unwrap();
    host.decisions.grant(Grant::new("worker", reads()));
    host.decisions.grant(Grant::new("admin", reads().administering()));
    host.decisions.grant(Grant::new("boss", manages));
}

fn crew(shared: bool) -> Option<proto::ConsumerRef> {
    let (topic, consumer) = ("jobs".to_owned(), "crew".to_owned());
    Some(proto::ConsumerRef { topic, consumer, shared, ..Default::default() })
}

/// Returns the codes of all calls of gRPC that change the consumer.
async fn changes_over_grpc(host: &Host, shared: bool) -> Vec<Code> {
    let mut client = grpc(host.address).await;
    let consumer = crew(shared);
    let put = proto::PutConsumerRequest { consumer: consumer.clone(), ..Default::default() };
    let put = client.put_consumer(call("worker", put)).await.map(drop);
    let filter = Some(proto::Filter { keys: vec!["k".to_owned()], ..Default::default() });
    let update = proto::UpdateConsumerRequest { consumer: consumer.clone(), filter, shared: None };
    let update = client.update_consumer(call("worker", update)).await.map(drop);
    let cursor = format!("1-{}", host.broker.epoch());
    let set =
        proto::SetCheckpointRequest { consumer: consumer.clone(), cursor, ..Default::default() };
    let set = client.set_checkpoint(call("worker", set)).await.map(drop);
    let delete = client.delete_consumer(call("worker", proto::DeleteConsumerRequest { consumer }));
    let results = [put, update, set, delete.await.map(drop)];
    results.into_iter().map(|it| it.map_or_else(|status| status.code(), |()| Code::Ok)).collect()
}

/// Goal: a consumer of shared work is changed by who may manage its topics, also where all callers
/// share their consumers, so that it can be named without saying that it is shared.
#[tokio::test]
async fn shared_work_is_changed_by_who_manages_it_however_it_is_named() {
    let mut config = ConsumersConfig::default();
    config.scope = ConsumerScope::Common;
    let host = Host::mounted(&config).await;
    grant(&host);
    host.publish("jobs", "x").await;
    let names = ["/v1/consumers/crew?topic=jobs", "/v1/consumers/crew?topic=jobs&shared=true"];
    let checkpoints = names.map(|name| name.replace('?', "/checkpoint?"));
    let cursor = json!({"cursor": format!("1-{}", host.broker.epoch())});
    let shares = json!({"shared": {"max_tries": 3}});
    // Nobody else makes one, nor makes one of a consumer that is there.
    for _ in 0..2 {
        for (method, name) in [("PUT", names[0]), ("PATCH", names[0]), ("PUT", names[1])] {
            let (status, answer) = ask(&host, "worker", method, name, shares.clone()).await;
            assert_eq!(status, 403, "{method} {name} {answer}");
        }
        let mut client = grpc(host.address).await;
        let shared = Some(proto::WorkSettings::default());
        let (consumer, both) = (crew(false), shared.clone());
        let put = proto::PutConsumerRequest { consumer, shared: both, ..Default::default() };
        let put = client.put_consumer(call("worker", put)).await.unwrap_err();
        let (consumer, filter) = (crew(false), None);
        let update = proto::UpdateConsumerRequest { consumer, filter, shared };
        let update = client.update_consumer(call("worker", update)).await.unwrap_err();
        assert_eq!([put.code(), update.code()], [Code::PermissionDenied; 2]);
        let (_, answer) = ask(&host, "worker", "PUT", names[0], json!({})).await;
        assert_eq!(answer.get("shared"), None, "{answer}");
    }
    let (status, made) = ask(&host, "boss", "PATCH", names[0], shares.clone()).await;
    assert_eq!((status, &made["shared"]["max_tries"]), (200, &json!(3)), "{made}");
    // Nobody else changes it.
    let of_all = "/v1/consumers/crew?topic=jobs&owner=";
    for (caller, name) in [("worker", names[0]), ("worker", names[1]), ("admin", of_all)] {
        for (method, body) in [
            ("PUT", json!({})),
            ("PATCH", json!({"filter": {"keys": ["k"]}})),
            ("DELETE", json!({})),
        ] {
            let (status, answer) = ask(&host, caller, method, name, body).await;
            assert_eq!(status, 403, "{method} {name} {answer}");
        }
    }
    for path in &checkpoints {
        assert_eq!(ask(&host, "worker", "POST", path, cursor.clone()).await.0, 403);
        assert_eq!(ask(&host, "boss", "POST", path, cursor.clone()).await.0, 400, "work moves it");
    }
    for shared in [false, true] {
        assert_eq!(changes_over_grpc(&host, shared).await, [Code::PermissionDenied; 4]);
        let mut socket = Client::connect_as(host.address, "worker").await;
        let checkpoint = json!({"type": "checkpoint", "ref": 1, "topic": "jobs", "consumer": "crew",
            "shared": shared, "cursor": cursor["cursor"]});
        socket.say(checkpoint).await;
        let refused = socket.find("error").await;
        assert_eq!(refused["error"]["status"], json!(403), "{refused}");
    }
    // All others use it.
    let marks = json!({"mark": ["read"], "events": [1]});
    for name in names {
        let of = |what: &str| name.replace('?', &format!("/{what}?"));
        let (status, shown) = ask(&host, "worker", "GET", name, Value::Null).await;
        assert_eq!(
            (status, &shown["shared"], &shown["filter"]),
            (200, &made["shared"], &made["filter"])
        );
        assert_eq!(ask(&host, "worker", "POST", &of("marks"), marks.clone()).await.0, 200);
        assert_eq!(ask(&host, "worker", "GET", &of("marks"), Value::Null).await.0, 200);
        let (status, counts) = ask(&host, "worker", "GET", &of("counts"), Value::Null).await;
        assert_eq!((status, &counts["unread"]), (200, &json!(0)), "{counts}");
    }
    let of_webhook = "/v1/consumers/webhook:x?topic=jobs";
    assert_eq!(ask(&host, "worker", "GET", of_webhook, Value::Null).await.0, 400);
    assert_eq!(ask(&host, "admin", "GET", of_webhook, Value::Null).await.0, 200);
    let pull = "/v1/consumers/crew/pull?topic=jobs";
    let (status, pulled) = ask(&host, "worker", "POST", pull, json!({"worker": "w"})).await;
    assert_eq!((status, pulled["leases"].as_array().map(Vec::len)), (200, Some(1)), "{pulled}");
    assert_eq!(ask(&host, "boss", "DELETE", names[0], Value::Null).await.0, 204);
    host.stop().await;
}

/// Goal: where each caller has its own consumers, nobody makes one that is common to all by a mark:
/// those have no bound for each owner.
#[tokio::test]
async fn a_mark_makes_no_consumer_that_is_common_to_all() {
    let host = Host::by(Way::Mounted).await;
    grant(&host);
    host.publish("jobs", "x").await;
    let path = "/v1/consumers/crew/marks?topic=jobs&shared=true";
    let marks = json!({"mark": ["read"], "events": [1]});
    assert_eq!(ask(&host, "worker", "POST", path, marks.clone()).await.0, 403);
    let (consumer, mark) = (crew(true), vec!["read".to_owned()]);
    let events = vec![proto::EventRef { sequence: 1, ..Default::default() }];
    let request = proto::MarkEventsRequest { consumer, mark, events, ..Default::default() };
    let refused = grpc(host.address).await.mark_events(call("worker", request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut socket = Client::connect_as(host.address, "worker").await;
    socket
        .say(json!({"type": "mark", "ref": 1, "topic": "jobs", "consumer": "crew", "shared": true,
            "mark": ["read"], "events": [1]}))
        .await;
    let refused = socket.find("error").await;
    assert_eq!(refused["error"]["status"], json!(403), "{refused}");
    let name = "/v1/consumers/crew?topic=jobs&shared=true";
    assert_eq!(ask(&host, "boss", "PUT", name, json!({"shared": {}})).await.0, 201);
    assert_eq!(ask(&host, "worker", "POST", path, marks).await.0, 200, "it is there");
    host.stop().await;
}

/// Goal: nobody reads or publishes by dead letters what it may not: they are events of the one
/// topic that are published to the other.
#[tokio::test]
async fn dead_letters_go_to_a_topic_that_whoever_names_it_may_publish_to() {
    let host = Host::by(Way::Mounted).await;
    grant(&host);
    let manages = || Permission::default().with(Action::Manage, ["jobs"]).unwrap();
    let reads = |all: Permission| all.with(Action::Subscribe, ["jobs"]).unwrap();
    let writes = |all: Permission| all.with(Action::Publish, ["graves"]).unwrap();
    host.decisions.grant(Grant::new("blind", writes(manages())));
    host.decisions.grant(Grant::new("full", writes(reads(manages()))));
    host.decisions.grant(Grant::new("head", manages().administering()));
    for (caller, topic, expected) in [
        ("boss", "graves", 403),
        ("blind", "graves", 403),
        ("boss", "jobs.dead", 200),
        ("full", "graves", 200),
        ("head", "elsewhere", 200),
    ] {
        let name = "/v1/consumers/crew?topic=jobs&shared=true";
        let body = json!({"shared": {"dead_letter": topic}});
        let put = ask(&host, caller, "PUT", name, body.clone()).await;
        let patched = ask(&host, caller, "PATCH", name, body).await;
        let made = if put.0 == 201 { 200 } else { put.0 };
        assert_eq!((made, patched.0), (expected, expected), "{caller} {topic} {patched:?}");
    }
    let dead_letter = "graves".to_owned();
    let shared = Some(proto::WorkSettings { dead_letter, ..Default::default() });
    let request = proto::UpdateConsumerRequest { consumer: crew(true), filter: None, shared };
    let refused = grpc(host.address).await.update_consumer(call("boss", request)).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    host.stop().await;
}

/// Goal: a worker that waits is given nothing from the moment on at which its caller may no longer
/// work, also if the caller may still do something else.
#[tokio::test]
async fn a_worker_that_waits_ends_when_its_caller_may_work_no_longer() {
    let host = Host::by(Way::Mounted).await;
    grant(&host);
    let name = "/v1/consumers/crew?topic=jobs&shared=true";
    assert_eq!(ask(&host, "boss", "PUT", name, json!({"shared": {}})).await.0, 201);
    let reads =
        |topic: &'static str| Permission::default().with(Action::Subscribe, [topic]).unwrap();
    let others = [
        Grant::new("worker", reads("other")),
        Grant::new("worker", reads("jobs")).filter(filter_of("k")),
    ];
    for (turn, other) in others.into_iter().enumerate() {
        let revoker = Revoker::default();
        let before = Grant::new("worker", reads("jobs")).revoked_by(revoker.clone());
        host.decisions.grant(before);
        let pull = by("worker", &host, "POST", "/v1/consumers/crew/pull?topic=jobs");
        let pull = send(pull, json!({"worker": "h", "wait_ms": 30_000}).to_string());
        let of = Some(proto::WorkRef { topic: "jobs".to_owned(), consumer: "crew".to_owned() });
        let worker = "g".to_owned();
        let request = proto::PullRequest { of, worker, wait_ms: 30_000, ..Default::default() };
        let mut client = grpc(host.address).await;
        let calling = client.pull(call("worker", request));
        let mut socket = Client::connect_as(host.address, "worker").await;
        let work = json!({"type": "work", "ref": 1, "work": "w", "topic": "jobs",
            "consumer": "crew", "worker": "s", "credit": 1});
        socket.say(work).await;
        socket.find("working").await;
        let status = "/v1/consumers/crew/work?topic=jobs";
        let change = async {
            // All three wait: two pulls, and the worker of the socket.
            loop {
                let (_, shown) = ask(&host, "boss", "GET", status, Value::Null).await;
                if shown["waiting"] == json!(3) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            host.decisions.grant(other);
            revoker.revoke();
        };
        let (pulled, called, ()) = soon(async { tokio::join!(pull, calling, change) }).await;
        assert_eq!(pulled.status, 403, "{turn} {pulled:?}");
        assert_eq!(called.unwrap_err().code(), Code::PermissionDenied, "{turn}");
        let ended = socket.find("ended").await;
        assert_eq!(ended["error"]["status"], json!(403), "{turn} {ended}");
    }
    host.publish("jobs", "x").await;
    let (pull, body) =
        ("/v1/consumers/crew/pull?topic=jobs", json!({"worker": "b", "wait_ms": 5_000}));
    let (_, pulled) = ask(&host, "boss", "POST", pull, body).await;
    assert_eq!(pulled["leases"].as_array().map(Vec::len), Some(1), "nobody else has it: {pulled}");
    host.stop().await;
}
