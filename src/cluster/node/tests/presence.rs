//! Tests of presence over several nodes.

use std::collections::BTreeMap;

use super::*;
use crate::broker::Member;

/// Returns the members that a node shows, with their subscriptions.
fn shown(node: &TestNode) -> BTreeMap<String, u32> {
    let present = node.broker.presence(&name("room"), "", usize::MAX);
    present.into_iter().map(|present| (present.member.id, present.subscriptions)).collect()
}

/// Waits until all nodes show these members.
async fn all_show(fleet: &TestFleet, members: &[(&str, u32)]) {
    let expected: BTreeMap<_, _> =
        members.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
    wait_for(|| fleet.running().all(|node| shown(node) == expected).then_some(())).await;
}

/// Returns the types and keys of ephemeral events up to that of the member `last` leaving.
async fn told_until_left(reader: &mut crate::Reader, last: &str) -> Vec<(String, String)> {
    let mut told = Vec::new();
    loop {
        let delivery = tokio::time::timeout(PATIENCE, reader.next()).await.unwrap();
        if let Delivery::Ephemeral(event) = delivery.unwrap().unwrap() {
            let (event_type, key) = (event.event.event_type.clone(), event.event.key.clone());
            let is_last = event_type == "leftoff.left" && key == last;
            told.push((event_type, key));
            if is_last {
                return told;
            }
        }
    }
}

/// Goal: a member that is present at any nodes is shown by all, once, with all its subscriptions;
/// followers at each node are told once when it comes and once when it goes; members of a node that
/// is killed are gone everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_shown_at_all_nodes_and_go_with_their_node() {
    let (mut fleet, _links) = TestFleet::begun(LEASE).await;
    fleet.publish_somewhere("room", "1").await;
    fleet.agreed().await;
    let join = async |number: usize, id: &str| {
        fleet.node(number).broker.join(&[name("room")], Member::new(id)).await.unwrap()
    };
    let start = StartPoint::Latest;
    let follower = &fleet.node(2).broker;
    let mut reader = follower.subscribe(&name("room"), start, OnGap::Fail).await.unwrap();
    let ann = [join(0, "ann").await, join(0, "ann").await, join(1, "ann").await];
    let bob = join(1, "bob").await;
    let cid = join(2, "cid").await;
    all_show(&fleet, &[("ann", 3), ("bob", 1), ("cid", 1)]).await;
    let [first, second, third] = ann;
    drop((first, third));
    all_show(&fleet, &[("ann", 1), ("bob", 1), ("cid", 1)]).await;
    drop(second);
    all_show(&fleet, &[("bob", 1), ("cid", 1)]).await;
    let mut told = told_until_left(&mut reader, "ann").await;
    told.sort();
    let expected = [
        ("leftoff.joined", "ann"),
        ("leftoff.joined", "bob"),
        ("leftoff.joined", "cid"),
        ("leftoff.left", "ann"),
    ];
    assert_eq!(told, expected.map(|(kind, id)| (kind.to_owned(), id.to_owned())));
    assert_eq!(fleet.node(2).node.view().members_elsewhere(), (1, 0));

    fleet.take(1).kill().await;
    all_show(&fleet, &[("cid", 1)]).await;
    drop(bob);
    fleet.start(1).await;
    all_show(&fleet, &[("cid", 1)]).await;
    drop(cid);
    all_show(&fleet, &[]).await;
    fleet.close().await;
}
