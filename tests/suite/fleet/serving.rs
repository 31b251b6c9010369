//! `leftoff serve --fleet`, and what its nodes say of themselves.

use std::collections::BTreeSet;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use crate::common::{Process, get, lasting_address, leftoff, output_of, post, run, soon, text};
use crate::documents::metrics_of_fleets;

/// Starts the node with this number, on its directory.
fn start(servers: &NatsServers, number: usize, directory: &Path) -> Process {
    let address = lasting_address();
    let (node, url) = (format!("n{number}"), format!("http://{address}"));
    let fleet = servers.urls().join(",");
    let arguments = [
        ["--fleet", &fleet],
        ["--fleet-name", "orders"],
        ["--node", &node],
        ["--advertise", &url],
        ["--set", "fleet.lease_ms=1000"],
        ["--set", "follow.drain_ms=100"],
        ["--set", "follow.body_read_ms=200"],
        ["--set", "limits.max_payload_bytes=16384"],
        ["--set", "limits.max_batch_bytes=16384"],
        ["--set", "server.max_client_bytes=4259840"],
    ];
    Process::serve_at(address, directory, arguments.as_flattened())
}

async fn cluster(node: &Process) -> Value {
    let answer = get(node.address, "/v1/cluster").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Waits until the node is ready, and returns the last reason for which it was not.
async fn until_ready(node: &Process) -> String {
    soon(async {
        let mut reason = String::new();
        loop {
            let answer = get(node.address, "/readyz").await;
            match answer.status.as_u16() {
                200 => return reason,
                503 => reason = answer.json()["detail"].as_str().unwrap_or_default().to_owned(),
                status => panic!("{status}: {answer:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Waits until one of the nodes leads. Returns its number.
async fn leader(nodes: &[Process]) -> usize {
    soon(async {
        loop {
            for (number, node) in nodes.iter().enumerate() {
                if cluster(node).await["role"] == "leading" {
                    return number;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Publishes an event at the leader, whichever that is by then.
async fn publish(nodes: &[Process], payload: &'static str) {
    soon(async {
        loop {
            let leads = leader(nodes).await;
            let stored = post(nodes[leads].address, "/v1/topics/a/events", payload).await;
            if stored.status.is_success() {
                return assert_eq!(stored.json()["durability"], "replicated", "{stored:?}");
            }
        }
    })
    .await;
}

async fn health(node: &Process) -> HealthClient<Channel> {
    let server = Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    HealthClient::new(server.connect().await.unwrap())
}

/// Whether the health service says that the node serves.
async fn serves(mut health: HealthClient<Channel>) -> bool {
    let told = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    told.status() == ServingStatus::Serving
}

/// Publishes more at a node that follows than its clients may hold together, with a silence that is
/// longer than one within a body may be: what nodes send each other has bounds of its own.
async fn publish_much(follower: &Process) {
    for _ in 0..2 {
        for _ in 0..70 {
            let stored = post(follower.address, "/v1/topics/much/events", vec![b'x'; 16_000]).await;
            assert!(stored.status.is_success(), "{stored:?}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let metrics = text(&get(follower.address, "/metrics").await.body);
    for line in [
        "leftoff_fleet_forwarded_total 140\n",
        "leftoff_fleet_forwards_repeated_total 0\n",
        "leftoff_fleet_forwards_unknown_total 0\n",
    ] {
        assert!(metrics.contains(line), "{line} {metrics}");
    }
}

/// Waits until a node has applied everything, and returns how it is then.
async fn caught_up(node: &Process, records: &Value) -> Value {
    soon(async {
        loop {
            let told = cluster(node).await;
            if told["applied_record"].as_u64() >= records.as_u64() && told["lag_records"] == 0 {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Checks what a node says of itself on its pages, by its commands and in its metrics.
async fn says_how_it_is(node: &Process, name: &str, leads: &str, url: &str) {
    let told = cluster(node).await;
    let role = if name == leads { "leading" } else { "following" };
    assert_eq!(told["alone"], false, "{told}");
    for (field, value) in [("fleet", "orders"), ("node", name), ("role", role)] {
        assert_eq!(told[field], value, "{told}");
    }
    assert_eq!(told["leader"], json!({ "node": leads, "address": url }), "{told}");
    assert_eq!((&told["ready"], &told["not_ready"]), (&json!(true), &Value::Null), "{told}");
    assert!(told["term"].as_u64() >= Some(1) && told["terms"].as_u64() >= Some(1), "{told}");
    let overview = get(node.address, "/v1/overview").await.json();
    assert_eq!(overview["role"], role, "{overview}");
    let server = format!("http://{}", node.address);
    let status = run(&["cluster", "status", "--server", &server]).await;
    let said = text(&status.stdout);
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    for line in [format!("role     {role}, in term "), format!("leader   {leads} at {url}")] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    assert!(said.contains("ready    yes\n"), "{said}");
    let metrics = text(&get(node.address, "/metrics").await.body);
    assert!(metrics.contains(&format!("leftoff_fleet_role{{role=\"{role}\"}} 1\n")), "{metrics}");
    let kinds = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE leftoff_fleet_"));
    let there: BTreeSet<String> =
        kinds.map(|rest| format!("leftoff_fleet_{}", rest.split(' ').next().unwrap())).collect();
    assert_eq!(there, metrics_of_fleets(), "the page of operations has other metrics");
}

/// Goal: nodes that are started with the flags find each other; each says what it does, on its
/// pages, by its commands and in its metrics; a leader that is stopped in order hands over; and a
/// node that starts while NATS is away serves its readers, and is ready when NATS is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_served_say_how_they_are_and_come_and_go() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let mut servers = NatsServers::start(&program, 1, &NatsOptions::default());
    let directories: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes: Vec<Process> =
        (0..3).map(|number| start(&servers, number, directories[number].path())).collect();
    publish(&nodes, "first").await;
    let leads = leader(&nodes).await;
    let stored = cluster(&nodes[leads]).await["applied_record"].clone();
    let (name, url) = (format!("n{leads}"), format!("http://{}", nodes[leads].address));
    for (number, node) in nodes.iter().enumerate() {
        caught_up(node, &stored).await;
        until_ready(node).await;
        says_how_it_is(node, &format!("n{number}"), &name, &url).await;
    }

    publish_much(&nodes[(leads + 1) % 3]).await;

    let fleet = servers.urls().join(",");
    let check = run(&["cluster", "check", "--fleet", &fleet, "--fleet-name", "orders"]).await;
    let said = text(&check.stdout);
    assert_eq!(check.status.code(), Some(3), "{check:?}");
    let few = "unsafe: the stream LEFTOFF_orders has 1 of at least 3 replicas (its server is in no \
        cluster): acknowledged means ";
    assert!(said.contains(few), "{said}");

    nodes[leads].signal(Signal::TERM);
    assert_eq!(nodes[leads].exit_code().await, Some(0));
    drop(nodes.remove(leads));
    publish(&nodes, "second").await;
    let next = leader(&nodes).await;
    let resigned = cluster(&nodes[next]).await;
    assert_eq!(resigned["lag_records"], 0, "{resigned}");

    let watch = health(&nodes[next]).await;
    assert!(serves(watch.clone()).await, "a node that is ready serves");
    servers.terminate(0);
    let node = start(&servers, leads, directories[leads].path());
    let read = get(node.address, "/v1/topics/a/events?from=earliest").await;
    assert!(text(&read.body).contains("first"), "{read:?}");
    let told = cluster(&node).await;
    assert!(told["not_ready"].is_string() && told["ready"] == false, "{told}");
    let told = health(&node).await;
    soon(async { while serves(told.clone()).await {} }).await;
    soon(async {
        loop {
            let overview = get(nodes[next].address, "/v1/overview").await.json();
            let problems = overview["problems"].as_array().unwrap();
            if let Some(problem) = problems.iter().find(|it| it["kind"] == "engine_away") {
                return assert_eq!(problem["severity"], "error", "{overview}");
            }
        }
    })
    .await;
    assert_eq!(get(nodes[next].address, "/readyz").await.status, 200, "it had caught up");
    assert!(serves(watch).await, "it had caught up");
    servers.restart(0);
    let reason = until_ready(&node).await;
    assert!(reason.contains("does not know yet") || reason.contains("not caught up"), "{reason}");
    publish(&nodes, "third").await;
    let stored = cluster(&nodes[leader(&nodes).await]).await["applied_record"].clone();
    caught_up(&node, &stored).await;
    let read = get(node.address, "/v1/topics/a/events?from=earliest").await;
    for payload in ["first", "second", "third"] {
        assert!(text(&read.body).contains(payload), "{payload}: {read:?}");
    }
    drop((node, nodes));
}

/// Goal: a broker that is alone says so, and a command that needs a fleet says what is missing.
#[tokio::test]
async fn a_broker_that_is_alone_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let node = Process::serve(directory.path(), &[]);
    let told = cluster(&node).await;
    assert_eq!(told, json!({ "alone": true, "version": env!("CARGO_PKG_VERSION") }));
    let server = format!("http://{}", node.address);
    let status = run(&["cluster", "status", "--server", &server]).await;
    assert!(text(&status.stdout).ends_with("is alone: it is no node of a fleet\n"), "{status:?}");
    let json = run(&["cluster", "status", "--json", "--server", &server]).await;
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap(), told);
    let metrics = text(&get(node.address, "/metrics").await.body);
    assert!(!metrics.contains("leftoff_fleet_"), "{metrics}");
    let refused = output_of(leftoff().args(["cluster", "check"]));
    assert_eq!(refused.status.code(), Some(5));
    assert!(text(&refused.stderr).contains("fleet.servers is empty"), "{refused:?}");
}

/// Goal: the settings of a fleet come from flags, variables and files, and no secret is shown.
#[test]
fn settings_of_a_fleet_come_from_everywhere_and_secrets_are_not_shown() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "[fleet]\nname = 'filed'\nnats_token = 'hunter2'\n").unwrap();
    let print = |more: &[&str]| {
        let mut command = leftoff();
        command.args(["serve", "--print-config", "--config"]).arg(file.path()).args(more);
        command
            .env("LEFTOFF_FLEET__SERVERS", r#"["nats://b:4222"]"#)
            .env("LEFTOFF_FLEET__NODE", "7");
        output_of(command.env("LEFTOFF_FLEET__SECRET", "hunter2hunter2hunter2"))
    };
    let refused = print(&[]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("fleet.advertise: \"\" is no URL"), "{said}");
    let advertise = ["--advertise", "https://n7:4280"];
    let printed = print(&advertise);
    let said = text(&printed.stdout);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert!(!said.contains("hunter2"), "{said}");
    let fleet = said.parse::<toml::Table>().unwrap()["fleet"].clone();
    let servers: Vec<&str> =
        fleet["servers"].as_array().unwrap().iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(servers, ["nats://b:4222"]);
    for (name, value) in
        [("name", "filed"), ("node", "7"), ("advertise", "https://n7:4280"), ("secret", "***")]
    {
        assert_eq!(fleet[name].as_str(), Some(value), "{said}");
    }
    let flags = ["--fleet", "nats://c:1,tls://d:2", "--fleet-name", "flagged", "--node", "n8"];
    let printed = print(&[&advertise[..], &flags].concat());
    let said = text(&printed.stdout);
    for line in ["nats://c:1", "tls://d:2", "name = \"flagged\"", "node = \"n8\""] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let required = print(&[&advertise[..], &["--access", "required"]].concat());
    assert_eq!(required.status.code(), Some(0), "{required:?}");
    let mut command = leftoff();
    command.args(["serve", "--print-config", "--access", "required"]).args(advertise).args(flags);
    let refused = output_of(&mut command);
    assert!(text(&refused.stderr).contains("fleet.secret: is needed"), "{refused:?}");
}
