//! Clients of the nodes of a fleet, as any node shows them: who is present, and who is connected.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::faults::clients::call;
use super::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use super::small_fleet::ANSWER_TIMEOUT;
use crate::common::{Process, Sse, get, lasting_address, leftoff, send, soon, to};

/// Returns the arguments of a node that others are to reach at `url`.
fn arguments(servers: &NatsServers, name: &str, url: &str) -> Vec<String> {
    let fleet = servers.urls().join(",");
    let arguments = [
        ["--fleet", &fleet],
        ["--fleet-name", "orders"],
        ["--node", name],
        ["--advertise", url],
        ["--set", "fleet.lease_ms=500"],
        ["--set", "fleet.replicas=1"],
        ["--set", "follow.list_connections=true"],
    ];
    arguments.as_flattened().iter().map(|&argument| argument.to_owned()).collect()
}

fn start(servers: &NatsServers, name: &str, directory: &Path) -> Process {
    let address = lasting_address();
    let arguments = arguments(servers, name, &format!("http://{address}"));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Process::serve_at(address, directory, &arguments)
}

/// Goal: a node answers to the name in the URL that it advertises, by which other nodes call it,
/// before it is open and afterwards; to other names it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_to_the_name_that_it_advertises() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let mut servers = NatsServers::start(&program, 1, &NatsOptions::default());
    let (address, directory) = (lasting_address(), tempfile::tempdir().unwrap());
    let url = format!("http://n1.example:{}", address.port());
    let answers = async |name: &str, path: &str| {
        let request = to(address, "GET", path).header("host", format!("{name}:4280"));
        call(request, "", ANSWER_TIMEOUT).await.map_or(0, |(status, _)| status.as_u16())
    };
    servers.kill(0); // The node waits for it.
    let mut command = leftoff();
    command.args(["serve", "--listen", &address.to_string(), "--data-dir"]).arg(directory.path());
    command.args(arguments(&servers, "n1", &url)).stdout(Stdio::null());
    let _node = Process::adopt(command.spawn().unwrap(), address);
    for (is_open, ready) in [(false, 503), (true, 200)] {
        if is_open {
            servers.restart(0);
        }
        soon(async { while answers("n1.example", "/readyz").await != ready {} }).await;
        assert_eq!(answers("n2.example", "/readyz").await, 421);
    }
}

/// Waits until a list that a node gives has this in its JSON, and returns the list.
async fn listed(node: &Process, path: &str, is_there: impl Fn(&Value) -> bool) -> Value {
    soon(async {
        loop {
            let answer = get(node.address, path).await;
            if answer.status == 200 && is_there(&answer.json()) {
                return answer.json();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Goal: a node shows who is present and who is connected at another one, and ends connections
/// there; of a node that nobody has heard of it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_shows_and_ends_the_connections_of_another() {
    let Some(program) = NatsProgram::all().pop() else { return };
    let servers = NatsServers::start(&program, 1, &NatsOptions::default());
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let one = start(&servers, "n1", directories[0].path());
    let other = start(&servers, "n2", directories[1].path());

    let mut reader = Sse::follow(one.address, "room", "?member=ann").await;
    let present = listed(&other, "/v1/topics/room/presence", |list| {
        list["members"].as_array().unwrap().len() == 1
    });
    assert_eq!(present.await["members"][0]["id"], "ann");

    let connections = "/v1/connections?node=n1";
    let follows = |connection: &Value| !connection["streams"].as_array().unwrap().is_empty();
    let list = listed(&other, connections, |list| {
        list["connections"].as_array().unwrap().iter().any(follows)
    });
    let list = list.await;
    let mut found = list["connections"].as_array().unwrap().iter().filter(|it| follows(it));
    let found = found.next().unwrap();
    assert_eq!(found["streams"][0]["topics"], "room", "{list}");

    let end = format!("/v1/connections/{}?node=n1", found["id"]);
    assert_eq!(send(to(other.address, "DELETE", &end), "").await.status, 204);
    reader.rest().await;
    soon(async { while send(to(other.address, "DELETE", &end), "").await.status != 404 {} }).await;
    listed(&other, "/v1/topics/room/presence", |list| {
        list["members"].as_array().unwrap().is_empty()
    })
    .await;

    let own = get(other.address, "/v1/connections?node=n2").await;
    assert_eq!(own.status, 200, "{own:?}");
    let unknown = get(other.address, "/v1/connections?node=n9").await;
    assert_eq!(unknown.status, 502, "{unknown:?}");
    assert!(unknown.json()["detail"].as_str().unwrap().contains("\"n9\""), "{unknown:?}");
}
