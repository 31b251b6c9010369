//! Tests of nodes of neighbouring versions on one stream.

use bytes::Bytes;

use super::forwarding::{event, reachable};
use super::joining::{begun_stream, publish_all};
use super::*;
use crate::cluster::chain::{Assembler, StreamPlace};
use crate::cluster::links::{LinkConfig, channel, with_proof};
use crate::cluster::proto::forwarded_command::Command;
use crate::cluster::proto::forwarding_client::ForwardingClient;
use crate::cluster::proto::{
    CommandOutcome, ForwardedAppend, ForwardedChange, ForwardedCommand, ForwardedCommands,
    ForwardedPublish,
};
use crate::cluster::record::{FORMAT, RecordBody};
use crate::cluster::samples::resealed;
use crate::log::NewRecords;

/// Returns the place of the stream's last record.
pub(super) async fn last_place(stream: &SimulatedStream) -> StreamPlace {
    let mut assembler = Assembler::after(StreamPlace::START);
    while let Some(record) = stream.get(assembler.place().stream.next()).await.unwrap() {
        assembler.take(assembler.place().stream.next(), &record).unwrap();
    }
    assembler.place()
}

/// Goal: a record that a later version adds to inform is passed over; one that every node must
/// understand stops an older node with what to do, and changes nothing of its log, also after a
/// restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_node_skips_what_informs_and_stops_before_what_it_must_understand() {
    for (at, byte) in [(4, FORMAT + 1), (5, 77)] {
        let (stream, log) = (begun_stream(), Arc::new(MemoryLog::default()));
        let open = || open_node(log.clone(), Arc::new(stream.another_link()), 1, LEASE);
        for round in 0..2 {
            let node = open().await.unwrap();
            wait_for(|| node.leads().then_some(())).await;
            publish_all(&node.broker, round * 5..round * 5 + 5).await;
            node.close().await;
            let place = last_place(&stream).await;
            let (informs, _) = place.following(&RecordBody::Skipped);
            stream.append(place.stream, informs).await.unwrap();
        }
        let place = last_place(&stream).await;
        let (later, _) = place.following(&RecordBody::Heartbeat);
        stream.append(place.stream, resealed(&later, at, byte)).await.unwrap();
        let before = content(&*log);
        for _ in 0..2 {
            let node = open().await.unwrap();
            let stopped = wait_for(|| {
                let status = node.node.status().borrow().clone();
                (status.role == NodeRole::Stopped).then_some(status)
            });
            let stopped = stopped.await;
            assert_eq!(stopped.repairable_problem(), None, "another start changes nothing");
            let problem = stopped.problem.unwrap();
            assert!(problem.ends_with("update this node"), "{problem}");
            assert_eq!(ids(&node.broker, "a").await.len(), 10, "it serves its readers");
            node.close().await;
        }
        assert_eq!(content(&*log), before);
    }
}

/// Returns a publish of one event, as a node sends it.
fn forwarded(id: &str) -> Command {
    let records = NewRecords::encode([&event(id)]).bytes().to_vec().into();
    let append = ForwardedAppend { topic: "a".to_owned(), expected_sequence: None, records: 0 };
    let (records, appends) = (vec![records], vec![append]);
    Command::Publish(ForwardedPublish { publisher: 1, is_independent: false, records, appends })
}

/// Sends commands to a node, numbered from 1, and returns the outcomes in the order of the
/// numbers.
async fn outcomes(node: &TestNode, commands: Vec<Option<Command>>) -> Vec<CommandOutcome> {
    let view = node.node.view();
    let address = &view.node().address;
    let links = LinkConfig::new(Some("the secret".into()), None, address);
    let mut client = ForwardingClient::new(channel(address, &links, PATIENCE).unwrap());
    let count = commands.len();
    let numbered = (1..).zip(commands);
    let commands = numbered.map(|(number, command)| ForwardedCommand { number, command }).collect();
    let sent = stream::iter([ForwardedCommands { answered_below: 1, commands }]);
    let sent = futures_util::StreamExt::chain(sent, stream::pending()); // The node goes on.
    let told = client.forward(with_proof(sent, address, &links)).await.unwrap();
    let (mut told, mut outcomes) = (told.into_inner(), Vec::new());
    while outcomes.len() < count {
        let message = tokio::time::timeout(PATIENCE, told.message()).await.unwrap();
        outcomes.extend(message.unwrap().unwrap().outcomes);
    }
    outcomes.sort_by_key(|outcome| outcome.number);
    outcomes
}

/// Goal: a leader that does not know what a later version asks for refuses that alone, surely
/// undone, and decides all that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_later_version_asks_a_leader_for_is_refused_alone() {
    let (fleet, _) = reachable(LEASE).await;
    let leader = fleet.node(fleet.leader_but(None).await);
    publish(&leader.broker, "a", "0").await.unwrap();
    let later_setting = ForwardedChange {
        topic: "a".to_owned(),
        change: Bytes::from_static(br#"{"Set":{"max_events":1,"of_a_later_version":true}}"#),
    };
    // A kind of command that this version does not know is read as none.
    let commands = vec![
        Some(forwarded("1")),
        None,
        Some(Command::Change(later_setting)),
        Some(forwarded("2")),
    ];
    let told = outcomes(leader, commands).await;
    assert!(told[0].failure.is_none() && told[3].failure.is_none(), "{told:?}");
    for (outcome, problem) in [(&told[1], "kind"), (&told[2], "of_a_later_version")] {
        let failure = outcome.failure.as_ref().unwrap();
        assert!(!failure.may_be_done && failure.message.contains(problem), "{failure:?}");
    }
    assert_eq!(ids(&leader.broker, "a").await, ["0", "1", "2"]);
    assert_eq!(leader.broker.topic(&name("a")).unwrap().config, TopicConfig::default());
    fleet.close().await;
}
