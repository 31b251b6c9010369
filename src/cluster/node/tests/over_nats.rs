//! A fleet of three nodes over three NATS servers.

use super::*;
use crate::cluster::nats::tests::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use crate::cluster::nats::tests::{open_fleet, run};

/// Goal: a fleet over a real engine stores, and goes on when a server or a leader dies; all nodes
/// hold the same, with each acknowledged event once.
#[test]
fn a_fleet_outlives_its_leader_and_the_leader_of_its_stream() {
    let Some(program) = NatsProgram::all().pop() else { return };
    eprintln!("-- NATS {}", program.version);
    let mut servers = NatsServers::start(&program, 3, &NatsOptions::default());
    run(async {
        let mut streams: Vec<Arc<dyn FleetEngine>> = Vec::new();
        for _ in 0..3 {
            streams.push(Arc::new(open_fleet(&servers, "nodes").await));
        }
        let mut fleet = TestFleet::over(streams, Duration::from_secs(1), HOUR).await;
        let first = fleet.leader_but(None).await;
        let mut expected = Vec::new();
        let publish_some = async |fleet: &TestFleet, expected: &mut Vec<String>, part: &str| {
            let began = Instant::now();
            let mut longest = Duration::ZERO;
            for number in 0..20 {
                let id = format!("{part}-{number}");
                let began = Instant::now();
                fleet.publish_somewhere("a", &id).await;
                longest = longest.max(began.elapsed());
                expected.push(id);
            }
            eprintln!("{part}: {:.1?}, the longest pause {longest:.1?}", began.elapsed());
        };
        publish_some(&fleet, &mut expected, "calm").await;
        // Killed servers of older versions may lose records, or find no leader any more.
        if !program.is_older_than(2, 10) {
            let killed = servers.stream_leader("LEFTOFF_nodes").expect("a leader of the stream");
            servers.kill(killed);
            publish_some(&fleet, &mut expected, "without the stream's leader").await;
            servers.restart(killed);
        }
        let leader = fleet.leader_but(None).await;
        eprintln!("n{first} led first, and n{leader} is killed");
        fleet.take(leader).kill().await;
        publish_some(&fleet, &mut expected, "without the fleet's leader").await;
        fleet.start(leader).await;
        let leader = fleet.leader_but(None).await;
        fleet.take(leader).close().await;
        publish_some(&fleet, &mut expected, "after a leader was closed").await;
        fleet.start(leader).await;
        fleet.agreed().await;
        for node in fleet.running() {
            assert_eq!(ids(&node.broker, "a").await, expected);
        }
        fleet.close().await;
    });
}
