//! Tests of how nodes know each other, and of trimming by what they know.

use super::*;
use crate::cluster::messages::MessageKind;
use crate::cluster::nats::tests::nats_servers::{NatsOptions, NatsProgram, NatsServers};
use crate::cluster::nats::tests::{open_fleet, run};

/// A short lease, so that ten of them pass soon.
const SHORT: Duration = Duration::from_millis(100);

/// Returns the names of the live nodes, as a node knows them.
fn live(node: &TestNode) -> Vec<String> {
    let nodes = node.node.peers().report().nodes.into_iter();
    nodes.filter(|seen| seen.is_live).map(|seen| seen.status.name).collect()
}

/// Goal: each node knows how the others are, when one is gone, and that another one has its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_know_how_the_others_are() {
    let (mut fleet, links) = TestFleet::begun(SHORT).await;
    links[0].set_faults(StreamFaults { lost_messages: 100, ..faultless() });
    let leader = fleet.leader_but(None).await;
    fleet.publish_somewhere("a", "1").await;
    fleet.agreed().await;
    for node in fleet.running() {
        wait_for(|| (live(node) == ["n0", "n1", "n2"]).then_some(())).await;
        wait_for(|| {
            let report = node.node.peers().report();
            let seen =
                report.nodes.into_iter().find(|seen| seen.status.name == format!("n{leader}"));
            let status = seen?.status;
            let is_told = status.role == NodeRole::Leading && status.term > 0;
            (is_told && status.applied > 2 && status.version == env!("CARGO_PKG_VERSION"))
                .then_some(())
        })
        .await;
        assert_eq!(node.node.status().borrow().peers_problem, None);
    }
    let gone = (leader + 1) % 3;
    fleet.take(gone).kill().await;
    for node in fleet.running() {
        wait_for(|| (live(node).len() == 2).then_some(())).await;
    }
    fleet.start(gone).await;
    let node = fleet.node(leader);
    wait_for(|| (live(node).len() == 3).then_some(())).await;
    let link = Arc::new(links[0].another_link());
    let twin = open_node(Arc::new(MemoryLog::default()), link, gone, SHORT).await.unwrap();
    for node in fleet.running() {
        let problem = wait_for(|| node.node.status().borrow().peers_problem.clone()).await;
        assert!(problem.contains(&format!("under the name \"n{gone}\"")), "{problem}");
    }
    twin.close().await;
    for node in fleet.running() {
        wait_for(|| node.node.status().borrow().peers_problem.is_none().then_some(())).await;
    }
    fleet.close().await;
}

/// Goal: a node whose secret is not that of the others does not begin to lead them, is not ready,
/// and says why. It leads once it is alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_secret_than_the_others_does_not_begin_to_lead() {
    for (own, other) in
        [(Some("secret"), Some("another")), (Some("secret"), None), (None, Some("s"))]
    {
        let stream = SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()));
        let stranger =
            SignedMessages::new(Arc::new(stream.another_link()), "", other.map(Secret::from));
        let telling = tokio::spawn(async move {
            loop {
                stranger.tell(MessageKind::Peers, "{}".into()).unwrap();
                tokio::time::sleep(SHORT).await;
            }
        });
        let lease = Duration::from_secs(1);
        let config = NodeConfig { lease, secret: own.map(Secret::from), ..named(1) };
        let link = Arc::new(stream.another_link());
        let node = open_as(Arc::new(MemoryLog::default()), link, config).await.unwrap();
        let status = node.node.status();
        wait_for(|| status.borrow().is_among_strangers.then_some(())).await;
        let reason = wait_for(|| node.node.view().check_ready().err()).await;
        assert!(reason.contains("fleet.secret"), "{reason}");
        let began = Instant::now();
        wait_for(|| (began.elapsed() > lease * 3).then_some(())).await;
        assert_eq!(status.borrow().announcements, 0);
        telling.abort();
        wait_for(|| node.leads().then_some(())).await;
        wait_for(|| status.borrow().peers_problem.is_none().then_some(())).await;
        node.node.view().check_ready().unwrap();
        node.close().await;
    }
}

/// Goal: the stream is trimmed below what all live nodes have synced, and not before it is known
/// who is live; a node that is live and does not get on is waited for, one that is gone is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_trims_what_all_live_nodes_have_synced() {
    let stream = SimulatedStream::new(1, faultless(), Arc::new(RuntimeClock::default()));
    let links: Vec<_> = (0..3).map(|_| Arc::new(stream.another_link())).collect();
    let engines = links.iter().map(|link| link.clone() as Arc<dyn FleetEngine>).collect();
    let mut fleet = TestFleet::over(engines, SHORT, Duration::ZERO).await;
    let leader = fleet.leader_but(None).await;
    let synced = |node: &TestNode| node.node.peers().own().synced.unwrap();
    let publish_until = async |fleet: &TestFleet, first: u64| {
        let began = Instant::now();
        for number in 0.. {
            fleet.publish_somewhere("a", &format!("{first}-{number}")).await;
            let begins = stream.first().await.unwrap().get();
            let least = fleet.running().map(synced).min().unwrap();
            assert!(begins <= least + 1, "{begins} is trimmed to, and {least} synced");
            if begins > first {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "it is not trimmed");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    publish_until(&fleet, 5).await;
    // A follower whose broker stands still, and that goes on to tell how it is.
    let slow = (leader + 1) % 3;
    let held = fleet.node(slow).local.clone();
    let stuck = synced(fleet.node(slow));
    links[slow].hold_readers(true);
    let began = Instant::now();
    while began.elapsed() < 15 * SHORT {
        fleet.publish_somewhere("a", &format!("held-{:?}", began.elapsed())).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reached = held.applied().unwrap().unwrap().stream;
    assert!(stream.first().await.unwrap().get() <= synced(fleet.node(slow)).max(stuck) + 1);
    assert!(fleet.node(leader).local.applied().unwrap().unwrap().stream > reached + 20);
    fleet.take(slow).kill().await;
    publish_until(&fleet, reached + 5).await;
    fleet.close().await;
}

/// Goal: a fleet over a real engine trims its stream, and goes on.
#[test]
fn a_fleet_over_nats_trims_its_stream() {
    for program in NatsProgram::all() {
        eprintln!("-- NATS {}", program.version);
        let servers = NatsServers::start(&program, 1, &NatsOptions::default());
        run(async {
            let stream = open_fleet(&servers, "trimmed").await;
            let mut engines: Vec<Arc<dyn FleetEngine>> = Vec::new();
            for _ in 0..3 {
                engines.push(Arc::new(open_fleet(&servers, "trimmed").await));
            }
            let fleet = TestFleet::over(engines, 2 * SHORT, Duration::ZERO).await;
            let began = Instant::now();
            let mut expected = Vec::new();
            while stream.first().await.unwrap().get() < 20 {
                let id = expected.len().to_string();
                fleet.publish_somewhere("a", &id).await;
                expected.push(id);
                assert!(began.elapsed() < PATIENCE, "it is not trimmed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            fleet.agreed().await;
            for node in fleet.running() {
                assert_eq!(ids(&node.broker, "a").await, expected);
                assert_eq!(live(node), ["n0", "n1", "n2"]);
            }
            fleet.close().await;
        });
    }
}
