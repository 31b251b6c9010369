//! What the broker keeps for clients, over the real links between nodes: consumers, shared work,
//! tickets and webhooks, at any node and through the death of a leader.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::faults::clients::call;
use super::small_fleet::{SmallFleet, patiently};
use crate::common::{soon, to};
use crate::webhooks::receiver::Receiver;
use crate::websocket::Client as WebSocket;

/// Sends JSON until it succeeds.
async fn done(node: SocketAddr, method: &str, path: &str, body: Value) -> Value {
    patiently(node, method, path, &body, "").await
}

async fn publish(node: SocketAddr, topic: &str, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let path = format!("/v1/topics/{topic}/events?id={number}&key={number}");
        done(node, "POST", &path, json!(number)).await;
    }
}

/// Waits until a node tells this.
async fn until(node: SocketAddr, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let told = done(node, "GET", path, Value::Null).await;
            if wanted(&told) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Goal: checkpoints and marks that one node takes are there on all others, and after the leader's
/// death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumers_checkpoint_and_marks_are_those_of_the_fleet() {
    let Some(mut fleet) = SmallFleet::start(&[]).await else { return };
    let (leader, followers) = fleet.roles().await;
    let at = fleet.addresses.clone();
    let [one, other] = [at[followers[0]], at[followers[1]]];
    publish(one, "u.a", 1..=6).await;
    let checkpoint = "/v1/consumers/inbox/checkpoint?topic=u.a";
    let marks = "/v1/consumers/inbox/marks?topic=u.a";
    let consumer = "/v1/consumers/inbox?topic=u.a";
    let is_at = |place: &'static str| {
        move |told: &Value| told["checkpoint"].as_str().is_some_and(|it| it.starts_with(place))
    };
    done(one, "POST", checkpoint, json!({"cursor": "2"})).await;
    done(other, "POST", marks, json!({"mark": ["read"], "events": [1, 4]})).await;
    for node in &at {
        until(*node, consumer, is_at("2-")).await;
    }
    let marked = until(one, marks, |told| !told["marks"]["read"].is_null()).await;
    fleet.kill(leader);
    done(other, "POST", checkpoint, json!({"cursor": "5"})).await;
    until(one, consumer, is_at("5-")).await;
    assert_eq!(done(other, "GET", marks, Value::Null).await["marks"], marked["marks"]);
    let back = done(one, "POST", checkpoint, json!({"cursor": "3"})).await;
    assert_eq!(back["moved"], false, "{back}");
    fleet.start_node(leader);
    fleet.until_ready(leader).await;
    until(at[leader], consumer, is_at("5-")).await;
}

/// Goal: work that is pulled at one node is settled at another one; what was settled before the
/// leader's death is not given again, and what was not is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_pulled_at_one_node_and_settled_at_another() {
    let Some(mut fleet) = SmallFleet::start(&[]).await else { return };
    let (leader, followers) = fleet.roles().await;
    let [one, other] = [fleet.addresses[followers[0]], fleet.addresses[followers[1]]];
    let crew = "/v1/consumers/crew?topic=jobs&shared=true";
    let (pull, settle) =
        ("/v1/consumers/crew/pull?topic=jobs", "/v1/consumers/crew/settle?topic=jobs");
    done(one, "PUT", crew, json!({"shared": {"lease_ms": 2_000}})).await;
    publish(other, "jobs", 1..=6).await;
    let pulled = done(one, "POST", pull, json!({"worker": "w", "limit": 4})).await;
    let leases = pulled["leases"].as_array().unwrap();
    let sequence = |lease: &Value| lease["event"]["sequence"].as_u64().unwrap();
    assert_eq!(leases.iter().map(sequence).collect::<Vec<_>>(), [1, 2, 3, 4], "{pulled}");
    let acks: Vec<&Value> = leases[..3].iter().map(|lease| &lease["lease"]).collect();
    let settled = done(other, "POST", settle, json!({ "ack": acks })).await;
    assert_eq!(settled["ack"], json!(vec![json!({"outcome": "done"}); 3]), "{settled}");
    fleet.kill(leader);
    let mut left = BTreeSet::from([4, 5, 6]);
    while !left.is_empty() {
        let pulled = done(other, "POST", pull, json!({"worker": "v", "limit": 10})).await;
        for lease in pulled["leases"].as_array().unwrap() {
            assert!(left.remove(&sequence(lease)), "given again, though it was done: {lease}");
            let acked = done(one, "POST", settle, json!({"ack": [lease["lease"]]})).await;
            assert_eq!(acked["ack"], json!([{"outcome": "done"}]), "{acked}");
        }
    }
    let is_done = |told: &Value| told["checkpoint"].as_str().is_some_and(|it| it.starts_with("6-"));
    until(one, crew, is_done).await;
}

