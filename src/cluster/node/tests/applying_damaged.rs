//! Tests of nodes that meet damage of their logs while they apply a group of the stream.

use std::path::Path;

use super::repairing::Pair;
use super::*;
use crate::log::{BlockBuilder, Extent, NewRecords};

/// Waits until `node` has met damage in applying, and asserts that it says so everywhere, takes no
/// part any more, and is not ready. Returns the damage.
async fn met_damage(node: &FleetNode) -> String {
    let stopped = wait_for(|| {
        let status = node.status().borrow().clone();
        (status.role == NodeRole::Stopped && status.damage.is_some()).then_some(status)
    })
    .await;
    let damage = stopped.damage.clone().unwrap();
    assert_eq!(stopped.problem.as_ref(), Some(&damage));
    // Only a node beyond the record of the group is taken for one that can help.
    assert_eq!(stopped.breaks_at, Some(stopped.read));
    assert!(stopped.applied < stopped.read);
    assert_eq!(stopped.repairable_problem(), Some(format!("its log is damaged: {damage}")));
    let reason = node.view().check_ready().unwrap_err();
    assert_eq!(reason, format!("this node takes no part in its fleet: {damage}"));
    assert!(node.peers().own().problem.unwrap().contains(&damage));
    damage
}

/// Appends an event to a topic of the log in `data`, which is closed. The log's place in the stream
/// stays.
fn append(data: &Path, topic: &str) {
    let config = LogConfig { min_free_bytes: 0, ..LogConfig::default() };
    let log = SledLog::open(data, &config).unwrap();
    let topics = log.topics().unwrap();
    let last = topics.iter().map(|topic| topic.extent.last_position).max().unwrap();
    let stored = topics.into_iter().find(|stored| stored.name == name(topic)).unwrap();
    let mut builder = BlockBuilder::new(stored.extent.tail);
    builder.push(NewRecords::encode([&NewEvent::new("of no fleet")]).record(0), false, false);
    let Extent { last_time, appended_bytes, .. } = stored.extent;
    let block = builder.finish(last.next(), last_time, appended_bytes);
    let (appended, durability) = (vec![(stored.id, block)], Durability::Fsync);
    log.commit(&Group { appended, durability, ..Group::default() }).unwrap();
}

/// Waits until the node is to be opened again, and closes it.
async fn end_for_repair(broker: Broker, node: FleetNode, repairable: JoinHandle<String>) {
    let why = tokio::time::timeout(PATIENCE, repairable).await.unwrap().unwrap();
    assert!(why.contains("its log is damaged: ") && why.contains("n1 can help it"), "{why}");
    node.close().await;
    drop(broker);
}

/// Goal: a group that does not follow what the log has changes nothing there. The node says so,
/// serves its readers, and is whole after its next start. Method: the log of the node has an event
/// more than its place in the stream says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_does_not_follow_the_log_is_told_and_repaired_at_the_next_start() {
    let pair = Pair::begun().await;
    append(&pair.data, "large");
    let (broker, node) = pair.join().await;
    let repairable = tokio::spawn(node.repairable());
    wait_for(|| node.view().check_ready().is_ok().then_some(())).await;
    let leader = &pair.peer().node.broker;
    publish(leader, "large", "of the fleet").await.unwrap();
    let damage = met_damage(&node).await;
    assert!(damage.contains("does not follow what the log has: "), "{damage}");
    assert!(damage.ends_with("\"large\" ends at 102, not at 101"), "{damage}");
    assert_eq!(ids(&broker, "a").await.len(), 30, "its readers are served");
    end_for_repair(broker, node, repairable).await;
    let repaired = pair.repaired().await;
    assert!(repaired.why.contains("does not follow what the log has"), "{repaired:?}");
    pair.finish().await;
}