/// Goal: a ticket for one use that one node has made opens one WebSocket in the whole fleet, and
/// one for streams opens them at each node, also when the leader has died. Those for one use that
/// were not used die with the leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_of_one_node_are_good_at_the_others_and_those_for_one_use_once() {
    let key = format!("lok_{:x>43}", "u");
    let hash: String = Sha256::digest(&key).iter().map(|byte| format!("{byte:02x}")).collect();
    let settings = format!(
        "[access]\nmode = 'required'\n[[access.keys]]\nname = 'u'\nhash = 'sha256:{hash}'\n\
         created = '2026-01-01T00:00:00Z'\nadmin = true\n\
         publish = ['orders.>']\nsubscribe = ['orders.>']\n"
    );
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), settings).unwrap();
    let settings = ["--config", file.path().to_str().unwrap()];
    let secret = ["--set", "fleet.secret=a-secret-of-sixteen"];
    let Some(mut fleet) = SmallFleet::start(&[settings, secret].concat()).await else { return };
    fleet.key.clone_from(&key);
    let (leader, followers) = fleet.roles().await;
    let at = fleet.addresses.clone();
    let [one, other] = [at[followers[0]], at[followers[1]]];
    let event = "/v1/topics/orders.a/events?id=1";
    patiently(one, "POST", event, &json!(1), &key).await;
    let make = async |node: SocketAddr, wanted: &Value| {
        let made = patiently(node, "POST", "/v1/tickets", wanted, &key).await;
        made["ticket"].as_str().unwrap().to_owned()
    };
    let once = json!({"kind": "once"});
    for (maker, user) in [(one, other), (other, at[leader]), (at[leader], one)] {
        let ticket = make(maker, &once).await;
        assert_eq!(opened(user, &ticket).await, 101, "at a node that has not made it");
        for node in &at {
            assert_eq!(opened(*node, &ticket).await, 401, "it was used");
        }
    }
    let wanted = json!({"kind": "stream", "subscribe": ["orders.*"], "expires_s": 60});
    let (for_streams, unused) = (make(one, &wanted).await, make(one, &once).await);
    fleet.kill(leader);
    let read = format!("/v1/topics/orders.a/events?from=earliest&ticket={for_streams}");
    for node in [one, other] {
        // The node that has not made it has it as soon as it has applied it.
        soon(async {
            let ask = || call(to(node, "GET", &read), "", Duration::from_secs(20));
            while ask().await.map(|(status, _)| status.as_u16()) != Ok(200) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    let ticket = make(one, &once).await;
    assert_eq!(opened(other, &ticket).await, 101);
    for ticket in [ticket, unused] {
        assert_eq!([opened(one, &ticket).await, opened(other, &ticket).await], [401, 401]);
    }
}

/// Opens a WebSocket with a ticket. Returns the status of the answer.
async fn opened(node: SocketAddr, ticket: &str) -> u16 {
    let path = format!("/v1/ws?ticket={ticket}");
    WebSocket::try_connect(node, &path, None).await.err().unwrap_or(101)
}

/// Goal: a webhook that is made at one node has each event sent once by the leader, and by the next
/// leader from where the last one has noted that it was; one that was being sent may come twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_goes_on_at_the_next_leader() {
    let settings = [
        ["--set", "webhooks.allow_http=true"],
        ["--set", "webhooks.allowed_networks=[\"127.0.0.0/8\"]"],
        ["--set", "webhooks.retry_min_ms=2"],
    ];
    let Some(mut fleet) = SmallFleet::start(settings.as_flattened()).await else { return };
    let (leader, followers) = fleet.roles().await;
    let [one, other] = [fleet.addresses[followers[0]], fleet.addresses[followers[1]]];
    let receiver = Receiver::start().await;
    let hook = json!({"topic": "orders", "url": receiver.url("/hook")});
    done(one, "PUT", "/v1/webhooks/w", hook).await;
    publish(other, "orders", 1..=10).await;
    let before = receiver.got(10).await;
    let ids: BTreeSet<String> = before.iter().map(|it| it.id().to_owned()).collect();
    assert_eq!(ids.len(), 10, "each once");
    fleet.kill(leader);
    publish(one, "orders", 11..=20).await;
    soon(async {
        let all = || -> BTreeSet<String> {
            receiver.received().iter().map(|it| it.id().to_owned()).collect()
        };
        while all().len() < 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let shown = until(other, "/v1/webhooks/w", |told| told["lag"]["unfinished"] == 0).await;
    assert_eq!(shown["url"], receiver.url("/hook"), "{shown}");
}
